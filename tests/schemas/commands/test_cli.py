"""One frame for every command: a mistake is a sentence with its exit code, wherever it happened."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from schemas.commands.cli import Parser, amount, count, natural, on_one_line, positive, run_command, share
from schemas.config import ConfigError as ConfigErrorOfConfig
from schemas.errors import ConfigError, DataError, ExitCode, ModelError, TryAgain, UserError

ROOT = Path(__file__).resolve().parents[3]


def raising(error: BaseException) -> Callable[[Sequence[str] | None], int]:
    """A command that meets `error`."""

    def main(arguments: Sequence[str] | None) -> int:
        raise error

    return main


def in_a_worker(error: Exception) -> Exception:
    """`error` as Ray Data hands it to the driver: the worker's exception inside two of Ray's own."""
    from ray.exceptions import RayTaskError, UserCodeException

    wrapped = RayTaskError("map", "Traceback of the worker", error).as_instanceof_cause()
    outer = UserCodeException("failed")
    outer.__cause__ = wrapped
    return outer


def while_a_class_is_made(error: BaseException) -> BaseException:
    """`error` as Python 3.11 raises it out of a `__set_name__`, of which imports have many."""
    try:
        raise RuntimeError("Error calling __set_name__") from error
    except RuntimeError as wrapped:
        return wrapped


def while_tidying_up(stop: BaseException) -> BaseException:
    """What a `finally` raises that was not ready to be reached."""
    try:
        try:
            raise stop
        finally:
            raise AttributeError("saved_nargs")
    except AttributeError as error:
        return error


def while_an_actor_is_made(error: Exception) -> Exception:
    """`error` as Ray tells of it when it was raised by an actor's constructor: as text."""
    from ray.exceptions import ActorDiedError, RayTaskError

    text = f"Traceback (most recent call last):\n{type(error).__module__}.{type(error).__name__}: {error}"
    return ActorDiedError(RayTaskError("StageWorker.__init__", text, error))


def of_a_client(name: str) -> Exception:
    """An exception of botocore, which wraps none of it in an OSError."""
    return type(name, (Exception,), {"__module__": "botocore.exceptions"})("Unable to go on")  # type: ignore[no-any-return]


CASES: list[tuple[BaseException, ExitCode, str]] = [
    (
        ConfigError("there is no stage 'word'", "write 'words'"),
        ExitCode.CONFIGURATION,
        "no stage 'word': write 'words'",
    ),
    (DataError("t.parquet is damaged"), ExitCode.STORAGE, "t.parquet is damaged"),
    (ModelError("no model at models/x"), ExitCode.CONFIGURATION, "no model at models/x"),
    (TryAgain("a node went away"), ExitCode.TRY_AGAIN, "a node went away"),
    (in_a_worker(DataError("t.parquet is damaged")), ExitCode.STORAGE, "t.parquet is damaged"),
    (in_a_worker(PermissionError(13, "Permission denied", "/out")), ExitCode.STORAGE, "/out: Permission denied"),
    (while_an_actor_is_made(DataError("w.bin is damaged", "fetch it")), ExitCode.STORAGE, "w.bin is damaged: fetch it"),
    (FileNotFoundError(2, "No such file or directory", "x.yaml"), ExitCode.CONFIGURATION, "x.yaml: No such file"),
    (
        OSError(28, "No space left on device", "/out/a"),
        ExitCode.STORAGE,
        "/out/a: the disk that this is written to is full",
    ),
    (UnicodeDecodeError("utf-8", b"a\xff", 1, 2, "invalid"), ExitCode.CONFIGURATION, "byte 1 is ff"),
    (
        ModuleNotFoundError("no", name="lm_eval.api"),
        ExitCode.CONFIGURATION,
        "uv pip install -c constraints.hashes.txt -e '.[lm-eval]'",
    ),
    (KeyboardInterrupt(), ExitCode.TRY_AGAIN, "stopped by SIGINT"),
    (OSError(errno.ENOSPC, "No space left", "read", None, "written"), ExitCode.STORAGE, "written: the disk"),
    (OSError(errno.ENOSPC, "No space left"), ExitCode.STORAGE, "the disk that this is written to is full"),
    (of_a_client("NoCredentialsError"), ExitCode.STORAGE, "no usable credentials for the storage: Unable"),
    (of_a_client("EndpointConnectionError"), ExitCode.TRY_AGAIN, "gave no answer: Unable to go on; run the same"),
    (while_tidying_up(KeyboardInterrupt("SIGUSR1")), ExitCode.TRY_AGAIN, "stopped by SIGUSR1"),
    (while_a_class_is_made(KeyboardInterrupt("SIGTERM")), ExitCode.TRY_AGAIN, "stopped by SIGTERM"),
]


@pytest.mark.parametrize("error,code,sentence", CASES, ids=lambda value: type(value).__name__)
def test_what_a_user_can_mend_is_a_sentence(
    error: BaseException, code: ExitCode, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(raising(error), []) == code
    said = capsys.readouterr().err
    assert sentence in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1, "one line, no traceback"
    assert run_command(raising(error), ["--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_this_code_keeps_its_traceback() -> None:
    for error in (KeyError("x"), in_a_worker(KeyError("x"))):
        with pytest.raises(type(error)):
            run_command(raising(error), [])


def test_codes_are_all_different_and_an_error_survives_a_process() -> None:
    assert len(set(ExitCode)) == len(ExitCode.__members__)
    error = pickle.loads(pickle.dumps(DataError("a", "b", ExitCode.TRY_AGAIN)))
    assert (str(error), error.code, type(error)) == ("a: b", ExitCode.TRY_AGAIN, DataError)
    assert ConfigErrorOfConfig is ConfigError
    assert issubclass(ConfigError, UserError)


def test_a_wrong_command_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser("What it does.", "  lst x\n")
    parser.add_argument("--steps", type=count, required=True)
    for words, complaint in (
        ([], "required: --steps"),
        (["--steps", "0"], "0 is not a whole number"),
        (["-x"], "--steps"),
    ):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args(words)
        assert ended.value.code == ExitCode.CONFIGURATION
        said = capsys.readouterr().err
        assert complaint in said
        assert said.count("\n") == 1


@pytest.mark.parametrize(
    "kind,takes,refuses",
    [
        (count, ["1", "250"], ["0", "-3", "1.5", "", "9223372036854775808"]),
        (natural, ["0", "7"], ["-1", "nan"]),
        (positive, ["0.5", "1e-4"], ["0", "-1", "nan", "inf", "1,5"]),
        (amount, ["0", "0.8"], ["-0.1", "nan", "inf"]),
        (share, ["0", "0.95", "1"], ["1.01", "-1", "nan"]),
    ],
)
def test_numbers_of_the_command_line_have_bounds(
    kind: Callable[[str], float], takes: list[str], refuses: list[str]
) -> None:
    assert [kind(text) for text in takes] == [float(text) for text in takes]
    for text in refuses:
        with pytest.raises(argparse.ArgumentTypeError, match=re.escape(f"{text} is not a ")):
            kind(text)


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    code = (
        "import sys; from schemas.commands.cli import run_command\n"
        "sys.exit(run_command(lambda words: [print('x' * 1000) for _ in range(10_000)] and 0, []))"
    )
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{code}" | head -n 1 > /dev/null; echo ${{PIPESTATUS[0]}}'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
@pytest.mark.parametrize("words", [["--help"], ["convert-task", "--help"], ["configuration", "kmeans"]])
def test_what_cannot_be_printed_is_an_error(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "jobs.lst", *words], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    said = "error: the disk that this is written to is full; make room, and run it again\n"
    assert (done.returncode, done.stderr) == (ExitCode.STORAGE, said)


def test_a_name_cannot_steer_a_terminal_or_begin_a_line() -> None:
    assert on_one_line("a\nb\x1b[31m\u202ec\u2028.flac") == "a\\nb\\x1b[31m\\u202ec\\u2028.flac"
    persian = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    assert on_one_line(persian) == persian


def test_what_a_terminal_cannot_show_is_escaped() -> None:
    code = "import sys; from schemas.commands.cli import run_command\nrun_command(lambda words: print('sɛd', '\\udce9') or 0, [])"
    for encoding, said in (("latin-1", b"s\\u025bd \\udce9\n"), ("utf-8", "sɛd \\udce9\n".encode())):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, env=environment, check=True)
        assert done.stdout == said


@pytest.mark.parametrize(
    "module", ["model.export", "jobs.exports.export", "jobs.train_tokenizer", "jobs.train_unit_bpe"]
)
def test_what_is_written_here_is_not_written_to_a_url(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Instead of to a folder called `s3:`."""
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main(["x", "--out", "s3://bucket/out"])
    assert ended.value.code == ExitCode.CONFIGURATION
    assert "s3://bucket/out is a URL" in capsys.readouterr().err
