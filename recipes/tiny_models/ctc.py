"""Train the tiny letter CTC: `python -m recipes.tiny_models.ctc`; started again, it goes on from its last checkpoint.

Plain CTC training puts each letter on one frame somewhere near its sound and blank everywhere else, which is useless
for times. Here every frame is told which letter is spoken in it (from the synthesiser's own phone times, or
soundswallower's for natural voices) and blank is left for silence and between doubled letters; the CTC loss is added
so that the letters also collapse to the text.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from recipes.tiny_models import distil, letters
from recipes.tiny_models.batches import (
    Share,
    SpeechCorpus,
    augment,
    cosine,
    crops,
    generator,
    kept_path,
    load_corpus,
    save_checkpoint,
    time_mask,
)
from recipes.tiny_models.settings import FRAME, train_from_arguments
from recipes.voices.settings import SEED, root
from schemas.commands.cli import command
from schemas.files import whole_file

STEPS = 3500
CHECKPOINT_EVERY = 200
BATCH_FRAMES = 600
SAME = [
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "conv_dim",
    "conv_kernel",
    "conv_stride",
    "conv_bias",
    "feat_extract_norm",
    "do_stable_layer_norm",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
    "hidden_dropout",
    "attention_dropout",
    "activation_dropout",
    "feat_proj_dropout",
    "layerdrop",
    "mask_time_prob",
    "mask_time_length",
]
"""What the configurations of HuBERT and wav2vec2 have in common."""
WINDOWS = (150, 200, 300, 600)
MUON_LR, PEAK_LR, WARMUP = 4e-3, 1e-3, 60
MASK_SHARE, MASK_SPAN = 0.06, 3
CTC_WEIGHT, CTC_FROM = 0.1, 300
"""The CTC loss comes in after this step: at first it wants blank everywhere, which is against the frames."""
FROZEN = 4
"""Convolutions that are not trained further: down to 400 Hz, where most of a step's cost is."""
SHARES = (
    Share(source="flite", parts=12),
    Share(source="kokoro", parts=2),
    Share(source="piper", parts=4),
    Share(source="real", parts=1, times=4),
)


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """What is spoken when, over the whole corpus."""

    targets: np.ndarray
    """float16 [frames, vocabulary]: the share of each letter in each frame."""
    labels: np.ndarray
    """int64 [letters]: the text with delimiters, as token ids."""
    middles: np.ndarray
    """float [letters]: when each is in its middle, in frames, increasing."""


def spell(corpus: SpeechCorpus, shares: tuple[Share, ...]) -> Spelling:
    """`make_spelling` of the corpus of these shares, kept on disk: it takes a minute."""
    path = kept_path(root(), "spelling", shares)
    if not path.exists():
        made = make_spelling(corpus)
        with whole_file(path) as temporary:
            np.savez(temporary, targets=made.targets, labels=made.labels, middles=made.middles)
    with np.load(path, allow_pickle=False) as file:
        return Spelling(**{name: file[name] for name in ("targets", "labels", "middles")})


def make_spelling(corpus: SpeechCorpus) -> Spelling:
    """Frame targets and the text, from phone times and the letter-phone alignment of the corpus's own words."""
    table = letters.fit(letters.pronunciations(corpus.items))
    targets, labels, middles = [], [], []
    for item, first in zip(corpus.items, corpus.starts, strict=False):
        targets.append(letters.frame_targets(item, table).astype(np.float16))
        for word, spans in zip(item.words, letters.letter_spans(item, table), strict=True):
            labels.append(letters.DELIMITER)
            middles.append(first + spans[0][0] / FRAME - 0.5)
            labels += [letters.INDEX[letter] for letter in word]
            middles += [first + (start + end) / 2 / FRAME for start, end in spans]
    return Spelling(targets=np.concatenate(targets), labels=np.array(labels), middles=np.maximum.accumulate(middles))


def config() -> Wav2Vec2Config:
    """The backbone of `distil.config(320)` as a wav2vec2, which is what aligners load."""
    backbone = distil.config(FRAME)
    return Wav2Vec2Config(
        **{name: getattr(backbone, name) for name in SAME},
        vocab_size=len(letters.VOCABULARY),
        pad_token_id=letters.BLANK,
        final_dropout=0.0,
        ctc_loss_reduction="mean",
        ctc_zero_infinity=True,
    )


def start() -> Wav2Vec2ForCTC:
    """The model with the finished tiny HuBERT's weights, without its last convolution; the first ones stay as they are."""
    torch.manual_seed(SEED)
    model = Wav2Vec2ForCTC(config())
    weights = torch.load(distil.checkpoint_path(), weights_only=True)["model"]
    kept = {
        name.replace("hubert.", "wav2vec2.", 1): value
        for name, value in weights.items()
        if name.startswith("hubert.") and "conv_layers.7." not in name
    }
    missing, unexpected = model.load_state_dict(kept, strict=False)
    assert not unexpected, unexpected
    assert set(missing) == {"lm_head.weight", "lm_head.bias"}, missing
    for layer in model.wav2vec2.feature_extractor.conv_layers[:FROZEN]:
        layer.requires_grad_(False)
    # Otherwise transformers asks for the gradient of the waveform, through the frozen layers too.
    model.wav2vec2.feature_extractor._requires_grad = False
    return model


def checkpoint_path() -> Path:
    return root() / "checkpoints" / "ctc.pt"


def train(steps: int) -> None:
    """Run from the last checkpoint, or from the start, to the end. With more `steps` than before, a run goes on."""
    model = start()
    both = distil.optimisers(model, MUON_LR, PEAK_LR)
    first = 0
    if checkpoint_path().exists():
        state = torch.load(checkpoint_path(), weights_only=True)
        model.load_state_dict(state["model"])
        for optimiser, kept in zip(both, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        first = state["step"]
    model.train()
    corpus = load_corpus(SHARES)
    spelling = spell(corpus, SHARES)
    assert len(spelling.targets) == corpus.num_frames
    print(f"{corpus.num_frames / 50 / 3600:.2f} h, {len(spelling.labels)} letters", flush=True)
    began, framewise, sequence = time.monotonic(), [], []
    for step in range(first, steps):
        scale = cosine(step, steps, WARMUP, 1.0)
        distil.set_rates(both, (scale * MUON_LR, scale * PEAK_LR))
        frame_loss, ctc_loss = _losses(model, corpus, spelling, step)
        model.zero_grad()
        (frame_loss + (CTC_WEIGHT if step >= CTC_FROM else 0.0) * ctc_loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in both:
            optimiser.step()
        framewise.append(frame_loss.item())
        sequence.append(ctc_loss.item())
        done = step + 1
        if done % 25 == 0:
            means = f"frames {np.mean(framewise[-25:]):.3f} ctc {np.mean(sequence[-25:]):.3f}"
            print(f"{done} {means} {time.monotonic() - began:.0f} s", flush=True)
        if done % CHECKPOINT_EVERY == 0 or done == steps:
            states = [optimiser.state_dict() for optimiser in both]
            state = {"model": model.state_dict(), "optimisers": states, "step": done}
            save_checkpoint(checkpoint_path(), state)


def _losses(
    model: Wav2Vec2ForCTC, corpus: SpeechCorpus, spelling: Spelling, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy per frame (less the entropy of the targets, so that 0 is perfect), and CTC per letter."""
    rng = generator(step, "ctc")
    length = int(rng.choice(WINDOWS))
    batch = BATCH_FRAMES // length
    waves, firsts = crops(corpus, rng, batch, length)
    mask = time_mask(rng, batch, length, MASK_SHARE, MASK_SPAN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.wav2vec2(augment(waves, rng), mask_time_indices=mask).last_hidden_state
        logits = model.lm_head(hidden)
    log_probs = logits.float().log_softmax(dim=-1)
    wanted = torch.from_numpy(np.stack([spelling.targets[at : at + length] for at in firsts]).astype(np.float32))
    frame_loss = nn.functional.kl_div(log_probs, wanted, reduction="sum") / (batch * length)
    texts = [_text(spelling, at, at + length) for at in firsts]
    ctc_loss = nn.functional.ctc_loss(
        log_probs.transpose(0, 1),
        torch.from_numpy(np.concatenate(texts)),
        torch.full((batch,), length),
        torch.tensor([len(text) for text in texts]),
        zero_infinity=True,
    )
    return frame_loss, ctc_loss


def _text(spelling: Spelling, start: int, end: int) -> np.ndarray:
    """The letters whose middles lie in [start, end) frames, without a delimiter at either end."""
    first, last = np.searchsorted(spelling.middles, [start, end])
    text = spelling.labels[first:last]
    inside = np.flatnonzero(text != letters.DELIMITER)
    return text[inside[0] : inside[-1] + 1] if len(inside) else text[:0]


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Train the tiny CTC from its last checkpoint on."""
    return train_from_arguments(__doc__, arguments, STEPS, train)


if __name__ == "__main__":
    sys.exit(main())
