"""What lhotse itself writes, in the shapes that its users leave behind: each utterance is read once, at its own times."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.source import Source
from tests.jobs.corpora.sounds import RATE, long_wave, words_of, write
from tests.pipeline.corpora.test_layouts import first_stages

lhotse = pytest.importorskip("lhotse")
LEFT, RIGHT = (1, 4), (2,)
"""Utterances on the two channels of a call; they overlap in time."""
Heard = tuple[str, float, float, str | None]


def heard(folder: Path) -> tuple[set[Heard], list[str]]:
    """(uri with its channel, start, end, text) of every segment, and the details of the rejects."""
    recordings, segments, transcripts, rejects = first_stages(Source(uri=str(folder), layout="lhotse"))
    uris = {row.recording_id: row.uri for row in recordings}
    texts = {row.segment_id: row.text for row in transcripts}
    found = [
        (f"{uris[row.recording_id]}:{row.channel}", row.start / RATE, row.end / RATE, texts.get(row.segment_id))
        for row in segments
    ]
    assert len(set(found)) == len(found)
    return set(found), [reject.detail for reject in rejects]


def supervisions(recording: str, numbers: Iterable[int], channel: int) -> list[Any]:
    """With the alignments that an aligner would have added."""
    from lhotse.supervision import AlignmentItem, SupervisionSegment

    made = []
    for number, (start, end) in zip(numbers, long_wave(numbers)[1], strict=True):
        said = words_of(number).split()
        step = round((end - start) / len(said), 3) - 0.002
        words = [AlignmentItem(word, round(start + step * place, 3), step) for place, word in enumerate(said)]
        made.append(
            SupervisionSegment(
                id=f"{recording}-{number}", recording_id=recording, start=start, duration=round(end - start, 6),
                channel=channel, text=words_of(number), language="en", alignment={"word": words},
            )
        )  # fmt: skip
    return made


def expected(uri: str, numbers: Iterable[int], channel: int) -> set[Heard]:
    times = long_wave(numbers)[1]
    return {(f"{uri}:{channel}", *time, words_of(number)) for number, time in zip(numbers, times, strict=True)}


def call(path: Path) -> Any:
    """A call of two channels at 44.1 kHz."""
    left, right = long_wave(LEFT)[0], long_wave(RIGHT)[0]
    sound = np.zeros((max(len(left), len(right)), 2), np.float32)
    sound[: len(left), 0], sound[: len(right), 1] = left, right
    write(path, sound, 44_100)
    return lhotse.Recording.from_file(path, recording_id="call")


def cuts_of(recording: Any, said: list[Any]) -> Any:
    return lhotse.CutSet.from_manifests(
        lhotse.RecordingSet.from_recordings([recording]), lhotse.SupervisionSet.from_segments(said)
    )


def one_channel(folder: Path, rate: int = RATE) -> Any:
    folder.mkdir(exist_ok=True)
    write(folder / "long.wav", long_wave(LEFT)[0], rate)
    recording = lhotse.Recording.from_file(folder / "long.wav", recording_id="long")
    return cuts_of(recording, supervisions("long", LEFT, 0))


def test_each_channel_of_a_multicut_is_its_own(tmp_path: Path) -> None:
    said = supervisions("call", LEFT, 0) + supervisions("call", RIGHT, 1)
    cuts = cuts_of(call(tmp_path / "call.wav"), said)
    assert [type(cut).__name__ for cut in cuts] == ["MultiCut"]
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    assert heard(tmp_path) == (expected("call.wav", LEFT, 0) | expected("call.wav", RIGHT, 1), [])


def test_splits_that_share_a_recording_are_read_together(tmp_path: Path) -> None:
    """As lhotse's recipes leave them: the recording in the manifest of each split, its supervisions divided among them."""
    recording = call(tmp_path / "call.wav")
    for split, said in (("dev", supervisions("call", LEFT, 0)), ("train", supervisions("call", RIGHT, 1))):
        lhotse.RecordingSet.from_recordings([recording]).to_file(tmp_path / f"c_recordings_{split}.jsonl.gz")
        lhotse.SupervisionSet.from_segments(said).to_file(tmp_path / f"c_supervisions_{split}.jsonl")
    assert heard(tmp_path) == (expected("call.wav", LEFT, 0) | expected("call.wav", RIGHT, 1), [])


@pytest.mark.parametrize("as_cuts", [True, False])
def test_a_recording_with_a_file_for_each_channel(as_cuts: bool, tmp_path: Path) -> None:
    from lhotse.audio import AudioSource

    write(tmp_path / "left.wav", long_wave(LEFT)[0], 8_000)
    write(tmp_path / "right.flac", long_wave(RIGHT)[0], 44_100)
    sources = [AudioSource("file", [0], "left.wav"), AudioSource("file", [1], "right.flac")]
    length = min(len(long_wave(LEFT)[0]), len(long_wave(RIGHT)[0]))
    meeting = lhotse.Recording(id="m", sources=sources, sampling_rate=RATE, num_samples=length, duration=length / RATE)
    said = [
        dataclasses.replace(row, recording_id="m") for row in supervisions("m", LEFT, 0) + supervisions("m", RIGHT, 1)
    ]
    if as_cuts:
        cuts_of(meeting, [row for row in said if row.channel == 1]).to_file(tmp_path / "cuts.jsonl")
        assert heard(tmp_path) == (expected("right.flac", RIGHT, -1), [])
    else:
        lhotse.RecordingSet.from_recordings([meeting]).to_file(tmp_path / "m_recordings.jsonl.gz")
        lhotse.SupervisionSet.from_segments(said).to_file(tmp_path / "m_supervisions.jsonl.gz")
        assert heard(tmp_path) == (expected("left.wav", LEFT, -1) | expected("right.flac", RIGHT, -1), [])


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
def test_cuts_that_are_only_resampled_are_read(rate: int, tmp_path: Path) -> None:
    one_channel(tmp_path, 48_000).resample(rate).to_file(tmp_path / "cuts.jsonl.gz")
    assert heard(tmp_path) == (expected("long.wav", LEFT, -1), [])


def test_windows_and_overlapping_sets_of_cuts_say_each_utterance_once(tmp_path: Path) -> None:
    cuts = one_channel(tmp_path)
    cuts.cut_into_windows(3).to_eager().to_file(tmp_path / "cuts_windows.jsonl.gz")
    cuts.trim_to_supervisions(keep_overlapping=False).to_file(tmp_path / "cuts_trimmed.jsonl")
    cut = next(iter(cuts)).truncate(offset=0.25, duration=7.25)
    lhotse.CutSet.from_cuts([cut]).to_file(tmp_path / "cuts_offset.jsonl")
    assert heard(tmp_path) == (expected("long.wav", LEFT, -1), [])


@pytest.mark.parametrize("codec", ["flac", "wav", "mp3"])
def test_shar_with_ids_of_any_kind(codec: str, tmp_path: Path) -> None:
    """Speakers' folders, dots and other letters in the ids; two utterances in one cut; two shards.

    lhotse leaves the words of a trimmed cut on the clock of a recording that a Shar no longer has: the utterance goes on
    without them, and its line is said.
    """
    (cut,) = one_channel(tmp_path / "before")
    trimmed = cut.trim_to_supervisions(keep_overlapping=False)
    names = ["ann/utt.1", "ann/utt.2", "bén/ütt 3"]
    cuts = [made.with_id(name) for made, name in zip([*trimmed, cut], names, strict=True)]
    (tmp_path / "shar").mkdir()
    lhotse.CutSet.from_cuts(cuts).to_shar(str(tmp_path / "shar"), fields={"recording": codec}, shard_size=2)
    found, rejects = heard(tmp_path / "shar")
    assert [detail.partition(":")[2][:21] for detail in rejects] == ["1: the words of long-", "2: the words of long-"]
    whole = expected(f"recording.000001.tar#{names[2]}.{codec}", LEFT, -1)
    parts = {
        (f"recording.000000.tar#{name}.{codec}:-1", 0.0, round(end - start, 6), words_of(number))
        for name, number, (start, end) in zip(names, LEFT, long_wave(LEFT)[1], strict=False)
    }
    assert found == whole | parts


def test_what_is_no_stretch_of_a_recording_is_a_reject_with_its_line(tmp_path: Path) -> None:
    (cut,) = one_channel(tmp_path)
    bad = [cut.perturb_speed(1.1), cut.pad(30), cut.append(cut), cut.resample(8_000), cut.perturb_volume(0.5)]
    lhotse.CutSet.from_cuts([*bad, cut]).to_file(tmp_path / "cuts.jsonl")
    found, rejects = heard(tmp_path)
    assert found == expected("long.wav", LEFT, -1)
    assert [detail.partition(": ")[0] for detail in rejects] == [f"cuts.jsonl:{number}" for number in range(1, 6)]
    kinds = ["transformed", "MixedCut", "MixedCut", "transformed", "transformed"]
    assert all(kind in detail for kind, detail in zip(kinds, rejects, strict=True))


def test_ctm_that_lhotse_writes_gives_the_words(tmp_path: Path) -> None:
    """Alignments as lhotse exports them, beside a plain recording."""
    from pipeline.source.inventory import list_source
    from schemas.given import load_given

    said = supervisions("long", LEFT, 0)
    one_channel(tmp_path)
    lhotse.SupervisionSet.from_segments(said).write_alignment_to_ctm(tmp_path / "words.ctm")
    (item,) = list_source(Source(uri=str(tmp_path), words=["*.ctm"]))
    words = [(word, start, end) for word, start, end, *_ in load_given(item.given).words]
    wanted = [
        (word.symbol, round(word.start * RATE), round(word.end * RATE))
        for row in said
        for word in row.alignment["word"]
    ]
    assert [word for word, *_ in words] == [word for word, *_ in wanted]
    for one, other in zip(words, wanted, strict=True):  # lhotse writes hundredths of a second
        assert all(abs(a - b) <= RATE // 100 for a, b in zip(one[1:], other[1:], strict=True))
