"""Text shards hold the documents of their files, once, in order, whoever writes them; what cannot be used is named."""

import errno
import gzip
import hashlib
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.text.documents import documents
from jobs.text.files import list_files
from jobs.text.shards import main as text_shards
from model.data.compose import Composer
from model.data.shards import ShardSet
from model.data.sources import DataConfig, TrainingData
from model.data.text_tokenizer import train_bpe
from schemas.errors import ExitCode, StorageError

DOCUMENTS = [f"Document {number} says “hello” {'again and ' * (number % 5)}and ends." for number in range(60)]


def rows(documents: list[str]) -> list[dict[str, Any]]:
    return [{"text": text, "id": number} for number, text in enumerate(documents)]


def write(path: Path, documents: list[str]) -> Path:
    """The documents in the form that the file's name asks for."""
    lines = "".join(json.dumps(row) + "\n" for row in rows(documents)).encode()
    if path.name.endswith(".jsonl"):
        path.write_bytes(lines)
    elif path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress(lines, mtime=0))
    elif path.name.endswith(".jsonl.zst"):
        with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as file:
            file.write(lines)
    elif path.name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows(documents)), path, row_group_size=7)
    elif path.name.endswith(".arrow"):
        table = pa.Table.from_pylist(rows(documents))
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table, max_chunksize=9)
    else:
        path.write_text("\n\n".join(documents), encoding="utf-8")
    return path


def texts(index: Path) -> list[str]:
    shards = ShardSet(str(index))
    return [shards.read(s, n).meta.text for s, count in enumerate(shards.counts) for n in range(count)]


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run(source: Path | list[Path], out: Path, *more: str) -> Path:
    sources = [str(path) for path in (source if isinstance(source, list) else [source])]
    assert text_shards([*sources, "--out", str(out), "--workers", "1", *more]) == ExitCode.DONE
    return out / "index.json"


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "data-00000-of-00001.arrow", "a.txt"]
)
def test_every_form_gives_its_documents_in_order(name: str, tmp_path: Path) -> None:
    index = run(write(tmp_path / name, DOCUMENTS), tmp_path / "out", "--document-chars", "30")
    assert texts(index) == DOCUMENTS


def test_a_copy_counts_once_also_among_small_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those share an item, in which each copy was read."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "x.jsonl", DOCUMENTS)
    write(tmp_path / "b" / "y.jsonl", DOCUMENTS[:1])
    assert texts(run([tmp_path / "a", tmp_path / "b"], tmp_path / "out")) == [*DOCUMENTS, DOCUMENTS[0]]
    assert "1 files, or parts of them, were copies of others" in capsys.readouterr().out


def test_what_is_there_is_no_pattern_whatever_signs_its_name_has(tmp_path: Path) -> None:
    """Such as a browser's second download: it was said not to be there."""
    folder = tmp_path / "texts [1]" / "more"
    folder.mkdir(parents=True)
    file = write(folder / "a[2].jsonl", DOCUMENTS)
    assert list_files(str(file)) == [str(file)]
    assert list_files(str(folder.parent)) == [str(file)]
    assert list_files(f"{tmp_path}/texts ?1?/**/*.jsonl") == [str(file)]
    assert texts(run(folder.parent, tmp_path / "out")) == DOCUMENTS


def test_a_folder_saved_by_hugging_face_opens_as_it_is(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows(DOCUMENTS)).save_to_disk(str(tmp_path / "saved"))
    assert texts(run(tmp_path / "saved", tmp_path / "out")) == DOCUMENTS


@pytest.mark.parametrize("piece", [1, 40, 97, 10_000])
def test_a_line_is_in_the_piece_that_it_begins_in(piece: int, tmp_path: Path) -> None:
    """However a file is cut into pieces, each line is read once."""
    path = write(tmp_path / "a.jsonl", DOCUMENTS)
    size = path.stat().st_size
    found = [
        found.text
        for start in range(0, size, piece)
        for found in documents(str(path), "jsonl", start, min(start + piece, size), ["text"], 2000)
    ]
    assert found == DOCUMENTS


def test_small_items_hold_the_same_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    for number, name in enumerate(("a.jsonl", "b.parquet", "c.jsonl.gz")):
        write(tmp_path / "in" / name, DOCUMENTS[20 * number : 20 * number + 20])
    monkeypatch.setattr("jobs.text.shards.plan_items", _small(500))
    assert texts(run(tmp_path / "in", tmp_path / "out")) == DOCUMENTS
    assert len(list((tmp_path / "out" / "commits").rglob("*.json"))) > 5


def _small(size: int) -> Any:
    from jobs.text.files import plan_items

    return lambda sources, fields, _: plan_items(sources, fields, size)


def test_a_run_goes_on_where_it_ended_and_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        write(tmp_path / "in" / f"{number}.jsonl", DOCUMENTS[20 * number : 20 * number + 20])
    monkeypatch.setattr("jobs.text.shards.plan_items", _small(2000))
    run(tmp_path / "in", tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    run(tmp_path / "in", tmp_path / "again")
    for path in [tmp_path / "again" / "index.json", *sorted((tmp_path / "again" / "commits").rglob("*.json"))[:1]]:
        path.unlink()
    touched = {path: path.stat().st_mtime_ns for path in (tmp_path / "again" / "commits").rglob("*.json")}
    run(tmp_path / "in", tmp_path / "again")
    assert contents(tmp_path / "again") == whole
    assert all(path.stat().st_mtime_ns == time for path, time in touched.items()), "what was done was done again"
    sorted((tmp_path / "again" / "shards").iterdir())[1].unlink()
    run(tmp_path / "in", tmp_path / "again")
    assert contents(tmp_path / "again") == whole, "a shard that was removed is written again"


@pytest.mark.slow
def test_workers_on_ray_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        write(tmp_path / "in" / f"{number}.jsonl", DOCUMENTS[20 * number : 20 * number + 20])
    monkeypatch.setattr("jobs.text.shards.plan_items", _small(2000))
    run(tmp_path / "in", tmp_path / "one")
    run(tmp_path / "in", tmp_path / "two", "--workers", "2")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_what_cannot_be_used_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "one"}',
        b'{"text": 3}',
        b"{oops",
        b'{"text": "caf\xe9"}',
        b'{"text": "\\ud800"}',
        b'{"text": " "}',
    ]
    lines += [b"[1]", b'{"text": "no number", "x": NaN}', b"[" * 100_000, b'{"text": "two"}']
    (tmp_path / "bad.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in rows(DOCUMENTS * 50)).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    index = run([tmp_path / "bad.jsonl", tmp_path / "cut.jsonl.gz"], tmp_path / "out")
    assert texts(index)[:2] == ["one", "two"]
    assert texts(index)[2:102] == (DOCUMENTS * 50)[:100]
    rejects = [json.loads(line) for path in (tmp_path / "out" / "rejects").iterdir() for line in path.open()]
    assert [reject["code"] for reject in rejects] == [
        "no_text", "bad_json", "not_utf8", "not_utf8", "empty", "bad_json", "bad_json", "bad_json", "unreadable",
    ]  # fmt: skip
    assert rejects[0]["place"] == f"bad.jsonl: byte {len(lines[0]) + 1}"
    assert rejects[-1]["place"].startswith("cut.jsonl.gz: after byte ")


def test_a_first_row_without_the_field_does_not_speak_for_the_others(tmp_path: Path) -> None:
    """A head of its own, or a row that lacks a text, was taken for the whole corpus, which was refused."""
    (tmp_path / "a.jsonl").write_text('{"version": 1}\n{"text": "one"}\n{"id": 2}\n{"text": "two"}\n')
    assert texts(run(tmp_path / "a.jsonl", tmp_path / "out")) == ["one", "two"]
    (rejects,) = (tmp_path / "out" / "rejects").iterdir()
    assert [json.loads(line)["code"] for line in rejects.open()] == ["no_text", "no_text"]


@pytest.mark.parametrize("error", [TimeoutError("no answer"), OSError(errno.ECONNRESET, "reset"), StorageError("away")])
def test_a_storage_that_breaks_off_is_no_end_of_its_file(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to come counted as one reject, and the item as done: the next run left it out for good."""

    def broken(url: str) -> AbstractContextManager[Iterator[bytes]]:
        def lines() -> Iterator[bytes]:
            yield b'{"text": "one"}\n'
            raise error

        return nullcontext(lines())

    monkeypatch.setattr("jobs.text.documents.opened", broken)
    found = documents("s3://bucket/a.jsonl", "jsonl", 0, 1 << 20, ["text"], 2000)
    assert next(found).text == "one"
    with pytest.raises(StorageError, match=r"s3://bucket/a.jsonl could not be read to its end"):
        next(found)


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("a.jsonl", ["--field", "content"], "has no field 'content'; it has: id, text"),
        ("a.parquet", ["--field", "content"], "has no field 'content'; it has: id, text"),
        ("a.jsonl", ["--tokenizer", "none.json"], "none.json does not exist"),
        ("a.pdf", [], "files are known by their ends"),
    ],
)
def test_a_wrong_line_is_one_sentence(
    name: str, more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / name, DOCUMENTS)
    code = text_shards([str(tmp_path / name), "--out", str(tmp_path / "out"), "--workers", "1", *more])
    assert code == ExitCode.CONFIGURATION
    assert said in capsys.readouterr().err


def test_stored_tokens_are_read_where_they_are_of_the_runs_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documents are those of tokenising the text; with another tokenizer the tokens are left alone."""
    mine, other = (train_bpe(DOCUMENTS, size, tmp_path / f"{size}.json") for size in (300, 280))
    index = run(write(tmp_path / "a.jsonl", DOCUMENTS), tmp_path / "out", "--tokenizer", str(mine))

    def ids(tokenizer: Path) -> list[list[int]]:
        config = {
            "sources": [{"kind": "text", "data": str(index), "weight": 1.0}],
            "tokenizer": {"path": str(tokenizer)},
        }
        corpus = TrainingData(DataConfig.model_validate(config))
        composer = Composer(corpus.tokenizer, corpus.vocabulary, token_starts=False)
        (source,) = corpus.sources(1, "train")
        return [document.ids.tolist() for n in range(60) for document in source.documents(n, composer)]

    monkeypatch.setattr("model.data.shards._OpenShard._tokens", lambda *_: None)
    from_text = ids(mine), ids(other)
    monkeypatch.undo()
    assert (ids(mine), ids(other)) == from_text
    tokens = ShardSet(str(index)).read(0, 0).tokens
    assert tokens is not None
    assert tokens.dtype == np.uint16
    monkeypatch.setattr("model.data.compose.Composer.text", None)
    assert ids(mine) == from_text[0], "the text was tokenised although its tokens are there"


def test_bytes_do_not_depend_on_where_the_files_lie(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        run(write(tmp_path / folder / "a.jsonl", DOCUMENTS), tmp_path / folder / "out")
    assert contents(tmp_path / "here" / "out") == contents(tmp_path / "there" / "out")
