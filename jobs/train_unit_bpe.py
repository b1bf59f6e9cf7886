"""Learn a BPE over speech units from finished shards, for the "BPE SpeechLLM" baseline.

The paper: 1,000 tokens, 100,000 sequences.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

from jobs.runtime.cli import exit_with
from schemas.shard_reader import read_index, unit_sequences
from schemas.unit_bpe import UnitBpe


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", required=True, help="index.json of a set of speech shards")
    parser.add_argument(
        "--output", type=Path, required=True, help="where to write the tokenizer, such as unit-bpe-1k.json"
    )
    parser.add_argument("--size", type=int, default=1000, help="tokens, units included (default: %(default)s)")
    parser.add_argument(
        "--sequences", type=int, default=100_000, help="at most this many segments (default: %(default)s)"
    )
    arguments = parser.parse_args()
    index = read_index(arguments.index)
    bpe = UnitBpe.train(
        islice(unit_sequences(arguments.index, index), arguments.sequences), index.num_units, arguments.size
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    bpe.save(arguments.output)
    sample = list(islice(unit_sequences(arguments.index, index), 100))
    units, tokens = sum(map(len, sample)), sum(len(bpe.encode(sequence)) for sequence in sample)
    print(
        f"{arguments.output}: {bpe.size} tokens, {units / max(tokens, 1):.2f} units per token on {len(sample)} segments"
    )
    return 0


if __name__ == "__main__":
    exit_with(main)
