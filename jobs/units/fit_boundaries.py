"""Learn from finished shards where patches of speech end, for `patches: {policy: learned}`: causal, and free of alignment.

    lst fit-boundaries --shards runs/demo/shards/index.json --out boundaries.npz                     taught by word patches
    lst fit-boundaries --shards ... --out entropy.npz --kind entropy --mean-length 4    the Byte Latent Transformer's rule

Every twentieth segment is held out; printed is how well the boundaries of words and silences are met there, beside static patches
of the same mean length. A boundary is met where a patch ends at the same unit, or one unit to either side.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from schemas.commands.cli import Parser, command, count, natural, out_file, positive
from schemas.errors import ConfigError
from schemas.models.boundaries import BoundaryTable, fit, with_mean_length
from schemas.reading.shard_reader import patched_sequences, read_index

HELD_OUT = 20
"""Every so manieth segment is measured on and not learned from."""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, measure, write."""
    given = _parser().parse_args(arguments)
    index = read_index(given.shards)
    segments = list(islice(patched_sequences(given.shards, index), given.sequences))
    held, seen = segments[::HELD_OUT], [s for i, s in enumerate(segments) if i % HELD_OUT]
    if not seen:
        raise ConfigError(f"{given.shards} has {len(segments)} segments: too few to fit boundaries on")
    units, ends = [u for u, _ in seen], [e for _, e in seen]
    words = sum(map(len, units)) / max(1, sum(int(e.sum()) for e in ends))
    table = fit(given.kind, units, ends, num_units=index.num_units, order=given.order, min_count=given.min_count)
    wanted = given.mean_length or min(max(words, given.min_size), given.max_size)
    table = with_mean_length(table, units, wanted, given.min_size, given.max_size)
    table.save(given.out)
    print(
        f"{given.out}: {given.kind}, {sum(map(len, table.contexts)):,} contexts of up to {len(table.contexts) - 1} units"
    )
    print(f"{len(held)} segments held out; patches of words and silences there have {words:.2f} units")
    for name, (mean, precision, recall, f1) in compare(table, held).items():
        print(f"  {name:<9} {mean:5.2f} units a patch   precision {precision:.3f}   recall {recall:.3f}   F1 {f1:.3f}")
    return 0


def compare(table: BoundaryTable, held: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[float, ...]]:
    """(mean length, precision, recall, F1) of the table's boundaries, and of static patches as long."""
    cuts = [table.ends(units) for units, _ in held]
    size = max(1, round(sum(len(c) for c in cuts) / max(1, sum(int(c.sum()) for c in cuts))))
    static = [np.arange(len(units)) % size == size - 1 for units, _ in held]
    truth = [ends for _, ends in held]
    return {table.kind: met(cuts, truth), f"static {size}": met(static, truth)}


def met(cuts: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> tuple[float, float, float, float]:
    """(mean length, precision, recall, F1) of `cuts` against `truth`, each bool per unit, one unit of tolerance."""
    units, made, right, wanted, found = 0, 0, 0, 0, 0
    for cut, true in zip(cuts, truth, strict=True):
        units += len(cut)
        made, wanted = made + int(cut.sum()), wanted + int(true.sum())
        right += int((cut & _widened(true)).sum())
        found += int((true & _widened(cut)).sum())
    precision, recall = right / max(made, 1), found / max(wanted, 1)
    return units / max(made, 1), precision, recall, 2 * precision * recall / max(precision + recall, 1e-9)


def _widened(ends: np.ndarray) -> np.ndarray:
    wide = ends.copy()
    wide[1:] |= ends[:-1]
    wide[:-1] |= ends[1:]
    return wide


def _parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--shards", required=True, help="index.json of a set of speech shards")
    parser.add_argument("--out", type=out_file, required=True, help="the file to write, such as boundaries.npz")
    parser.add_argument(
        "--kind", choices=("words", "entropy"), default="words",
        help="words: taught where words and silences end; entropy: where the next unit is hard to guess (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--mean-length", type=positive, help="units a patch, on average (default: as long as words and silences are)"
    )
    parser.add_argument("--min-size", type=count, default=2, help="least units of a patch (default: %(default)s)")
    parser.add_argument("--max-size", type=count, default=20, help="greatest units of a patch (default: %(default)s)")
    parser.add_argument("--order", type=natural, default=8, help="units of context at most (default: %(default)s)")
    parser.add_argument(
        "--min-count",
        type=natural,
        default=5,
        help="contexts seen less often are left to shorter ones (default: %(default)s)",
    )
    parser.add_argument(
        "--sequences", type=count, default=200_000, help="at most this many segments (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
