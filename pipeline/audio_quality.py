"""Stage `audio_quality` (optional): measures of each segment's sound, and thresholds on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.measures import signal
from pipeline.source.base import AudioReader
from pipeline.stage import StageResult, WithoutModel, refuse, rows_of
from schemas.arrow import Row
from schemas.spec import AudioQualitySpec
from schemas.tables import AudioQuality, Recording, Reject, RejectCode, Segment


class AudioQualityStage(WithoutModel):
    """Four numbers per segment. Rejects: clipped, narrow_band, noisy, music."""

    name = AudioQuality.TABLE
    version = 1
    inputs: tuple[str, ...] = (Segment.TABLE, Recording.TABLE)

    def __init__(self, spec: AudioQualitySpec) -> None:
        self._spec = spec

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        """A row per segment that passes."""
        recordings = {row.recording_id: row for row in rows_of(tables, Recording)}
        rows: list[AudioQuality] = []
        rejects: list[Reject] = []
        for segment in rows_of(tables, Segment):
            samples = audio.read(recordings[segment.recording_id], segment.channel)[segment.start : segment.end]
            row = measure(segment.segment_id, samples)
            problem = find_problem(self._spec, row)
            if problem is None:
                rows.append(row)
            else:
                rejects.append(refuse(segment, self.name, *problem, recording=recordings[segment.recording_id]))
        return StageResult(rows=rows, rejects=rejects)


def measure(segment_id: str, samples: np.ndarray) -> AudioQuality:
    """All measures of float32 [n] samples at 16 kHz, as a table keeps them (float32)."""
    return AudioQuality(
        segment_id=segment_id,
        clipping=_single(signal.clipping(samples)),
        bandwidth=_single(signal.bandwidth(samples)),
        snr=_single(signal.signal_to_noise(samples)),
        music=_single(signal.music(samples)),
    )


def _single(value: float) -> float:
    return float(np.float32(value))


def find_problem(spec: AudioQualitySpec, row: AudioQuality) -> tuple[RejectCode, str] | None:
    """The first threshold that a segment does not meet: its code, and a sentence with both numbers."""
    if spec.max_clipping is not None and row.clipping > spec.max_clipping:
        return "clipped", f"{row.clipping:.2%} of the samples are clipped and max_clipping is {spec.max_clipping:.2%}"
    if spec.min_bandwidth is not None and row.bandwidth < spec.min_bandwidth:
        return "narrow_band", (
            f"the sound reaches {row.bandwidth:.0f} Hz and audio_quality.min_bandwidth is {spec.min_bandwidth:g}"
        )
    if spec.min_snr is not None and row.snr < spec.min_snr:
        return "noisy", f"{row.snr:.1f} dB of speech over noise and audio_quality.min_snr is {spec.min_snr:g}"
    if spec.max_music is not None and row.music > spec.max_music:
        return "music", f"steady tones sound in {row.music:.0%} of it and max_music is {spec.max_music:.0%}"
    return None
