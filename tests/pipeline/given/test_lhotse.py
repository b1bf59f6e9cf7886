"""Words that came in the alignments of lhotse's supervisions."""

from __future__ import annotations

from pathlib import Path

from schemas.given import load_given
from schemas.spec import Source
from tests.pipeline.corpora.fixtures import voice
from tests.pipeline.corpora.test_layouts import first_stages


def test_lhotse_alignments_are_read_on_the_clock_that_they_fit(tmp_path: Path) -> None:
    """lhotse leaves alignments on the recording's clock when it cuts a supervision out; other tools write the cut's."""
    from lhotse import CutSet, MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet
    from lhotse.supervision import AlignmentItem

    voice(tmp_path / "a/long.wav", seconds=2.5, format="WAV")
    audio = Recording.from_file(tmp_path / "a/long.wav", recording_id="long")

    def said(start: float, *words: float) -> SupervisionSegment:
        items = [AlignmentItem("w", word, 0.1) for word in words]
        return SupervisionSegment("s", "long", start, 0.5, text="w " * len(words), alignment={"word": items})

    for number, supervision in enumerate((said(0, 1.5, 1.7), said(0, 0.1, 0.3), said(0, 0.7))):
        cut = MonoCut("c", start=1.5, duration=0.5, channel=0, supervisions=[supervision], recording=audio)
        CutSet.from_cuts([cut]).to_file(tmp_path / "a/cuts.jsonl.gz")
        recordings, *_, rejects = first_stages(Source(uri=str(tmp_path / "a"), layout="lhotse"))
        found = [word[1:3] for word in load_given(recordings[0].given).words]
        assert found == [[(24_000, 25_600), (27_200, 28_800)], [(25_600, 27_200), (28_800, 30_400)], []][number]
        assert [reject.part for reject in rejects] == (["cuts.jsonl.gz:1"] if number == 2 else [])
    (tmp_path / "a/cuts.jsonl.gz").unlink()
    RecordingSet.from_recordings([audio]).to_file(tmp_path / "a/recordings.jsonl.gz")
    SupervisionSet.from_segments([said(1.5, 1.5, 1.7)]).to_file(tmp_path / "a/supervisions_x.jsonl.gz")
    recordings, segments, transcripts, _ = first_stages(Source(uri=str(tmp_path / "a"), layout="lhotse"))
    assert [word[1:3] for word in load_given(recordings[0].given).words] == [(24_000, 25_600), (27_200, 28_800)]
    assert [(row.start, row.end) for row in segments] == [(24_000, 32_000)]
    assert [row.text for row in transcripts] == ["w w"]
