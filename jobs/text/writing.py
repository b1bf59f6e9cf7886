"""One item: its documents as text shards, its rejects, and the commit that names them."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

from jobs.store.store import Store
from jobs.text.documents import FoundDocument, documents
from jobs.text.files import Item
from jobs.text.tokens import open_tokenizer
from pipeline.shards import write_shard
from schemas.cards import Card, fingerprint
from schemas.commit import SHARD_FOLDER
from schemas.config import StrictModel
from schemas.shards import SHARD_FORMAT, SampleMeta, ShardEntry

VERSION = 1


class TextSpec(StrictModel):
    """How the documents are made. What changes a shard's bytes is here, and nothing else."""

    fields: list[str] = ["text"]
    document_chars: int = 2000
    min_chars: int = 1
    max_shard_chars: int = 64_000_000
    language: str = ""
    license: str = ""
    tokenizer: str | None = None
    """Path of a text tokenizer whose tokens are stored beside the text."""

    def fingerprint(self) -> str:
        """The identity of what this makes of a file: the tokenizer by its bytes, not its place."""
        facts = self.model_dump(exclude={"tokenizer", "license"})
        card = None if self.tokenizer is None else tokenizer_card(self.tokenizer).card_id
        return fingerprint({"stage": "text", "version": VERSION, "shards": SHARD_FORMAT, "card": card, **facts})


class TextEntry(StrictModel):
    """A text shard, as the item's commit lists it."""

    entry: ShardEntry
    characters: int
    tokens: int


class TextCommit(StrictModel):
    """What became of an item. documents_in == samples + rejected."""

    item: str
    files: list[str]
    shards: list[TextEntry]
    documents_in: int
    rejected: dict[str, int]
    """Code -> how many; the places and sentences are in rejects/<item>.jsonl."""


def commit_path(spec_fingerprint: str, item: str) -> str:
    """Where an item's commit lies."""
    return f"commits/{spec_fingerprint[:16]}/{item}.json"


@lru_cache(maxsize=2)
def tokenizer_card(path: str) -> Card:
    """The card of the tokenizer at `path`.

    Raises:
        ConfigError: there is none.
    """
    card: Card = open_tokenizer(path).card
    return card


def write_item(root: str, item: Item, spec: TextSpec) -> TextCommit:
    """Write the shards of an item and commit it. The same files and spec give the same bytes, whoever writes them."""
    store, rejects, shards = Store(root), list[dict[str, str]](), list[TextEntry]()
    counted = Counter({"in": 0})
    for number, samples in enumerate(_shards(_accepted(item, spec, rejects, counted), item.name, spec)):
        data = write_shard([members for _, members in samples])
        output = store.write_named(SHARD_FOLDER, f"{item.name}-{number:04d}", ".tar", data, len(samples))
        entry = ShardEntry(
            path=output.path, sha256=output.sha256, bytes=output.bytes, samples=len(samples), frames=0, words=0, patches=0,
            seconds=0.0,
        )  # fmt: skip
        characters = sum(meta.characters for meta, _ in samples)
        shards.append(TextEntry(entry=entry, characters=characters, tokens=sum(meta.tokens for meta, _ in samples)))
    if rejects:
        lines = "".join(json.dumps(reject) + "\n" for reject in rejects)
        store.write_bytes(f"rejects/{item.name}.jsonl", lines.encode("utf-8"))
    commit = TextCommit(
        item=item.name,
        files=sorted({piece.url.rsplit("/", 1)[-1] for piece in item.pieces}),
        shards=shards,
        documents_in=counted["in"],
        rejected=dict(sorted(Counter(reject["code"] for reject in rejects).items())),
    )
    text = commit.model_dump_json(indent=1) + "\n"
    store.create_exclusively(commit_path(spec.fingerprint(), item.name), text.encode("utf-8"))
    return commit


def _accepted(
    item: Item, spec: TextSpec, rejects: list[dict[str, str]], counted: Counter[str]
) -> Iterator[FoundDocument]:
    for piece in item.pieces:
        found = documents(piece.url, piece.form, piece.start, piece.end, spec.fields, spec.document_chars)
        for document in found:
            counted["in"] += 1
            problem = document.problem
            if problem is None and len(document.text) < spec.min_chars:
                short = f"{len(document.text)} characters where {spec.min_chars} are wanted"
                problem = ("too_short" if document.text else "empty", short)
            if problem is None:
                yield document
            else:
                rejects.append({"place": document.place, "code": problem[0], "detail": problem[1]})


class _Size(StrictModel):
    characters: int
    tokens: int


Sample = tuple[_Size, dict[str, bytes | str]]


def _shards(found: Iterable[FoundDocument], item: str, spec: TextSpec) -> Iterator[list[Sample]]:
    """The documents as samples, those of one shard together."""
    held, characters = list[Sample](), 0
    for number, document in enumerate(found):
        if held and characters + len(document.text) > spec.max_shard_chars:
            yield held
            held, characters = [], 0
        held.append(_sample(document, f"{item}-{number:08d}", spec))
        characters += len(document.text)
    if held:
        yield held


def _sample(document: FoundDocument, key: str, spec: TextSpec) -> Sample:
    meta = SampleMeta(
        key=key, recording_id=key, uri=document.place, segments=[], language=spec.language, text=document.text, words=[],
        patch_kind=[], num_frames=0, hop=0, cards={},
    )  # fmt: skip
    members: dict[str, bytes | str] = {
        "__key__": key,
        "json": json.dumps(meta.model_dump(mode="json"), sort_keys=True, ensure_ascii=False).encode("utf-8"),
    }
    tokens = 0
    if spec.tokenizer is not None:
        tokenizer = open_tokenizer(spec.tokenizer)
        ids = np.asarray(tokenizer.encode(document.text)[0], np.uint16 if tokenizer.size <= 1 << 16 else np.uint32)
        buffer, tokens = io.BytesIO(), len(ids)
        np.lib.format.write_array(buffer, ids, version=(1, 0), allow_pickle=False)
        members["tokens.npy"] = buffer.getvalue()
    return _Size(characters=len(document.text), tokens=tokens), members
