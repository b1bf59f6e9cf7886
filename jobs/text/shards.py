"""Text corpora as shards: .txt, JSON lines, Parquet and Hugging Face folders, plain or as .gz or .zst, local or remote.

Files are cut into items of about --item-mb. An item is written and committed whole, on Ray where there are several: run the
same command again after any interruption, and it goes on with what is missing. The same files give the same bytes with any
number of workers. Rows that cannot be used are in OUT/rejects, with their places; the rest goes on. Training reads
OUT/index.json, which is written last.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jobs.cluster.places import resolve
from jobs.cluster.session import ray_session
from jobs.exports.card import data_card
from jobs.store.store import Store
from jobs.text.files import Item, plan_items
from jobs.text.writing import TextCommit, TextSpec, commit_path, tokenizer_card, write_item
from schemas.commands.cli import Parser, command, count
from schemas.commit import SHARD_FOLDER
from schemas.config import parse_config
from schemas.errors import ExitCode
from schemas.shards import ShardIndex

EXAMPLES = """  lst text-shards data/text --out data/web-text
  lst text-shards 's3://bucket/fineweb/*.parquet' --out s3://bucket/lst/text --language en --license odc-by
  lst text-shards dclm.jsonl.zst --field text --min-chars 200 --tokenizer models/tokenizer.model --out data/dclm
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write text corpora as shards; what is written already stays."""
    given = _parser().parse_args(arguments)
    settings = {
        "fields": given.field or ["text"],
        "document_chars": given.document_chars,
        "min_chars": given.min_chars,
        "max_shard_chars": given.shard_mb * 1_000_000,
        "language": given.language,
        "license": given.license,
        "tokenizer": given.tokenizer and str(Path(given.tokenizer).resolve()),
    }
    spec = parse_config(TextSpec, settings, origin="the command line")
    root = resolve(given.out, Path.cwd())
    store = Store(root)
    items, copies = plan_items([_absolute(source) for source in given.sources], spec.fields, given.item_mb * 1_000_000)
    store.check_writable()
    done = _done(store, spec, items)
    pending = [item for item in items if item.name not in done]
    with tqdm(total=len(items), initial=len(done), desc="text", unit="item", disable=not sys.stderr.isatty()) as bar:
        for _ in _write_all(root, pending, spec, given.workers):
            bar.update()
    commits = [_commit(store, spec, item.name) for item in items]
    index = write_index(store, spec, commits)
    rejected = sum((Counter(commit.rejected) for commit in commits), Counter[str]())
    told = ", ".join(f"{number} {code}" for code, number in sorted(rejected.items())) or "nothing"
    print(
        f"{given.out}/index.json: {index.totals['samples']:,} documents, {index.totals['characters']:,} characters in "
        f"{len(index.shards)} shards; {len(items)} items, {len(done)} of them done before; rejected: {told}"
        + (f"; {copies} files, or parts of them, were copies of others" if copies else "")
    )
    if not index.totals["samples"]:
        print(f"error: no document of the sources can be used: {given.out}/rejects says why", file=sys.stderr)
        return ExitCode.NOT_ACCEPTED
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument("sources", nargs="+", help="files, folders or patterns; paths or fsspec URLs")
    parser.add_argument("--out", required=True, help="the folder to write: a path or an fsspec URL")
    parser.add_argument("--field", action="append", help="the field with the text (default: text); several are joined")
    parser.add_argument("--document-chars", type=count, default=2000, help=".txt: about so many characters a document")
    parser.add_argument("--min-chars", type=count, default=1, help="shorter documents are rejects")
    parser.add_argument("--language", default="", help="for the samples and the card, such as en")
    parser.add_argument("--license", default="", help="for the card")
    parser.add_argument("--tokenizer", help="store the tokens of this text tokenizer too, which training then reads")
    parser.add_argument("--shard-mb", type=count, default=64, help="at most so many million characters a shard")
    parser.add_argument("--item-mb", type=count, default=256, help="what a kill can cost: megabytes read per item")
    parser.add_argument("--workers", type=count, help="items at a time (default: as many as Ray has CPUs)")
    return parser


def _absolute(source: str) -> str:
    return source if "://" in source else str(Path(source).absolute())


def _done(store: Store, spec: TextSpec, items: Sequence[Item]) -> set[str]:
    """The items that are committed; the commit of one whose shards are gone is removed, so that it is written again."""
    found = [item.name for item in items if store.exists(commit_path(spec.fingerprint(), item.name))]
    there = store.names(SHARD_FOLDER)
    lacking = {
        commit.item
        for commit in (_commit(store, spec, name) for name in found)
        if any(shard.entry.path.rpartition("/")[2] not in there for shard in commit.shards)
    }
    for name in lacking:
        store.remove(commit_path(spec.fingerprint(), name))
    return set(found) - lacking


def _commit(store: Store, spec: TextSpec, item: str) -> TextCommit:
    return TextCommit.model_validate_json(store.read_bytes(commit_path(spec.fingerprint(), item)))


def _write_all(root: str, items: Sequence[Item], spec: TextSpec, workers: int | None) -> Iterator[TextCommit]:
    """Write items, on Ray where there are several; yields each commit when it is there."""
    if len(items) < 2 or workers == 1:
        yield from (write_item(root, item, spec) for item in items)
        return
    with ray_session() as ray:
        write: Any = ray.remote(num_cpus=1)(write_item)
        limit = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        running: list[Any] = []
        for item in items:
            if len(running) >= limit:
                (ready,), running = ray.wait(running, num_returns=1)
                yield ray.get(ready)
            running.append(write.remote(root, item, spec))
        yield from (ray.get(task) for task in running)


def write_index(store: Store, spec: TextSpec, commits: Sequence[TextCommit]) -> ShardIndex:
    """Publish index.json and the card: the index's presence means that every item is committed."""
    shards = [shard for commit in commits for shard in commit.shards]
    cards = {} if spec.tokenizer is None else {card.card_id: card for card in [tokenizer_card(spec.tokenizer)]}
    characters = sum(shard.characters for shard in shards)
    index = ShardIndex(
        kind="text",
        fingerprint=spec.fingerprint(),
        num_units=0,
        hop=0,
        cards=cards,
        shards=[shard.entry for shard in shards],
        totals={
            "samples": sum(shard.entry.samples for shard in shards),
            "characters": characters,
            "tokens": sum(shard.tokens for shard in shards),
            "bytes": sum(shard.entry.bytes for shard in shards),
            "languages": {spec.language: characters} if spec.language else {},
            "licenses": {spec.license: characters} if spec.license else {},
        },
    )
    store.write_bytes("index.json", (index.model_dump_json(indent=1) + "\n").encode("utf-8"))
    shares = {name: index.totals[name] for name in ("languages", "licenses")}
    store.write_bytes("README.md", data_card(index, shares).encode("utf-8"))
    return index


if __name__ == "__main__":
    sys.exit(main())
