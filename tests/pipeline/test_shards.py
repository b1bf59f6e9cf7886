"""A shard holds every segment once, opens with plain tools, and equal input gives equal bytes."""

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.patches import aligned_patches, word_frames
from pipeline.shards import Passage, SegmentRecord, build_sample, passages, records, write_shard
from schemas.given import Given, GivenSegment
from schemas.shards import SampleMeta
from schemas.spec import ShardsSpec
from schemas.tables import Patches, Recording, Segment, Transcript, Units, Word, segment_id

HOP = 640
SPEC = ShardsSpec()
CARDS = {"unit_tokenizer": "unit_tokenizer-x"}


def make_recording(name: str, seconds: int = 600) -> Recording:
    return Recording(
        recording_id=name,
        uri=f"{name}.flac",
        source="test",
        bytes=1,
        sha256="0",
        codec="FLAC",
        sample_rate=16_000,
        channels=1,
        num_samples=seconds * 16_000,
        num_samples_16k=seconds * 16_000,
    )


def make_record(recording: str, start: int, frames: int, words: Sequence[str], channel: int = -1) -> SegmentRecord:
    """A segment of `frames` frames whose words share its time evenly."""
    end = start + frames * HOP
    identity = segment_id(recording, start, end, channel)
    text = " ".join(words)
    step = (end - start) // max(len(words), 1)
    rows, position = [], 0
    for index, word in enumerate(words):
        rows.append(
            Word(
                segment_id=identity,
                word_index=index,
                text=word,
                char_start=position,
                char_end=position + len(word),
                start=index * step,
                end=(index + 1) * step,
                char_times=[index * step] * len(word),
                score=1.0,
                timing="aligned",
                aligner="a",
            )
        )
        position += len(word) + 1
    spans = word_frames([(word.start, word.end) for word in rows], frames, HOP)
    bounds, kind, index = aligned_patches(spans, frames, "separate")
    return SegmentRecord(
        segment=Segment(
            segment_id=identity,
            recording_id=recording,
            channel=channel,
            start=start,
            end=end,
            speech_prob=1.0,
            cut_reason="silence",
        ),
        transcript=Transcript(segment_id=identity, text=text, language="en", asr="x"),
        words=rows,
        units=Units(segment_id=identity, num_frames=frames, units=[i % 7 for i in range(frames)], tokenizer="t"),
        patches=Patches(
            segment_id=identity,
            bounds=bounds,
            kind=kind,
            word_index=index,
            word_frames=[edge for span in spans for edge in span],
            policy="p",
        ),
    )


@st.composite
def corpora(draw: st.DrawFn) -> tuple[list[SegmentRecord], set[str]]:
    """Segments of a few recordings, and the ids of those that some stage rejected."""
    made = []
    for name in draw(st.lists(st.sampled_from("abc"), unique=True, max_size=3)):
        position = 0
        for _ in range(draw(st.integers(0, 6))):
            frames = draw(st.integers(1, 750))
            words = draw(st.lists(st.sampled_from(["one", "zwölf", "x"]), min_size=1, max_size=4))
            made.append(make_record(name, position, frames, words))
            position += (frames + draw(st.integers(0, 50))) * HOP
    rejected = {item.segment.segment_id for item in made if draw(st.booleans()) and draw(st.booleans())}
    return made, rejected


@settings(deadline=None)
@given(corpora(), st.integers(1, 120))
def test_every_surviving_segment_is_in_exactly_one_passage(
    case: tuple[list[SegmentRecord], set[str]], limit: int
) -> None:
    made, rejected = case
    complete = {item.segment.segment_id: item for item in made if item.segment.segment_id not in rejected}
    segments = [item.segment for item in made]
    found = list(passages([make_recording(name) for name in "abc"], segments, complete, limit))
    ids = [part.segment.segment_id for passage in found for part in passage.parts]
    assert ids == [
        s.segment_id for s in sorted(segments, key=lambda s: (s.recording_id, s.start)) if s.segment_id in complete
    ]
    order = [segment.segment_id for segment in segments]
    for passage in found:
        parts = [part.segment for part in passage.parts]
        assert len({part.recording_id for part in parts}) == 1
        places = [order.index(part.segment_id) for part in parts]
        assert places == list(range(places[0], places[0] + len(places))), "a passage runs over a rejected segment"
        assert len(parts) == 1 or sum(part.end - part.start for part in parts) <= limit * 16_000


@settings(deadline=None, max_examples=50)
@given(corpora())
def test_joining_segments_shifts_and_changes_nothing(case: tuple[list[SegmentRecord], set[str]]) -> None:
    made, _ = case
    complete = {item.segment.segment_id: item for item in made}
    for passage in passages([make_recording(n) for n in "abc"], [i.segment for i in made], complete, 120):
        sample = build_sample(passage, SPEC, HOP, CARDS, audio=None)
        meta = SampleMeta.model_validate(json.loads(sample["json"]))
        arrays = {
            name: np.load(io.BytesIO(sample[f"{name}.npy"]), allow_pickle=False) for name in ("units", "words", "patch")
        }  # type: ignore[arg-type]
        assert arrays["units"].dtype == np.uint16
        assert arrays["patch"][0] == 0
        assert arrays["patch"][-1] == meta.num_frames == len(arrays["units"])
        assert (np.diff(arrays["patch"]) > 0).all()
        assert [meta.text[a:b] for a, b in meta.words] == [w.text for part in passage.parts for w in part.words]
        for span, part in zip(meta.segments, passage.parts, strict=True):
            assert arrays["units"][span.frame_start : span.frame_end].tolist() == part.units.units
            assert set(part.patches.bounds[:-1]) == {
                bound - span.frame_start
                for bound in arrays["patch"].tolist()
                if span.frame_start <= bound < span.frame_end
            }


def demo_samples() -> list[dict[str, bytes | str]]:
    made = [make_record("a", 0, 30, ["one", "two"]), make_record("a", 40 * HOP, 20, ["three"])]
    complete = {item.segment.segment_id: item for item in made}
    found = passages([make_recording("a")], [item.segment for item in made], complete, 120)
    return [build_sample(passage, SPEC, HOP, CARDS, audio=None) for passage in found]


def test_equal_samples_give_equal_bytes_and_no_trace_of_the_machine() -> None:
    data = write_shard(demo_samples())
    assert data == write_shard(demo_samples())
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            assert (member.mtime, member.uname, member.uid) == (0, "lst", 0)


def test_a_shard_opens_with_plain_webdataset(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    path = tmp_path / "a.tar"
    path.write_bytes(write_shard(demo_samples()))
    (sample,) = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert sample["__key__"] == "a-0000000000-0000038400"
    assert np.load(io.BytesIO(sample["units.npy"]), allow_pickle=False).shape == (50,)
    assert json.loads(sample["json"])["text"] == "one two three"
    assert np.load(io.BytesIO(sample["chars.npy"]), allow_pickle=False)[7] == -1, (
        "the space between segments has no time"
    )


def test_records_are_the_segments_with_patches() -> None:
    made = [make_record("a", 0, 30, ["one", "two"]), make_record("a", 40 * HOP, 20, ["three"])]
    found = records(
        [item.segment for item in made],
        [item.transcript for item in made],
        [word for item in made for word in reversed(item.words)],
        [item.units for item in made],
        [made[1].patches],
    )
    assert found == {made[1].segment.segment_id: made[1]}


def test_segments_say_their_language_where_a_passage_has_several() -> None:
    """German in an English recording must be told apart, and a passage of one language must not change a byte."""
    one, two = make_record("a", 0, 30, ["ja"]), make_record("a", 40 * HOP, 20, ["ja"])
    german = replace(two, transcript=two.transcript.with_updates(language="de"))

    def meta(*parts: SegmentRecord) -> dict[str, object]:
        passage = Passage(recording=make_recording("a"), parts=parts)
        return dict(json.loads(build_sample(passage, ShardsSpec(), HOP, {}, None)["json"]))

    same, several = meta(one, two), meta(one, german)
    assert same["language"] == "en"
    assert all("language" not in span for span in same["segments"])  # type: ignore[attr-defined]
    assert several["language"] == "mul"
    assert [span["language"] for span in several["segments"]] == ["en", "de"]  # type: ignore[attr-defined]


def test_segments_say_their_speaker_where_the_corpus_does() -> None:
    """Of the utterance that they share most with, else of the recording; nothing changes by a byte where nobody is named."""
    parts = (make_record("a", 0, 30, ["ja"]), make_record("a", 40 * HOP, 20, ["ja"]))
    utterances = [
        GivenSegment(place="x:1", start=0, end=38 * HOP, speaker="ann"),
        GivenSegment(place="x:2", start=38 * HOP, end=None, speaker="ben"),
        GivenSegment(place="x:3", start=0, end=None),
    ]

    def speakers(**changes: object) -> list[str | None]:
        passage = Passage(recording=make_recording("a").with_updates(**changes), parts=parts)
        meta = json.loads(build_sample(passage, ShardsSpec(), HOP, {}, None)["json"])
        return [span.get("speaker") for span in meta["segments"]]

    assert speakers() == [None, None]
    assert speakers(extra='{"speaker": 84}') == ["84", "84"]
    assert speakers(given=Given(segments=utterances).dump()) == ["ann", "ben"]
    assert speakers(given=Given(segments=utterances[:1]).dump(), extra='{"speaker": "zoe"}') == ["ann", "zoe"]


def test_a_long_gap_ends_a_passage_and_words_keep_their_scores() -> None:
    near, far = make_record("a", 30 * HOP, 20, ["two"]), make_record("a", 400 * HOP, 20, ["three"])
    made = [make_record("a", 0, 30, ["one"]), near, far]
    complete = {item.segment.segment_id: item for item in made}
    segments = [item.segment for item in made]
    found = list(passages([make_recording("a")], segments, complete, 120, max_gap_seconds=10))
    assert [[word.text for part in passage.parts for word in part.words] for passage in found] == [
        ["one", "two"],
        ["three"],
    ]
    sample = build_sample(found[0], SPEC, HOP, CARDS, audio=None)
    assert isinstance(sample["scores.npy"], bytes)
    scores = np.load(io.BytesIO(sample["scores.npy"]), allow_pickle=False)
    assert scores.dtype == np.float16
    assert scores.tolist() == [np.float16(word.score) for part in found[0].parts for word in part.words]


def test_floats_above_full_scale_are_scaled_and_not_clipped() -> None:
    voice = np.sin(np.arange(30 * HOP) / 9).astype(np.float32)

    class Loud:
        def read(self, _recording: Recording, _channel: int = -1) -> np.ndarray:
            return scale * voice

    record = make_record("a", 0, 30, ["one"])
    complete = {record.segment.segment_id: record}
    (passage,) = passages([make_recording("a")], [record.segment], complete, 120, max_gap_seconds=10)
    spec = SPEC.model_copy(update={"audio": True})
    for scale, gain in ((np.float32(0.5), None), (np.float32(3.0), 1 / 3)):
        sample = build_sample(passage, spec, HOP, CARDS, audio=Loud())
        assert isinstance(sample["flac"], bytes)
        sound, _ = soundfile.read(io.BytesIO(sample["flac"]))
        stated = json.loads(sample["json"]).get("audio_gain")
        assert stated == (None if gain is None else pytest.approx(gain, rel=1e-3))
        np.testing.assert_allclose(sound, scale * voice * (stated or 1.0), atol=1e-4)
