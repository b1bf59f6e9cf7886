from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.segments import GRID, SegmentsStage, Span, pack, quietness, speech_regions
from schemas.spec import SegmentsSpec
from schemas.tables import Recording, Segment, recording_id, segment_id
from tests.pipeline.conftest import DemoTables
from tests.pipeline.source.bad_audio import speech


class Samples:
    """An AudioReader of arrays in memory: [samples] or [channels, samples]."""

    def __init__(self, *arrays: np.ndarray) -> None:
        self._arrays = {f"{index:016x}": np.atleast_2d(array) for index, array in enumerate(arrays)}

    def recordings(self) -> list[Recording]:
        return [
            Recording(
                recording_id=key, uri=key, source="test", bytes=0, sha256=key, codec="", sample_rate=16_000,
                channels=len(array), num_samples=array.shape[1], num_samples_16k=array.shape[1],
            )
            for key, array in self._arrays.items()
        ]  # fmt: skip

    def read(self, recording: Recording, channel: int = -1) -> np.ndarray:
        array = self._arrays[recording.recording_id]
        mono: np.ndarray = array.mean(axis=0) if channel < 0 else array[channel]
        return mono


@st.composite
def packings(draw: st.DrawFn) -> tuple[list[tuple[int, int]], np.ndarray, int, int]:
    """Ordered disjoint regions in samples, a quietness, max_cells and max_gap; short limits make cuts likely."""
    lengths = draw(st.lists(st.tuples(st.integers(0, 9000), st.integers(1, 40_000)), max_size=12))
    regions, at = [], 0
    for gap, length in lengths:
        regions.append((at + gap, at + gap + length))
        at += gap + length
    cells = -(-at // GRID) + 1
    quiet = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).standard_normal(cells)
    return regions, quiet, draw(st.integers(4, 60)), draw(st.integers(0, 20))


@given(packings())
@settings(max_examples=300, deadline=None)
def test_spans_are_ordered_disjoint_short_enough_and_cover_all_speech(
    case: tuple[list[tuple[int, int]], np.ndarray, int, int],
) -> None:
    regions, quiet, max_cells, max_gap = case
    spans = pack(regions, quiet, max_cells, max_gap)
    previous_end = 0
    covered = np.zeros(len(quiet) * GRID, dtype=bool)
    for span in spans:
        assert previous_end <= span.start < span.end
        assert span.end - span.start <= max_cells
        covered[span.start * GRID : span.end * GRID] = True
        previous_end = span.end
    for start, end in regions:
        assert covered[start:end].all()


@given(packings())
@settings(max_examples=300, deadline=None)
def test_a_span_never_bridges_a_gap_beyond_the_limit_and_says_why_it_ends(
    case: tuple[list[tuple[int, int]], np.ndarray, int, int],
) -> None:
    regions, quiet, max_cells, max_gap = case
    spans = pack(regions, quiet, max_cells, max_gap)
    for (_, end), (start, _) in pairwise(regions):
        gap = start // GRID - -(-end // GRID)
        if gap > max_gap:
            assert not any(span.start < start // GRID and span.end > -(-end // GRID) for span in spans)
    for index, span in enumerate(spans):
        inside = any(start < span.end * GRID < end for start, end in regions)
        if len(spans) == 1:
            assert span.cut_reason == "whole"
        elif index == len(spans) - 1:
            assert span.cut_reason == "end"
        elif span.cut_reason == "max_length":
            assert inside or any(span.end * GRID == start for start, _ in regions)


def test_long_speech_is_cut_at_its_quietest_place() -> None:
    quiet = np.zeros(200)
    quiet[70] = 1.0
    spans = pack([(0, 120 * GRID)], quiet, 100, 5)
    assert spans == [
        Span(start=0, end=70, cut_reason="max_length"),
        Span(start=70, end=120, cut_reason="end"),
    ]


def test_consecutive_speech_is_packed_up_to_the_limit() -> None:
    regions = [(start * GRID, (start + 10) * GRID) for start in (0, 12, 24, 36)]
    assert [(span.start, span.end) for span in pack(regions, np.zeros(60), 34, 5)] == [(0, 34), (36, 46)]
    assert [(span.start, span.end) for span in pack(regions, np.zeros(60), 34, 1)] == [
        (0, 10),
        (12, 22),
        (24, 34),
        (36, 46),
    ]


def test_demo_segments_lie_on_the_grid_and_inside_their_recordings(demo: DemoTables) -> None:
    lengths = {row.recording_id: row.num_samples_16k for row in demo.recordings}
    assert {row.recording_id for row in demo.segments} == set(lengths)
    for row in demo.segments:
        assert row.start % GRID == 0
        assert row.end % GRID == 0 or row.end == lengths[row.recording_id]
        assert 0 <= row.start < row.end <= lengths[row.recording_id]
        assert row.end - row.start <= 30 * 16_000
        assert row.segment_id == segment_id(row.recording_id, row.start, row.end)
        assert row.speech_prob > 0.5


def test_segments_cover_what_silero_calls_speech(demo: DemoTables, silero: SegmentsStage) -> None:
    for recording in demo.recordings:
        samples = demo.audio.read(recording)
        covered = np.zeros(len(samples), dtype=bool)
        for row in demo.segments:
            if row.recording_id == recording.recording_id:
                assert not covered[row.start : row.end].any(), "segments overlap"
                covered[row.start : row.end] = True
        regions = speech_regions(silero._vad.audio_forward(samples), len(samples), SegmentsSpec())
        assert regions
        assert all(covered[start:end].all() for start, end in regions)


def test_a_sequence_model_call_equals_the_streaming_model(demo: DemoTables, silero: SegmentsStage) -> None:
    import torch
    from silero_vad import load_silero_vad

    samples = demo.audio.read(demo.recordings[0])
    stream = load_silero_vad(onnx=True)
    pieces = torch.from_numpy(samples[: len(samples) // 512 * 512]).reshape(-1, 512)
    expected = [stream(piece, 16_000).item() for piece in pieces]
    np.testing.assert_allclose(silero._vad.audio_forward(samples)[: len(expected)], expected, atol=1e-5)


def test_silence_and_noise_are_rejected_as_no_speech(silero: SegmentsStage) -> None:
    noise = 0.01 * np.random.default_rng(0).standard_normal(16_000 * 6).astype(np.float32)
    audio = Samples(np.zeros(16_000 * 4, dtype=np.float32), noise, speech())
    result = silero.run({"recordings": audio.recordings()}, audio)
    assert [reject.code for reject in result.rejects] == ["no_speech", "no_speech"]
    assert [reject.seconds for reject in result.rejects] == [4.0, 6.0]
    assert len(result.rows) == 1


def test_each_channel_is_segmented_on_its_own(silero: SegmentsStage) -> None:
    voice = speech()
    silence = np.zeros_like(voice)
    audio = Samples(np.stack([np.concatenate([voice, silence]), np.concatenate([silence, voice])]))
    stage = SegmentsStage(SegmentsSpec(), channels="each")
    stage.open()
    rows = [row for row in stage.run({"recordings": audio.recordings()}, audio).rows if isinstance(row, Segment)]
    assert [row.channel for row in rows] == [0, 1]
    assert rows[0].end <= len(voice) + GRID
    assert rows[1].start >= len(voice) - GRID
    assert stage.cards()[0].card_id != silero.cards()[0].card_id


def test_a_segment_does_not_depend_on_the_other_recordings(demo: DemoTables, silero: SegmentsStage) -> None:
    alone = [row for recording in demo.recordings for row in silero.run({"recordings": [recording]}, demo.audio).rows]
    assert alone == list(demo.segments)


@pytest.mark.parametrize("max_seconds", [5.0, 12.0])
def test_the_specs_limit_holds_on_real_speech(demo: DemoTables, max_seconds: float) -> None:
    stage = SegmentsStage(SegmentsSpec(max_seconds=max_seconds))
    stage.open()
    rows = [row for row in stage.run({"recordings": demo.recordings}, demo.audio).rows if isinstance(row, Segment)]
    assert all(row.end - row.start <= max_seconds * 16_000 for row in rows)
    assert len(rows) > len(demo.segments)
    assert any(row.cut_reason == "max_length" for row in rows) == (max_seconds == 5.0)


def test_quietness_prefers_low_probability_then_low_energy() -> None:
    probabilities = np.full(50, 0.9, dtype=np.float32)
    probabilities[20:30] = 0.1
    samples = np.ones(50 * 512, dtype=np.float32)
    quiet = quietness(probabilities, samples)
    assert 20 * 512 <= int(np.argmax(quiet)) * GRID < 30 * 512
    probabilities[:] = 0.9
    samples[10 * GRID : 15 * GRID] = 0.0
    assert int(np.argmax(quietness(probabilities, samples))) == 12


def test_ids_sort_by_time() -> None:
    ids = [segment_id(recording_id("a" * 64), start, start + 1) for start in (0, 640, 64_000, 6_400_000)]
    assert ids == sorted(ids)


def test_channels_that_cancel_each_other_are_named_and_silence_is_not(silero: SegmentsStage) -> None:
    """A cable that is wired the wrong way round: the mean of both channels is nothing, and one of them is the speech."""
    voice = speech()
    audio = Samples(np.stack([voice, -0.99 * voice]), np.zeros((2, 48_000), np.float32))
    result = silero.run({"recordings": audio.recordings()}, audio)
    assert not result.rows
    assert ["recordings.channels to each" in reject.detail for reject in result.rejects] == [True, False]
    stage = SegmentsStage(SegmentsSpec(), "each")
    stage.open()
    assert {row.channel for row in stage.run({"recordings": audio.recordings()[:1]}, audio).rows} == {0, 1}  # type: ignore[attr-defined]


def test_a_long_recording_is_judged_in_little_memory() -> None:
    """Ten minutes are 37 MiB; their squares in float64 would be 73, and their copy as much again."""
    samples = np.ones(16_000 * 600, np.float32)
    probabilities = np.ones(len(samples) // 512, np.float32)
    tracemalloc.start()
    quietness(probabilities, samples)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 48 * 2**20
