"""Train the tiny HuBERT: `python -m recipes.tiny_models.distil`; started again, it goes on from its last checkpoint.

The student hears augmented speech with masked spans and predicts what Whisper's encoder makes of the clean speech: no
labels are used.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import HubertConfig, HubertModel

from recipes.tiny_models.batches import (
    Corpus,
    augment,
    cosine,
    crops,
    generator,
    load_corpus,
    save_checkpoint,
    time_mask,
)
from recipes.tiny_models.settings import SEED, UNIT_HOP, one_thread, root
from recipes.tiny_models.targets import DIM, SHARES, load_targets

CHECKPOINT_EVERY = 100
WINDOWS = (120, 200, 200, 300, 600)
"""Lengths of the windows of a batch, in frames: attention should know short segments and long ones."""


STEPS = 900
BATCH_FRAMES = 600
"""50 Hz frames in a batch: 12 s of speech. Many small steps: the budget is processor time."""
PEAK_LR, WARMUP = 1.2e-3, 150
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
    )


class Student(nn.Module):
    """The HuBERT and a linear head that is thrown away afterwards."""

    def __init__(self, hop: int) -> None:
        super().__init__()
        self.hubert = HubertModel(config(hop))
        self.head = nn.Linear(256, DIM)

    def forward(self, waves: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[batch, frames, DIM] for waves [batch, samples] and the mask [batch, frames]."""
        return self.head(self.hubert(waves, mask_time_indices=mask).last_hidden_state)


def checkpoint_path() -> Path:
    return root() / "checkpoints" / "hubert.pt"


def train(steps: int) -> None:
    """Run from the last checkpoint, or from the start, to the end. With more `steps` than before, a run goes on."""
    torch.manual_seed(SEED)
    student = Student(UNIT_HOP)
    optimiser = torch.optim.AdamW(student.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    first = 0
    if checkpoint_path().exists():
        state = torch.load(checkpoint_path(), weights_only=True)
        student.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    corpus, targets = load_corpus(SHARES), load_targets(SHARES)
    assert len(targets) == corpus.num_frames
    print(f"{corpus.num_frames / 50 / 3600:.2f} h, {_millions(student.hubert):.2f} M parameters", flush=True)
    began, losses = time.monotonic(), []
    for step in range(first, steps):
        waves, mask, wanted = _batch(corpus, targets, step)
        for group in optimiser.param_groups:
            group["lr"] = cosine(step, steps, WARMUP, PEAK_LR)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predicted = student(waves, mask)
        loss = nn.functional.mse_loss(predicted.float(), wanted) / wanted.var()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
        done = step + 1
        if done % 25 == 0:
            print(f"{done} unexplained {np.mean(losses[-25:]):.4f} {time.monotonic() - began:.0f} s", flush=True)
        if done % CHECKPOINT_EVERY == 0 or done == steps:
            state = {"model": student.state_dict(), "optimiser": optimiser.state_dict(), "step": done}
            save_checkpoint(checkpoint_path(), state)


def _batch(corpus: Corpus, targets: np.ndarray, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Waves, mask and targets of a step; the targets of two 50 Hz frames are averaged."""
    rng = generator(step, "hubert")
    length = int(rng.choice(WINDOWS))
    batch = BATCH_FRAMES // length
    waves, firsts = crops(corpus, rng, batch, length)
    mask = time_mask(rng, batch, length // 2, MASK_SHARE, MASK_SPAN)
    wanted = np.stack([targets[at : at + length] for at in firsts]).astype(np.float32)
    return augment(waves, rng), mask, torch.from_numpy(wanted.reshape(batch, length // 2, 2, DIM).mean(axis=2))


def _millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="default: %(default)s")
    one_thread()
    train(parser.parse_args().steps)
