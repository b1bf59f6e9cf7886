"""Train the tiny HuBERT: `python -m recipes.tiny_models.distil`; started again, it goes on from its last checkpoint.

The student hears augmented speech with masked spans and predicts what Whisper's encoder makes of the clean speech: no
labels are used.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import HubertConfig, HubertModel

from pipeline.networks.attention_reach import FIELD, limit_attention
from recipes.tiny_models.batches import (
    SpeechCorpus,
    augment,
    cosine,
    crops,
    generator,
    load_corpus,
    save_checkpoint,
    time_mask,
)
from recipes.tiny_models.settings import UNIT_HOP, train_from_arguments
from recipes.tiny_models.targets import DIM, SHARES, load_targets, settle
from recipes.voices.settings import SEED, root
from schemas.commands.cli import command

CHECKPOINT_EVERY = 200
WINDOWS = (120, 200, 200, 300, 600)
"""Lengths of the windows of a batch, in frames: attention should know short segments and long ones."""


STEPS = 3400
BATCH_FRAMES = 600
"""50 Hz frames in a batch: 12 s of speech. Many small steps: the budget is processor time."""
PEAK_LR, WARMUP = 2e-3, 100
"""Of AdamW; Muon's updates are scaled to the size of AdamW's, and take MUON_LR."""
MUON_LR = 6e-3
REACH_SECONDS = 1.0
"""How far each layer attends: four layers and the positions then reach 4.6 s, so that windows with 5 s of context are exact."""
MASK_SHARE, MASK_SPAN = 0.12, 3


def config(hop: int) -> HubertConfig:
    """HuBERT's kernels and strides, tapered widths, and layer norms only: nothing depends on the length or the batch.

    The published base model has a GroupNorm over time in its first layer, so that padding, windows and neighbours in a
    batch change its features; per-frame layer norms cost the same and do not. Tapering the first widths from 256 to 64
    made a training step 4 times faster. The transformer's norms come after its blocks, so that the output of every
    layer is normalised.
    """
    assert hop in (320, 640)
    extra = hop == 640  # as the 25 Hz variants of HuBERT do it: one more convolution of stride 2
    return HubertConfig(
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        conv_dim=[64, 128, 128, 192, 256, 256, 256] + [256] * extra,
        conv_kernel=[10, 3, 3, 3, 3, 2, 2] + [2] * extra,
        conv_stride=[5, 2, 2, 2, 2, 2, 2] + [2] * extra,
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=False,
        num_conv_pos_embeddings=32,
        num_conv_pos_embedding_groups=16,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
        mask_time_prob=0.1,  # only so that the mask embedding exists: the recipe draws its own masks
        mask_time_length=5,
        **{FIELD: round(REACH_SECONDS * 16_000 / hop)},
    )


class Student(nn.Module):
    """The HuBERT and a linear head that is thrown away afterwards."""

    def __init__(self, hop: int) -> None:
        super().__init__()
        self.hubert = HubertModel(config(hop))
        limit_attention(self.hubert, getattr(self.hubert.config, FIELD))
        self.head = nn.Linear(256, DIM)

    def forward(self, waves: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[batch, frames, DIM] for waves [batch, samples] and the mask [batch, frames]."""
        return self.head(self.hubert(waves, mask_time_indices=mask).last_hidden_state)


def optimisers(model: nn.Module, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformer, AdamW for the rest of what is trained.

    150 steps of AdamW alone (1.2e-3) left 1.003 unexplained, of both 0.933 at these rates.
    """
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    matrices = sorted(name for name, weight in named.items() if ".layers." in name and weight.ndim == 2)
    rest = [weight for name, weight in named.items() if name not in matrices]
    return [
        torch.optim.Muon(
            [named[name] for name in matrices], lr=muon_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def set_rates(both: list[torch.optim.Optimizer], rates: tuple[float, float]) -> None:
    """The learning rates of `optimisers`."""
    for optimiser, rate in zip(both, rates, strict=True):
        for group in optimiser.param_groups:
            group["lr"] = rate


def checkpoint_path() -> Path:
    return root() / "checkpoints" / "hubert.pt"


def train(steps: int) -> None:
    """Run from the last checkpoint, or from the start, to the end. With more `steps` than before, a run goes on."""
    torch.manual_seed(SEED)
    student = Student(UNIT_HOP)
    both = optimisers(student, MUON_LR, PEAK_LR)
    first = 0
    if checkpoint_path().exists():
        state = torch.load(checkpoint_path(), weights_only=True)
        student.load_state_dict(state["model"])
        for optimiser, kept in zip(both, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        first = state["step"]
    corpus = load_corpus(SHARES)
    targets = settle(load_targets(SHARES), corpus.starts)
    print(f"{corpus.num_frames / 50 / 3600:.2f} h, {_millions(student.hubert):.2f} M parameters", flush=True)
    began, losses = time.monotonic(), []
    for step in range(first, steps):
        waves, mask, wanted = _batch(corpus, targets, step)
        scale = cosine(step, steps, WARMUP, 1.0)
        set_rates(both, (scale * MUON_LR, scale * PEAK_LR))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predicted = student(waves, mask)
        loss = nn.functional.mse_loss(predicted.float(), wanted) / wanted.var()
        student.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for optimiser in both:
            optimiser.step()
        losses.append(loss.item())
        done = step + 1
        if done % 25 == 0:
            print(f"{done} unexplained {np.mean(losses[-25:]):.4f} {time.monotonic() - began:.0f} s", flush=True)
        if done % CHECKPOINT_EVERY == 0 or done == steps:
            states = [optimiser.state_dict() for optimiser in both]
            state = {"model": student.state_dict(), "optimisers": states, "step": done}
            save_checkpoint(checkpoint_path(), state)


def _batch(corpus: SpeechCorpus, targets: np.ndarray, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Waves, mask and targets of a step; the targets of two 50 Hz frames are averaged."""
    rng = generator(step, "hubert")
    length = int(rng.choice(WINDOWS))
    batch = BATCH_FRAMES // length
    waves, firsts = crops(corpus, rng, batch, length)
    mask = time_mask(rng, batch, length // 2, MASK_SHARE, MASK_SPAN)
    wanted = np.stack([targets[at : at + length] for at in firsts]).astype(np.float32)
    return augment(waves, rng), mask, torch.from_numpy(wanted.reshape(batch, length // 2, 2, DIM).mean(axis=2))


def _millions(module: nn.Module) -> float:
    return sum(int(parameter.numel()) for parameter in module.parameters()) / 1e6


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Train the student from its last checkpoint on."""
    return train_from_arguments(__doc__, arguments, STEPS, train)


if __name__ == "__main__":
    sys.exit(main())
