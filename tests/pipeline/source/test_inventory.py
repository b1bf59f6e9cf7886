from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from pipeline.source import folder as folders
from pipeline.source import known, listing, probe
from pipeline.source.folder import SourceFolder
from pipeline.source.inventory import list_source, survey
from schemas.config import ConfigError
from schemas.spec import Source
from tests.pipeline.conftest import DemoTables
from tests.pipeline.source.bad_audio import encode, speech


def test_demo_inventory_has_headers_and_manifest_facts(demo: DemoTables) -> None:
    by_uri = {entry.uri: entry for entry in demo.inventory}
    assert len(by_uri) == 8
    assert [entry.uri for entry in demo.inventory] == sorted(by_uri)
    kennedy = by_uri["jfk_inaugural_1961.flac"]
    assert kennedy.seconds == 11.0
    assert kennedy.transcript is not None
    assert kennedy.transcript.startswith("And so, my fellow Americans")
    assert kennedy.license == "US Government work, public domain"
    assert json.loads(kennedy.extra or "")["work"].startswith("John F. Kennedy")
    assert not any(entry.duplicate_of for entry in demo.inventory)


def make_source(folder: Path, *names: str) -> None:
    voice = speech()
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode(voice[: 8000 + index]))


def test_only_audio_suffixes_are_listed_in_any_case(tmp_path: Path) -> None:
    make_source(tmp_path, "b.FLAC", "a.wav", "deep/er/c [x] é.flac")
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "text.wav").write_text("not audio")
    listed = list_source(Source(uri=str(tmp_path)))
    assert [entry.uri for entry in listed] == ["a.wav", "b.FLAC", "deep/er/c [x] é.flac", "text.wav"]
    assert [entry.seconds is None for entry in listed] == [False, False, False, True]
    only = list_source(Source(uri=str(tmp_path), pattern="deep/**"))
    assert [entry.uri for entry in only] == ["deep/er/c [x] é.flac"]


def test_a_source_on_another_filesystem_lists_the_same(tmp_path: Path, demo: DemoTables) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in Path(demo.source.uri).iterdir():
        memory.pipe_file(f"/corpus/{path.name}", path.read_bytes())
    try:
        listed = list_source(demo.source.with_updates(uri="memory://corpus"))
    finally:
        memory.rm("/corpus", recursive=True)
    assert listed == list(demo.inventory)


def test_equal_bytes_are_found_and_equal_probes_are_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "ENDS", 100)
    make_source(tmp_path, "b.flac")
    shutil.copy(tmp_path / "b.flac", tmp_path / "c.flac")
    shutil.copy(tmp_path / "b.flac", tmp_path / "a.flac")
    other = bytearray((tmp_path / "b.flac").read_bytes())
    other[len(other) // 2] ^= 1
    (tmp_path / "d.flac").write_bytes(bytes(other))
    listed = list_source(Source(uri=str(tmp_path)))
    assert [entry.duplicate_of for entry in listed] == [None, "a.flac", "a.flac", None]
    assert len({entry.probe for entry in listed[:3]}) == 1
    assert listed[3].probe != listed[0].probe, "files that differ in their middle are known apart"


def test_of_equal_files_the_one_with_a_text_is_kept(tmp_path: Path) -> None:
    make_source(tmp_path, "set/b.flac")
    (tmp_path / "raw").mkdir()
    for name in ("raw/a.flac", "set/c.flac", "set/d.flac"):
        shutil.copy(tmp_path / "set/b.flac", tmp_path / name)
    for name, text in (("b", "said"), ("c", "said"), ("d", "something else")):
        (tmp_path / f"set/{name}.txt").write_text(text)
    listed = {item.uri: item for item in list_source(Source(uri=str(tmp_path), transcripts="sidecar"))}
    assert {uri: item.duplicate_of for uri, item in listed.items()} == {
        "raw/a.flac": "set/b.flac",
        "set/b.flac": None,
        "set/c.flac": "set/b.flac",
        "set/d.flac": "set/b.flac",
    }
    assert [uri for uri, item in listed.items() if item.detail] == ["set/d.flac"]


def test_known_files_are_not_opened_again_and_changed_ones_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_source(tmp_path, "a.flac", "b.flac", "c.flac")
    shutil.copy(tmp_path / "c.flac", tmp_path / "d.flac")
    source = Source(uri=str(tmp_path))
    first = survey(source)
    listed, table = first.items, first.table
    opened: list[str] = []
    honest = SourceFolder.open_ends

    def watched(folder: SourceFolder, uri: str, *rest: Any) -> tuple[bytes, bytes, int]:
        opened.append(uri)
        return honest(folder, uri, *rest)

    monkeypatch.setattr(SourceFolder, "open_ends", watched)
    monkeypatch.setattr(known, "hash_stream", None)  # the copies are not hashed again either
    assert survey(source, known.Known(table)).items == listed
    assert opened == []
    (tmp_path / "b.flac").write_bytes(encode(speech()[:5000]))
    (tmp_path / "e.flac").write_bytes(encode(speech()[:6000]))
    again = survey(source, known.Known(table)).items
    assert sorted(opened) == ["b.flac", "e.flac"]
    assert [entry.uri for entry in again] == ["a.flac", "b.flac", "c.flac", "d.flac", "e.flac"]


def wait_for_a_tick(folder: Path) -> None:
    """Until the clock of times of change has gone on, which it does in steps of some milliseconds."""
    (folder / "tick").touch()
    before = (folder / "tick").stat().st_ctime_ns
    while (folder / "tick").stat().st_ctime_ns == before:
        (folder / "tick").touch()
    (folder / "tick").unlink()


def test_files_of_one_size_and_time_that_exchange_their_names_are_looked_at_again(tmp_path: Path) -> None:
    """As clips of one length are that were unpacked in one second; so is a file that was rewritten and got its old time back."""
    for number, name in enumerate(("a.wav", "b.wav", "c.wav")):
        (tmp_path / name).write_bytes(encode(speech()[8_000 * number :][:8_000], format="WAV"))
        os.utime(tmp_path / name, (1.7e9, 1.7e9))
    source = Source(uri=str(tmp_path))
    table = survey(source).table
    wait_for_a_tick(tmp_path)
    (tmp_path / "a.wav").rename(tmp_path / "kept")
    (tmp_path / "b.wav").rename(tmp_path / "a.wav")
    (tmp_path / "kept").rename(tmp_path / "b.wav")
    (tmp_path / "c.wav").write_bytes(encode(speech()[32_000:][:8_000], format="WAV"))
    os.utime(tmp_path / "c.wav", (1.7e9, 1.7e9))
    assert survey(source, known.Known(table)).items == survey(source).items


def test_a_file_that_could_not_be_opened_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions, for one, are mended without a new time of change."""
    make_source(tmp_path, "a.flac", "b.flac")
    source = Source(uri=str(tmp_path))
    honest = SourceFolder.open_ends

    def closed(folder: SourceFolder, uri: str, *rest: Any) -> tuple[bytes, bytes, int]:
        if uri == "b.flac":
            raise PermissionError(errno.EACCES, "Permission denied")
        return honest(folder, uri, *rest)

    monkeypatch.setattr(SourceFolder, "open_ends", closed)
    first = survey(source)
    assert [item.refused for item in first.items] == [None, "missing"]
    assert survey(source, known.Known(first.table)).items == first.items
    monkeypatch.undo()
    assert [item.refused for item in survey(source, known.Known(first.table)).items] == [None, None]


def test_a_listing_in_batches_is_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files are objects at a time; copies in other batches are found, marks are kept, and whoever looks is asked
    for new files alone."""
    make_source(tmp_path, *(f"{folder}/{number}.flac" for folder in "ab" for number in range(5)), "top.flac")
    shutil.copy(tmp_path / "a/0.flac", tmp_path / "b/9.flac")
    (tmp_path / "a/empty.flac").write_bytes(b"")
    source = Source(uri=str(tmp_path))
    whole = survey(source).table
    asked: list[str] = []

    def look_many(uri: str, files: Sequence[tuple[str, int | None]]) -> Sequence[probe.Looked | str]:
        asked.extend(name for name, _ in files)
        return probe.look_at(uri, files)

    monkeypatch.setattr(listing, "BATCH", 3)
    monkeypatch.setattr(probe, "BATCH", 3)
    monkeypatch.setattr(known, "BLOCK", 4)
    assert survey(source, look_many=look_many).table.equals(whole)
    assert asked == whole.column("uri").to_pylist()
    assert [item.duplicate_of for item in survey(source).items if item.uri == "b/9.flac"] == ["a/0.flac"]
    (tmp_path / "b/3.flac").write_bytes(encode(speech()[:5000]))
    asked.clear()
    again = survey(source, known.Known(whole), look_many)
    assert asked == ["b/3.flac"]
    assert again.table.equals(survey(source).table)


def test_headers_are_read_from_both_ends_of_a_file(tmp_path: Path) -> None:
    """A file of which only 64 KiB are fetched tells its length all the same."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000 * 60)
    for name in ("long.wav", "long.flac", "long.ogg", "long.opus"):
        opus = {"format": "OGG", "subtype": "OPUS"} if name.endswith("opus") else {}
        soundfile.write(tmp_path / name, noise, 16_000, **opus)
        assert (tmp_path / name).stat().st_size > 2 * folders.ENDS
    assert [entry.seconds for entry in list_source(Source(uri=str(tmp_path)))] == pytest.approx([60.0] * 4, abs=0.01)


@pytest.mark.parametrize("end", ["size", "head", "tail"])
def test_the_probe_notices_a_changed_file(tmp_path: Path, end: str) -> None:
    make_source(tmp_path, "a.flac")
    before = list_source(Source(uri=str(tmp_path)))[0].probe
    content = bytearray((tmp_path / "a.flac").read_bytes())
    if end == "size":
        content += b"\0"
    else:
        content[60 if end == "head" else -1] ^= 1
    (tmp_path / "a.flac").write_bytes(bytes(content))
    assert list_source(Source(uri=str(tmp_path)))[0].probe != before


def write_manifest(path: Path, rows: list[dict[str, object]]) -> None:
    if path.suffix == ".tsv":
        columns = list(rows[0])
        lines = ["\t".join(columns), *("\t".join(str(row[column]) for column in columns) for row in rows)]
        path.write_text("\n".join(lines), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl", ".parquet"])
def test_manifests_say_the_same_in_every_format(tmp_path: Path, suffix: str) -> None:
    make_source(tmp_path, "a b/é.flac", "other.flac")
    rows: list[dict[str, object]] = [
        {"file": "a b/é.flac", "transcript": 'a “quoted" word', "language": "de", "license": "CC0", "speaker": "S1"}
    ]
    write_manifest(tmp_path / f"m{suffix}", rows)
    listed = list_source(Source(uri=str(tmp_path), transcripts="manifest", manifest=f"m{suffix}"))
    named, other = listed
    assert (named.transcript, named.language_hint, named.license) == ('a “quoted" word', "de", "CC0")
    assert named.extra == '{"speaker": "S1"}'
    assert (other.transcript, other.extra) == (None, None)


@pytest.mark.parametrize(
    "path,message",
    [
        ("../outside.flac", "stay inside the source folder"),
        ("/etc/passwd", "stay inside the source folder"),
        ("a/../../b.flac", "stay inside the source folder"),
        ("..\\b.flac", "stay inside the source folder"),
        ("s3://bucket/b.flac", "stay inside the source folder"),
        ("missing.flac", "not among the audio"),
    ],
)
def test_a_manifests_paths_are_not_trusted(tmp_path: Path, path: str, message: str) -> None:
    folder = tmp_path / "inside"
    make_source(folder, "a.flac")
    make_source(tmp_path, "outside.flac", "b.flac")
    write_manifest(folder / "m.jsonl", [{"file": path, "transcript": "x"}])
    with pytest.raises(ConfigError, match=message):
        list_source(Source(uri=str(folder), transcripts="manifest", manifest="m.jsonl"))


def test_a_manifest_outside_the_folder_is_refused(tmp_path: Path) -> None:
    make_source(tmp_path / "inside", "a.flac")
    write_manifest(tmp_path / "m.jsonl", [{"file": "a.flac"}])
    with pytest.raises(ConfigError, match="stay inside"):
        list_source(Source(uri=str(tmp_path / "inside"), manifest="../m.jsonl"))


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("m.tsv", b"path\ttext\na.flac\tx\n", "needs a column `file`"),
        ("m.jsonl", b"[1]\n", "JSON object"),
        ("m.jsonl", b"{oops\n", "m.jsonl:1: it is not JSON"),
        ("m.parquet", b"PAR1", "cannot be read as .parquet"),
        ("m.xlsx", b"file\na.flac\n", "a table ends in .tsv"),
        ("m.tsv", b"file\n\xff\xfe\n", "m.tsv:2: it is not UTF-8"),
    ],
)
def test_a_wrong_manifest_is_one_clear_sentence(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    make_source(tmp_path, "a.flac")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        list_source(Source(uri=str(tmp_path), transcripts="manifest", manifest=name))


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        list_source(Source(uri=str(tmp_path / "nowhere")))
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds no audio"):
        list_source(Source(uri=str(tmp_path)))
    make_source(tmp_path, "a.flac")
    with pytest.raises(ConfigError, match="does not name one"):
        list_source(Source(uri=str(tmp_path), transcripts="manifest"))
    with pytest.raises(ConfigError, match=r"cannot read m\.tsv"):
        list_source(Source(uri=str(tmp_path), manifest="m.tsv"))


def test_a_name_that_is_not_utf8_is_refused_with_its_name(tmp_path: Path) -> None:
    make_source(tmp_path, "a.flac")
    shutil.copy(tmp_path / "a.flac", os.fsencode(tmp_path) + b"/caf\xe9.flac")
    plain, odd = list_source(Source(uri=str(tmp_path)))
    assert (plain.uri, plain.refused) == ("a.flac", None)
    assert (odd.uri, odd.refused) == ("caf\\udce9.flac", "missing")
    assert "not UTF-8" in (odd.detail or "")


def test_a_file_that_was_mostly_never_written_is_refused_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sparse terabyte, alone or twice, would be hashed for a quarter of an hour; a hole that silence could be is read."""
    sound = encode(speech()[:8000], format="WAV", subtype="PCM_16")
    for name, size in (("a.wav", 1 << 40), ("b.wav", 1 << 40)):
        (tmp_path / name).write_bytes(sound if name == "b.wav" else b"")
        os.truncate(tmp_path / name, size)
    (tmp_path / "c.wav").write_bytes(sound)
    os.truncate(tmp_path / "c.wav", len(sound) + (1 << 20))
    monkeypatch.setattr(known, "hash_stream", lambda file: pytest.fail("it was read"))
    items = {item.uri: item for item in list_source(Source(uri=str(tmp_path)))}
    assert [items[name].refused for name in ("a.wav", "b.wav", "c.wav")] == ["missing", "missing", None]
    assert "1,023 GiB of its 1,024 GiB were never written" in str(items["b.wav"].detail)
