"""How much the units tell about phones: PNMI (mutual information over the entropy of phones), at 25 Hz.

Two tables. `many speakers` is how the figures of the literature are measured: one codebook for all speakers, and speakers who
did not take part in the fit. It is fitted on 24 Kokoro voices, three of flite at changing speeds, one of Piper and two real
readers; PNMI is measured on other sentences by four other Kokoro voices, another of flite, and two other readers. Phone times
are exact for flite and soundswallower's for the others (10 ms off in the median; frames are 40 ms).
The rows without that name are the first table: flite alone, codebook on three voices at two speeds (`seen`), and one that
no training heard (`unseen`). A diphone voice says a phone with the same waveform again and again, and one speaker has one
timbre: that is where MFCC are as good as anything, and why there are two tables.

`chance` is the PNMI of the tiny HuBERT's units in random order: with few frames and many units, counting alone gives some.
Encoders: the shipped tiny HuBERT, MFCC, Whisper-base layer 3 as it is, with every frame normalised, and the 128 principal
components of normalised layers 3 and 4 that the tiny HuBERT is taught (`teacher`). `shipped` are the centroids under assets/.

Needs flite (Debian package flite1-dev) and assets/tiny-hubert; Whisper's rows need `jobs/fetch_models.py whisper-base`, many
speakers the steps `fetch` and `corpus` of recipes/tiny_models (TINY_MODELS_ROOT says where).
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Measurement, main
from pipeline.codebook.assign import Quantiser
from pipeline.codebook.fit import fit_kmeans
from pipeline.codebook.folder import load_centroids
from pipeline.encode.base import Encoder, build_encoder
from recipes.tiny_models import speech
from recipes.tiny_models.corpus import SPEED_RANGE, parts, real_clips
from recipes.tiny_models.settings import TRAIN_FLITE, UNIT_HOP, UNSEEN_FLITE, UNSEEN_KOKORO
from recipes.tiny_models.targets import LAYERS, normalised_layers, project, projection_path
from recipes.tiny_models.whisper_teacher import WhisperTeacher
from recipes.voices import flite
from recipes.voices.settings import SEED, packages
from recipes.voices.store import VoicedSentence, load, resample
from schemas.spec import HubertSpec, KMeansSpec, MfccSpec

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "assets" / "tiny-hubert"
WHISPER = (ROOT / "models" / "whisper-base" / "model.bin", packages() / "whisper-base" / "model.bin")
OURS = "tiny HuBERT"
SIZES = (100, 500)
SPEEDS = (1.0, 0.87)
FIT_SENTENCES = 60
MARGIN = 0.05
"""The goal: this much above MFCC in PNMI."""
SAME = {"ax": "ah"}
"""Flite's schwa is the dictionary's unstressed AH."""

Encode = Callable[[np.ndarray], np.ndarray]
"""int16 [n] samples to float32 [n // 640, D]."""


def run() -> list[Measurement]:
    """Rows per table, number of units and encoder.

    Raises:
        SystemExit: flite or the model is missing.
    """
    torch.set_num_threads(1)
    if not flite.available():
        raise SystemExit(speech.MISSING)
    if not MODEL.is_dir():
        raise SystemExit(f"{MODEL} is missing: see recipes/tiny_models/README.md")
    encoders = _encoders()
    rows = []
    try:
        rows += table(encoders, *many_speakers())
    except FileNotFoundError as error:
        print(f"many speakers are left out: {error}", file=sys.stderr)
    return rows + table(encoders, *flite_alone())


Speech = list[VoicedSentence]


def many_speakers() -> tuple[Speech, dict[str, Speech]]:
    """What codebooks are fitted on, and what PNMI is measured on.

    Raises:
        FileNotFoundError: a part of the recipe's speech was not made.
    """
    shares = {"kokoro": 2, "flite": 1, "piper": 1, "real": 1}
    paths = [path for source, count in shares.items() for path in parts(source, count)]
    held = [speech.held_out_kokoro(voice) for voice in UNSEEN_KOKORO]
    if missing := [path.name for path in held if not path.exists()]:
        raise FileNotFoundError(f"no {', '.join(missing)}: run `python -m recipes.tiny_models.corpus held-out`")
    rng = random.Random(SEED)
    rms = [resample(item, rng.uniform(*SPEED_RANGE)) for item in speech.spoken(UNSEEN_FLITE, 0, FIT_SENTENCES)]
    kokoro = [item for path in held for item in load(path)]
    readers = real_clips(unseen=True)
    fitted_on = [item for path in paths if not path.stem.startswith("resampled") for item in load(path)]
    # The readers' 50 s are too little for a row of their own: units in random order would have a PNMI of 0.38 (K=100).
    groups = {"all unseen": [*kokoro, *rms, *readers], "Kokoro": kokoro, "flite": rms}
    return fitted_on, {f"many speakers, {name}": items for name, items in groups.items()}


def flite_alone() -> tuple[Speech, dict[str, Speech]]:
    """The same for four voices of flite."""
    fitted_on = [item for voice in TRAIN_FLITE for item in speech.spoken(voice, 0, FIT_SENTENCES)]
    last = len(speech.sentences())
    tests = {
        "unseen": speech.spoken(UNSEEN_FLITE, FIT_SENTENCES, last),
        "seen": [item for voice in TRAIN_FLITE for item in speech.spoken(voice, FIT_SENTENCES, last)],
    }
    return [item if speed == 1.0 else resample(item, speed) for speed in SPEEDS for item in fitted_on], tests


def table(encoders: dict[str, Encode], fitted_on: Speech, tests: dict[str, Speech]) -> list[Measurement]:
    """PNMI of every encoder's units on every group, with codebooks fitted on `fitted_on` and with the shipped ones."""
    found: dict[tuple[str, int, str], float] = {}
    phones = {group: _phones(items) for group, items in tests.items()}
    for name, encode in encoders.items():
        features = np.concatenate([encode(item.audio) for item in fitted_on])
        held = {group: np.concatenate([encode(item.audio) for item in items]) for group, items in tests.items()}
        for size in SIZES:
            spec = KMeansSpec(num_units=size, seed=SEED, iterations=20, max_points_per_centroid=4096)
            quantisers = {name: Quantiser(fit_kmeans(features, spec).centroids)}
            if name == OURS:
                quantisers[f"{OURS}, shipped"] = Quantiser(load_centroids(ROOT / f"assets/tiny-kmeans-{size}")[0])
            for label, quantiser in quantisers.items():
                for group in tests:
                    units = quantiser.assign(held[group])
                    found[label, size, group] = pnmi(units, phones[group])
                    if label == OURS:
                        shuffled = np.random.default_rng(SEED).permutation(units)
                        found[f"{OURS}, chance", size, group] = pnmi(shuffled, phones[group])
    return [_row(label, size, group, value, found) for (label, size, group), value in found.items()]


def _row(label: str, size: int, group: str, value: float, found: dict[tuple[str, int, str], float]) -> Measurement:
    ours = label in (OURS, f"{OURS}, shipped")
    base = found["MFCC", size, group]
    return Measurement(
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
    specs: dict[str, MfccSpec | HubertSpec] = {
        "MFCC": MfccSpec(hop=UNIT_HOP),
        OURS: HubertSpec(model=str(MODEL), layer=4, hop=UNIT_HOP),
    }
    for name, spec in specs.items():
        encoder = build_encoder(spec)
        encoder.open()
        encoders[name] = partial(_encode, encoder)
    model = next((path for path in WHISPER if path.is_file()), None)
    if model is None:
        print("Whisper is left out: `python jobs/fetch_models.py whisper-base` fetches it", file=sys.stderr)
        return encoders
    heard = _remembered(WhisperTeacher(max(LAYERS), torch.bfloat16, model))
    encoders["Whisper-base layer 3"] = lambda audio: _halve(heard(audio)[2])
    encoders["Whisper-base layer 3, normalised"] = lambda audio: _halve(_layer_norm(heard(audio)[2]))
    if projection_path().is_file():
        projection = torch.load(projection_path(), weights_only=True)
        encoders["teacher"] = lambda audio: _halve(project(normalised_layers(heard(audio)), projection))
    return encoders


def _remembered(teacher: WhisperTeacher) -> Callable[[np.ndarray], dict[int, torch.Tensor]]:
    """Layers 3 and 4 (indices 2 and 3) of each clip, worked out once for the three encoders made of them; 20 MB a minute."""
    known: dict[bytes, dict[int, torch.Tensor]] = {}

    def features(audio: np.ndarray) -> dict[int, torch.Tensor]:
        key = hashlib.sha256(audio.tobytes()).digest()
        if key not in known:
            outputs = teacher.features(audio)
            known[key] = {layer - 1: outputs[layer - 1] for layer in LAYERS}
        return known[key]

    return features


def _layer_norm(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(features, features.shape[-1:])


def _encode(encoder: Encoder, audio: np.ndarray) -> np.ndarray:
    return encoder.encode(audio.astype(np.float32) / 32768)


def _halve(frames: torch.Tensor) -> np.ndarray:
    """The means of pairs of 50 Hz frames."""
    features, num_frames = frames.numpy(), len(frames) // 2
    return np.ascontiguousarray(features[: 2 * num_frames].reshape(num_frames, 2, -1).mean(axis=1), np.float32)


def _phones(items: list[VoicedSentence]) -> np.ndarray:
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
