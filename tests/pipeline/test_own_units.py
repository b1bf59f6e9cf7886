"""Units and words of one's own become shards that a model reads as any others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.data.shards import ShardSet
from pipeline.own_units import SpokenUnits, write_own_units
from schemas.cards import Card

CARD = Card(kind="unit_tokenizer", name="mine", facts={"made": "by hand"})
SAMPLE = SpokenUnits(
    key="one", text="Hello you.", char_spans=[(0, 5), (6, 9)], units=np.asarray([7, 1, 1, 2, 7], np.uint16),
    word_frames=[(1, 3), (3, 4)],
)  # fmt: skip


def write(folder: Path, *samples: SpokenUnits) -> None:
    write_own_units(folder, samples, num_units=8, hop=640, cards=[CARD])


def test_what_was_given_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "a::b"
    write(folder, SAMPLE, replace(SAMPLE, key="two"))
    shards = ShardSet(str(folder / "index.json"))
    sample = shards.read(0, 1)
    assert (sample.meta.key, sample.meta.text, sample.meta.words) == ("two", SAMPLE.text, SAMPLE.char_spans)
    assert sample.units.tolist() == [7, 1, 1, 2, 7]
    assert sample.words[:, :2].tolist() == [[1, 3], [3, 4]]
    assert sample.patch.tolist() == [0, 1, 3, 4, 5]
    assert sample.meta.patch_kind == [1, 0, 0, 1]
    assert shards.index.totals["seconds"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    "sample, says",
    [
        (replace(SAMPLE, word_frames=[(1, 3), (2, 4)]), "overlap"),
        (replace(SAMPLE, word_frames=[(1, 3)]), "2 words in its text and 1"),
        (replace(SAMPLE, units=np.asarray([8] * 5, np.uint16)), r"outside \[0, 8\)"),
        (replace(SAMPLE, units=np.asarray([7, -1, 1, 2, 7])), r"outside \[0, 8\)"),
        (replace(SAMPLE, units=np.asarray([7, 1.9, 1, 2, 7])), "whole numbers"),
        (replace(SAMPLE, units=np.zeros((5, 2), np.uint16)), "whole numbers"),
        (replace(SAMPLE, word_frames=[(1, 3), (3, 9)]), "leave its 5 units"),
        (replace(SAMPLE, char_spans=[(0, 5), (6, 90)]), "leave its text"),
        (replace(SAMPLE, char_spans=[(6, 9), (0, 5)]), "out of order"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(tmp_path: Path, sample: SpokenUnits, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        write(tmp_path, sample)
    assert "'one'" in str(caught.value)
    assert not (tmp_path / "index.json").exists()


def test_keys_are_unique(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        write(tmp_path, SAMPLE, SAMPLE)


@pytest.mark.parametrize("key", ["utterance.1", "a/b", "", "a b"])
def test_a_key_that_a_tar_would_cut_is_refused(tmp_path: Path, key: str) -> None:
    """`one.1` and `one.2` were written as one sample, which nothing could read."""
    with pytest.raises(ValueError, match="letters, digits"):
        write(tmp_path, replace(SAMPLE, key=key))


def test_more_units_than_a_shard_can_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        write_own_units(tmp_path, [SAMPLE], num_units=70_000, hop=640, cards=[CARD])
