"""Twenty and more ways of getting it wrong: one sentence each, the right exit code, no traceback, and before the work."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.lst import main
from schemas.commands.cli import run_command
from schemas.storage import retry
from tests.jobs.small_corpus import document, make_centroids, make_corpus, write_spec
from tests.jobs.synthetic_run import make_run
from tests.model.training.training_runs import run_document, write_data, write_run

NOT_UTF8 = os.fsdecode(b"caf\xe9")
LOGGED = re.compile(r"^\d\d:\d\d:\d\d .*\n", re.MULTILINE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with its spec, a finished run of the pipeline, shards, a trained model, and a plain file that is no folder."""
    folder = tmp_path_factory.mktemp("misuse")
    make_corpus(folder / "audio")
    spec = document(folder / "audio", folder / "out", make_centroids(folder / "centroids"))
    write_spec(folder / "spec.yaml", spec)
    write_data(folder / "data")
    run = run_document(folder / "data", folder / "run")
    assert main(["train", str(write_run(run, folder / "run.yaml")), "budget.steps=1"]) == 0
    make_run(folder / "synthetic")
    (folder / "file").write_text("no folder")
    (folder / "latin.jsonl").write_bytes(b'{"task": "caf\xe9"}\n')
    (folder / "latin.txt").write_bytes(b"caf\xe9\n")
    (folder / "broken.json").write_text('{"format": 1, "shards": [')
    line = (
        '{"id": "%s", "group": "g", "prompt": {"text": "a"}, "endings": [{"text": "b"}, {"text": "c"}], "answer": 0}\n'
    )
    (folder / "task.jsonl").write_text('{"format": 1, "task": "t", "cards": null}\n' + line % "one" + line % "two")
    (folder / "empty.yaml").write_text("")
    (folder / "zero.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    (folder / "broken.npy").write_bytes(b"\x93NUMPY no")
    return folder


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and complaint of a command line."""
    capsys.readouterr()
    try:
        code = main(list(words))
    except SystemExit as ended:  # argparse
        code = int(ended.code or 0)
    complaint = LOGGED.sub("", capsys.readouterr().err)  # what a command says of its work before it fails
    assert complaint.startswith("error: "), complaint
    assert complaint.count("\n") == 1, complaint
    return int(code), complaint


CASES: dict[str, tuple[str, int, str]] = {
    "no such command": ("tokenise", 2, "did you mean 'tokenize'?"),
    "no such option": ("gc --config {}/spec.yaml --stail", 2, "--stail"),
    "no such configuration": ("tokenize --config {}/none.yaml", 2, "none.yaml"),
    "no such field": ("tokenize --config {}/spec.yaml stages.unit.layer=1", 2, "did you mean 'units'?"),
    "a field of another type": ("tokenize --config {}/spec.yaml kmeans.num_units=many", 2, "kmeans.num_units"),
    "no such source": ("tokenize --config {}/spec.yaml source.uri={}/none", 2, "none"),
    "no GPU for a stage": (
        "tokenize --config {}/spec.yaml stages.words.backend=ctc stages.words.model=assets/tiny-ctc stages.words.device=cuda",
        2,
        "set resources.words.gpus=1",
    ),
    "an output that is no folder": ("tokenize --config {}/spec.yaml output={}/file", 2, "/file"),
    "inspect before there is a run": ("inspect --config {}/spec.yaml output={}/none", 2, "there are no segments"),
    "report before there is a run": ("report --config {}/spec.yaml output={}/none", 2, "run"),
    "centroids that are none": ("import-centroids {}/file {}/codebook", 2, "file"),
    "a broken index": ("card {}/broken.json", 3, "broken.json"),
    "no such index": ("train-unit-bpe --shards {}/none/index.json --out {}/bpe.json", 2, "none/index.json"),
    "no such run": ("export-model {}/none --out {}/weights", 2, "neither a checkpoint nor a run"),
    "nothing to plot": ("plots {}/none", 2, "does not exist"),
    "an impossible mix": ("describe configs/model/tiny.yaml --speech 2", 2, "speech"),
    "a configuration that is not UTF-8": ("tokenize --config {}/latin.jsonl", 2, "latin.jsonl is not UTF-8"),
    "a configuration that is no YAML": ("tokenize --config {}/broken.json", 2, "broken.json is not valid YAML"),
    "no such text": ("train-tokenizer {}/none.txt --size 300 --out {}/tok.json", 2, "none.txt"),
    "a text that is not UTF-8": (
        "train-tokenizer {}/latin.txt --size 300 --out {}/tok.json",
        2,
        "latin.txt is not UTF-8",
    ),
    "a task that is not UTF-8": ("score {}/latin.jsonl --checkpoint {}/run", 2, "not UTF-8"),
    "no such checkpoint": ("score {}/task.jsonl --checkpoint {}/none", 2, "none"),
    "a prompt that is not UTF-8": (f"generate --checkpoint {{}}/run --prompt {NOT_UTF8}", 2, "not UTF-8"),
    "results into a file's inside": ("generate --checkpoint {}/run --prompt a --json {}/file/out.json", 2, "file"),
    "units that are damaged": ("generate --checkpoint {}/run --speech {}/broken.npy", 2, "broken.npy"),
    "no steps": ("transfer finetune asr --from {}/run --shards {}/i.json --steps 0 --out {}/x", 2, "0 is not a whole"),
    "shards of another model": ("transfer asr --checkpoint {}/run --shards {}/none.json", 2, "none.json"),
    "a run into a file": ("train {}/run.yaml output_dir={}/file", 2, "file"),
    "no such device": ("score {}/task.jsonl --checkpoint {}/run --device cuda:77", 2, "this machine has"),
    "no device at all": ("score {}/task.jsonl --checkpoint {}/run --device abacus", 2, "abacus is no device of torch"),
    "an output on a storage that nobody knows": ("tokenize --config {}/spec.yaml output=s4://b/out", 2, "s4://b/out"),
    "a storage that nobody knows": (
        "tokenize --config {}/spec.yaml source.uri=s4://bucket/audio",
        2,
        "s4://bucket/audio",
    ),
    "a bucket that was forgotten": ("tokenize --config {}/spec.yaml source.uri=s3:///audio", 2, "names no bucket"),
    "an output without a bucket": (
        "tokenize --config {}/spec.yaml output=s3:// --dry-run",
        2,
        "write s3://NAME/folder",
    ),
    "one stroke too few": ("tokenize --config {}/spec.yaml output=s3:/bucket/out", 2, "s3:/bucket/out names no bucket"),
    "a run without a bucket": ("train {}/run.yaml output_dir=s3://", 2, "s3:// names no bucket"),
    "units without a bucket": ("import-units {}/empty.yaml --out s3://", 2, "s3:// names no bucket"),
    "a corpus without a bucket": ("init s3:/corpus --out {}/new.yaml", 2, "s3:/corpus names no bucket"),
    "texts of no host": ("text-shards https:///x.txt --out {}/texts", 2, "names no host"),
    "a field of either type as neither": (
        "tokenize --config {}/spec.yaml resources.words.gpus=many",
        2,
        "spec.yaml: resources.words.gpus: Input should be a valid number",
    ),
    "a configuration without content": ("fit-kmeans --config {}/empty.yaml", 2, "found nothing"),
    "a damaged text table": ("text-shards {}/zero.parquet --out {}/texts", 3, "zero.parquet is damaged"),
    "a broken index for tokens of units": (
        "train-unit-bpe --shards {}/broken.json --out {}/bpe.json",
        3,
        "broken.json",
    ),
    "a field that is none": ("configuration nosuchfield", 2, "no field has 'nosuchfield'"),
    "a sound under no known suffix": ("generate --checkpoint {}/run --prompt a --wav {}/out.xyz", 2, "name it .wav"),
    "nothing asked": ("sql {}/out ;", 2, "the query is empty"),
    "no such port": ("demo {}/run --port 99999", 2, "99999 is no port"),
    "a device of other machines": (
        "score {}/task.jsonl --checkpoint {}/run --device mps",
        2,
        "--device mps: this machine",
    ),
    "fewer tokens than none": (
        "generate --checkpoint {}/run --prompt a --max-tokens -3",
        2,
        "-3 is not a whole number",
    ),
    "lines that are no losses": ("plots {}/task.jsonl --out {}/p.png", 2, "task.jsonl holds no losses"),
    "a picture of no known kind": ("plots {}/run --out {}/p.xyz", 2, "name it .png, .pdf, .svg"),
    "a folder for a page": ("listen {}/run --out {}/data", 2, "/data is a folder"),
    "a tokenizer into a folder": ("train-tokenizer {}/latin.txt --size 300 --out {}/data", 2, "/data is a folder"),
    "units that are none": ("import-units {}/empty.yaml --out {}/units", 4, "not one row became a sample"),
    "text where units are wanted": (
        "fit-boundaries --shards {}/data/text/index.json --out {}/b.npz",
        2,
        "is a set of text",
    ),
    "no SQL": ("sql {}/synthetic/out selct", 2, "DuckDB says: Parser Error: syntax error at or near"),
    "no such patching": ("generate --checkpoint {}/run --prompt a --patching words", 2, "words"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_sentence(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, code, sentence = CASES[name]
    found, complaint = told(capsys, *(word.replace("{}", str(place)) for word in line.split()))
    assert sentence in complaint
    assert found == code, complaint


def flip(path: Path) -> None:
    """One bit of a file's middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_flipped_bit_in_a_table_a_shard_and_a_checkpoint(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, _ = make_run(tmp_path)
    spec = str(write_spec(tmp_path / "spec.yaml", plan.spec.model_dump(mode="json")))
    tables = list(Path(plan.store.root).glob("tables/segments/*.parquet"))
    for table in tables:
        flip(table)
    for words in (["inspect"], ["inspect", "--list"]):
        code, complaint = told(capsys, *words, "--config", spec)
        assert code == 3
        assert any(table.name in complaint for table in tables)
    assert main(["verify", "--config", spec, "--no-shards"]) == 4
    said = capsys.readouterr().out
    assert all(table.name in said for table in tables)

    write_data(tmp_path / "data")
    run = run_document(tmp_path / "data", tmp_path / "run")
    config = str(write_run(run, tmp_path / "run.yaml"))
    assert main(["train", config, "budget.steps=2"]) == 0
    shard = tmp_path / "data" / "speech" / "shard-00002.tar"
    flip(shard)
    code, complaint = told(capsys, "train", config, f"output_dir={tmp_path / 'other'}")
    assert code == 3
    assert shard.name in complaint
    exported = tmp_path / "exported"
    assert main(["export-model", str(tmp_path / "run"), "--out", str(exported)]) == 0
    for name in ("model.safetensors", "config.json"):
        (exported / name).write_bytes((exported / name).read_bytes()[:-100])
        code, complaint = told(capsys, "generate", "--checkpoint", str(exported), "--prompt", "a")
        assert code == 3
        assert name in complaint
    weights = next((tmp_path / "run" / "checkpoints").glob("step-*/*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    code, complaint = told(capsys, "generate", "--checkpoint", str(tmp_path / "run"), "--prompt", "a")
    assert code == 3
    assert "cannot read the checkpoint" in complaint


def test_a_name_that_steers_the_terminal_is_shown_escaped(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, complaint = told(capsys, "generate", "--prompt", "a", "--checkpoint", f"{place}/\x1b[31mred")
    assert (code, "/\\x1b[31mred is neither" in complaint) == (2, True)
    code, complaint = told(capsys, f"\x1b[31m{NOT_UTF8}")
    assert (code, "\x1b" in complaint, complaint.isascii()) == (2, False, True)


def test_a_variable_that_is_no_number_is_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LST_RETRY_SECONDS", "soon")
    monkeypatch.setattr(retry, "RETRY_SECONDS", retry._seconds("soon"))
    assert run_command(lambda words: retry.asked_again("a file", lambda: 0), []) == 2
    assert capsys.readouterr().err == "error: LST_RETRY_SECONDS=soon: write a number of seconds, such as 240\n"


def denied(path: Any, mode: int, **_: Any) -> bool:
    """`os.access` where nothing may be written: root, whom tests may run as, is never refused."""
    return not mode & os.W_OK


@pytest.mark.parametrize(
    "line,change,code,sentence",
    [
        ("train {}/run.yaml output_dir={}/locked", ("access", denied), 3, "nothing can be written to this folder"),
        ("score {}/task.jsonl --checkpoint {}/run --json {}/s.json", ("access", denied), 3, "nothing can be written"),
        ("lm-eval --checkpoint {}/run --tasks hellaswag", ("lm_eval", None), 2, "-e '.[lm-eval]'"),
    ],
)
def test_what_this_machine_lacks_is_said(
    line: str,
    change: tuple[str, Callable[..., Any] | None],
    code: int,
    sentence: str,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, replacement = change
    words = [word.replace("{}", str(place)) for word in line.split()]
    if name == "access":
        monkeypatch.setattr(os, "access", replacement)
    else:
        monkeypatch.setitem(sys.modules, name, None)
    found, complaint = told(capsys, *words)
    assert sentence in complaint
    assert found == code
