"""Tars of audio: what is damaged, joined or cut is said, and sidecars are read strictly."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.source.inventory import survey
from schemas.spec import Source
from tests.pipeline.corpora.fixtures import spoken, write_tar
from tests.pipeline.corpora.test_layouts import first_stages


def test_what_tarfile_would_pass_over_in_silence_is_a_reject_of_the_tar(tmp_path: Path) -> None:
    """It ends at the first block that is no header, whatever follows: damage, another tar behind the end, a file cut between."""
    for name, number in (("whole", 1), ("other", 4)):
        write_tar(tmp_path / f"{name}.tar", [(f"{name}-{n}.flac", spoken(number + n)) for n in range(2)])
    whole, other = ((tmp_path / f"{name}.tar").read_bytes() for name in ("whole", "other"))
    second = whole.index(b"whole-1.flac")
    damaged = whole[:second] + bytes(4) + whole[second + 4 :]
    end = whole.rindex(whole.rstrip(b"\0")[-8:]) + 8
    for name, content in {
        "damaged": damaged,
        "joined": whole + other,
        "cut": whole[: -(-end // 512) * 512],
    }.items():
        (tmp_path / f"{name}.tar").write_bytes(content)
    _, _, _, rejects = first_stages(Source(uri=str(tmp_path), layout="webdataset"))
    said = {reject.id: reject.detail for reject in rejects if reject.code == "decode_error"}
    assert said.keys() == {"damaged.tar", "joined.tar", "cut.tar"}
    assert "no header begins after 1 members" in said["damaged.tar"]
    assert "another tar joined to it" in said["joined.tar"]
    assert "no blocks of zeros end it after 2 members" in said["cut.tar"]


def test_members_that_are_not_read_are_counted(tmp_path: Path) -> None:
    """Neither audio nor text, or a text whose audio is not there: nothing of a tar goes without a word."""
    rest = [("a.npy", b"1"), ("b/c.NPY", b"2"), ("README", b"3"), ("d.json", b"{}"), ("e.txt", b"so"), ("a.cls", b"4")]
    write_tar(tmp_path / "a.tar", [("a.flac", spoken(1)), ("a.txt", b"said"), *rest])
    listing = survey(Source(uri=str(tmp_path), layout="webdataset"))
    assert [item.uri for item in listing.items] == ["a.tar#a.flac"]
    assert listing.not_listed == {
        ".npy in tars": 2, "without a suffix in tars": 1, ".cls in tars": 1,
        ".json in tars without audio": 1, ".txt in tars without audio": 1,
    }  # fmt: skip


@pytest.mark.parametrize("name,content", [("a.txt", b"caf\xe9"), ("a.json", b'{"text": "x", "text": "y"}')])
def test_a_sidecar_in_a_tar_is_read_as_strictly_as_one_beside_a_file(tmp_path: Path, name: str, content: bytes) -> None:
    write_tar(tmp_path / "a.tar", [("a.flac", spoken(1)), (name, content)])
    (recording,), _, _, rejects = first_stages(Source(uri=str(tmp_path), layout="webdataset"))
    assert recording.transcript is None
    assert any(reject.code == "bad_row" and name in reject.detail for reject in rejects)


def test_each_audio_of_a_key_has_the_segments_of_its_json(tmp_path: Path) -> None:
    """The first of two took them away from the second, which became one utterance without a word."""
    facts = {"segments": [{"start": 0.0, "end": 0.2, "text": "one"}, {"start": 0.2, "end": 0.4, "text": "two"}]}
    members = [("a.near.flac", spoken(1)), ("a.far.flac", spoken(2)), ("a.json", json.dumps(facts).encode())]
    write_tar(tmp_path / "a.tar", members)
    recordings, segments, transcripts, rejects = first_stages(Source(uri=str(tmp_path), layout="webdataset"))
    assert len(recordings) == 2
    assert not rejects
    assert Counter(row.recording_id for row in segments) == {row.recording_id: 2 for row in recordings}
    assert sorted(row.text for row in transcripts) == ["one", "one", "two", "two"]


def test_names_with_dots_keep_their_own_texts(tmp_path: Path) -> None:
    """A key ends at the first dot: all calls of a year had the text of the last."""
    members: list[tuple[str, bytes]] = [("2024.json", b'{"language": "de"}')]
    for number, day in enumerate(("05", "06"), start=1):
        members.append((f"2024.01.{day}.flac", spoken(number)))
        members.append((f"2024.01.{day}.json", json.dumps({"text": f"day {day}"}).encode()))
    members += [("s.1.flac", spoken(3)), ("s.2.flac", spoken(4)), ("s.1.txt", b"one"), ("s.2.txt", b"two")]
    write_tar(tmp_path / "a.tar", members)
    recordings, *_, rejects = first_stages(Source(uri=str(tmp_path), layout="webdataset"))
    assert not rejects
    assert {row.uri.removeprefix("a.tar#"): (row.transcript, row.language_hint) for row in recordings} == {
        "2024.01.05.flac": ("day 05", "de"), "2024.01.06.flac": ("day 06", "de"),
        "s.1.flac": ("one", None), "s.2.flac": ("two", None),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["A.TAR", "a#b.Tar", "part-000", "a.tar.1"])
def test_a_tar_by_any_name_is_read(name: str, tmp_path: Path) -> None:
    """Its members were looked for in a file called A.TAR#x.flac.tar, and every one was missing."""
    members = ["y#2.flac", *(["x.tar#1.flac"] if name.lower().endswith(".tar") else [])]
    write_tar(tmp_path / name, [(member, spoken(number)) for number, member in enumerate(members)])
    recordings, *_, rejects = first_stages(Source(uri=str(tmp_path), layout="webdataset", manifest=name))
    assert "missing" not in {reject.code for reject in rejects}
    assert {row.uri for row in recordings} == {f"{name}#{member}" for member in members}


@pytest.mark.parametrize("name", ["A.PARQUET", "rows-0", "x.parquet#1"])
def test_a_parquet_file_by_any_name_is_read(name: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"audio": [{"bytes": spoken(1), "path": "x.flac"}]}), tmp_path / name)
    recordings, *_, rejects = first_stages(Source(uri=str(tmp_path), layout="parquet", manifest=name))
    assert "missing" not in {reject.code for reject in rejects}
    assert [row.uri for row in recordings] == [f"{name}#00000000"]
