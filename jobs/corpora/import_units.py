"""Speech shards from units that exist already, without audio: JSON lines of the official LST code or slamkit, or lhotse cuts.

official LST   `interleaved`: <LST MODE SEP>TEXT word <LST MODE SEP>HUBERT 7 7 49, [SIL] for silence
slamkit        `units`, `duration`, `aligned_text` (and `text`)
lhotse         cuts as `lst export --format lhotse` writes them, with `units` in the supervision

A line is a sample, in the order of the files; the same files give the same bytes. Lines that cannot be used are in
OUT/rejects.jsonl with their file and line; the rest goes on. OUT/index.json is written last.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jobs.cluster.places import resolve
from jobs.exports.card import data_card
from jobs.store.store import Store
from pipeline.corpora.tables import RowError, json_row
from pipeline.given.unit_rows import parse_unit_row
from pipeline.shards import write_shard
from pipeline.unit_samples import UnitUtterance, unit_sample
from schemas.audio import SAMPLE_RATE
from schemas.cards import Card, CardKind, fingerprint
from schemas.commands.cli import Parser, command, count
from schemas.config import ConfigError
from schemas.errors import ExitCode, UserError
from schemas.reading.shard_reader import read_index
from schemas.shards import SHARD_FORMAT, SampleMeta, ShardEntry, ShardIndex, check_num_units
from schemas.spec import PatchesSpec
from schemas.storage.files import filesystem_of
from schemas.storage.tree import SIGNS, matching_files

EXAMPLES = """  python -m jobs.corpora.import_units mls.chunk.*.on_the_fly --out data/mls-units
  python -m jobs.corpora.import_units s3://bucket/features.jsonl.gz --like runs/demo/shards/index.json --out data/slamkit
"""
VERSION = 1
SHOWN = 5
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
"""What the readers of packed files say of those that cannot be read."""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Read unit rows in any of their formats and write shards without audio."""
    given = _parser().parse_args(arguments)
    tokenizer, hop, num_units = _tokenizer(given)
    check_num_units(num_units)
    store = Store(resolve(given.out, Path.cwd()))
    store.check_writable()
    writer = _Writer(store, given, tokenizer, hop, num_units)
    for place, row in tqdm(_rows(given.files), desc="rows", unit="row", disable=not sys.stderr.isatty()):
        writer.add(place, row)
    index = writer.finish()
    for place, detail in writer.rejects[:SHOWN]:
        print(f"rejected {place}: {detail}", file=sys.stderr)
    print(
        f"{given.out}/index.json: {index.totals['samples']} samples, {index.totals['words']} words, "
        f"{index.totals['seconds']:.1f} s in {len(index.shards)} shards; {writer.means()}; rejected: {len(writer.rejects)}"
        + (f" ({given.out}/rejects.jsonl)" if writer.rejects else "")
    )
    if not index.totals["samples"]:
        raise UserError(
            "not one row became a sample", "see what was rejected, and the formats in --help", ExitCode.NOT_ACCEPTED
        )
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument("files", nargs="+", help="JSON lines: paths, patterns or fsspec URLs; plain or .gz")
    parser.add_argument("--out", required=True, help="the folder to write: a path or an fsspec URL")
    parser.add_argument(
        "--like", metavar="INDEX", help="the index.json of shards with the same units: takes tokenizer and hop"
    )
    parser.add_argument("--num-units", type=count, default=500, help="size of the codebook (default: %(default)s)")
    parser.add_argument("--hop", type=count, default=640, help="samples at 16 kHz per unit (default: 640, 25 Hz)")
    parser.add_argument(
        "--tokenizer", default="imported", help="what to call the units' tokenizer (default: %(default)s)"
    )
    parser.add_argument("--language", default="en", help="of rows that name none (default: %(default)s)")
    parser.add_argument("--license", default="", help="for the card")
    parser.add_argument("--silence", choices=("separate", "merged"), default="separate", help="patches of silence")
    parser.add_argument("--shard-minutes", type=count, default=240, help="speech per shard (default: %(default)s)")
    return parser


def _tokenizer(given: argparse.Namespace) -> tuple[Card, int, int]:
    """Card of the unit tokenizer, hop, number of units."""
    if given.like is not None:
        index = read_index(given.like)
        card = next((card for card in index.cards.values() if card.kind == "unit_tokenizer"), None)
        if card is None:
            raise ConfigError(f"{given.like} names no unit tokenizer")
        return card, index.hop, index.num_units
    facts = {"name": given.tokenizer, "num_units": given.num_units, "hop": given.hop}
    return Card(kind="unit_tokenizer", name=given.tokenizer, facts=facts), given.hop, given.num_units


def _rows(files: Iterable[str]) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    """(file:line, row) of every line that is not blank, read as a stream.

    Raises:
        ConfigError: a pattern matches no file, or a file cannot be read.
    """
    for pattern in files:
        filesystem, path = filesystem_of(pattern)
        is_pattern = SIGNS.search(path) and not filesystem.exists(path)  # a name may hold a bracket
        names = matching_files(filesystem, path) if is_pattern else [path]
        if not names:
            raise ConfigError(f"no file matches {pattern}")
        for name in names:
            try:
                with filesystem.open(name, "rb", compression="infer") as file:
                    for number, line in enumerate(file, start=1):
                        if line.strip():
                            yield f"{name}:{number}", _row(f"{name}:{number}", line)
            except BROKEN as error:
                raise ConfigError(f"cannot read {name}: {error}", "fetch it again, or unpack it first") from error


def _row(place: str, line: bytes) -> dict[str, Any] | RowError:
    try:
        return json_row(place, line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return RowError(place, f"it is not UTF-8: {error.reason}")


class _Writer:
    """Collects samples, writes a shard whenever there is enough speech, and the index in the end."""

    def __init__(self, store: Store, given: argparse.Namespace, tokenizer: Card, hop: int, num_units: int) -> None:
        self.store, self.given, self.hop, self.num_units = store, given, hop, num_units
        self.cards: dict[CardKind, str] = {"unit_tokenizer": tokenizer.card_id}
        self.tokenizer = tokenizer
        self.silence = PatchesSpec(silence=given.silence)
        self.rejects: list[tuple[str, str]] = []
        self.entries: list[ShardEntry] = []
        self.languages: dict[str, float] = {}
        self.num_silences = self.word_units = 0
        self._names: dict[str, str] = {}
        self._samples: list[dict[str, bytes | str]] = []
        self._metas: list[SampleMeta] = []

    def add(self, place: str, row: dict[str, Any] | RowError) -> None:
        """One line: a sample, or a reject with its place."""
        try:
            if isinstance(row, RowError):
                raise row
            parsed = parse_unit_row(row, self.hop, self.num_units)
            name = parsed.name or place
            if name in self._names:
                raise ValueError(f"{name} stands in {self._names[name]} already")
            utterance = UnitUtterance(
                name=name,
                units=parsed.units,
                words=parsed.words,
                text=parsed.text,
                language=parsed.language or self.given.language,
                timing=parsed.timing,
            )
            sample = unit_sample(utterance, hop=self.hop, cards=self.cards, silence=self.silence)
        except ValueError as error:
            self.rejects.append((place, str(error)))
            return
        self._names[name] = place
        self.num_silences += parsed.num_silences
        self.word_units += sum(end - start for _, start, end in parsed.words)
        self._samples.append(sample)
        self._metas.append(SampleMeta.model_validate_json(sample["json"]))
        seconds = self._metas[-1].num_frames * self.hop / SAMPLE_RATE
        self.languages[utterance.language] = self.languages.get(utterance.language, 0.0) + seconds
        if sum(meta.num_frames for meta in self._metas) * self.hop >= self.given.shard_minutes * 60 * SAMPLE_RATE:
            self._flush()

    def _flush(self) -> None:
        content, frames = write_shard(self._samples), sum(meta.num_frames for meta in self._metas)
        output = self.store.write_named(".", f"{len(self.entries):05d}", ".tar", content, len(self._samples))
        self.entries.append(
            ShardEntry(
                path=output.path.rsplit("/", 1)[-1],
                sha256=output.sha256,
                bytes=output.bytes,
                samples=len(self._metas),
                frames=frames,
                words=sum(len(meta.words) for meta in self._metas),
                patches=sum(len(meta.patch_kind) for meta in self._metas),
                seconds=frames * self.hop / SAMPLE_RATE,
            )
        )
        self._samples, self._metas = [], []

    def means(self) -> str:
        """Mean lengths as the rows have them, to hold against what is known of their origin."""
        frames, words = (sum(getattr(entry, name) for entry in self.entries) for name in ("frames", "words"))
        return (
            f"a word has {self.word_units / max(words, 1):.2f} units, a silence "
            f"{(frames - self.word_units) / max(self.num_silences, 1):.2f}; {frames / max(words, 1):.2f} units a word"
        )

    def finish(self) -> ShardIndex:
        """The last shard, the rejects, the card and the index."""
        if self._samples:
            self._flush()
        lines = [
            json.dumps({"place": place, "detail": detail}, ensure_ascii=False) + "\n" for place, detail in self.rejects
        ]
        self.store.write_bytes("rejects.jsonl", "".join(lines).encode("utf-8"))
        totals: dict[str, Any] = {
            name: sum(getattr(entry, name) for entry in self.entries)
            for name in ("samples", "frames", "words", "patches", "seconds", "bytes")
        }
        licenses = {self.given.license: totals["seconds"]} if self.given.license else {}
        parameters = {
            "silence": self.given.silence,
            "minutes": self.given.shard_minutes,
            "language": self.given.language,
        }
        index = ShardIndex(
            kind="speech",
            fingerprint=fingerprint(
                {"stage": "import", "version": VERSION, "shards": SHARD_FORMAT, "cards": self.cards, **parameters}
            ),
            num_units=self.num_units,
            hop=self.hop,
            cards={self.tokenizer.card_id: self.tokenizer},
            shards=self.entries,
            totals=totals | {"recordings": totals["samples"], "languages": self.languages, "licenses": licenses},
        )
        card = data_card(index, {"languages": self.languages, "licenses": licenses})
        self.store.write_bytes("README.md", card.encode("utf-8"))
        self.store.write_bytes("index.json", (index.model_dump_json(indent=1) + "\n").encode("utf-8"))
        return index


if __name__ == "__main__":
    sys.exit(main())
