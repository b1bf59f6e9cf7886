"""Units of other code bases as shards: equal units, bounds and words, and a sentence with file and line for what is wrong."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.corpora.import_units import main
from jobs.exports.export import main as export
from model.data.shards import ShardSet
from pipeline.given.unit_rows import parse_unit_row
from pipeline.unit_samples import UnitUtterance, unit_sample
from tests.synthetic_shards import write_speech_shards

SEP = "<LST MODE SEP>"
ROW = f"{SEP}TEXT [SIL] {SEP}HUBERT 9 9 {SEP}TEXT in {SEP}HUBERT 117 313 {SEP}TEXT [SIL] {SEP}HUBERT  {SEP}TEXT the {SEP}HUBERT 6"


def segments(index: Path) -> list[tuple[list[int], list[int], list[tuple[str, int, int]], list[int]]]:
    """(units, bounds, words, kinds) of every segment of a set, by the exporter's own reader."""
    from jobs.exports.spoken import samples_of_shard, segments_of_sample

    shards = ShardSet(str(index))
    return [
        (
            segment.units.tolist(),
            segment.bounds.tolist(),
            [(word.text, word.start, word.end) for word in segment.words],
            list(segment.kinds),
        )
        for shard in range(len(shards.counts))
        for sample in samples_of_shard(shards, shard)
        for segment in segments_of_sample(sample)
    ]


def rows(path: Path, *lines: object) -> Path:
    path.write_text(
        "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    return path


def test_an_official_row_becomes_words_and_silences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = rows(tmp_path / "mls.chunk.00.on_the_fly", {"file_id": "mls/1", "interleaved": ROW})
    assert main([str(source), "--out", str(tmp_path / "out")]) == 0
    assert segments(tmp_path / "out/index.json") == [
        ([9, 9, 117, 313, 6], [0, 2, 4, 5], [("in", 2, 4), ("the", 4, 5)], [1, 0, 0])
    ]
    assert "a word has 1.50 units, a silence 1.00; 2.50 units a word; rejected: 0" in capsys.readouterr().out
    assert "language:\n- en" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    "form, pattern", [("lst-jsonl", "*.on_the_fly"), ("slamkit", "*.jsonl"), ("lhotse", "*.jsonl.gz")]
)
def test_shards_come_back_from_their_export(form: str, pattern: str, tmp_path: Path) -> None:
    """Shards -> export -> shards: equal units, bounds, kinds and words, segment by segment, to the frame."""
    index = write_speech_shards(tmp_path / "one", [3, 2])
    assert export([str(index), "--format", form, "--out", str(tmp_path / "export")]) == 0
    assert main([str(tmp_path / "export" / pattern), "--like", str(index), "--out", str(tmp_path / "two")]) == 0
    before, after = segments(Path(index)), segments(tmp_path / "two/index.json")
    assert len(before) == len(after) > 3
    for one, other in zip(before, after, strict=True):
        assert one == other


def test_what_is_wrong_is_said_with_file_and_line_and_the_rest_goes_on(tmp_path: Path) -> None:
    good = {"file_id": "a", "interleaved": ROW}
    source = rows(
        tmp_path / "x.on_the_fly", good, "{oops\n", {**good, "file_id": "b", "interleaved": ROW.replace("313", "500")}, "\n",
        good, {"file_id": "c", "text": "no units"}, {**good, "file_id": "d"},
    )  # fmt: skip
    assert main([str(source), "--out", str(tmp_path / "out")]) == 0
    assert len(segments(tmp_path / "out/index.json")) == 2
    rejects = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    found = {row["place"]: row["detail"] for row in rejects}
    assert list(found) == [f"{source}:{number}" for number in (2, 3, 5, 6)]
    assert "not JSON" in found[f"{source}:2"]
    assert "the unit 500 is unknown: there are 500 units" in found[f"{source}:3"]
    assert f"a stands in {source}:1 already" in found[f"{source}:5"]
    assert "it has file_id, text" in found[f"{source}:6"]


def test_the_same_rows_give_the_same_bytes_and_a_set_of_nothing_is_refused(tmp_path: Path) -> None:
    lines = [{"file_id": str(number), "interleaved": ROW} for number in range(30)]
    plain = rows(tmp_path / "x.jsonl", *lines)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    for out, source in (("one", plain), ("two", tmp_path / "x.jsonl.gz")):
        assert main([str(source), "--out", str(tmp_path / out), "--hop", "32000", "--shard-minutes", "2"]) == 0
    one, two = (sorted((tmp_path / out).glob("*.tar")) for out in ("one", "two"))
    assert len(one) == 3
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert main([str(rows(tmp_path / "bad.jsonl", "{\n")), "--out", str(tmp_path / "none")]) == 4
    assert main([str(tmp_path / "nowhere*.jsonl"), "--out", str(tmp_path / "none")]) == 2
    odd = rows(tmp_path / "x [1].jsonl", *lines)  # which is no pattern, for it is there
    assert main([str(odd), "--out", str(tmp_path / "odd"), "--hop", "32000"]) == 0


def test_more_units_than_a_shard_can_hold_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row with such a unit ended in an OverflowError."""
    source = str(rows(tmp_path / "x.jsonl", {"file_id": "a", "interleaved": ROW.replace("313", "70000")}))
    assert main([source, "--out", str(tmp_path / "out"), "--num-units", "70001"]) == 2
    assert "70001 units do not fit the uint16 of a shard: at most 65,536" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), max_size=20), st.integers(0, 4), st.randoms())
@settings(deadline=None, max_examples=50)
def test_words_keep_their_frames(spans: list[tuple[int, int]], tail: int, random: object) -> None:
    """Any words, silences and units, written as official rows and read again: nothing moves."""
    units: list[int] = []
    words: list[tuple[str, int, int]] = []
    pieces: list[str] = []
    for number, (gap, length) in enumerate([*spans, (tail, 0)]):
        silence = [random.randrange(500) for _ in range(gap)]  # type: ignore[attr-defined]
        spoken = [random.randrange(500) for _ in range(length)]  # type: ignore[attr-defined]
        pieces += [f"{SEP}TEXT [SIL] {SEP}HUBERT {' '.join(map(str, silence))}"] if gap else []
        pieces += [f"{SEP}TEXT w{number} {SEP}HUBERT {' '.join(map(str, spoken))}"] if length else []
        units += silence
        if length:
            words.append((f"w{number}", len(units), len(units) + length))
        units += spoken
    if not units:
        return
    parsed = parse_unit_row({"interleaved": " ".join(pieces)}, 640, 500)
    assert (parsed.units, parsed.words) == (units, words)
    sample = unit_sample(UnitUtterance(name="x", units=parsed.units, words=parsed.words), hop=640, cards={})
    meta = json.loads(sample["json"])
    assert [meta["text"][a:b] for a, b in meta["words"]] == [word for word, _, _ in words]
    assert _array(sample["words.npy"])[:, :2].tolist() == [[start, end] for _, start, end in words]
    assert _array(sample["units.npy"]).tolist() == units


def _array(content: bytes | str) -> np.ndarray:
    import io

    assert isinstance(content, bytes)
    array: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    return array


@pytest.mark.parametrize("suffix,pack", [("gz", gzip.compress), ("xz", lzma.compress), ("zip", bytes)])
def test_a_damaged_packed_file_is_one_sentence(
    suffix: str, pack: Callable[[bytes], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damage within it ended in a traceback; a file cut short did not."""
    content = bytearray(pack(b'{"units": [1, 2]}\n' * 50))
    content[10:14] = bytes(byte ^ 0xFF for byte in content[10:14])
    (tmp_path / f"x.jsonl.{suffix}").write_bytes(content)
    assert main([str(tmp_path / f"x.jsonl.{suffix}"), "--out", str(tmp_path / "out")]) == 2
    assert f"cannot read {tmp_path}/x.jsonl.{suffix}" in capsys.readouterr().err
