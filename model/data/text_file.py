"""A plain .txt file as documents: whole paragraphs where it has any, else whole lines."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from model.data.shards import ShardError
from schemas.errors import ExitCode

BLOCK = 1 << 22
"""Bytes read at a time. Nothing that is cut depends on it."""
MOST_BYTES = 1 << 30
"""Every rank reads a plain file whole when a run begins, some 15 s a GB; text shards are opened by their index."""
WHOLE_CHARS = 2000
"""With `document_chars: 1` every paragraph is a document, and those of up to three times so many characters stay whole."""
NEWLINE = ord("\n")
BEGINS_CHARACTER = (np.arange(256) & 0xC0) != 0x80
IS_DARK = ~np.isin(np.arange(256), [ord(space) for space in "\t\n\v\f\r "])


class TextFile:
    """A .txt file by document number. Only the offsets stay in memory."""

    def __init__(self, path: str, document_chars: int) -> None:
        """
        Raises:
            ShardError: the file cannot be read, is not UTF-8, is empty, or is so large that it should be shards.
        """
        self.path = Path(path)
        edges, by_paragraph, digest = [0], True, hashlib.sha256(str(document_chars).encode())
        try:
            if self.path.stat().st_size > MOST_BYTES:
                raise ShardError(
                    f"the text file {path} has {self.path.stat().st_size / 1e9:.1f} GB, which every rank would read when a run "
                    "begins: make shards of it with `lst text-shards`"
                )
            with open(self.path, "rb") as file:
                for end, is_paragraph in document_ends(_hashed(file, digest), document_chars):
                    edges.append(end)
                    by_paragraph &= is_paragraph
        except OSError as error:
            code = ExitCode.CONFIGURATION if isinstance(error, FileNotFoundError) else ExitCode.STORAGE
            raise ShardError(f"cannot read the text file {path}: {error.strerror}", code=code) from error
        except UnicodeDecodeError as error:
            raise ShardError(f"the text file {path} is not UTF-8: {error}", code=ExitCode.CONFIGURATION) from error
        self.edges = np.asarray(edges, dtype=np.int64)
        self.counts = [len(edges) - 1]
        if not by_paragraph:  # runs begun when only blank lines were cut at had other documents here
            digest.update(b"cut at lines")
        self.fingerprint = digest.hexdigest()
        if not self.counts[0]:
            raise ShardError(f"the text file {path} is empty")

    def read(self, shard: int, sample: int) -> str:
        """The text of document number `sample`, its lines joined as they stand."""
        assert shard == 0
        start, end = int(self.edges[sample]), int(self.edges[sample + 1])
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(end - start).decode("utf-8").strip()


def _hashed(file: IO[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    while block := file.read(BLOCK):
        digest.update(block)
        decoder.decode(block)
        yield block
    decoder.decode(b"", final=True)


def document_ends(blocks: Iterator[bytes], document_chars: int) -> Iterator[tuple[int, bool]]:
    """Where documents end in a stream of UTF-8, in bytes, and whether a paragraph ends there too (or the stream).

    A document ends at the first blank line after `document_chars` characters. Where none comes within three times that, it
    ends at the first end of a line after twice that; where there is none up to four times that, at the next space. With 1 it
    ends at every blank line, and "that" is WHOLE_CHARS.
    """
    held, offset, before = b"", 0, NEWLINE
    for block in blocks:
        held += block
        cuts, used = _cuts(held, document_chars, before == NEWLINE, final=False)
        yield from ((offset + end, by_paragraph) for end, by_paragraph in cuts)
        if used:
            held, offset, before = held[used:], offset + used, held[used - 1]
    cuts, _ = _cuts(held, document_chars, before == NEWLINE, final=True)
    yield from ((offset + end, by_paragraph) for end, by_paragraph in cuts)


def _cuts(held: bytes, document_chars: int, begins_line: bool, final: bool) -> tuple[list[tuple[int, bool]], int]:
    """The cuts that `held` alone decides, and the last of them. `begins_line`: what comes before it is the end of a line."""
    data = np.frombuffer(held, np.uint8)
    chars = _before(BEGINS_CHARACTER[data])
    dark = _before(IS_DARK[data])
    ends = np.flatnonzero(data == NEWLINE) + 1
    is_blank = np.diff(dark[ends], prepend=0) == 0
    is_blank[:1] &= begins_line
    lines, blanks = _Places(ends, chars), _Places(ends[is_blank], chars)
    spaces = _Places(np.flatnonzero(data == 32) + 1, chars)
    cuts, start, total = [], 0, int(chars[-1])
    while start < len(held):
        begun, reach = int(chars[start]), document_chars if document_chars > 1 else WHOLE_CHARS
        if not final and total - begun < 4 * reach:
            break  # what comes next decides
        by_paragraph = blanks.first(begun + document_chars, begun + 3 * reach)
        end = by_paragraph or lines.first(begun + 2 * reach, begun + 4 * reach)
        end = end or spaces.first(begun + 4 * reach, total)
        if end is None:
            if not final:
                break
            end = by_paragraph = len(held)
        cuts.append((end, by_paragraph is not None))
        start = end
    return cuts, start


def _before(flags: np.ndarray) -> np.ndarray:
    """How many flags are set before each place, and in all: int64 [n + 1]."""
    counts = np.zeros(len(flags) + 1, np.int64)
    np.cumsum(flags, out=counts[1:])
    return counts


class _Places:
    """Places in bytes, looked up by how many characters come before them."""

    def __init__(self, places: np.ndarray, chars: np.ndarray) -> None:
        self.places, self.before = places, chars[places]

    def first(self, least: int, most: int) -> int | None:
        """The first place with at least `least` characters before it, unless it has more than `most`."""
        index = int(np.searchsorted(self.before, least))
        return int(self.places[index]) if index < len(self.places) and self.before[index] <= most else None
