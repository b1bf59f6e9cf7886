"""The demo's utterances as any tool may write them: files of other rates, long recordings with their times, texts; and
what is in a corpus of them."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from tests.jobs.small_corpus import DEMO, FILES

RATE = 16_000
TEXTS: dict[str, str] = {
    row["file"]: row["transcript"]
    for row in csv.DictReader((DEMO / "manifest.tsv").open(encoding="utf-8"), delimiter="\t")
}


def wave(number: int) -> np.ndarray:
    """float32 [samples] of an utterance at 16 kHz."""
    return np.asarray(soundfile.read(DEMO / FILES[number], dtype="float32")[0])


def words_of(number: int) -> str:
    return TEXTS[FILES[number]]


def write(path: Path, samples: np.ndarray, rate: int = RATE, **how: Any) -> Path:
    """Samples of 16 kHz as a file of another rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, soxr.resample(samples, RATE, rate) if rate != RATE else samples, rate, **how)
    return path


def put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def long_wave(numbers: Iterable[int], pause: float = 0.5) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Utterances in one recording with pauses between them, and their times in seconds."""
    pieces: list[np.ndarray] = []
    times: list[tuple[float, float]] = []
    at = 0
    for number in numbers:
        said = wave(number)
        at += int(pause * RATE)
        pieces += [np.zeros(int(pause * RATE), np.float32), said]
        times.append((at / RATE, (at + len(said)) / RATE))
        at += len(said)
    return np.concatenate([*pieces, np.zeros(RATE, np.float32)]), times


Row = tuple[str, int, int, str]
"""(the recording's uri, start, end in 16 kHz samples, text)."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a tool says is in a corpus."""

    rows: set[Row]
    rejects: int = 0
    source: dict[str, object] | None = None
    """Fields of `source` that a user must add to the spec that `lst init` writes."""


def as_lhotse_says(folder: Path, manifests: Iterable[dict[str, Any]], **more: Any) -> Expected:
    """Recordings and supervisions that a recipe made, as rows."""
    rows: set[Row] = set()
    for manifest in manifests:
        paths = {item.id: Path(item.sources[0].source).resolve() for item in manifest["recordings"]}
        for item in manifest["supervisions"]:
            uri = str(paths[item.recording_id].relative_to(folder.resolve()))
            rows.add((uri, round(item.start * RATE), round(item.end * RATE), item.text.strip()))
    return Expected(rows=rows, **more)
