"""Score a task: which of the endings does a model find likeliest?

    python -m model.score task.jsonl --checkpoint runs/train-tiny
    python -m model.score task.jsonl --checkpoint runs/lst --directions 'S->S,T->T' --against runs/plain --json scores.json
    python -m model.score --losses 50 --checkpoint runs/lst       where the loss of speech lies, what context is worth

Endings are compared by the sum of their log-likelihood given the prompt (sum), by that per token or unit (token), per second of
speech or character of text (length), and by slamkit's mean over prompt and ending (whole). Where items come as twins (two
prompts, the same two endings), how often each prompt likes its own ending better than the other prompt does stands below:
there, what an ending costs by itself cancels. Intervals: 95 %, clusters of items resampled; p: exact sign test, Holm's over the
rows of a table.
docs/scoring.md says what the documents look like and what a model is told about patches.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, get_args

from model.inference.placement import DEVICE_HELP, open_trained
from model.scoring.documents import DIRECTIONS, Direction
from schemas.cards import hash_file
from schemas.commands.cli import Parser, begin, command, count, out_file
from schemas.config import ConfigError
from schemas.tasks import Task, read_task

if TYPE_CHECKING:
    from model.scoring.accuracy import Twins
    from model.scoring.scorer import Scored

SCORES_FORMAT = 1
OF_TASKS = ("task", "against", "directions", "patching", "max_elements")
"""What --losses does not read."""
ALL = "all"
CELL = 25
"""Width of a column of the tables: a figure, its interval, and room between."""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Score a task, or held-out losses, and print the tables."""
    given = _parser().parse_args(arguments)
    if given.losses:
        _check_losses(given)
    begin(f"loading {given.checkpoint}")
    import torch

    from model.training.checkpoint import versions

    given.dtype = given.dtype or ("fp64" if given.device == "cpu" else "fp32")
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.losses:
        return _losses(given)
    if given.task is None:
        raise ConfigError("give a task file (schemas/tasks.py), or --losses for tables of held-out speech")
    task = read_task(given.task)
    directions = parse_directions(given.directions)
    scored, facts = _score(task, given.checkpoint, directions, given)
    report: dict[str, Any] = {
        "format": SCORES_FORMAT,
        "task": {"name": task.header.task, "sha256": hash_file(given.task), "items": len(task.items)},
        "patching": given.patching,
        "precision": given.dtype,
        "versions": versions(),
        "model": facts,
        "accuracies": accuracies(scored),
        "preferences": preferences(scored),
        "items": [asdict(item) for item in scored],
    }
    title = f"{task.header.task}: {given.checkpoint} at step {facts['step']}"
    _print_accuracies(title, report["accuracies"])
    _print_preferences(f"{title}: twins", report["preferences"])
    if given.against:
        other, other_facts = _score(task, given.against, directions, given)
        report["against"] = {
            "model": other_facts,
            "accuracies": accuracies(other),
            "preferences": preferences(other),
            "items": [asdict(item) for item in other],
        }
        report["differences"] = accuracies(scored, other)
        report["preference_differences"] = preferences(scored, other)
        title = f"{task.header.task}: {given.against} at step {other_facts['step']}"
        _print_accuracies(title, report["against"]["accuracies"])
        _print_preferences(f"{title}: twins", report["against"]["preferences"])
        title = f"{given.checkpoint} less {given.against}, paired"
        _print_accuracies(title, report["differences"])
        _print_preferences(f"{title}: twins", report["preference_differences"])
    _print_left_out(task, scored, directions)
    if given.json:
        given.json.write_text(json.dumps(report, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"wrote {given.json}")
    return 0


def _parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument(
        "task", nargs="?", help="a task file (schemas/tasks.py); for speech one of jobs/prepare_task.py"
    )
    parser.add_argument(
        "--losses", type=count, metavar="N",
        help="instead of a task: tables over N held-out utterances of the run's own data (its shards must be there)",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", required=True, metavar="DIR", help="a run's output_dir, or one of its checkpoints"
    )
    parser.add_argument("--against", metavar="DIR", help="another, to compare with item by item")
    parser.add_argument(
        "--directions", default=",".join(DIRECTIONS), metavar="A,B", help="of prompt and ending (default: %(default)s)"
    )
    parser.add_argument(
        "--patching", default="auto",
        help="auto (default): as trained, but not told where the words of the ending are; aligned; static:SIZE; dynamic:MIN:MAX",
    )  # fmt: skip
    parser.add_argument(
        "--dtype",
        choices=["fp64", "fp32", "bf16"],
        help="default: fp64 on a CPU, where batching then does not show; fp32 on a GPU; bf16: its products alone, as in training",
    )
    parser.add_argument(
        "--max-elements", type=count, default=8192, metavar="N", help="of a batch (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help=DEVICE_HELP)
    parser.add_argument("--threads", type=count, help="CPU threads; torch's choice otherwise")
    parser.add_argument("--json", type=out_file, metavar="OUT", help="write every item's scores and all accuracies")
    return parser


def _check_losses(given: argparse.Namespace) -> None:
    """Raises ConfigError where something was asked for that tables of held-out speech have no use for."""
    parser = _parser()
    unread = [name for name in OF_TASKS if getattr(given, name) != parser.get_default(name)]
    if unread:
        names = ", ".join(name if name == "task" else f"--{name.replace('_', '-')}" for name in unread)
        raise ConfigError(
            f"--losses measures one checkpoint on its own held-out speech and reads no {names}",
            "leave that out, and run it once for each checkpoint",
        )


def _losses(given: argparse.Namespace) -> int:
    from model.scoring.losses import describe, measure_losses

    found = measure_losses(open_trained(given.checkpoint, given.device), given.losses, given.dtype)
    print(describe(found))
    if given.json:
        given.json.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
        print(f"wrote {given.json}")
    return 0


def parse_directions(text: str) -> list[Direction]:
    """Directions from a list with commas.

    Raises:
        ConfigError: one of them is unknown.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    found = [direction for name in names for direction in get_args(Direction) if direction == name]
    if len(found) < len(names) or not names:
        raise ConfigError(f"--directions {text!r}: give one or more of {', '.join(DIRECTIONS)}, with commas between")
    return found


def _score(
    task: Task, checkpoint: str, directions: Sequence[Direction], given: argparse.Namespace
) -> tuple[list[Scored], dict[str, Any]]:
    from tqdm import tqdm

    from model.scoring.scorer import score_task

    trained = open_trained(checkpoint, given.device)
    with tqdm(desc="score", unit="item", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        scored = score_task(trained, task, directions, given.patching, given.dtype, given.max_elements, progress=show)
    if not scored:
        raise ConfigError(
            f"no item of {given.task} can be scored in {', '.join(directions)}: speech needs units, which "
            "jobs/prepare_task.py adds"
        )
    return scored, {"checkpoint": checkpoint, "step": trained.step, "seed": trained.config.seed, "data": trained.data}


def accuracies(scored: Sequence[Scored], other: Sequence[Scored] | None = None) -> list[dict[str, Any]]:
    """A row per direction, group and normalisation: the accuracy, or the difference from that of `other`."""
    from model.scoring.accuracy import accuracy, difference, groups_of, select
    from model.scoring.scorer import NORMALISATIONS

    rows = []
    for direction in dict.fromkeys(item.direction for item in scored):
        found = groups_of(select(scored, direction))
        for group in [*found, None] if len(found) > 1 else [None]:
            members = select(scored, direction, group)
            for normalisation in NORMALISATIONS:
                if other is None:
                    interval = accuracy(members, normalisation)
                else:
                    interval = difference(members, select(other, direction, group), normalisation)
                rows.append(
                    {"direction": direction, "group": group or ALL, "normalisation": normalisation, **asdict(interval)}
                )
    return rows


def preferences(scored: Sequence[Scored], other: Sequence[Scored] | None = None) -> list[dict[str, Any]]:
    """A row per direction and group that has twins: preference and mean margin, or what they differ from those of `other`."""
    from model.scoring.accuracy import holm, select, twins_of

    rows = []
    for direction in dict.fromkeys(item.direction for item in scored):
        twins = twins_of(select(scored, direction))
        groups = list(dict.fromkeys(pair.group for pair in twins))
        theirs = None if other is None else twins_of(select(other, direction))
        for group in [*groups, None] if len(groups) > 1 else [None] * len(groups):
            mine = [pair for pair in twins if group in (None, pair.group)]
            base = None if theirs is None else [pair for pair in theirs if group in (None, pair.group)]
            rows.append({"direction": direction, "group": group or ALL, **_preference(mine, base)})
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return rows


def _preference(twins: list[Twins], other: list[Twins] | None) -> dict[str, Any]:
    from model.scoring.accuracy import mean_margin, preference, preference_difference, sign_test

    clusters = [pair.cluster for pair in twins]
    if other is None:
        found, margins = preference(twins), [pair.margin for pair in twins]
        votes = [pair.point - 0.5 for pair in twins]
    else:
        found = preference_difference(twins, other)
        margins = [a.margin - b.margin for a, b in zip(twins, other, strict=True)]
        votes = [
            a.point - b.point for a, b in zip(twins, other, strict=True)
        ]  # larger margins alone prefer nothing else
    nats = mean_margin([replace(pair, margin=margin) for pair, margin in zip(twins, margins, strict=True)])
    return {
        "preference": asdict(found),
        "nats": asdict(nats),
        "p": sign_test(votes, clusters),
    }


def _print_preferences(title: str, rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    width = max(len(row["group"]) for row in rows)
    print(f"\n{title}")
    print(f"{'':6} {'group':{width}} {'twins':>6}  {'preference':{CELL}}{'nats per ending':{CELL}}{'p (Holm)':>9}")
    for row in rows:
        cells = "".join(
            f"{row[name]['value']:6.3f} [{row[name]['low']:.3f}, {row[name]['high']:.3f}]".ljust(CELL)
            for name in ("preference", "nats")
        )
        print(f"{row['direction']:6} {row['group']:{width}} {row['nats']['items']:6}  {cells}{row['p_holm']:9.3g}")


def _print_accuracies(title: str, rows: Sequence[dict[str, Any]]) -> None:
    from model.scoring.scorer import NORMALISATIONS

    width = max(len(row["group"]) for row in rows)
    print(f"\n{title}")
    print(f"{'':6} {'group':{width}} {'items':>6}  " + "".join(f"{name:{CELL}}" for name in NORMALISATIONS).rstrip())
    for start in range(0, len(rows), len(NORMALISATIONS)):
        cells = rows[start : start + len(NORMALISATIONS)]
        first = cells[0]
        values = "".join(f"{row['value']:6.3f} [{row['low']:.3f}, {row['high']:.3f}]".ljust(CELL) for row in cells)
        print(f"{first['direction']:6} {first['group']:{width}} {first['items']:6}  {values}".rstrip())


def _print_left_out(task: Task, scored: Sequence[Scored], directions: Sequence[Direction]) -> None:
    from model.scoring.accuracy import select

    for direction in directions:
        missing = len(task.items) - len(select(scored, direction))
        if missing:
            print(f"{direction}: {missing} of {len(task.items)} items lack the form it needs and were left out")


if __name__ == "__main__":
    sys.exit(main())
