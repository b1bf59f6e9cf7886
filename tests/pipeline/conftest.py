"""The demo speech as it passes through the first stages, made once per test run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.recordings import RecordingsStage
from pipeline.segments import SegmentsStage
from pipeline.source.audio import SourceAudio
from pipeline.source.inventory import list_source
from schemas.spec import RecordingsSpec, SegmentsSpec, Source
from schemas.tables import InventoryItem, Recording, Segment
from tests.pipeline.source.bad_audio import DEMO


@dataclass(frozen=True, kw_only=True)
class DemoTables:
    """The first tables of the demo input, sorted by their keys."""

    source: Source
    inventory: Sequence[InventoryItem]
    recordings: Sequence[Recording]
    segments: Sequence[Segment]
    audio: SourceAudio

    def segment_of(self, name: str) -> Segment:
        """The first segment of a demo file."""
        (recording,) = [row for row in self.recordings if row.uri == name]
        return next(row for row in self.segments if row.recording_id == recording.recording_id)


@pytest.fixture(scope="session")
def silero() -> Iterator[SegmentsStage]:
    stage = SegmentsStage(SegmentsSpec())
    stage.open()
    yield stage
    stage.close()


@pytest.fixture(scope="session")
def demo(silero: SegmentsStage) -> DemoTables:
    source = Source(uri=str(DEMO), transcripts="manifest", manifest="manifest.tsv")
    inventory = list_source(source)
    audio = SourceAudio(source.uri)
    found = RecordingsStage(RecordingsSpec(), source).run({"inventory": inventory}, audio)
    assert not found.rejects
    recordings = sorted((row for row in found.rows if isinstance(row, Recording)), key=lambda row: row.recording_id)
    spoken = silero.run({"recordings": recordings}, audio)
    segments = [row for row in spoken.rows if isinstance(row, Segment)]
    return DemoTables(source=source, inventory=inventory, recordings=recordings, segments=segments, audio=audio)


@pytest.fixture(scope="session")
def whisper_tiny() -> str:
    """The directory of Whisper tiny.en; `make models` puts it there."""
    folder = Path(__file__).parents[2] / "models" / "whisper-tiny.en"
    if not (folder / "model.bin").is_file():
        pytest.skip("models/whisper-tiny.en is missing: run `make models`")
    return str(folder)
