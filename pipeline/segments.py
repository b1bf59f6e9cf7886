"""Stage `segments`: where somebody speaks (Silero VAD), packed into stretches that a recogniser takes in one go."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.source.base import AudioReader
from pipeline.stage import StageResult, refuse, rows_of
from schemas.arrow import Row
from schemas.audio import SAMPLE_RATE
from schemas.cards import Card, hash_file
from schemas.config import ConfigError
from schemas.spec import SegmentsSpec
from schemas.tables import CutReason, Recording, Reject, Segment, segment_id

GRID = 640
"""Bounds lie on multiples of 40 ms (the hop of 25 Hz units), so that a segment's frames are frames of its recording."""
FRAME = 512
"""Samples per speech probability of Silero at 16 kHz."""
SMOOTHING = 5
"""Cells (200 ms) over which a place to cut inside speech is judged, lest a stop consonant be taken for a pause."""
CANCELLED = 0.01
"""Share of the louder channel's energy that is left in a mix which cancels: 20 dB less."""
BLOCK = GRID * 3_000
"""Two minutes: the squares of an hour of audio would be half a gigabyte at once."""
WEIGHTS = "silero_vad_16k_sequence.onnx"


@dataclass(frozen=True, kw_only=True)
class Span:
    """A packed stretch of speech, in cells of GRID samples, and why it ends."""

    start: int
    end: int
    cut_reason: CutReason


class SegmentsStage:
    """Speech detection and packing. Rejects: no_speech."""

    name = Segment.TABLE
    version = 1
    inputs: tuple[str, ...] = (Recording.TABLE,)

    def __init__(self, spec: SegmentsSpec, channels: str = "mix") -> None:
        """`channels` is recordings.channels of the spec: "each" segments every channel of a recording on its own."""
        self._spec = spec
        self._each = channels == "each"
        self._vad: Any = None

    def cards(self) -> list[Card]:
        """The VAD's: the hash of its packaged weights."""
        facts = {"weights_sha256": hash_file(_weights()), "channels": "each" if self._each else "mix"}
        return [Card(kind="vad", name="silero", facts=facts, notes={"license": "MIT", "frame_samples": FRAME})]

    def open(self) -> None:
        """Load the packaged ONNX model: one call runs many frames, with the streaming model's very probabilities."""
        from silero_vad import load_silero_vad

        self._vad = load_silero_vad(onnx=True, sequence=True)

    def close(self) -> None:
        """Release the model."""
        self._vad = None

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        """Segments of each recording, ordered and disjoint; together they hold every sample that is speech to the VAD."""
        rows: list[Segment] = []
        rejects: list[Reject] = []
        for recording in rows_of(tables, Recording):
            channels = range(recording.channels) if self._each else [-1]
            found = [row for channel in channels for row in self._segments(recording, channel, audio)]
            rows += found
            if not found:
                rejects.append(self._no_speech(recording, audio))
        return StageResult(rows=rows, rejects=rejects)

    def _segments(self, recording: Recording, channel: int, audio: AudioReader) -> list[Segment]:
        samples = audio.read(recording, channel)
        probabilities = self._vad.audio_forward(samples)
        regions = speech_regions(probabilities, len(samples), self._spec)
        max_cells = int(self._spec.max_seconds * SAMPLE_RATE) // GRID
        max_gap = int(self._spec.max_gap_seconds * SAMPLE_RATE) // GRID
        spans = pack(regions, quietness(probabilities, samples), max_cells, max_gap)
        return [_row(recording, channel, span, probabilities, len(samples)) for span in spans]

    def _no_speech(self, recording: Recording, audio: AudioReader) -> Reject:
        spec = self._spec
        detail = f"{recording.uri}: nothing is speech for {spec.min_speech_ms} ms at a threshold of {spec.threshold:g}"
        if not self._each and _channels_cancel(recording, audio):
            detail += (
                "; its channels are nearly each other's negative and cancel each other in the mix: set "
                "recordings.channels to each"
            )
        return refuse(recording, self.name, "no_speech", detail)


def _channels_cancel(recording: Recording, audio: AudioReader) -> bool:
    """Whether little is left of the channels where they are mixed (one is wired the wrong way round)."""
    if recording.channels < 2:
        return False
    mix, *single = (_energy(audio.read(recording, channel)) for channel in (-1, *range(recording.channels)))
    return mix < CANCELLED * max(single)


def _energy(samples: np.ndarray) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0


def _weights() -> Path:
    found = importlib.util.find_spec(
        "silero_vad"
    )  # finds the folder without importing it: the import takes torch along
    if found is None or found.origin is None:
        raise ConfigError("the package silero-vad is not installed: run `make setup`")
    return Path(found.origin).parent / "data" / WEIGHTS


def speech_regions(probabilities: np.ndarray, num_samples: int, spec: SegmentsSpec) -> list[tuple[int, int]]:
    """Stretches of speech in samples, ordered and disjoint, by Silero's own state machine over its probabilities."""
    from silero_vad.utils_vad import get_speech_timestamps_from_probs

    found = get_speech_timestamps_from_probs(
        probabilities.tolist(),
        threshold=spec.threshold,
        min_speech_duration_ms=spec.min_speech_ms,
        min_silence_duration_ms=spec.min_silence_ms,
        speech_pad_ms=spec.pad_ms,
        audio_length_samples=num_samples,
    )
    return [(int(region["start"]), int(region["end"])) for region in found]


def quietness(probabilities: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """float64 [cells]: how unlikely speech is around each cell's start; equal probabilities are told apart by energy.

    Its largest value in a window is the best place there to cut speech that must be cut.
    """
    num_cells = -(-len(samples) // GRID)
    centres = np.minimum(np.arange(num_cells) * GRID // FRAME, len(probabilities) - 1)
    energy = np.concatenate([_cell_energy(samples[first : first + BLOCK]) for first in range(0, len(samples), BLOCK)])
    loudness = energy / (energy.max() + 1e-12)
    score = probabilities[centres].astype(np.float64) + 1e-3 * loudness
    window = np.ones(SMOOTHING) / SMOOTHING
    around = np.convolve(np.pad(score, SMOOTHING // 2, mode="edge"), window, mode="valid")
    smoothed: np.ndarray = -around
    return smoothed


def _cell_energy(samples: np.ndarray) -> np.ndarray:
    """float64 [cells]: the mean square of each cell; the last one is filled up with zeros."""
    padded = np.zeros(-(-len(samples) // GRID) * GRID)
    padded[: len(samples)] = samples
    energy: np.ndarray = np.square(padded).reshape(-1, GRID).mean(axis=1)
    return energy


def pack(regions: Sequence[tuple[int, int]], quiet: np.ndarray, max_cells: int, max_gap: int) -> list[Span]:
    """Put consecutive regions (samples) into spans (cells) of at most `max_cells`, across gaps of at most `max_gap`.

    A region longer than `max_cells` is cut at its quietest cell in the second half of what fits. Spans are ordered and
    disjoint, and cover every sample of every region.
    """
    pieces = _pieces(regions, quiet, max_cells)
    spans: list[Span] = []
    for index, (start, end, forced) in enumerate(pieces):
        last = index == len(pieces) - 1
        reason: CutReason = "max_length" if forced else "end" if last else "silence"
        open_span = spans[-1] if spans and spans[-1].cut_reason != "max_length" else None
        if open_span is not None and start - open_span.end <= max_gap and end - open_span.start <= max_cells:
            spans[-1] = Span(start=open_span.start, end=end, cut_reason=reason)
        else:
            spans.append(Span(start=start, end=end, cut_reason=reason))
    if len(spans) == 1:
        spans[0] = Span(start=spans[0].start, end=spans[0].end, cut_reason="whole")
    return spans


def _pieces(regions: Sequence[tuple[int, int]], quiet: np.ndarray, max_cells: int) -> list[tuple[int, int, bool]]:
    """Regions on the grid (start down, end up), long ones cut: (start, end, ends inside speech)."""
    pieces: list[tuple[int, int, bool]] = []
    previous_end = 0
    for first_sample, end_sample in regions:
        start, end = max(first_sample // GRID, previous_end), -(-end_sample // GRID)
        while end - start > max_cells:
            low, high = start + max_cells // 2, start + max_cells
            cut = low + 1 + int(np.argmax(quiet[low + 1 : high + 1]))
            pieces.append((start, cut, True))
            start = cut
        if start < end:  # a region of less than a cell may lie wholly in the cell that its predecessor took
            pieces.append((start, end, False))
        previous_end = max(previous_end, end)
    return pieces


def _row(recording: Recording, channel: int, span: Span, probabilities: np.ndarray, num_samples: int) -> Segment:
    start, end = span.start * GRID, min(span.end * GRID, num_samples)
    heard = probabilities[start // FRAME : max(start // FRAME + 1, -(-end // FRAME))]
    return Segment(
        segment_id=segment_id(recording.recording_id, start, end, channel),
        recording_id=recording.recording_id,
        channel=channel,
        start=start,
        end=end,
        speech_prob=float(np.float32(heard.mean(dtype=np.float64))),
        cut_reason=span.cut_reason,
    )
