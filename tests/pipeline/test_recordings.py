from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.recordings import RecordingsStage
from pipeline.segments import SegmentsStage
from pipeline.source.audio import SourceAudio
from pipeline.source.inventory import list_source
from schemas.cards import hash_file
from schemas.errors import StorageError
from schemas.spec import RecordingsSpec, Source
from schemas.tables import Recording
from tests.pipeline.conftest import DemoTables
from tests.pipeline.source.bad_audio import write_bad_inputs


def test_every_bad_input_is_a_recording_or_the_right_reject(tmp_path: Path, silero: SegmentsStage) -> None:
    """Nothing vanishes: each listed file becomes a recording with speech, or a reject with the code that fits."""
    expected = write_bad_inputs(tmp_path)
    source = Source(uri=str(tmp_path))
    items = list_source(source)
    assert [item.uri for item in items] == sorted(expected)
    audio = SourceAudio(source.uri)
    result = RecordingsStage(RecordingsSpec(), source).run({"inventory": items}, audio)
    recordings = [row for row in result.rows if isinstance(row, Recording)]
    uris = {row.recording_id: row.uri for row in recordings}
    spoken = silero.run({"recordings": recordings}, audio)
    found = {reject.id: reject.code for reject in result.rejects}
    found |= {uris[reject.id]: reject.code for reject in spoken.rejects}
    assert found == {name: code for name, code in expected.items() if code is not None}
    with_speech = {uris[row.recording_id] for row in spoken.rows}  # type: ignore[attr-defined]
    assert with_speech == {name for name, code in expected.items() if code is None}
    for reject in (*result.rejects, *spoken.rejects):
        assert len(reject.detail.split()) >= 4, "a detail is a sentence"


def test_rows_do_not_depend_on_the_other_rows(demo: DemoTables) -> None:
    stage = RecordingsStage(RecordingsSpec(), demo.source)
    alone = [row for item in demo.inventory for row in stage.run({"inventory": [item]}, demo.audio).rows]
    assert alone == list(stage.run({"inventory": demo.inventory}, demo.audio).rows)


def test_a_recording_is_named_by_its_bytes(demo: DemoTables) -> None:
    for row in demo.recordings:
        digest = hash_file(Path(demo.source.uri) / row.uri)
        assert row.sha256 == digest
        assert row.recording_id == digest[:16]
        assert row.transcript
        assert row.license


@pytest.mark.parametrize(
    "bounds,code",
    [({"min_seconds": 4.0}, "too_short"), ({"max_seconds": 10.0}, "too_long"), ({"max_seconds": 2.0}, "too_long")],
)
def test_length_limits_are_the_specs(demo: DemoTables, bounds: dict[str, float], code: str) -> None:
    result = RecordingsStage(RecordingsSpec(**bounds), demo.source).run({"inventory": demo.inventory}, demo.audio)
    low, high = bounds.get("min_seconds", 0), bounds.get("max_seconds", 1e9)
    outside = {item.uri for item in demo.inventory if item.seconds is not None and not low <= item.seconds <= high}
    assert {reject.id for reject in result.rejects} == outside
    assert {reject.code for reject in result.rejects} == {code}
    assert len(result.rows) + len(result.rejects) == len(demo.inventory)


def test_a_file_that_went_away_since_the_listing_is_no_reject(demo: DemoTables) -> None:
    """Its partition waits for the next listing: a reject would stand for those bytes wherever they come back."""
    gone = demo.inventory[0].with_updates(uri="gone.flac")
    with pytest.raises(StorageError, match="is not there any more"):
        RecordingsStage(RecordingsSpec(), demo.source).run({"inventory": [gone, demo.inventory[1]]}, demo.audio)
