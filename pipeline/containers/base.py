"""What a file's bytes are: pieces of audio that a decoder can be held to, and matter that is known to be none."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, cast

from schemas.tables import RejectCode

CHUNK = 1 << 18
LONGEST_TAG = 1_000_000
"""Bytes in which the end of a tag that does not say how long it is, is looked for."""


class AudioError(Exception):
    """A file that is not usable audio: a reject code and a sentence for people."""

    def __init__(self, code: RejectCode, detail: str) -> None:
        super().__init__(detail)
        self.code: RejectCode = code
        self.detail = detail


def damaged(detail: str) -> AudioError:
    """The commonest reject: decode_error with a sentence."""
    return AudioError("decode_error", detail)


@dataclass(frozen=True, kw_only=True)
class AudioPiece:
    """A stretch of a file, [start, stop) in bytes, that one decoder reads as one stream.

    `promised` is how many samples per channel its bytes are worth at `rate`, by its own frames or sizes (never by a length
    that a header merely states); None where the decoder's own count of what the header holds is all there is.
    """

    start: int
    stop: int
    decoder: Literal["libsndfile", "libav"] = "libsndfile"
    promised: int | None = None
    rate: int | None = None
    tolerance: int = 0
    """Samples at `rate` that a decoder may withhold: its delay, a frame whose bits began before the stream."""
    patch: tuple[int, bytes] | None = None
    """(place in the piece, bytes) that the decoder is shown instead of what the file holds."""


class ByteReader:
    """A file's bytes by place, read through a buffer: walkers look at a few bytes here and there, mostly onwards."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, io.SEEK_END)
        self._first = 0
        self._buffer = b""

    def at(self, place: int, count: int) -> bytes:
        """The `count` bytes from `place` on; fewer at the end of the file."""
        first = place - self._first
        if first < 0 or first + count > len(self._buffer):
            if count > CHUNK:
                self._file.seek(place)
                return self._file.read(count)
            self._file.seek(place)
            self._first, self._buffer, first = place, self._file.read(CHUNK), 0
        return self._buffer[first : first + count]

    def number(self, place: int, count: int, order: Literal["big", "little"]) -> int:
        """An unsigned number of `count` bytes.

        Raises:
            AudioError: the file ends before them.
        """
        found = self.at(place, count)
        if len(found) < count:
            raise damaged(f"the file is cut short inside its header, at byte {self.size}")
        return int.from_bytes(found, order)

    def find(self, wanted: bytes, start: int, stop: int) -> Iterator[int]:
        """Every place of `wanted` that begins in [start, stop)."""
        place = start
        while place < stop:
            block = self.at(place, min(CHUNK, stop - place + len(wanted) - 1))
            offset = block.find(wanted)
            while offset >= 0 and place + offset < stop:
                yield place + offset
                offset = block.find(wanted, offset + 1)
            if len(block) < CHUNK:
                return
            place += CHUNK - len(wanted) + 1

    def zeros_until(self, start: int, stop: int) -> int:
        """The first place from `start` on that is not zero, `stop` at the latest."""
        place = start
        while place < stop:
            block = self.at(place, min(4096, stop - place))
            rest = block.lstrip(b"\0")
            if rest or not block:
                return place + len(block) - len(rest)
            place += len(block)
        return stop


def skip_tag(data: ByteReader, place: int) -> int:
    """The place after a tag (ID3v1, ID3v2, APE, Lyrics3) or after zero bytes at `place`; `place` where there is none."""
    head = data.at(place, 32)
    after = place
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 128:
        length = (head[6] << 21) | (head[7] << 14) | (head[8] << 7) | head[9]
        after = place + 10 + length + (10 if head[5] & 0x10 else 0)
    elif head[:3] == b"TAG":
        after = place + (227 if head[3:4] == b"+" else 128)
    elif head[:8] == b"APETAGEX" and len(head) == 32:
        length, flags = int.from_bytes(head[12:16], "little"), int.from_bytes(head[20:24], "little")
        after = place + 32 + (length if flags & 0x2000_0000 else 0)
    elif head[:11] == b"LYRICSBEGIN":
        ends = (end + 9 for mark in (b"LYRICS200", b"LYRICSEND") for end in data.find(mark, place, place + LONGEST_TAG))
        after = next(ends, place)
    elif head[:1] == b"\0":
        after = data.zeros_until(place, data.size)
    else:
        after = _after_headless_ape(data, place)
    return after if after <= data.size else place


def _after_headless_ape(data: ByteReader, place: int) -> int:
    """The place after an APE tag of the first version, whose last 32 bytes alone say what it is; `place` where there is none."""
    for foot in data.find(b"APETAGEX", place, min(place + LONGEST_TAG, data.size)):
        if foot + 32 - data.number(foot + 12, 4, "little") == place:
            return foot + 32
    return place


def end_of_audio(data: ByteReader) -> int:
    """Where the tags at the end of a file begin (its size where there are none): ID3v1, an APE tag that ends in a footer."""
    stop = data.size
    for _ in range(3):
        if stop >= 128 and data.at(stop - 128, 3) == b"TAG":
            stop -= 128
            continue
        foot = data.at(stop - 32, 32) if stop >= 32 else b""
        if foot[:8] == b"APETAGEX":
            length, flags = int.from_bytes(foot[12:16], "little"), int.from_bytes(foot[20:24], "little")
            length += 32 if flags & 0x8000_0000 else 0
            if 32 <= length <= stop:
                stop -= length
                continue
        break
    return stop


def check_rest(data: ByteReader, place: int, what: str) -> None:
    """Whatever follows the audio must be known: tags or zero bytes.

    Raises:
        AudioError: it is neither; the sentence says how many bytes.
    """
    while place < data.size:
        after = skip_tag(data, place)
        if after == place:
            raise damaged(
                f"{data.size - place} of the file's {data.size} bytes follow the end of its {what} and are nothing known: "
                "what they hold would be lost"
            )
        place = after


class Slice(io.RawIOBase):
    """The bytes [start, stop) of a file as a file of its own, read where they lie, with a few of them shown otherwise.

    `owns`: closing the window closes the file.
    """

    def __init__(
        self, file: BinaryIO, start: int, stop: int, patch: tuple[int, bytes] | None = None, owns: bool = False
    ) -> None:
        self._file, self._start, self._size, self._place = file, start, stop - start, 0
        self._patch, self._owns = patch, owns

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), max(0, self._size - self._place))
        self._file.seek(self._start + self._place)
        found = self._file.read(wanted)
        view[: len(found)] = found
        if self._patch is not None:
            first, shown = self._patch
            low, high = max(first, self._place), min(first + len(shown), self._place + len(found))
            if low < high:
                view[low - self._place : high - self._place] = shown[low - first : high - first]
        self._place += len(found)
        return len(found)

    def close(self) -> None:
        if self._owns:
            self._file.close()
        super().close()


def open_piece(file: BinaryIO, piece: AudioPiece, size: int) -> BinaryIO:
    """The piece as a file: the file itself where the piece is all of it, since a window costs calls."""
    if piece.start == 0 and piece.stop == size and piece.patch is None:
        file.seek(0)
        return file
    return cast(BinaryIO, Slice(file, piece.start, piece.stop, piece.patch))
