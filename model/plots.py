"""Loss curves of several runs in one PNG.

python -m model.plots runs/train-tiny runs/other --out runs/losses.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.commands.cli import Parser, command, here

if TYPE_CHECKING:
    from model.monitor.rows import LogRow

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


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the losses of the runs over one axis."""
    parser = Parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="output directories, or metrics.jsonl files")
    parser.add_argument("--out", type=here, default=Path("runs/losses.png"), help="(default: %(default)s)")
    parser.add_argument(
        "--x",
        choices=("step", "elements", "latents", "flops", "seconds"),
        default="step",
        help="the axis (default: %(default)s)",
    )
    parser.add_argument("--smooth", type=int, default=10, help="steps of the running mean")
    given = parser.parse_args(arguments)
    from model.monitor.metrics import read_rows

    files = [path if path.suffix == ".jsonl" else path / "metrics.jsonl" for path in given.runs]
    for file in files:
        if not file.is_file():
            parser.error(f"{file} does not exist: has that run written its first step?")
    runs = {file.parent.name: read_rows(file) for file in files}
    plot(runs, given.out, given.x, given.smooth)
    print(f"wrote {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
