"""Loss curves of several runs in one picture.

python -m model.plots runs/train-tiny s3://bucket/other --out runs/losses.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.commands.cli import Parser, command, count, distinct, out_file
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from model.monitor.rows import LogRow

DRAWN = (".png", ".pdf", ".svg")
"""Endings of pictures that are drawn."""
PANELS = {"loss_text": "text: nats per token", "loss_speech": "speech: nats per unit"}


def plot(runs: dict[str, list[LogRow]], out: Path, x: str, smooth: int) -> None:
    """One panel per modality, one line per run (a running mean over `smooth` steps), held-out losses as dots."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(6 * len(PANELS), 4.2), layout="constrained")
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        for number, (run, rows) in enumerate(runs.items()):
            points = [(row[x], row[name]) for row in rows if row.get(name) is not None]
            held = [(row[x], row["validation_" + name]) for row in rows if row.get("validation_" + name) is not None]
            values = [value for _, value in points]
            means = [
                sum(part) / len(part) for i in range(len(values)) if (part := values[max(0, i - smooth + 1) : i + 1])
            ]
            axis.plot([at for at, _ in points], means, color=f"C{number % 10}", linewidth=1.4, label=run)
            if held:
                axis.plot(
                    *zip(*held, strict=True), "o", color=f"C{number % 10}", markersize=4, label=f"{run}, held out"
                )
        axis.set(title=title, xlabel=x)
        axis.grid(alpha=0.25)
        if axis.has_data():
            axis.legend(frameon=False, fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    plt.close(figure)


def _place(name: str) -> tuple[str, str]:
    """Folder and file of a run as the command line names it."""
    folder, file = name.rstrip("/"), "metrics.jsonl"
    if folder.endswith(".jsonl"):
        folder, _, file = folder.rpartition("/")
    return folder or ".", file


def _rows(folder: str, file: str) -> list[LogRow]:
    """The rows of a run, from a folder or a URL.

    Raises:
        ConfigError: there are none.
        CredentialsError, StorageError: the storage does not let us, or does not answer.
    """
    from model.monitor.metrics import parse_rows
    from schemas.storage.files import Files

    try:
        rows = parse_rows(Files(folder).read_bytes(file).decode("utf-8", "replace"))
    except FileNotFoundError:
        raise ConfigError(f"{folder}/{file} does not exist: has that run written its first step?") from None
    if not any(name in row for row in rows for name in PANELS):
        raise ConfigError(f"{folder}/{file} holds no losses", "name a training run, or its metrics.jsonl")
    return rows


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the losses of the runs over one axis."""
    parser = Parser(__doc__)
    parser.add_argument("runs", nargs="+", help="output directories or metrics.jsonl files, or URLs of either")
    parser.add_argument(
        "--out", type=out_file, default=Path("runs/losses.png"), help="a .png, .pdf or .svg (default: %(default)s)"
    )
    parser.add_argument(
        "--x",
        choices=("step", "elements", "latents", "flops", "seconds"),
        default="step",
        help="the axis (default: %(default)s)",
    )
    parser.add_argument("--smooth", type=count, default=10, help="steps of the running mean")
    given = parser.parse_args(arguments)
    if given.out.suffix not in DRAWN:
        raise ConfigError(f"{given.out} has no ending of a picture", f"name it {', '.join(DRAWN)}")
    places = [_place(name) for name in given.runs]
    labels = distinct([folder.rpartition("/")[2] for folder, _ in places], given.runs)
    runs = {label: _rows(*place) for label, place in zip(labels, places, strict=True)}
    plot(runs, given.out, given.x, given.smooth)
    print(f"wrote {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
