"""Batches of the pipeline's networks through their own stages, timed: speed, memory, waiting, and what an arithmetic changes."""

from __future__ import annotations

import gc
import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from jobs.gpu.pieces import ARITHMETICS, Piece
from pipeline.asr.base import Heard
from pipeline.asr.whisperx import WhisperXRecogniser
from pipeline.codebook.fit import fit_kmeans
from pipeline.codebook.folder import has_centroids, kmeans_card, write_centroids
from pipeline.encode.hubert import HubertEncoder
from pipeline.recordings import RecordingsStage
from pipeline.source.audio import SourceAudio
from pipeline.source.inventory import list_source
from pipeline.units import UnitsStage
from schemas.audio import SAMPLE_RATE
from schemas.config import ConfigError
from schemas.hearing import WhisperXSpec
from schemas.spec import HubertSpec, KMeansSpec, RecordingsSpec, Source, UnitsSpec
from schemas.tables import Recording, Segment, Units, segment_id

AUDIO = "data/demo"
SEGMENT_SECONDS = (2, 16)
"""Lengths that segments are cut to, from and below."""
LOOKS_EVERY = 0.005
"""Seconds between two looks at the memory in use."""
FITTED = KMeansSpec(num_units=100, seed=0, iterations=10)
"""A codebook for networks whose own is not here: enough to tell what an arithmetic changes."""
Result = dict[str, Any]


@dataclass
class Watch:
    """How long the network ran, and the rows of each forward pass."""

    seconds: float = 0.0
    rows: list[int] = field(default_factory=list)

    @contextmanager
    def forward(self, rows: int) -> Iterator[None]:
        """Around a pass whose results are on the host when it ends, so that the device has nothing left to do."""
        begun = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begun
        self.rows.append(rows)


class WatchedHubert(HubertEncoder):
    """In batches of the spec's size on any device."""

    def __init__(self, spec: HubertSpec) -> None:
        super().__init__(spec)
        self.watch = Watch()

    def open(self) -> None:
        """As the encoder does."""
        super().open()
        self.batch_size = self.spec.batch_size

    def _forward(self, waves: Sequence[np.ndarray]) -> np.ndarray:
        with self.watch.forward(len(waves)):
            return super()._forward(waves)

    def _forward_padded(self, batch: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        with self.watch.forward(len(batch)):
            return super()._forward_padded(batch, lengths)


class WatchedWhisper(WhisperXRecogniser):
    """In batches of the spec's size on any device."""

    def __init__(self, spec: WhisperXSpec) -> None:
        super().__init__(spec)
        self.watch = Watch()

    def open(self) -> None:
        """As the recogniser does."""
        super().open()
        self._batch_size = self._spec.batch_size

    def _transcribe_batch(self, features: Sequence[Any], hints: Sequence[str | None]) -> list[Heard]:
        with self.watch.forward(len(features)):
            return super()._transcribe_batch(features, hints)


@contextmanager
def peak_memory(device: str) -> Iterator[list[int]]:
    """The most that is in use while it lasts beside what was in use before, in bytes: of the card as its driver counts it, on a
    processor of this process's resident memory. Looked at so often that little is missed; the number is in the list at the end.
    """
    import torch

    gc.collect()
    if device == "cuda":
        torch.empty(1, device=device)  # the context's own memory is not the network's
        torch.cuda.empty_cache()  # nor is what the one before has freed

    def used() -> int:
        if device == "cuda":
            free, total = torch.cuda.mem_get_info()
            return int(total - free)
        return int(psutil.Process().memory_info().rss)

    before = used()
    most, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(LOOKS_EVERY):
            most[0] = max(most[0], used() - before)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def demo_recordings() -> list[Recording]:
    """The recordings of data/demo.

    Raises:
        ConfigError: they are not here.
    """
    if not Path(AUDIO).is_dir():
        raise ConfigError(f"{AUDIO} is not here", "run it in a checkout")
    source = Source(uri=AUDIO, name="demo", transcripts="manifest", manifest="manifest.tsv")
    stage = RecordingsStage(RecordingsSpec(), source)
    rows = stage.run({"inventory": list_source(source)}, SourceAudio(AUDIO)).rows
    return [row for row in rows if isinstance(row, Recording)]


def cut_up(recordings: Sequence[Recording], seconds: float) -> list[Segment]:
    """Segments of several lengths, recording after recording and again from the first, until so much audio is in them."""
    generator = np.random.default_rng(0)
    rows: list[Segment] = []
    left = seconds * SAMPLE_RATE
    while True:
        for recording in recordings:
            start, stop = 0, recording.num_samples_16k
            while start < stop:
                end = start + int(generator.integers(*SEGMENT_SECONDS)) * SAMPLE_RATE
                end = stop if stop - end < SAMPLE_RATE else end
                rows.append(_segment(recording.recording_id, start, end))
                left -= end - start
                if left <= 0:
                    return rows
                start = end


def _segment(recording: str, start: int, end: int) -> Segment:
    return Segment(
        segment_id=segment_id(recording, start, end),
        recording_id=recording,
        channel=-1,
        start=start,
        end=end,
        speech_prob=1.0,
        cut_reason="given",
    )


def measure(piece: Piece, folder: Path, *, seconds: float, warm_up: float) -> Result:
    """Figures of a network on so many seconds of audio, after as many of `warm_up`. `folder` keeps what the other arithmetics of
    this network are compared with.

    Raises:
        UserError: its weights are not here, or this device has no such arithmetic; nothing was measured then.
    """
    folder = folder / re.sub(r"\W+", "-", piece.network)
    recordings = demo_recordings()
    segments = cut_up(recordings, seconds)
    with peak_memory(piece.spec.device) as peak:
        begun = time.perf_counter()
        network = OpenHubert(piece, folder, recordings) if isinstance(piece.spec, HubertSpec) else OpenWhisper(piece)
        load = time.perf_counter() - begun
        network.run(cut_up(recordings, warm_up), recordings)
        watch = network.watch
        watch.seconds, watch.rows = 0.0, []
        begun = time.perf_counter()
        results = network.run(segments, recordings)
        took = time.perf_counter() - begun
        network.close()
    audio = sum(row.end - row.start for row in segments) / SAMPLE_RATE
    reference = folder / "float32.json"
    if piece.arithmetic == ARITHMETICS[0]:
        folder.mkdir(parents=True, exist_ok=True)
        reference.write_text(json.dumps(results), encoding="utf-8")
    wanted = json.loads(reference.read_text(encoding="utf-8")) if reference.exists() else None
    return {
        "rows_per_forward": sum(watch.rows) / len(watch.rows),
        "forwards": len(watch.rows),
        "segments": len(segments),
        "audio_seconds": audio,
        "audio_per_second": audio / took,
        "disagreement": None if wanted is None else network.disagreement(results, wanted),
        "peak_mib": peak[0] / 2**20,
        "waiting": 1 - watch.seconds / took,
        "load_seconds": load,
        **network.facts,
    }


class OpenHubert:
    """The units stage around a HuBERT."""

    def __init__(self, piece: Piece, folder: Path, recordings: Sequence[Recording]) -> None:
        assert isinstance(piece.spec, HubertSpec)
        self._encoder = WatchedHubert(piece.spec)
        self._encoder.card()  # refuses here what cannot be measured
        centroids = piece.centroids
        if centroids is None or not has_centroids(centroids):
            centroids = str(folder / "codebook")
            if not has_centroids(centroids):
                self._fit(centroids, recordings)
        self._stage = UnitsStage(UnitsSpec(encoder=piece.spec, centroids=centroids))
        self._stage.encoder = self._encoder
        self._stage.open()
        self.watch = self._encoder.watch
        own = centroids == piece.centroids
        self.facts: Result = {"codebook": centroids if own else f"{FITTED.num_units} units, fitted on {AUDIO}"}

    def _fit(self, folder: str, recordings: Sequence[Recording]) -> None:
        audio = SourceAudio(AUDIO)
        self._encoder.open()
        frames = np.concatenate([self._encoder.encode(audio.read(recording)) for recording in recordings])
        self._encoder.close()
        fitted = fit_kmeans(frames, FITTED).centroids
        write_centroids(folder, fitted, kmeans_card("demo", fitted, {"encoder": self._encoder.card().card_id}))

    def run(self, segments: Sequence[Segment], recordings: Sequence[Recording]) -> Result:
        """Units by segment; those of a reject are missing."""
        tables = {"segments": segments, "recordings": recordings}
        rows = self._stage.run(tables, SourceAudio(AUDIO, keep_bytes=0)).rows
        return {row.segment_id: row.units for row in rows if isinstance(row, Units)}

    def close(self) -> None:
        """Release it."""
        self._stage.close()

    @staticmethod
    def disagreement(results: Result, wanted: Result) -> float:
        """The share of frames whose unit is another one, or missing."""
        same = sum(
            int((np.array(results[name]) == np.array(units)).sum()) for name, units in wanted.items() if name in results
        )
        return 1 - same / sum(map(len, wanted.values()))


class OpenWhisper:
    """A recogniser that runs Whisper."""

    def __init__(self, piece: Piece) -> None:
        assert isinstance(piece.spec, WhisperXSpec)
        self._recogniser = WatchedWhisper(piece.spec)
        self._recogniser.card()
        from ctranslate2 import get_supported_compute_types

        if piece.arithmetic not in get_supported_compute_types(piece.spec.device):
            raise ConfigError(f"CTranslate2 does not compute in {piece.arithmetic} on this device")
        self._recogniser.open()
        self.watch = self._recogniser.watch
        self.facts: Result = {"beam": piece.spec.beam_size}

    def run(self, segments: Sequence[Segment], recordings: Sequence[Recording]) -> Result:
        """Text by segment."""
        by_id = {row.recording_id: row for row in recordings}
        cuts = [(by_id[row.recording_id], row) for row in segments]
        heard = self._recogniser.transcribe(cuts, SourceAudio(AUDIO, keep_bytes=0))
        return {
            row.segment_id: result.text
            for row, result in zip(segments, heard, strict=True)
            if isinstance(result, Heard)
        }

    def close(self) -> None:
        """Release it."""
        self._recogniser.close()

    @staticmethod
    def disagreement(results: Result, wanted: Result) -> float:
        """Word errors per word of float32."""
        import jiwer

        names = [name for name, text in wanted.items() if text]
        return float(jiwer.wer([wanted[name] for name in names], [results.get(name, "") for name in names]))
