"""Learn a BPE over speech units from finished shards, for the "BPE SpeechLLM" baseline.

The paper: 1,000 tokens, 100,000 sequences.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from schemas.commands.cli import Parser, command, count, out_file
from schemas.models.unit_bpe import UnitBpe
from schemas.reading.shard_reader import read_index, unit_sequences


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Learn merges from the units of shards."""
    parser = Parser(__doc__)
    parser.add_argument("--shards", required=True, help="index.json of a set of speech shards")
    parser.add_argument(
        "--out", type=out_file, required=True, help="where to write the tokenizer, such as unit-bpe-1k.json"
    )
    parser.add_argument("--size", type=count, default=1000, help="tokens, units included (default: %(default)s)")
    parser.add_argument(
        "--sequences", type=count, default=100_000, help="at most this many segments (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    index = read_index(given.shards)
    bpe = UnitBpe.train(islice(unit_sequences(given.shards, index), given.sequences), index.num_units, given.size)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    bpe.save(given.out)
    sample = list(islice(unit_sequences(given.shards, index), 100))
    units, tokens = sum(map(len, sample)), sum(len(bpe.encode(sequence)) for sequence in sample)
    print(f"{given.out}: {bpe.size} tokens, {units / max(tokens, 1):.2f} units per token on {len(sample)} segments")
    return 0


if __name__ == "__main__":
    sys.exit(main())
