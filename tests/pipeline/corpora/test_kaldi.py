"""Kaldi's tables and NIST's: which channel they mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.corpora.base import Corpus, to_channel
from pipeline.corpora.read import read_corpus
from pipeline.source.folder import SourceFolder
from pipeline.source.inventory import list_source
from schemas.given import GivenSegment, load_given
from schemas.spec import Source
from tests.pipeline.corpora.fixtures import text, voice


def stated(folder: Path, **tables: str) -> tuple[list[GivenSegment], list[str]]:
    """The utterances of a folder with the recording `call`, and what is said of rows that cannot be used."""
    voice(folder / "call.wav", format="WAV")
    text(folder / "wav.scp", "call call.wav\n")
    for name, content in tables.items():
        text(folder / name, content)
    (item,) = list_source(Source(uri=str(folder), layout="kaldi"))
    given = load_given(item.given)
    return given.segments, [problem.detail for problem in given.problems]


def test_the_fifth_column_of_segments_is_the_channel_counted_from_0(tmp_path: Path) -> None:
    """Both sides of a call were read from the mix of its channels, and one of them was refused: they overlap there."""
    rows = (
        "u1 call 0 0.4 0\nu2 call 0 0.4 1\nu3 call 0.4 0.5\nu4 call 0 0.4 D\nu5 call 0.5 0.6 -1\nu6 call 0 0.4 left\n"
    )
    segments, problems = stated(tmp_path, segments=rows, reco2file_and_channel="call call C\n")
    assert {segment.id: segment.channel for segment in segments} == {"u1": 0, "u2": 1, "u3": 2, "u4": 3, "u5": -1}
    assert problems == [
        "u6: its channel 'left' is neither a number from 0 nor a letter (the fifth column of segments)",
    ]


@pytest.mark.parametrize(
    "name,channel",
    [("A", 0), ("b", 1), ("C", 2), ("H", 7), ("1", 0), ("4", 3), ("0", -1), ("L", -1), ("²", -1), ("9" * 5000, -1)],
)
def test_channels_by_letter_and_number(name: str, channel: int) -> None:
    """The third and later ones were taken for the mix."""
    assert to_channel(name) == channel


class Passes(list[str]):
    """Names that count how often they are gone through."""

    number = 0

    def __iter__(self) -> Iterator[str]:
        self.number += 1
        return super().__iter__()


def test_folders_do_not_each_go_through_the_names_of_all(tmp_path: Path) -> None:
    """Seven times for each: `utils/split_data.sh` makes a hundred of them, beside a million files."""
    passes = []
    for count in (1, 12):
        for number in range(count):
            text(tmp_path / f"split/{number}/wav.scp", f"call{number} {number}.wav\n")
        names = Passes(f"split/{number}/wav.scp" for number in range(count))
        source = Source(uri=str(tmp_path), layout="kaldi")
        assert len(read_corpus(Corpus(files=SourceFolder(source.uri), names=names, source=source))) == count
        passes.append(names.number)
    assert passes[0] == passes[1]
