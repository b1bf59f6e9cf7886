"""Sample order and random numbers as pure functions: of (seed, epoch, index), and of (seed, purpose, key).

Nothing here touches Python's `hash` or a global generator, so neither the number of processes nor a restart can change a draw.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from model.data.draws import generator

K = TypeVar("K")
V = TypeVar("V")


def held_out(total: int, fraction: float, name: str) -> np.ndarray:
    """Numbers of the samples that are kept for validation, sorted: int64 [max(1, round(fraction * total))].

    Depends on the data alone, not on the run's seed, so that runs with different seeds are validated on the same samples.
    Empty where the fraction is 0 or there is only one sample.
    """
    if fraction <= 0 or total < 2:
        return np.empty(0, dtype=np.int64)
    count = min(total - 1, max(1, round(fraction * total)))
    return np.sort(generator(0, "held-out", name).permutation(total)[:count])


class Order:
    """An endless order over samples that lie in shards: epoch after epoch, each a new permutation.

    Shards are permuted, then samples are permuted within groups of `group` consecutive shards: neighbours in the order lie
    in few shards, so that a small cache suffices, and memory is that of one group. `index` counts through all epochs.
    """

    def __init__(self, counts: Sequence[int], seed: int, name: str, group: int) -> None:
        """
        Args:
            counts: samples per shard.
            seed: of the run.
            name: of the source: two sources over the same shards get different orders.
            group: shards whose samples are mixed.
        """
        self.counts = np.asarray(counts, dtype=np.int64)
        self.total = int(self.counts.sum())
        if self.total == 0:
            raise ValueError(f"source {name!r} has no samples to train on")
        self.seed, self.name, self.group = seed, name, group
        self._epochs: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def locate(self, index: int) -> tuple[int, int, int]:
        """(epoch, shard, sample within the shard) of the index-th sample drawn."""
        epoch, position = divmod(index, self.total)
        starts = self._epoch(epoch)[1]
        group = int(np.searchsorted(starts, position, side="right")) - 1
        shard, sample = self._members(epoch, group)[position - int(starts[group])]
        return epoch, int(shard), int(sample)

    def ahead(self, index: int) -> tuple[int, list[int]]:
        """(number of the group that the index-th sample lies in, over all epochs; the shards of that group and the next)."""
        epoch, position = divmod(index, self.total)
        group = int(np.searchsorted(self._epoch(epoch)[1], position, side="right")) - 1
        groups = -(-len(self.counts) // self.group)
        number = epoch * groups + group
        shards = [
            self._epoch(later // groups)[0][later % groups * self.group :][: self.group]
            for later in (number, number + 1)
        ]
        return number, np.concatenate(shards).tolist()

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards in this epoch's order, and the first position of each group."""
        if epoch not in self._epochs:
            # Whole shards first, then the samples of a few neighbours in `_members`: an order over all samples would have every
            # batch open as many shards as it has documents.
            shards = generator(self.seed, "shards", self.name, epoch).permutation(len(self.counts))
            sizes = np.add.reduceat(self.counts[shards], np.arange(0, len(shards), self.group))
            starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
            _remember(self._epochs, epoch, (shards, starts), limit=16)
        return self._epochs[epoch]

    def _members(self, epoch: int, group: int) -> np.ndarray:
        """int64 [samples of the group, 2]: shard and sample, in order."""
        key = (epoch, group)
        if key not in self._groups:
            shards = self._epoch(epoch)[0][group * self.group : (group + 1) * self.group]
            members = np.concatenate(
                [
                    np.stack([np.full(self.counts[shard], shard), np.arange(self.counts[shard])], axis=1)
                    for shard in shards
                ]
            )
            order = generator(self.seed, "samples", self.name, epoch, group).permutation(len(members))
            _remember(self._groups, key, members[order], limit=16)
        return self._groups[key]


def _remember(cache: OrderedDict[K, V], key: K, value: V, limit: int) -> None:
    cache[key] = value
    while len(cache) > limit:
        cache.popitem(last=False)
