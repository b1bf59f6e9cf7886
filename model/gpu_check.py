"""What one GPU makes of this code, in under nine minutes: the tests that need one, then speed and memory of real sizes.

    python -m model.gpu_check                              all of it; writes docs/results/gpu.json and docs/results/gpu.md
    python -m model.gpu_check --out /tmp/gpu --only 1b     some of the measurements, elsewhere

Needs torch, pydantic, webdataset, tokenizers and safetensors, with what they need, and for the tests pytest, hypothesis and
soundfile. Each part is done apart, so that one which crashes or hangs loses nothing but itself, and the page is written after
each. Without a GPU it says "not run".
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from model.gpu.apart import CARD, Result, python, supervised
from schemas.commands.cli import Parser, command, positive

TESTS = "tests/model/gpu"
TESTS_NEED = ("pytest", "hypothesis", "soundfile")
EACH = {"measurements": 120.0, "tests": 90.0}
"""Seconds that one of them may take."""
TESTS_UNTIL = 0.55
"""Share of the time after which no test is begun: the figures are wanted too."""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit code 1 where a test failed or a measurement raised."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--out", default="docs/results", help="the folder of gpu.json and gpu.md (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=positive, default=530, help="everything is ended after this (default: %(default)s)"
    )
    parser.add_argument(
        "--only", nargs="*", metavar="NAME", help="measurements whose name contains one of these; no tests"
    )
    given = parser.parse_args(arguments)
    import torch

    from model.gpu.speed import MEASUREMENTS
    from model.training.checkpoint import versions

    folder = Path(given.out)
    folder.mkdir(parents=True, exist_ok=True)
    report: Result = {"format": 1, "versions": versions(), "device": None, "tests": [], "measurements": []}
    if not torch.cuda.is_available():
        write(folder, report)
        print("no GPU here: the page says so")
        return 0
    begun = time.monotonic()
    names = [name for name in MEASUREMENTS if not given.only or any(part in name for part in given.only)]

    def keep(kind: str, result: Result) -> None:
        if result["name"] == CARD and result["status"] == "passed":
            report["device"] = {k: v for k, v in result.items() if k not in ("name", "status")}
        else:
            report[kind].append(result)
        report["seconds"] = time.monotonic() - begun
        write(folder, report)
        print(f"{report['seconds']:5.0f} s  {line(result)}", flush=True)

    until = begun + given.seconds
    for result in measured([CARD, *names[:1]], until):
        keep("measurements", result)
    if not given.only:
        for result in tested(begun + TESTS_UNTIL * given.seconds):
            keep("tests", result)
    for result in measured(names[1:], until):
        keep("measurements", result)
    failed = [
        result["name"] for kind in ("tests", "measurements") for result in report[kind] if result["status"] == "failed"
    ]
    print("failed: " + ", ".join(failed) if failed else "all passed")
    return 1 if failed else 0


def measured(names: Sequence[str], until: float) -> Iterator[Result]:
    """These measurements, in a process of their own, and in another one after each failure."""
    with tempfile.TemporaryDirectory() as folder:
        command = python("-m", "model.gpu.speed", *names)
        done = set()
        for result in supervised(command, Path(folder) / "record", each=EACH["measurements"], until=until):
            done.add(result["name"])
            yield result
    yield from ({"name": name, "status": "not run", "why": "out of time"} for name in names if name not in done)


def tested(until: float) -> Iterator[Result]:
    """Every test marked gpu, likewise."""
    missing = [name for name in TESTS_NEED if importlib.util.find_spec(name) is None]
    if missing or not Path(TESTS).exists():
        why = f"needs the repository and {', '.join(missing or TESTS_NEED)}"
        yield {"name": TESTS, "status": "not run", "why": why}
        return
    options = ("-q", "-m", "gpu", "-p", "no:cacheprovider", "-p", "model.gpu.recorder", TESTS, "--record")
    with tempfile.TemporaryDirectory() as folder:
        yield from supervised(
            python("-m", "pytest", *options), Path(folder) / "record", each=EACH["tests"], until=until
        )


def line(result: Result) -> str:
    """A result in one line."""
    figures = {k: v for k, v in result.items() if k not in ("name", "status", "why", "kernels")}
    said = ", ".join(f"{name} {shown(value)}" for name, value in figures.items())
    return f"{result['status']:<8} {result['name']}: {said}{result.get('why', '')}"


def shown(value: Any) -> str:
    """A figure as the page has it."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def write(folder: Path, report: Result) -> None:
    """The JSON and the page."""
    (folder / "gpu.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (folder / "gpu.md").write_text(page(report), encoding="utf-8")


def page(report: Result) -> str:
    """The report for people."""
    lines = ["# On a GPU", "", "Written by `python -m model.gpu_check`; nothing here is typed in by hand.", ""]
    device = report["device"]
    if device is None and not (report["measurements"] or report["tests"]):
        return "\n".join([*lines, "**Not run**: there was no GPU."]) + "\n"
    lines += [", ".join(f"{name} {shown(value)}" for name, value in (device or {}).items()), ""]
    lines += [f"torch {report['versions']['torch']}; {report['seconds']:.0f} s in all.", "", "## Speed and memory", ""]
    for result in report["measurements"]:
        lines += [f"### {result['name']}", ""]
        if result["status"] != "passed":
            lines += [f"**{result['status']}**: {result.get('why', '')}", ""]
            continue
        figures = {k: v for k, v in result.items() if k not in ("name", "status", "kernels")}
        lines += ["| figure | |", "|---|---|", *(f"| {name} | {shown(value)} |" for name, value in figures.items()), ""]
    lines += ["## Tests", "", "| test | result | seconds |", "|---|---|---|"]
    for result in report["tests"]:
        why = " ".join(result.get("why", "").split())[:160].replace("|", "\\|")
        lines.append(f"| {result['name']} | {result['status']} {why} | {result.get('seconds', 0):.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
