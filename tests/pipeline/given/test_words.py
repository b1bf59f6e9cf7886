"""Words that came with the audio: from every format they keep their times to the sample, and frames follow from them alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from praatio import textgrid

from pipeline.given.textgrid import read_textgrid
from pipeline.given.unit_rows import parse_unit_row
from pipeline.given_segments import GivenSegmentsStage
from pipeline.given_words import GivenWordsStage, find_words
from pipeline.patches import word_frames
from pipeline.source.inventory import list_source
from pipeline.transcripts import TranscriptsStage
from schemas.given import Given, load_given
from schemas.spec import GivenSegmentsSpec, GivenWordsSpec, Source, TranscriptSpec
from schemas.tables import Recording, Reject, Segment, Transcript, Word, segment_id
from tests.pipeline.corpora.fixtures import lines, text, voice
from tests.pipeline.corpora.test_layouts import first_stages
from tests.pipeline.test_given_segments import SECOND, recording
from tests.pipeline.test_segments import Samples

TEXT = "He was not an ill-disposed young man."
TIMES = (("he", 0.05, 0.11), ("was", 0.11, 0.2505), ("not", 0.3, 0.45), ("an", 0.45, 0.5), ("ill", 0.5, 0.61))
TIMES = (*TIMES, ("disposed", 0.61, 0.97), ("young", 1.0, 1.2), ("man", 1.2, 1.4375))
SAMPLES = [(word, round(start * SECOND), round(end * SECOND)) for word, start, end in TIMES]


def save_textgrid(path: Path, words: list[tuple[float, float, str]], end: float, form: str = "long_textgrid") -> None:
    """With praatio, as the aligner's users would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = textgrid.Textgrid()
    grid.addTier(textgrid.IntervalTier("words", words, 0, end))
    grid.addTier(textgrid.IntervalTier("phones", [(0.0, 0.01, "HH")], 0, end))
    grid.save(str(path), format=form, includeBlankSpaces=True)


def stages(
    recordings: list[Recording], **spec: float
) -> tuple[list[Segment], list[Transcript], list[Word], list[Reject]]:
    cut = GivenSegmentsStage(GivenSegmentsSpec(**spec)).run({"recordings": recordings}, Samples())
    tables = {"recordings": recordings, "segments": list(cut.rows)}
    said = TranscriptsStage(TranscriptSpec()).run(tables, Samples())
    words = GivenWordsStage(GivenWordsSpec()).run({**tables, "transcripts": list(said.rows)}, Samples())
    rejects = [*cut.rejects, *said.rejects, *words.rejects]
    return (
        cast(list[Segment], list(cut.rows)), cast(list[Transcript], list(said.rows)),
        cast(list[Word], list(words.rows)), rejects,
    )  # fmt: skip


def textgrids(folder: Path) -> str:
    save_textgrid(folder / "aligned/a/x.TextGrid", [(start, end, word) for word, start, end in TIMES], 1.5)
    return "aligned/**/*.TextGrid"


def short_textgrid_in_utf16(folder: Path) -> str:
    save_textgrid(folder / "a/x.TextGrid", [(start, end, word) for word, start, end in TIMES], 1.5, "short_textgrid")
    (folder / "a/x.TextGrid").write_bytes((folder / "a/x.TextGrid").read_text("utf-8").encode("utf-16"))
    return "**/*.TextGrid"


def ctm(folder: Path) -> str:
    rows = [f"x 1 {start} {end - start:.5f} {word} 0.9\n" for word, start, end in TIMES]
    text(folder / "words.ctm", ";; made by a test\n" + "".join(rows))
    return "words.ctm"


@pytest.mark.parametrize("write", [textgrids, short_textgrid_in_utf16, ctm])
@pytest.mark.parametrize("layout", ["folder", "manifest"])
def test_words_keep_their_times_and_find_their_place_in_the_text(write: object, layout: str, tmp_path: Path) -> None:
    voice(tmp_path / "a/x.flac", seconds=1.5)
    text(tmp_path / "a/x.txt", TEXT)
    text(tmp_path / "manifest.jsonl", lines([{"file": "a/x.flac", "text": TEXT}]))
    pattern = write(tmp_path)  # type: ignore[operator]
    sidecar = "sidecar" if layout == "folder" else "none"
    source = Source.model_validate({"uri": str(tmp_path), "layout": layout, "words": [pattern], "transcripts": sidecar})
    recordings, *_ = first_stages(source)
    _, _, words, rejects = stages(recordings)
    assert not rejects
    assert [(word.start, word.end) for word in words] == [(start, end) for _, start, end in SAMPLES]
    assert [word.text for word in words] == ["He", "was", "not", "an", "ill", "disposed", "young", "man"]
    assert [TEXT[word.char_start : word.char_end] for word in words] == [word.text for word in words]
    assert {word.timing for word in words} == {"aligned"}


def test_words_without_a_transcript_are_the_transcript(tmp_path: Path) -> None:
    voice(tmp_path / "x.flac", seconds=1.5)
    save_textgrid(tmp_path / "x.TextGrid", [(start, end, word) for word, start, end in TIMES], 1.5)
    recordings, *_ = first_stages(Source(uri=str(tmp_path), words=["*.TextGrid"]))
    _, (transcript,), words, _ = stages(recordings)
    assert transcript.text == " ".join(word for word, _, _ in TIMES)
    assert [(word.text, word.start, word.end) for word in words] == SAMPLES


def test_a_ctm_of_utterances_is_on_the_utterances_clock(tmp_path: Path) -> None:
    """Kaldi writes times from the start of the utterance where the id is that of an utterance."""
    voice(tmp_path / "call.wav", seconds=2.0, format="WAV")
    text(tmp_path / "wav.scp", "call call.wav\n")
    text(tmp_path / "segments", "u-1 call 0.25 0.75\nu-2 call 1.0 1.5\n")
    text(tmp_path / "text", "u-1 one\nu-2 two\n")
    text(tmp_path / "x.ctm", "u-1 1 0.1 0.2 one\nu-2 1 0.05 0.125 two\n")
    recordings, *_ = first_stages(Source(uri=str(tmp_path), layout="kaldi", words=["x.ctm"]))
    _, _, words, rejects = stages(recordings)
    assert [(word.text, word.start, word.end) for word in words] == [("one", 1600, 4800), ("two", 800, 2800)]
    assert not rejects


def test_official_rows_and_slamkit_rows_give_words_on_the_units_clock(tmp_path: Path) -> None:
    voice(tmp_path / "a/u1.flac", 0, seconds=1.5)
    voice(tmp_path / "a/u2.flac", 1, seconds=1.5)
    sep = "<LST MODE SEP>"
    row = f"{sep}TEXT [SIL] {sep}HUBERT 9 9 {sep}TEXT in {sep}HUBERT 117 313 7 {sep}TEXT the {sep}HUBERT 6"
    text(tmp_path / "mls.chunk.00.on_the_fly", lines([{"file_id": "mls_english/train/u1", "interleaved": row}]))
    aligned = [[" in", 0.08, 0.2], [" the", 0.2, 0.24]]
    slam = {
        "file_name": "a/u2.flac",
        "units": [9, 117, 313, 7, 6],
        "duration": [2, 1, 1, 1, 1],
        "aligned_text": aligned,
    }
    text(tmp_path / "features.jsonl", lines([slam]))
    recordings, *_ = first_stages(Source(uri=str(tmp_path), words=["*.on_the_fly", "features.jsonl"]))
    _, _, words, _ = stages(recordings)
    assert [(word.text, word.start, word.end) for word in words] == [("in", 1280, 3200), ("the", 3200, 3840)] * 2
    one, other = parse_unit_row({"interleaved": row}, 640), parse_unit_row(cast(dict[str, object], slam), 640)
    assert one.units == other.units == [9, 9, 117, 313, 7, 6]
    assert one.words == other.words == [("in", 2, 5), ("the", 5, 6)]


def test_what_cannot_be_used_costs_its_own_recording(tmp_path: Path) -> None:
    """An empty tier, a file cut short, no tier of words, words of another file, lines that are none: a sentence each."""
    names = ("good", "empty", "cut", "tierless", "none", "untimed", "overlap")
    for number, name in enumerate(names):
        voice(tmp_path / f"{name}.flac", number)
        save_textgrid(tmp_path / f"{name}.TextGrid", [(0.1, 0.2, "yes")], 0.5)
    save_textgrid(tmp_path / "empty.TextGrid", [(0.1, 0.2, "<eps>")], 0.5)
    whole = (tmp_path / "cut.TextGrid").read_text()
    (tmp_path / "cut.TextGrid").write_text(whole[: whole.index('"yes"') + 6])
    (tmp_path / "tierless.TextGrid").write_text(whole.replace('"words"', '"letters"'))
    (tmp_path / "none.TextGrid").write_text("not a TextGrid")
    (tmp_path / "untimed.TextGrid").write_text(whole.replace("xmin = 0.1", "xmin = soon"))
    (tmp_path / "overlap.TextGrid").unlink()
    rows = "overlap 1 0.1 0.2 yes\noverlap 1 0.2 0.2 no\nother 1 0 1 a\nother 1 1 1 b\ngood 1 soon 1 c\ngood 1 0\n"
    text(tmp_path / "x.ctm", rows)
    source = Source(uri=str(tmp_path), words=["*.TextGrid", "x.ctm"])
    recordings, _, _, listed = first_stages(source)
    assert {reject.id: reject.code for reject in listed if ":" in reject.id} == {
        "x.ctm:3": "bad_row", "x.ctm:5": "bad_row", "x.ctm:6": "bad_row"
    }  # fmt: skip
    uris = {row.recording_id: row.uri for row in recordings}
    transcribed = [row.with_updates(transcript="yes" if row.uri != "overlap.flac" else "yes no") for row in recordings]
    _, _, words, rejects = stages(transcribed)
    assert [(word.text, word.start, word.end) for word in words] == [("yes", 1600, 3200)]
    said = {uris[reject.id[:16]]: reject.detail for reject in rejects}
    assert set(said) == {f"{name}.flac" for name in names if name != "good"}
    assert "its tier `words` holds no word" in said["empty.flac"]
    assert "cut.TextGrid" in said["cut.flac"]
    assert "it has letters" in said["tierless.flac"]
    assert "no TextGrid" in said["none.flac"]
    assert "cannot be read as a TextGrid" in said["untimed.flac"]
    assert "overlap" in said["overlap.flac"]


words_in_ms = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 900)), min_size=1, max_size=30)


@given(words_in_ms, st.integers(0, 3000), st.sampled_from([320, 640]), st.sampled_from([0, 80]))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_textgrid_to_words_to_frames_is_exact(
    tmp_path: Path, lengths: list[tuple[int, int]], tail: int, hop: int, more: int
) -> None:
    """Through praatio's writer and back: every word at its sample; and where none is so short that it takes a frame from its
    neighbours, every frame as integers of milliseconds say."""
    at, spoken = 0, []
    for number, (gap, length) in enumerate((gap, length + more) for gap, length in lengths):
        spoken.append((at + gap, at + gap + length, f"w{number}"))
        at += gap + length
    save_textgrid(
        tmp_path / "x.TextGrid", [(start / 1000, end / 1000, word) for start, end, word in spoken], (at + tail) / 1000
    )
    came, _ = read_textgrid((tmp_path / "x.TextGrid").read_bytes(), "x.TextGrid")
    assert came == [(word, start * 16, end * 16, -1) for start, end, word in spoken]
    row = recording((at + tail) * 16, Given(words=came))
    segments, _, words, rejects = stages([row], min_seconds=0)
    assert not rejects
    assert [(word.text, word.start, word.end) for word in words] == [
        (word, start * 16, end * 16) for start, end, word in spoken
    ]
    frames = (segments[0].end - segments[0].start) // hop
    if all(end - start >= 2 * hop // 16 for start, end, _ in spoken):
        found = word_frames([(word.start, word.end) for word in words], frames, hop)
        rounded = [[(ms * 16 + hop // 2) // hop for ms in (start, end)] for start, end, _ in spoken]
        assert found == [(first, min(last, frames)) for first, last in rounded]


def test_hours_with_words_alone_become_segments_with_their_words() -> None:
    spoken = [(f"w{number}", number * 8000, number * 8000 + 6000, -1) for number in range(2 * 3600)]
    row = recording(3600 * SECOND, Given(words=spoken, words_place="x.TextGrid"))
    segments, transcripts, words, rejects = stages([row], max_seconds=30)
    assert not rejects
    assert max(segment.end - segment.start for segment in segments) <= 30 * SECOND
    assert sum(segment.end - segment.start for segment in segments) == 3600 * SECOND
    starts = {segment.segment_id: segment.start for segment in segments}
    assert [(word.text, word.start + starts[word.segment_id], word.end - word.start) for word in words] == [
        (word, start, end - start) for word, start, end, _ in spoken
    ]
    assert len(transcripts) == len(segments)


@pytest.mark.parametrize(
    "said, words, found",
    [
        ("Don't stop.", ["do", "n't", "stop"], ["Do", "n't", "stop"]),
        ("l\u2019été", ["l'", "e\u0301te\u0301"], ["l", "été"]),
        ("Über uns", ["über", ",", "uns"], ["Über", "", "uns"]),
        ("हिंदी में", ["हिंदी", "में"], ["हिंदी", "में"]),
        ("one two", ["one", "three"], None),
        ("one two", ["one"], None),
    ],
)
def test_words_are_found_by_their_letters(said: str, words: list[str], found: list[str] | None) -> None:
    spans = find_words(said, words)
    assert (None if spans is None else [said[start:end] for start, end in spans]) == found


def test_a_transcript_with_other_words_keeps_what_is_equal() -> None:
    """Exchanged words are flagged as guessed; what has no time is interpolated; a text of another file is rejected."""
    came = Given(
        words=[
            ("one", 0, 8000, -1),
            ("<unk>", 8000, 16_000, -1),
            ("three", 16_000, 24_000, -1),
            ("five", 32_000, 40_000, -1),
        ]
    )
    _, _, words, _ = stages([recording(40_000, came, text="One two three four five.")])
    assert [(word.text, word.timing) for word in words] == [
        ("One", "aligned"), ("two", "star"), ("three", "aligned"), ("four", "interpolated"), ("five", "aligned")
    ]  # fmt: skip
    assert (words[3].start, words[3].end) == (24_000, 32_000)
    *_, rejects = stages([recording(40_000, came, text="nothing of this was said here")])
    assert [reject.code for reject in rejects] == ["align_failed"] or [reject.code for reject in rejects] == [
        "align_coverage"
    ]


@pytest.mark.parametrize(
    "row, message",
    [
        ({"interleaved": "<LST MODE SEP>TEXT a <LST MODE SEP>HUBERT 3 x7"}, "'x7' is not a unit"),
        ({"interleaved": "<LST MODE SEP>TEXT a <LST MODE SEP>HUBERT 3 500"}, "the unit 500 is unknown"),
        ({"interleaved": "<LST MODE SEP>SPEECH 3"}, "neither TEXT nor HUBERT"),
        ({"interleaved": ""}, "holds no unit"),
        ({"units": [1, 2], "duration": [1]}, "equally long"),
        ({"units": [1, -2], "duration": [1, 1]}, "unknown"),
        ({"units": [1] * 9, "aligned_text": [["a", 0.2, 0.1]]}, "out of order"),
        ({"text": "a"}, "it has text"),
    ],
)
def test_a_row_of_units_that_is_wrong_says_how(row: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_unit_row(json.loads(json.dumps(row)), 640, num_units=500)


def test_a_pattern_that_matches_nothing_is_one_sentence(tmp_path: Path) -> None:
    voice(tmp_path / "x.flac")
    with pytest.raises(ValueError, match=r"matches '\*\.TextGrid' of source\.words"):
        list_source(Source(uri=str(tmp_path), words=["*.TextGrid"]))


def test_two_recordings_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for number, folder in enumerate(("a", "b")):
        voice(tmp_path / f"{folder}/x.flac", number)
        save_textgrid(tmp_path / f"{folder}/x.TextGrid", [(0.1, 0.2, folder)], 0.5)
    save_textgrid(tmp_path / "x.TextGrid", [(0.1, 0.2, "whose")], 0.5)
    listed = {item.uri: item for item in list_source(Source(uri=str(tmp_path), words=["**/*.TextGrid"]))}
    assert [word[0] for folder in "ab" for word in load_given(listed[f"{folder}/x.flac"].given).words] == ["a", "b"]
    assert "2 recordings go by that name" in (listed["x.TextGrid"].detail or "")


def test_a_text_is_divided_among_segments_by_the_times_of_its_words() -> None:
    """Segments of speech detection: each gets the words whose middle it holds, and no word is in two."""
    came = Given(words=[(f"w{number}", number * 8000 + 1000, number * 8000 + 7000, -1) for number in range(10)])
    row = recording(80_000, came, text=" ".join(f"W{number}" for number in range(10)))
    segments = [
        Segment(
            segment_id=segment_id(row.recording_id, start, end), recording_id=row.recording_id, channel=-1, start=start,
            end=end, speech_prob=0.9, cut_reason="silence",
        )
        for start, end in ((640, 27_520), (31_360, 79_360))
    ]  # fmt: skip
    tables = {"recordings": [row], "segments": segments}
    said = TranscriptsStage(TranscriptSpec()).run(tables, Samples())
    assert [item.text for item in cast(list[Transcript], list(said.rows))] == ["w0 w1 w2", "w4 w5 w6 w7 w8 w9"]
    words = GivenWordsStage(GivenWordsSpec()).run({**tables, "transcripts": list(said.rows)}, Samples())
    assert [(word.start, word.end) for word in cast(list[Word], list(words.rows))][:4] == [
        (360, 6360), (8360, 14_360), (16_360, 22_360), (1640, 7640)
    ]  # fmt: skip
