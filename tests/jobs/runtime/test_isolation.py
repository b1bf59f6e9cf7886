"""An exception costs the row that raises it: its neighbours are in the tables, and the traceback is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from jobs.runtime.accounting import place_of
from jobs.runtime.isolation import is_exhaustion, run_rows
from pipeline.source.base import AudioReader
from pipeline.stage import StageResult
from schemas.arrow import Row
from schemas.cards import Card
from schemas.tables import Recording, Segment, Units, segment_id

SEGMENTS = [
    Segment(
        segment_id=segment_id("0" * 16, 640 * i, 640 * i + 640),
        recording_id="0" * 16,
        channel=-1,
        start=640 * i,
        end=640 * i + 640,
        speech_prob=1.0,
        cut_reason="silence",
    )
    for i in range(9)
]


class NoAudio:
    """A source that no stage here asks."""

    def read(self, recording: Recording, channel: int = -1) -> np.ndarray:
        raise AssertionError


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1) + 1


def out_of_memory() -> None:
    raise MemoryError


def divide() -> None:
    1 / 0  # noqa: B018


class RaisingStage:
    """Passes segments on as units and raises on some of them."""

    name = "units"
    version = 1
    inputs = ("segments",)

    def __init__(self, victims: Mapping[str, Callable[[], object]]) -> None:
        self.victims = victims
        self.calls = 0

    def cards(self) -> list[Card]:
        return []

    def open(self) -> None: ...

    def close(self) -> None: ...

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        self.calls += 1
        rows = []
        for row in tables["segments"]:
            assert isinstance(row, Segment)
            if row.segment_id in self.victims:
                self.victims[row.segment_id]()
            rows.append(Units(segment_id=row.segment_id, num_frames=1, units=[1], tokenizer="t"))
        return StageResult(rows=rows)


def test_rows_that_raise_are_rejected_with_their_traceback_and_the_others_pass() -> None:
    victims = {SEGMENTS[0].segment_id: recurse, SEGMENTS[4].segment_id: out_of_memory, SEGMENTS[8].segment_id: divide}
    result = run_rows(RaisingStage(victims), {"segments": SEGMENTS}, NoAudio(), attempts=0)
    passed = sorted(row.segment_id for row in result.rows if isinstance(row, Units))
    assert passed == [row.segment_id for row in SEGMENTS if row.segment_id not in victims]
    rejects = {reject.id: reject for reject in result.rejects}
    assert {key: reject.code for key, reject in rejects.items()} == {
        SEGMENTS[0].segment_id: "stage_error",
        SEGMENTS[4].segment_id: "out_of_memory",
        SEGMENTS[8].segment_id: "stage_error",
    }
    last = rejects[SEGMENTS[8].segment_id]
    assert "units failed on this row alone: ZeroDivisionError" in last.detail
    assert "in divide" in (last.traceback or "")
    assert last.seconds == pytest.approx(640 / 16_000)
    assert all(reject.retriable and len(reject.traceback or "") < 10_000 for reject in result.rejects)


def test_the_sentence_says_where_to_listen() -> None:
    recording = Recording(
        recording_id="0" * 16, uri="talks/a.flac", source="test", bytes=0, sha256="0" * 64, codec="", sample_rate=16_000,
        channels=1, num_samples=16_000, num_samples_16k=16_000,
    )  # fmt: skip
    tables = {"segments": SEGMENTS, "recordings": [recording]}
    result = run_rows(RaisingStage({SEGMENTS[4].segment_id: divide}), tables, NoAudio(), attempts=0)
    (reject,) = result.rejects
    assert reject.detail.endswith("(talks/a.flac, from 0.16 s)")
    assert place_of("0" * 16, [recording]) == " (talks/a.flac)"
    assert place_of("talks/a.flac", [recording]) == ""


def test_nothing_is_run_twice_where_nothing_is_raised() -> None:
    stage = RaisingStage({})
    assert len(run_rows(stage, {"segments": SEGMENTS}, NoAudio(), attempts=0).rows) == len(SEGMENTS)
    assert stage.calls == 1


def test_an_interrupt_is_no_fault_of_a_row() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_rows(RaisingStage({SEGMENTS[2].segment_id: interrupt}), {"segments": SEGMENTS}, NoAudio(), attempts=0)


class Batching(RaisingStage):
    """Has the memory for three rows at a time and begins with sixteen."""

    size = 16

    def halve_batch(self) -> bool:
        self.size, before = max(self.size // 2, 1), self.size
        return self.size < before

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        if min(self.size, len(tables["segments"])) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().run(tables, audio)


def test_where_memory_runs_out_batches_are_halved_and_no_row_is_lost() -> None:
    stage = Batching({})
    result = run_rows(stage, {"segments": SEGMENTS}, NoAudio(), attempts=0)
    assert (len(result.rows), len(result.rejects)) == (len(SEGMENTS), 0)
    assert (stage.size, stage.calls) == (2, 1)


def test_a_row_that_alone_is_too_much_for_the_device_is_rejected_as_such() -> None:
    def too_much() -> None:
        raise RuntimeError("CUDA failed with error out of memory")  # CTranslate2's words

    result = run_rows(Batching({SEGMENTS[2].segment_id: too_much}), {"segments": SEGMENTS}, NoAudio(), attempts=0)
    assert [(reject.id, reject.code) for reject in result.rejects] == [(SEGMENTS[2].segment_id, "out_of_memory")]
    assert len(result.rows) == len(SEGMENTS) - 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("std::bad_alloc"), True),
        (MemoryError(), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_exhaustion(error: Exception, expected: bool) -> None:
    assert is_exhaustion(error) is expected
