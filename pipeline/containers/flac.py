"""FLAC: how many samples the frames of a stream hold, told by its last frame and never by its header alone (RFC 9639)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline.containers.base import AudioError, AudioPiece, ByteReader, damaged, end_of_audio

MARKS = tuple(b"fLaC" + first + b"\0\0\x22" for first in (b"\0", b"\x80"))
"""The stream marker with the head of the STREAMINFO block that must follow: 8 bytes, which no audio holds by chance."""
MAX_FRAME = 1 << 21
"""Bytes of the tail in which the last frame is looked for where the header does not say how large frames are."""
CRC_POSITIONS = 4096
"""Bytes whose CRC is taken in one look-up each, at once: a table of 2 MB, which a cache still holds."""
RATES = (0, 88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
HEADER = 16
"""Bytes of the longest frame header, its CRC included."""


def flac_pieces(data: ByteReader, start: int) -> list[AudioPiece]:
    """The streams of a FLAC file, one after another ("cat a.flac b.flac" makes two), each with its number of samples.

    Raises:
        AudioError: a stream does not end with a whole frame, or its header promises more samples than its frames hold.
    """
    marks = [place for place in data.find(b"fLaC", start, data.size) if data.at(place, 8) in MARKS]
    if not marks or marks[0] != start:
        raise damaged("the FLAC header is damaged: its first block is not STREAMINFO")
    bounds = [*marks[1:], end_of_audio(data)]
    return [_piece(data, first, stop) for first, stop in zip(marks, bounds, strict=True)]


def _piece(data: ByteReader, start: int, stop: int) -> AudioPiece:
    info = data.at(start + 8, 34)
    frames_at = _skip_metadata(data, start, stop)
    total = int.from_bytes(info[13:18], "big") & ((1 << 36) - 1)
    largest_block, largest_frame = int.from_bytes(info[2:4], "big"), int.from_bytes(info[7:10], "big")
    if stop <= frames_at:
        if total:
            raise damaged(f"the file is cut short: its header promises {total} samples, not one frame is there")
        raise AudioError("empty", "the file holds no samples")
    bare = _without_zeros(data, frames_at, stop)
    for last in dict.fromkeys((stop, bare, min(bare + 1, stop), min(bare + 2, stop))):  # a checksum may end in zeros
        frame = _last_frame(data, frames_at, last, largest_frame, largest_block)
        if frame is not None:
            break
    else:
        raise damaged("the file is cut short or damaged: no FLAC frame ends where the file ends")
    end, stated, rate = frame.end, int.from_bytes(info[10:13], "big") >> 4, frame.rate
    if rate and rate != stated:
        raise damaged(f"the header contradicts itself: it states {stated} Hz, and its last frame {rate} Hz")
    if end < total:
        raise damaged(f"the file is cut short: its header promises {total} samples, its frames hold {end}")
    patch = None
    if end != total:  # 0: written to a pipe, nobody went back to say; less: frames were appended
        packed = (int.from_bytes(info[13:18], "big") & ~((1 << 36) - 1)) | end
        patch = (8 + 13, packed.to_bytes(5, "big") + bytes(16))  # and no MD5, which is of what the header promised
    return AudioPiece(start=start, stop=last, promised=end, patch=patch)


def _skip_metadata(data: ByteReader, start: int, stop: int) -> int:
    place, last = start + 4, False
    while not last:
        head = data.number(place, 4, "big")
        last = bool(head >> 31)
        place += 4 + (head & 0xFFFFFF)
        if place > stop:
            raise damaged("the file is cut short inside its FLAC header")
    return place


def _without_zeros(data: ByteReader, low: int, stop: int) -> int:
    """Where the zero bytes at the end of [low, stop) begin."""
    while stop > low:
        tail = data.at(max(low, stop - 4096), min(4096, stop - low))
        bare = tail.rstrip(b"\0")
        stop -= len(tail) - len(bare)
        if bare:
            break
    return stop


@dataclass(frozen=True)
class _Frame:
    end: int
    """The number of the sample after it."""
    rate: int
    """0 where its header leaves that to the stream's."""


def _last_frame(data: ByteReader, low: int, stop: int, largest_frame: int, largest_block: int) -> _Frame | None:
    """The frame that ends at `stop`; None where no frame does."""
    first = max(low, stop - (largest_frame + HEADER if largest_frame else MAX_FRAME))
    tail = data.at(first, stop - first)
    sync, place = data.at(low, 2), len(tail)
    while (place := tail.rfind(sync, 0, place)) >= 0:
        frame = _read_frame(tail[place : place + HEADER], largest_block)
        if frame is not None and crc16(tail[place:]) == 0:
            return frame
    return None


def _read_frame(head: bytes, largest_block: int) -> _Frame | None:
    """A frame by its header; None where this is none."""
    if len(head) < 6 or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    block_code, rate_code = head[2] >> 4, head[2] & 15
    if not block_code or rate_code == 15 or head[3] >> 4 > 10:
        return None
    lead = head[4]
    extra = 0 if lead < 0x80 else 8 - (lead ^ 0xFF).bit_length() - 1
    if 0x80 <= lead < 0xC0 or extra > 6:
        return None
    number = lead if extra == 0 else lead & (0x3F >> extra)
    for byte in head[5 : 5 + extra]:
        number = number << 6 | byte & 0x3F
    place = 5 + extra
    if block_code == 1:
        block = 192
    elif block_code < 6:
        block = 576 << (block_code - 2)
    elif block_code > 7:
        block = 256 << (block_code - 8)
    else:
        width = block_code - 5
        block = int.from_bytes(head[place : place + width], "big") + 1
        place += width
    width, unit = {12: (1, 1000), 13: (2, 1), 14: (2, 10)}.get(rate_code, (0, 1))
    rate = int.from_bytes(head[place : place + width], "big") * unit if width else RATES[rate_code]
    place += width
    if place >= len(head) or _crc8(head[:place]) != head[place]:
        return None
    if head[1] & 1:  # blocks of varying size: the header has the number of the first sample
        return _Frame(number + block, rate)
    return _Frame(number * (largest_block or block) + block, rate)


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value = _crc8_table()[value ^ byte]
    return value


@lru_cache(maxsize=1)
def _crc8_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value << 1) ^ (0x107 if value & 0x80 else 0)
        table.append(value)
    return table


def crc16(data: bytes) -> int:
    """The CRC-16 of FLAC (polynomial 0x8005, from 0); 0 over a frame with its own checksum."""
    table = _crc16_table()
    array = np.frombuffer(data, np.uint8)
    value = 0
    first = len(array) % CRC_POSITIONS
    for start in range(first - CRC_POSITIONS if first else 0, len(array), CRC_POSITIONS):
        block = array[max(start, 0) : start + CRC_POSITIONS]
        before = table[0, value >> 8] ^ table[1, value & 255]  # as if it had been added to the block's first two bytes
        places = table[CRC_POSITIONS - len(block) :]
        value = int(np.bitwise_xor.reduce(places[np.arange(len(block)), block]) ^ before)
    return value


@lru_cache(maxsize=1)
def _crc16_table() -> np.ndarray:
    """uint16 [CRC_POSITIONS, 256]: what a byte at a place of a block adds to the checksum of the block, for it is linear."""
    byte = np.arange(256, dtype=np.uint32) << 8
    for _ in range(8):
        byte = np.where(byte & 0x8000, (byte << 1) ^ 0x18005, byte << 1)
    one = byte.astype(np.uint16)
    table = np.empty((CRC_POSITIONS, 256), np.uint16)
    table[-1] = one
    for place in range(CRC_POSITIONS - 2, -1, -1):
        after = table[place + 1]
        table[place] = (after << 8) ^ one[after >> 8]
    return table
