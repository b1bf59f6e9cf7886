"""Train letters on Whisper's encoder: `python -m recipes.tiny_models.whisper_ctc`; an interrupted run goes on.

The encoder of Whisper-tiny.en has heard every room there is, but says nothing of letters. It stays as it is; a small head reads
its states and learns the frame targets of the tiny CTC (`letters.frame_targets`, exact for flite), while `degrade` puts the
speech into rooms, through telephones and under noise.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from model.inference.placement import DEVICE_HELP, checked_device
from pipeline.networks.letter_head import LetterHead
from pipeline.networks.whisper.encoder import WhisperEncoder, hash_tensors, read_ctranslate2
from recipes.tiny_models import letters
from recipes.tiny_models.batches import Share, cosine, kept_path, load_corpus, save_checkpoint
from recipes.tiny_models.degrade import degrade
from recipes.tiny_models.settings import FRAME, assets, one_thread
from recipes.voices.settings import SEED, root
from schemas.commands.cli import Parser, command, count
from schemas.files import whole_file

WHISPER = Path(__file__).parents[2] / "models" / "whisper-tiny.en" / "model.bin"
FOLDER = "whisper-tiny-letters"
SHARES = (
    Share(source="flite", parts=12),
    Share(source="kokoro", parts=4),
    Share(source="piper", parts=4),
    Share(source="real", parts=1, times=4),
)
STEPS = 5000
CHECKPOINT_EVERY = 250
BATCH_FRAMES = 6000
"""Two minutes of speech a step."""
LENGTHS = (150, 250, 400, 750, 1500)
"""Frames per clip: from 3 s to Whisper's own 30."""
HIDDEN, CONVOLUTIONS = 384, 3
PEAK_LR, WARMUP, WEIGHT_DECAY = 1e-3, 200, 0.01
GAPS = 0.3
"""Share of clips of which up to 3 s are taken out: pauses that no sentence of the corpus has, half of them filled with noise."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """Speech end to end, and what is spoken in each frame."""

    audio: np.ndarray
    """int16 [frames * 320]."""
    targets: np.ndarray
    """uint8 [frames, labels]: 255 times the share of each label."""


def prepare(shares: tuple[Share, ...]) -> Path:
    """The corpus of these shares as audio and frame targets in one file, made once."""
    path = kept_path(root() / FOLDER, "material", shares)
    if not path.exists():
        corpus = load_corpus(shares)
        table = letters.fit(letters.pronunciations(corpus.items))
        targets = [np.rint(letters.frame_targets(item, table) * 255).astype(np.uint8) for item in corpus.items]
        with whole_file(path) as temporary:
            np.savez(temporary, audio=corpus.audio, targets=np.concatenate(targets))
    return path


def load(path: Path) -> Material:
    """The audio and targets that `prepare` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return Material(audio=file["audio"], targets=file["targets"])


def batch(material: Material, step: int, frames: int, device: str) -> tuple[Tensor, Tensor]:
    """Degraded waves [B, n] and targets [B, T, labels] of a step: a function of the step alone."""
    rng = np.random.default_rng([SEED, step])
    generator = torch.Generator(device).manual_seed(SEED + step)
    length = int(rng.choice(LENGTHS))
    first = rng.integers(0, len(material.targets) - length, size=max(2, frames // length))
    audio = np.stack([material.audio[at * FRAME : (at + length) * FRAME] for at in first])
    wanted = np.stack([material.targets[at : at + length] for at in first]).astype(np.float32) / 255
    for clip in np.flatnonzero(rng.random(len(first)) < GAPS):
        begin = int(rng.integers(0, length))
        end = min(length, begin + int(rng.integers(15, 150)))
        audio[clip, begin * FRAME : end * FRAME] = 0
        if rng.random() < 0.5:
            loud = 10 ** rng.uniform(1.5, 4)
            noise = rng.normal(size=(end - begin) * FRAME)
            noise = _smooth(noise, int(rng.integers(1, 8))) * loud
            audio[clip, begin * FRAME : end * FRAME] = np.clip(noise, -30_000, 30_000)
        wanted[clip, begin:end] = 0
        wanted[clip, begin:end, letters.BLANK] = 1
    waves = torch.from_numpy(audio).to(device).float() / 32768
    return degrade(waves, rng, generator), torch.from_numpy(wanted).to(device)


def _smooth(noise: np.ndarray, width: int) -> np.ndarray:
    return np.convolve(noise, np.ones(width) / width**0.5, mode="same")


def train(material: Material, encoder: WhisperEncoder, steps: int, frames: int, device: str) -> LetterHead:
    """Run from the last checkpoint, or from the start, to the end."""
    torch.manual_seed(SEED)
    encoder.requires_grad_(False).to(device)
    head = make_head(encoder)
    head.to(device)
    optimiser = torch.optim.AdamW(head.parameters(), betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    first = 0
    if checkpoint_path().exists():
        state = torch.load(checkpoint_path(), weights_only=True, map_location=device)
        head.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    began, losses = time.monotonic(), []
    for step in range(first, steps):
        for group in optimiser.param_groups:
            group["lr"] = cosine(step, steps, WARMUP, PEAK_LR)
        waves, wanted = batch(material, step, frames, device)
        with torch.no_grad():
            mel = encoder.log_mel(waves)
        with torch.autocast(waves.device.type, torch.bfloat16):
            with torch.no_grad():
                states = encoder(mel)
            log_probs = head(states).float().log_softmax(dim=-1)
        loss = F.kl_div(log_probs, wanted, reduction="sum") / (wanted.shape[0] * wanted.shape[1])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.detach())
        done = step + 1
        if done % CHECKPOINT_EVERY == 0 or done == steps:
            mean = torch.stack(losses[-CHECKPOINT_EVERY:]).mean()
            print(f"{done} {mean:.3f} {time.monotonic() - began:.0f} s", flush=True)
            state = {"model": head.state_dict(), "optimiser": optimiser.state_dict(), "step": done}
            save_checkpoint(checkpoint_path(), state)
    return head


def make_head(encoder: WhisperEncoder) -> LetterHead:
    """The head with random weights."""
    return LetterHead(
        width=encoder.positions.shape[1],
        num_states=len(encoder.blocks) + 1,
        hidden=HIDDEN,
        num_convolutions=CONVOLUTIONS,
        num_labels=len(letters.VOCABULARY),
    )


def checkpoint_path() -> Path:
    """Weights, optimiser and step of the training run."""
    return root() / "checkpoints" / f"{FOLDER}.pt"


def ship(head: LetterHead, targets: np.ndarray, whisper: Path) -> Path:
    """assets/whisper-tiny-letters: the head in half precision, its letters, and how common each is in its training speech."""
    folder = assets() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().cpu().contiguous() for name, value in head.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    shares = targets.mean(axis=0, dtype=np.float64) / 255
    priors = {
        label: round(float(share), 6) for label, share in zip(letters.VOCABULARY, shares / shares.sum(), strict=True)
    }
    config = {
        "model_type": "whisper-letters",
        "encoder": whisper.parent.name,
        "encoder_sha256": hash_tensors(read_ctranslate2(whisper)),
        "hidden": HIDDEN,
        "num_convolutions": CONVOLUTIONS,
        "pad_token_id": letters.BLANK,
    }
    for name, document in (("config", config), ("vocab", letters.INDEX), ("label_priors", priors)):
        (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return folder


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The corpus where it is missing, the head's training, and the files to ship."""
    parser = Parser(__doc__)
    parser.add_argument("--steps", type=count, default=STEPS, help="optimiser steps (default: %(default)s)")
    parser.add_argument("--batch-frames", type=count, default=BATCH_FRAMES, help="of a step (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help=DEVICE_HELP)
    parser.add_argument("--whisper", type=Path, default=WHISPER, help="model.bin (default: what `make models` fetches)")
    given = parser.parse_args(arguments)
    device = checked_device(given.device)
    if device.type == "cpu":
        one_thread()
    encoder = WhisperEncoder.load(read_ctranslate2(given.whisper))
    material = load(prepare(SHARES))
    print(f"{len(material.targets) / 50 / 3600:.2f} h", flush=True)
    head = train(material, encoder, given.steps, given.batch_frames, given.device)
    print(ship(head, material.targets, given.whisper))
    return 0


if __name__ == "__main__":
    sys.exit(main())
