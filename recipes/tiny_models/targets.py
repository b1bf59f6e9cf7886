"""What the tiny HuBERT learns to predict, from Whisper-base: `python -m recipes.tiny_models.targets`.

Finished parts are kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from recipes.tiny_models.batches import Share
from recipes.tiny_models.corpus import parts
from recipes.tiny_models.settings import one_thread, root
from recipes.tiny_models.store import Utterance, load
from recipes.tiny_models.whisper_teacher import WhisperTeacher

LAYERS = (3, 4)
DIM = 128
"""Principal components kept."""
SHARES = (
    Share(source="flite", parts=5),
    Share(source="kokoro", parts=2, times=2),
    Share(source="piper", parts=4),
    Share(source="real", parts=1, times=3),
)
SAMPLE_UTTERANCES = 40
"""Of every voice's first part, to fit the projection."""


def teacher_features(teacher: WhisperTeacher, audio: np.ndarray) -> torch.Tensor:
    """[frames, 1024]: both layers, each frame normalised. Without that, a few huge dimensions rule every distance."""
    outputs = teacher.features(audio)
    return torch.cat([torch.nn.functional.layer_norm(outputs[layer - 1], (512,)) for layer in LAYERS], dim=1)


def target_path(part: Path) -> Path:
    """The targets of a corpus part."""
    return root() / "targets" / part.parent.name / f"{part.stem}.npy"


def load_targets(shares: tuple[Share, ...]) -> np.ndarray:
    """float16 [frames, DIM] in the order of `batches.load_corpus`."""
    arrays = [
        np.concatenate([np.load(target_path(part)) for part in parts(share.source, share.parts)] * share.times)
        for share in shares
    ]
    return np.concatenate(arrays)


def fit_projection(teacher: WhisperTeacher) -> dict[str, torch.Tensor]:
    """Mean and scale of each teacher dimension, and the principal axes of what is left, over a sample of every source."""
    sample: list[Utterance] = []
    for share in SHARES:
        for part in parts(share.source, 1):
            sample += list(load(part))[:SAMPLE_UTTERANCES]
    features = torch.cat([teacher_features(teacher, item.audio) for item in sample])
    mean, scale = features.mean(dim=0), features.std(dim=0)
    scaled = (features - mean) / scale
    values, axes = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
    axes = axes[:, -DIM:].flip(1)
    print(
        f"{len(features)} frames; {DIM} axes keep {values[-DIM:].sum() / values.sum():.1%} of the variance", flush=True
    )
    return {"mean": mean, "scale": scale, "axes": axes / values[-1].sqrt()}


def main() -> None:
    one_thread()
    teacher = WhisperTeacher(max(LAYERS), torch.bfloat16)
    saved = root() / "targets" / "projection.pt"
    if not saved.exists():
        saved.parent.mkdir(parents=True, exist_ok=True)
        torch.save(fit_projection(teacher), saved)
    projection = torch.load(saved, weights_only=True)
    for part in [part for share in SHARES for part in parts(share.source, share.parts)]:
        path = target_path(part)
        if path.exists():
            continue
        made = [
            ((teacher_features(teacher, item.audio) - projection["mean"]) / projection["scale"]) @ projection["axes"]
            for item in load(part)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with open(temporary, "wb") as file:
            np.save(file, torch.cat(made).half().numpy())
        temporary.rename(path)
        print(path.relative_to(root()), flush=True)


if __name__ == "__main__":
    main()
