"""What one GPU makes of this code, in under nine minutes: the tests that need one, then speed and memory of real sizes.

    python -m model.gpu_check                              all of it; writes docs/results/gpu.json and docs/results/gpu.md
    python -m model.gpu_check --out /tmp/gpu --only 1b     some of the measurements, elsewhere

Needs torch, pydantic, webdataset, tokenizers and safetensors, with what they need, and for the tests pytest, hypothesis and
soundfile. Each part is done apart, so that one which crashes or hangs loses nothing but itself, and the page is written after
each. Without a GPU it says "not run". `lst gpu-check` measures the pipeline's networks too, with the pipeline's packages.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.gpu.apart import CARD, Result, python, supervised
from schemas.commands.cli import Parser, command, positive

OUT = "docs/results"
SPEED = python("-m", "model.gpu.speed")
TESTS = "tests/model/gpu"
TESTS_NEED = ("pytest", "hypothesis", "soundfile")
EACH = {"measurements": 120.0, "tests": 90.0, "pipeline": 60.0}
"""Seconds that one of them may take."""
TESTS_UNTIL = 0.5
"""Share of the time after which no test is begun: the figures are wanted too."""
PIPELINE_SHARE = 0.15
"""Share of the time that the pipeline's measurements have, at most."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Measurements of the pipeline's networks, which this folder does not know: names, and the process that takes some of them
    and a record as its last arguments (`model.gpu.apart`)."""

    command: Sequence[str]
    names: Sequence[str]


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit code 1 where a test failed or a measurement raised."""
    return check(make_parser(__doc__).parse_args(arguments), None)


def make_parser(description: str | None, examples: str = "") -> Parser:
    """The options of a check."""
    parser = Parser(description, examples)
    parser.add_argument("--out", help=f"the folder of gpu.json and gpu.md (default: {OUT})")
    parser.add_argument(
        "--seconds", type=positive, default=530, help="everything is ended after this (default: %(default)s)"
    )
    parser.add_argument(
        "--only", nargs="*", metavar="NAME", help="measurements whose name contains one of these; no tests"
    )
    return parser


def check(given: Namespace, pipeline: Pipeline | None, *, on_card: bool = True) -> int:
    """Do all of it; the exit code of `main`. Not `on_card`: the pipeline's measurements alone, wherever they are done."""
    import torch

    from model.gpu.speed import MEASUREMENTS
    from model.training.checkpoint import versions

    folder = Path(given.out or OUT)
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(folder, versions())
    names = chosen(list(MEASUREMENTS) if on_card else [], given.only)
    further = chosen([] if pipeline is None else pipeline.names, given.only)
    if pipeline is None and not given.only:
        why = "left out here: `lst gpu-check` measures them, with the pipeline's packages"
        report.keep("pipeline", {"name": "HuBERT and Whisper", "status": "not run", "why": why})
    if on_card and not torch.cuda.is_available():
        report.keep_all("measurements", not_run(names, "there was no GPU"))
        report.keep_all("pipeline", not_run(further, "there was no GPU"))
        print("no GPU here: the page says so")
        return 0
    begun = time.monotonic()
    until = begun + given.seconds
    if not on_card:
        report.keep("measurements", {"name": CARD, "status": "passed", "card": "none: a rehearsal on the processor"})
    else:
        report.keep_all("measurements", measured(SPEED, [CARD, *names[:1]], until, EACH["measurements"]))
        if not given.only:
            report.keep_all("tests", tested(begun + TESTS_UNTIL * given.seconds))
    if pipeline is not None:
        share = min(until, time.monotonic() + (PIPELINE_SHARE if on_card else 1) * given.seconds)
        report.keep_all("pipeline", measured(pipeline.command, further, share, EACH["pipeline"]))
    report.keep_all("measurements", measured(SPEED, names[1:], until, EACH["measurements"]))
    failed = report.failed()
    print("failed: " + ", ".join(failed) if failed else "all passed")
    return 1 if failed else 0


def chosen(names: Sequence[str], parts: Sequence[str] | None) -> list[str]:
    """The names that contain one of the parts; all of them where none is asked for."""
    return [name for name in names if not parts or any(part in name for part in parts)]


def not_run(names: Sequence[str], why: str) -> Iterator[Result]:
    """What is said of measurements that were not begun."""
    return ({"name": name, "status": "not run", "why": why} for name in names)


class Report:
    """What is known so far: gpu.json and gpu.md in a folder, written after each result."""

    KINDS = ("tests", "measurements", "pipeline")

    def __init__(self, folder: Path, versions: Result) -> None:
        self._folder, self._begun = folder, time.monotonic()
        self._all: Result = {"format": 1, "versions": versions, "device": None, **{kind: [] for kind in self.KINDS}}
        write(folder, self._all)

    def keep(self, kind: str, result: Result) -> None:
        """Add a result to those of its kind and write all of it."""
        if result["name"] == CARD and result["status"] == "passed":
            self._all["device"] = {k: v for k, v in result.items() if k not in ("name", "status")}
        else:
            self._all[kind].append(result)
        seconds = time.monotonic() - self._begun
        if result["status"] != "not run":
            self._all["seconds"] = seconds
        write(self._folder, self._all)
        print(f"{seconds:5.0f} s  {line(result)}", flush=True)

    def keep_all(self, kind: str, results: Iterator[Result]) -> None:
        """Each of them as it comes."""
        for result in results:
            self.keep(kind, result)

    def failed(self) -> list[str]:
        """Names of what failed."""
        return [result["name"] for kind in self.KINDS for result in self._all[kind] if result["status"] == "failed"]


def measured(command: Sequence[str], names: Sequence[str], until: float, each: float) -> Iterator[Result]:
    """These measurements, in a process of their own, and in another one after each failure."""
    if not names:
        return
    with tempfile.TemporaryDirectory() as folder:
        done = set()
        for result in supervised([*command, *names], Path(folder) / "record", each=each, until=until):
            done.add(result["name"])
            yield result
    yield from not_run([name for name in names if name not in done], "out of time")


def tested(until: float) -> Iterator[Result]:
    """Every test marked gpu, likewise."""
    missing = [name for name in TESTS_NEED if importlib.util.find_spec(name) is None]
    if missing or not Path(TESTS).exists():
        yield from not_run([TESTS], f"needs the repository and {', '.join(missing or TESTS_NEED)}")
        return
    options = ("-q", "-m", "gpu", "-p", "no:cacheprovider", "-p", "model.gpu.recorder", TESTS, "--record")
    with tempfile.TemporaryDirectory() as folder:
        yield from supervised(
            python("-m", "pytest", *options), Path(folder) / "record", each=EACH["tests"], until=until
        )


def line(result: Result) -> str:
    """A result in one line."""
    figures = {k: v for k, v in result.items() if k not in ("name", "status", "kernels")}
    told = ", ".join(f"{name} {shown(value)}" for name, value in figures.items())
    return f"{result['status']:<8} {result['name']}: {result.get('why', told)}"


def shown(value: Any) -> str:
    """A figure as the page has it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def write(folder: Path, report: Result) -> None:
    """The JSON and the page."""
    (folder / "gpu.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (folder / "gpu.md").write_text(page(report), encoding="utf-8")


def page(report: Result) -> str:
    """The report for people."""
    lines = ["# On a GPU", "", "Written by `lst gpu-check`; nothing here is typed in by hand.", ""]
    if report["device"] is not None:
        lines += [", ".join(f"{name} {shown(value)}" for name, value in report["device"].items()), ""]
    if "seconds" not in report:
        lines += ["**Not run**: there was no GPU.", ""]
    else:
        lines += [f"torch {report['versions']['torch']}; {report['seconds']:.0f} s in all.", ""]
    lines += ["## Speed and memory", ""]
    for result in report["measurements"]:
        if result["status"] == "passed":
            figures = {k: v for k, v in result.items() if k not in ("name", "status", "kernels")}
            rows = [f"| {name} | {shown(value)} |" for name, value in figures.items()]
            lines += [f"### {result['name']}", "", "| figure | |", "|---|---|", *rows, ""]
    without = [result for result in report["measurements"] if result["status"] != "passed"]
    lines += [*(f"* {result['name']}: **{result['status']}**: {said(result, 600)}" for result in without), ""]
    lines += [*table_of_batches(report["pipeline"]), "", "## Tests", ""]
    lines += ["| test | result | seconds |", "|---|---|---|"] if report["tests"] else ["**Not run**."]
    for result in report["tests"]:
        lines.append(f"| {result['name']} | {result['status']} {said(result)} | {result.get('seconds', 0):.1f} |")
    return "\n".join(lines) + "\n"


def said(result: Result, most: int = 160) -> str:
    """Why it did not pass, fit for a cell of a table."""
    return " ".join(result.get("why", "").split())[:most].replace("|", "\\|")


BATCH_COLUMNS = {
    "rows_per_forward": "rows a forward pass",
    "forwards": "forward passes",
    "audio_per_second": "seconds of audio a second",
    "disagreement": "differs from float32",
    "peak_mib": "peak MiB",
    "waiting": "waiting",
}
"""Figures of a measurement of the pipeline, and how its table heads them."""


def table_of_batches(results: Sequence[Result]) -> list[str]:
    """The pipeline's networks, a row each."""
    heads = ["network", *BATCH_COLUMNS.values()]
    lines = ["## Batches of the pipeline", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for result in results:
        if result["status"] == "passed":
            cells = [shown(result[name]) for name in BATCH_COLUMNS]
        else:
            cells = [f"**{result['status']}**: {said(result)}", *[""] * (len(BATCH_COLUMNS) - 1)]
        lines.append(f"| {' | '.join([result['name'], *cells])} |")
    explained = (
        "Differs: the share of units, or of words heard, that are not those of float32. Peak: what the process held at most, of "
        "the card's memory, beside what it held before the network was loaded. Waiting: the share of the stage's time in which "
        "the network did not run."
    )
    return [*lines, "", explained]


if __name__ == "__main__":
    sys.exit(main())
