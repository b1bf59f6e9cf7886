"""What the tiny HuBERT learns to predict, from Whisper-base: `python -m recipes.tiny_models.targets`.

Finished parts are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from recipes.tiny_models.batches import Share
from recipes.tiny_models.corpus import parts
from recipes.tiny_models.settings import one_thread
from recipes.tiny_models.whisper_teacher import WhisperTeacher
from recipes.voices.settings import SEED, root
from recipes.voices.store import VoicedSentence, load
from schemas.commands.cli import Parser, command
from schemas.files import whole_file

LAYERS = (3, 4)
DIM = 128
"""Principal components kept."""
SHARES = (
    Share(source="flite", parts=4),
    Share(source="kokoro", parts=2),
    Share(source="piper", parts=4),
    Share(source="real", parts=1, times=3),
)
LAST_PLACE = 300
"""Frames from a clip's start (6 s), after which too few clips go on to tell what a place adds."""
SAMPLE_UTTERANCES = 40
"""Of every voice's first part, to fit the projection."""


def teacher_features(teacher: WhisperTeacher, audio: np.ndarray) -> torch.Tensor:
    """`normalised_layers` of what Whisper makes of a clip."""
    return normalised_layers(teacher.features(audio))


def normalised_layers(outputs: Mapping[int, torch.Tensor] | Sequence[torch.Tensor]) -> torch.Tensor:
    """[frames, 1024]: both layers, each frame normalised. Without that, a few huge dimensions rule every distance."""
    return torch.cat([torch.nn.functional.layer_norm(outputs[layer - 1], (512,)) for layer in LAYERS], dim=1)


def project(features: torch.Tensor, projection: dict[str, torch.Tensor]) -> torch.Tensor:
    """[frames, DIM] of `teacher_features` by what `fit_projection` gave."""
    return ((features - projection["mean"]) / projection["scale"]) @ projection["axes"]


def projection_path() -> Path:
    """The projection of the recipe's run."""
    return root() / "targets" / "projection.pt"


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


def settle(targets: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Targets [frames, DIM] of clips that begin at `starts` (and end at the last), without what their place in the clip adds, and
    with large dimensions less large; float32.

    Whisper adds a position to its input and the sum is still there in its layers: 4.5 % of the variance that no sound
    explains, and that a student who hears a clip's middle cannot know. The mean per place is taken of what 100 clusters leave
    over, for clips begin with silence. Dividing by the root of each dimension's deviation, half way to white,
    raised the teacher's own PNMI at K=100 from 0.615 to 0.633.
    """
    import faiss

    targets = targets.astype(np.float32)
    assert len(targets) == starts[-1]
    kmeans = faiss.Kmeans(targets.shape[1], 100, niter=8, seed=SEED, max_points_per_centroid=400)
    kmeans.train(np.ascontiguousarray(targets[::5]))
    rest = targets - np.asarray(kmeans.centroids)[kmeans.index.search(targets, 1)[1][:, 0]]
    place = np.minimum(np.arange(len(targets)) - np.repeat(starts[:-1], np.diff(starts)), LAST_PLACE)
    counts = np.bincount(place, minlength=LAST_PLACE + 1)[:, None]
    sums = np.stack([np.bincount(place, column, LAST_PLACE + 1) for column in rest.T], axis=1)
    targets -= (sums / np.maximum(counts, 1)).astype(np.float32)[place]
    targets -= targets.mean(axis=0)
    return np.asarray(targets / np.sqrt(targets.std(axis=0)), np.float32)


def fit_projection(teacher: WhisperTeacher) -> dict[str, torch.Tensor]:
    """Mean and scale of each teacher dimension, and the principal axes of what is left, over a sample of every source."""
    sample: list[VoicedSentence] = []
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


@command
def main(arguments: Sequence[str] | None = None) -> int:
    Parser(__doc__).parse_args(arguments)
    one_thread()
    teacher = WhisperTeacher(max(LAYERS), torch.bfloat16)
    saved = projection_path()
    if not saved.exists():
        saved.parent.mkdir(parents=True, exist_ok=True)
        torch.save(fit_projection(teacher), saved)
    projection = torch.load(saved, weights_only=True)
    for part in [part for share in SHARES for part in parts(share.source, share.parts)]:
        path = target_path(part)
        if path.exists():
            continue
        made = [project(teacher_features(teacher, item.audio), projection) for item in load(part)]
        with whole_file(path) as temporary, open(temporary, "wb") as file:
            np.save(file, torch.cat(made).half().numpy())
        print(path.relative_to(root()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
