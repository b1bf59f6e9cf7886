"""Alignment files beside the audio (`source.words`) as part of the inventory: what they say goes into `given`."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.corpora.base import Corpus
from pipeline.given.words import read_alignments
from schemas.given import load_given
from schemas.tables import InventoryItem


def with_alignments(corpus: Corpus, items: Sequence[InventoryItem]) -> list[InventoryItem]:
    """The items with their words; what speaks of no recording is an item of its own, which `recordings` rejects.

    Raises:
        ConfigError: see `read_alignments`.
    """
    given = {item.uri: load_given(item.given) for item in items if item.refused is None}
    found, strays = read_alignments(corpus, given)
    aligned = [
        item.with_updates(given=found[item.uri].added_to(given[item.uri]).dump()) if item.uri in found else item
        for item in items
    ]
    aligned += [
        InventoryItem(uri=stray.place, bytes=0, probe="", seconds=None, refused="bad_row", detail=stray.detail)
        for stray in strays
    ]
    return sorted(aligned, key=lambda item: item.uri)
