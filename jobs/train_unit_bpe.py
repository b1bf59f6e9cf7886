"""Learn a BPE over speech units from finished shards, for the "BPE SpeechLLM" baseline.

The paper: 1,000 tokens, 100,000 sequences.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np

from jobs.runtime.cli import exit_with
from schemas.config import ConfigError
from schemas.shards import SampleMeta, ShardIndex
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


def read_index(path: str) -> ShardIndex:
    """The index of a speech set.

    Raises:
        ConfigError: it is missing, or has no units.
    """
    try:
        with fsspec.open(path, "rb") as file:
            index = ShardIndex.model_validate(json.load(file))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the shard index {path}: {error}") from error
    if index.kind != "speech":
        raise ConfigError(f"{path} is a set of text: a unit BPE needs speech shards")
    return index


def unit_sequences(path: str, index: ShardIndex) -> Iterator[np.ndarray]:
    """The units of each segment, in the order of the index."""
    for shard in index.shards:
        with fsspec.open(f"{path.rpartition('/')[0] or '.'}/{shard.path}", "rb") as file:
            meta = None
            with tarfile.open(fileobj=file, mode="r|") as tar:
                for member in tar:
                    content = tar.extractfile(member)
                    if content is None:
                        continue
                    if member.name.endswith(".json"):
                        meta = SampleMeta.model_validate_json(content.read())
                    elif member.name.endswith(".units.npy"):
                        assert meta is not None
                        assert member.name == f"{meta.key}.units.npy"
                        units = np.load(io.BytesIO(content.read()), allow_pickle=False)
                        yield from (units[span.frame_start : span.frame_end] for span in meta.segments)


if __name__ == "__main__":
    exit_with(main)
