"""The index that makes committed shards a dataset: in one piece, or in parts where there are many shards.

shards/<index>.json                      written last; of a large set it names its parts
shards/index/<index>-<hash>.json         the entries of some thousand shards; cut by content, so that a set that grows keeps most
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from jobs.exports.card import NOT_STATED, data_card
from jobs.runtime.plan import Plan
from jobs.runtime.shard_writer import BELIEF, LANGUAGE, LICENSE, SPEAKER
from jobs.runtime.stages import unit_tokenizer_of
from jobs.store.records import index_name
from pipeline.source.partitions import SCALE, cut_by_content
from schemas.audio import SAMPLE_RATE
from schemas.commit import SHARD_FOLDER, SHARDS
from schemas.reading.shard_reader import ENTRIES
from schemas.shards import IndexPart, ShardEntry, ShardIndex
from schemas.storage.files import sha256

PART = 4096
"""Shards of a part, about. An index of no more than these is in one piece."""
FOLDER = "index"
"""Of the parts, beside the shards."""
COLUMNS = ("path", "sha256", "bytes", "sums")
SUMMED = ("samples", "frames", "words", "patches", "seconds", "bytes")


def write_index(plan: Plan) -> ShardIndex:
    """Publish the index of the shards. Only called when every shard is committed: the index's presence means complete."""
    assert not plan.pending(SHARDS)
    stage, name = plan.stages[SHARDS], index_name(plan.spec.source)
    columns: dict[str, list[float]] = {key: [] for key in SUMMED}
    shares = Shares()
    pieces = list(_pieces(plan))
    parts: list[IndexPart] = []
    shards: list[ShardEntry] = []
    for rows in pieces:
        shards = []
        for table in plan.logs[SHARDS].take(rows, COLUMNS):
            for row in table.to_pylist():
                sums = json.loads(row["sums"])
                shares.add(sums)
                if sums["samples"]:
                    shards.append(_entry(row, sums))
        for key in SUMMED:
            columns[key] += (getattr(entry, key) for entry in shards)
        if len(pieces) > 1:
            parts.append(_write_part(plan, name, shards))
    index = ShardIndex(
        kind="speech",
        fingerprint=stage.fingerprint,
        **unit_tokenizer_of(stage.cards),
        cards={card.card_id: card for card in stage.cards},
        shards=[] if parts else shards,
        totals={**{key: sum(column) for key, column in columns.items()}, **shares.totals()},
        parts=parts,
    )
    plan.store.write_bytes(f"{SHARD_FOLDER}/{name}.json", (index.model_dump_json(indent=1) + "\n").encode("utf-8"))
    card = data_card(index, {name: index.totals.get(name, {}) for name in ("languages", "licenses")})
    plan.store.write_bytes(
        f"{SHARD_FOLDER}/README.md" if name == "index" else f"{SHARD_FOLDER}/{name}.md", card.encode("utf-8")
    )
    return index


def _pieces(plan: Plan) -> Iterator[np.ndarray]:
    """The rows of the shards' log in order: all at once, or as many at a time as a part has."""
    rows = plan.rows(SHARDS)
    if len(rows) <= PART:
        yield rows
        return
    digests = (text for table in plan.logs[SHARDS].take(rows, ["sha256"]) for text in table.column(1).to_pylist())
    # 13 digits are 52 bits, which a float64 holds exactly: every machine cuts at the same shards
    marks = np.asarray([int(text[:13], 16) / 16.0**13 for text in digests])
    for start, stop in pairwise(cut_by_content(np.full(len(rows), SCALE // PART), marks)):
        yield rows[start:stop]


def _write_part(plan: Plan, name: str, shards: list[ShardEntry]) -> IndexPart:
    data = ENTRIES.dump_json(shards, indent=0)
    digest = sha256(data)
    path = f"{FOLDER}/{name}-{digest[:16]}.json"
    plan.store.write_bytes(f"{SHARD_FOLDER}/{path}", data)
    return IndexPart(path=path, sha256=digest, shards=len(shards))


def _entry(row: Mapping[str, Any], sums: Mapping[str, int]) -> ShardEntry:
    return ShardEntry(
        path=row["path"].rsplit("/", 1)[-1],
        sha256=row["sha256"],
        bytes=row["bytes"],
        samples=sums["samples"],
        frames=sums["frames"],
        words=sums["words"],
        patches=sums["patches"],
        seconds=sums["audio_samples"] / SAMPLE_RATE,
    )


class Shares:
    """What a data card says of a set beyond its sizes, added up shard by shard."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()
        self._counted = True

    def add(self, sums: Mapping[str, int]) -> None:
        """The sums of a shard's commit."""
        self._counted = self._counted and "recordings" in sums
        self._sums.update(sums)

    def belief(self) -> dict[str, Any]:
        """Words that are `doubtful`, and seconds of speech that no word covers (`speech_uncovered`)."""
        doubtful, samples = (self._sums[name] for name in BELIEF)
        return {"doubtful_words": doubtful, "speech_uncovered": round(samples / SAMPLE_RATE, 2)}

    def totals(self) -> dict[str, Any]:
        """`belief`, recordings, and seconds per language and licence; these only where every commit counted them."""
        told = self.belief()
        if self._counted:
            told["recordings"] = self._sums["recordings"]
            for name, prefix in (("languages", LANGUAGE), ("licenses", LICENSE)):
                samples = {key[len(prefix) :]: n for key, n in self._sums.items() if key.startswith(prefix)}
                told[name] = {key or NOT_STATED: samples[key] / SAMPLE_RATE for key in sorted(samples)}
            if self._sums[SPEAKER]:
                told["speaker_seconds"] = self._sums[SPEAKER] / SAMPLE_RATE
        return told


def belief(plan: Plan) -> dict[str, Any]:
    """`Shares.belief` of the shards that are committed."""
    shares = Shares()
    for table in plan.logs[SHARDS].select(plan.rows(SHARDS), ["sums"]):
        for text in table.column("sums").to_pylist():
            shares.add(json.loads(text))
    return shares.belief()
