"""How much the units tell about phones: PNMI (mutual information over the entropy of phones), at 25 Hz.

Flite says the sentences of the recipe's test split, so that every phone's time is exact. k-means is fitted for every
encoder on the same speech (three voices at two speeds) and PNMI measured on other sentences, by those voices (`seen`)
and by one that no training heard (`unseen`). Encoders: the shipped tiny HuBERT, MFCC, Whisper-base layer 3 as it is,
and with every frame normalised (what the tiny HuBERT was taught from). `shipped` are the centroids under assets/.

Needs flite (Debian package flite1-dev) and assets/tiny-hubert; Whisper's rows need `jobs/fetch_models.py whisper-base`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Row, main
from pipeline.encoders import Encoder, build_encoder
from pipeline.quantise import Quantiser, fit_kmeans, load_centroids
from recipes.tiny_models import flite, speech
from recipes.tiny_models.settings import SEED, TRAIN_FLITE, UNIT_HOP, UNSEEN_FLITE, packages
from recipes.tiny_models.store import Utterance, resample
from recipes.tiny_models.whisper_teacher import WhisperTeacher
from schemas.spec import HubertSpec, KMeansSpec, MfccSpec

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "assets" / "tiny-hubert"
WHISPER = (ROOT / "models" / "whisper-base" / "model.bin", packages() / "whisper-base" / "model.bin")
SIZES = (100, 500)
SPEEDS = (1.0, 0.87)
FIT_SENTENCES = 60
MARGIN = 0.05
"""The goal: this much above MFCC in PNMI."""
SAME = {"ax": "ah"}
"""Flite's schwa is the dictionary's unstressed AH."""

Encode = Callable[[np.ndarray], np.ndarray]
"""int16 [n] samples to float32 [n // 640, D]."""


def run() -> list[Row]:
    """Rows per number of units, group of voices and encoder.

    Raises:
        SystemExit: flite or the model is missing.
    """
    torch.set_num_threads(1)
    if not flite.available():
        raise SystemExit(speech.MISSING)
    if not MODEL.is_dir():
        raise SystemExit(f"{MODEL} is missing: see recipes/tiny_models/README.md")
    fitted_on = [item for voice in TRAIN_FLITE for item in speech.spoken(voice, 0, FIT_SENTENCES)]
    fitted_on = [item if speed == 1.0 else resample(item, speed) for speed in SPEEDS for item in fitted_on]
    last = len(speech.sentences())
    tests = {
        "unseen": speech.spoken(UNSEEN_FLITE, FIT_SENTENCES, last),
        "seen": [item for voice in TRAIN_FLITE for item in speech.spoken(voice, FIT_SENTENCES, last)],
    }
    found: dict[tuple[str, int, str], float] = {}
    encoders = _encoders()
    for name, encode in encoders.items():
        features = np.concatenate([encode(item.audio) for item in fitted_on])
        held = {group: np.concatenate([encode(item.audio) for item in items]) for group, items in tests.items()}
        for size in SIZES:
            spec = KMeansSpec(num_units=size, seed=SEED, iterations=20, max_points_per_centroid=4096)
            quantisers = {name: Quantiser(fit_kmeans(features, spec).centroids)}
            if name == "tiny HuBERT":
                quantisers["tiny HuBERT, shipped"] = Quantiser(load_centroids(ROOT / f"assets/tiny-kmeans-{size}")[0])
            for label, quantiser in quantisers.items():
                for group, items in tests.items():
                    found[label, size, group] = pnmi(quantiser.assign(held[group]), _phones(items))
    return [_row(label, size, group, value, found) for (label, size, group), value in found.items()]


def _row(label: str, size: int, group: str, value: float, found: dict[tuple[str, int, str], float]) -> Row:
    ours = label.startswith("tiny HuBERT")
    base = found["MFCC", size, group]
    return Row(
        name=f"{group}: {label}, K={size}",
        value=value,
        unit="PNMI",
        rival="MFCC" if label != "MFCC" else "",
        rival_value=base if label != "MFCC" else None,
        goal=f">= MFCC + {MARGIN}" if ours else "",
        holds=value >= base + MARGIN if ours else None,
    )


def _encoders() -> dict[str, Encode]:
    encoders: dict[str, Encode] = {}
    specs = {"MFCC": MfccSpec(hop=UNIT_HOP), "tiny HuBERT": HubertSpec(model=str(MODEL), layer=4, hop=UNIT_HOP)}
    for name, spec in specs.items():
        encoder = build_encoder(spec)
        encoder.open()
        encoders[name] = partial(_encode, encoder)
    model = next((path for path in WHISPER if path.is_file()), None)
    if model is None:
        print("Whisper is left out: `python jobs/fetch_models.py whisper-base` fetches it", file=sys.stderr)
        return encoders
    teacher = WhisperTeacher(3, torch.bfloat16, model)
    encoders["Whisper-base layer 3"] = lambda audio: _halve(teacher.features(audio)[2])
    encoders["Whisper-base layer 3, normalised"] = lambda audio: _halve(_layer_norm(teacher.features(audio)[2]))
    return encoders


def _layer_norm(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(features, features.shape[-1:])


def _encode(encoder: Encoder, audio: np.ndarray) -> np.ndarray:
    return encoder.encode(audio.astype(np.float32) / 32768)


def _halve(frames: torch.Tensor) -> np.ndarray:
    """The means of pairs of 50 Hz frames."""
    features, num_frames = frames.numpy(), len(frames) // 2
    return np.ascontiguousarray(features[: 2 * num_frames].reshape(num_frames, 2, -1).mean(axis=1), np.float32)


def _phones(items: list[Utterance]) -> np.ndarray:
    """The phone in the middle of every 25 Hz frame, as text."""
    labels = []
    for item in items:
        middles = UNIT_HOP * np.arange(len(item.audio) // UNIT_HOP) + UNIT_HOP // 2
        ends = np.array([phone.end for phone in item.phones])
        index = np.minimum(np.searchsorted(ends, middles, side="right"), len(ends) - 1)
        names = np.array([SAME.get(phone.name, phone.name) for phone in item.phones])
        labels.append(names[index])
    return np.concatenate(labels)


def pnmi(units: np.ndarray, phones: np.ndarray) -> float:
    """Mutual information of units and phones over the entropy of phones, by counting frames; both [T]."""
    _, phone_ids = np.unique(phones, return_inverse=True)
    _, unit_ids = np.unique(units, return_inverse=True)
    joint = np.zeros((phone_ids.max() + 1, unit_ids.max() + 1))
    np.add.at(joint, (phone_ids, unit_ids), 1.0)
    joint /= joint.sum()
    phone, unit = joint.sum(axis=1, keepdims=True), joint.sum(axis=0, keepdims=True)
    there = joint > 0
    information = (joint[there] * np.log((joint / (phone * unit))[there])).sum()
    return float(information / -(phone * np.log(phone)).sum())


if __name__ == "__main__":
    main(run, __doc__)
