"""What one GPU makes of this code, in under nine minutes: the tests that need one, then speed and memory of real sizes.

    python -m model.gpu_check                              all of it; writes docs/results/gpu.json and docs/results/gpu.md
    python -m model.gpu_check --out /tmp/gpu --only 1b     some of the measurements, elsewhere

Needs torch, pydantic, webdataset, tokenizers and safetensors, and pytest for the tests. Without a GPU the page says "not run".
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from schemas.commands.cli import Parser, command, positive

TESTS = "tests/model/gpu"
Result = dict[str, Any]


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit code 1 where a test failed or a measurement raised."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--out", default="docs/results", help="the folder of gpu.json and gpu.md (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=positive, default=530, help="nothing new is begun after this (default: %(default)s)"
    )
    parser.add_argument(
        "--only", nargs="*", metavar="NAME", help="measurements whose name contains one of these; no tests"
    )
    given = parser.parse_args(arguments)
    import torch

    from model.gpu.speed import MEASUREMENTS, environment
    from model.training.checkpoint import versions

    folder = Path(given.out)
    folder.mkdir(parents=True, exist_ok=True)
    report: Result = {"format": 1, "versions": versions(), "device": None, "tests": [], "measurements": []}
    if not torch.cuda.is_available():
        write(folder, report)
        print("no GPU here: the page says so")
        return 0
    begun = time.monotonic()
    report["device"] = environment()

    def keep(kind: str, result: Result) -> None:
        report[kind].append(result)
        report["seconds"] = time.monotonic() - begun
        write(folder, report)
        print(f"{report['seconds']:5.0f} s  {line(result)}", flush=True)

    for name, measure in MEASUREMENTS.items():
        if given.only and not any(part in name for part in given.only):
            continue
        if time.monotonic() - begun > given.seconds:
            keep("measurements", {"name": name, "status": "not run", "why": "out of time"})
        else:
            keep("measurements", attempt(name, measure))
    if not given.only:
        for result in run_tests(given.seconds - (time.monotonic() - begun)):
            keep("tests", result)
    failed = [
        result["name"] for kind in ("tests", "measurements") for result in report[kind] if result["status"] == "failed"
    ]
    print("failed: " + ", ".join(failed) if failed else "all passed")
    return 1 if failed else 0


def attempt(name: str, measure: Callable[[], Result]) -> Result:
    """A measurement; what it raises is its result."""
    import torch
    from torch._functorch import config as functorch

    try:
        figures = measure()
    except Exception as error:
        return {"name": name, "status": "failed", "why": f"{type(error).__name__}: {error}"[:600]}
    finally:
        functorch.activation_memory_budget = 1.0
        torch.compiler.reset()
        torch.cuda.empty_cache()
    return {"name": name, "status": "passed", **figures}


def run_tests(seconds: float) -> list[Result]:
    """Every test marked gpu, in a process of its own."""
    if importlib.util.find_spec("pytest") is None or not Path(TESTS).exists():
        return [{"name": TESTS, "status": "not run", "why": "needs pytest and the repository"}]
    record = Path(TESTS).resolve() / "junit.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        f"--junit-xml={record}",
        TESTS,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(30.0, seconds), check=False)
    except subprocess.TimeoutExpired:
        return [{"name": TESTS, "status": "failed", "why": f"still running after {seconds:.0f} s"}]
    if not record.exists():
        return [{"name": TESTS, "status": "failed", "why": (done.stdout + done.stderr)[-600:]}]
    results = [test_result(case) for case in ElementTree.parse(record).getroot().iter("testcase")]
    record.unlink()
    return results


def test_result(case: ElementTree.Element) -> Result:
    """A test of pytest's record."""
    result: Result = {"name": case.get("name", "?"), "status": "passed", "seconds": float(case.get("time", 0))}
    for kind in ("failure", "error", "skipped"):
        found = case.find(kind)
        if found is not None:
            result["status"] = "not run" if kind == "skipped" else "failed"
            result["why"] = (found.get("message") or "")[:400]
    return result


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
    if device is None:
        return "\n".join([*lines, "**Not run**: there was no GPU."]) + "\n"
    lines += [", ".join(f"{name} {shown(value)}" for name, value in device.items()), ""]
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
