"""Alignment files as other machines and tools leave them: whom they speak of, and what in them is a word and a time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.asr.given import WordsByTime
from pipeline.given.textgrid import read_textgrid
from pipeline.source.inventory import list_source
from schemas.given import GivenWord, load_given
from schemas.spec import Source
from schemas.tables import Segment
from tests.pipeline.corpora.fixtures import text, voice
from tests.pipeline.given.test_words import save_textgrid


def test_a_ctm_speaks_of_utterances_that_are_one_and_of_words_alone(tmp_path: Path) -> None:
    """An id that two data directories share gave its words to the recording that came last; Kaldi's <eps> became a word."""
    for number, folder in enumerate("ab"):
        voice(tmp_path / f"{folder}.wav", number, seconds=2.0, format="WAV")
        text(tmp_path / f"{folder}/wav.scp", f"r{folder} {folder}.wav\n")
        text(tmp_path / f"{folder}/segments", f"u1 r{folder} {number} 1.5\nu-{folder} r{folder} 1.6 1.9\n")
    text(tmp_path / "x.ctm", "u1 1 0.1 0.2 whose\nu1 1 0.3 0.1 too\nu-a 1 0.0 0.1 <eps>\nu-a 1 0.1 0.1 one\n")
    listed = {item.uri: item for item in list_source(Source(uri=str(tmp_path), layout="kaldi", words=["x.ctm"]))}
    words = {uri: load_given(item.given).words for uri, item in listed.items() if item.refused is None}
    assert words == {"a.wav": [("one", 27_200, 28_800, -1)], "b.wav": []}
    assert "several utterances have that id" in (listed["x.ctm:1"].detail or "")


@pytest.mark.parametrize("form", ["ctm", "TextGrid"])
def test_a_name_is_found_as_it_looks(form: str, tmp_path: Path) -> None:
    """A Mac wrote the recording's name (NFD), the aligner another (NFC)."""
    voice(tmp_path / "cafe\u0301.flac")
    text(tmp_path / "x.ctm", "caf\u00e9 1 0.1 0.1 yes\n")
    save_textgrid(tmp_path / "caf\u00e9.TextGrid", [(0.1, 0.2, "yes")], 0.5)
    (item,) = list_source(Source(uri=str(tmp_path), words=[f"*.{form}"]))
    assert [word[:3] for word in load_given(item.given).words] == [("yes", 1600, 3200)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("form", ["long_textgrid", "short_textgrid"])
def test_lines_of_a_textgrid_end_in_any_way_and_times_before_0_are_refused(end: str, form: str, tmp_path: Path) -> None:
    """Of -0.5 the long form became 0.5."""
    save_textgrid(tmp_path / "x.TextGrid", [(0.25, 1.0, 'say "-0.25"')], 1.5, form)
    whole = (tmp_path / "x.TextGrid").read_text()
    words, _ = read_textgrid(whole.replace("\n", end).encode(), "x.TextGrid")
    assert words == [('say "-0.25"', 4000, 16_000, -1)]
    early = re.sub(r"(?m)^((?: *xm(?:in|ax) = )?)0\.25\b", r"\1-0.25", whole)
    assert early != whole
    with pytest.raises(ValueError, match=r"-0\.25"):
        read_textgrid(early.replace("\n", end).encode(), "x.TextGrid")


def test_a_time_that_rounding_put_before_0_is_0(tmp_path: Path) -> None:
    save_textgrid(tmp_path / "x.TextGrid", [(0.25, 1.0, "yes")], 1.5)
    early = (tmp_path / "x.TextGrid").read_text().replace("xmin = 0 ", "xmin = -0.0000001 ")
    assert "-0.0000001" in early
    assert read_textgrid(early.encode(), "x.TextGrid")[0] == [("yes", 4000, 16_000, -1)]


class Counted(list[GivenWord]):
    """Words that count how often one is looked at."""

    looked = 0

    def __getitem__(self, number):  # type: ignore[no-untyped-def]  # as a list's
        self.looked += 1
        return super().__getitem__(number)


def segment_from(start: int, end: int, channel: int) -> Segment:
    return Segment(
        segment_id=f"{start}", recording_id="r", channel=channel, start=start, end=end, speech_prob=1.0, cut_reason="given"
    )  # fmt: skip


words_anywhere = st.lists(st.tuples(st.just("w"), st.integers(0, 60), st.integers(0, 60), st.integers(-1, 1)))


@given(words_anywhere, st.integers(0, 60), st.integers(0, 60), st.integers(-1, 1))
def test_a_segment_has_the_words_whose_middle_it_holds(
    words: list[GivenWord], start: int, end: int, channel: int
) -> None:
    """Whatever their order: as if each word were asked."""
    assert WordsByTime(words).of(segment_from(start, end, channel)) == [
        word for word in words
        if start <= (word[1] + word[2]) // 2 < end and (word[3] == channel or min(word[3], channel) < 0)
    ]  # fmt: skip


def test_a_segment_looks_at_its_own_words_alone() -> None:
    """Every word of six hours was asked by each of its segments."""
    words = Counted(("w", 10 * number, 10 * number + 10, -1) for number in range(1000))
    by_time = WordsByTime(words)
    for start in range(0, 10_000, 100):
        assert len(by_time.of(segment_from(start, start + 100, -1))) == 10
    assert words.looked <= len(words)
