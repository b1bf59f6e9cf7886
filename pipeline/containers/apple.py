"""What Apple writes: AIFF and AIFF-C, Core Audio. Whether a file is whole, by its own sizes."""

from __future__ import annotations

import re
from dataclasses import replace

from pipeline.containers.base import AudioError, AudioPiece, ByteReader, check_rest, damaged
from pipeline.containers.pcm import check_rate, cut_short, is_unknown_length, unfinished

AIFF_WIDTHS = {b"NONE": None, b"sowt": None, b"twos": None, b"fl32": 4, b"FL32": 4, b"fl64": 8, b"FL64": 8,
               b"ulaw": 1, b"ULAW": 1, b"alaw": 1, b"ALAW": 1, b"in24": 3, b"in32": 4, b"raw ": 1, b"23ni": 4}  # fmt: skip
AIFF_IN_BLOCKS = {b"GSM "}
"""What libsndfile reads and counts, and libav does not."""
ALAC_FLAGS = {16: 1, 20: 2, 24: 3, 32: 4}
"""Bits per sample of Apple Lossless -> the flags of a CAF's `desc` that say so. ffmpeg writes 0 there; libav loses the end."""


def aiff_pieces(data: ByteReader, start: int) -> list[AudioPiece]:
    """The sounds of an AIFF or AIFF-C file, one after another.

    Raises:
        AudioError: samples are missing, bytes follow that are nothing known.
    """
    pieces: list[AudioPiece] = []
    place = start
    while data.at(place, 4) == b"FORM":
        first, place = place, place + 12
        common, sound = b"", None
        while place + 8 <= data.size and _is_printable(data.at(place, 4)) and data.at(place, 4) != b"FORM":
            name, length = data.at(place, 4), data.number(place + 4, 4, "big")
            there = data.size - place - 8
            if name == b"COMM":
                common = data.at(place + 8, min(length, 22))
            if name == b"SSND" and sound is None:
                sound = length - 8
                if length > there:
                    if not is_unknown_length(length):
                        raise cut_short(length - 8, there - 8)
                    sound = length = there
                elif length == 0 and there > 8 and not _is_printable(data.at(place + 8, 4)):
                    raise unfinished("aiff")
            elif length > there:
                if sound is None:
                    raise damaged("the file is cut short inside its header")
                break
            place += 8 + length + (length & 1)
        pieces.append(_aiff_sound(first, min(place, data.size), common, sound))
        place = _next_form(data, place)
    check_rest(data, min(place, data.size), "samples")
    return [*pieces[:-1], replace(pieces[-1], stop=data.size)]


def _next_form(data: ByteReader, place: int) -> int:
    """A file that was joined on without the padding byte begins one byte earlier."""
    return place - 1 if data.at(place, 4) != b"FORM" and data.at(place - 1, 4) == b"FORM" else place


def _is_printable(name: bytes) -> bool:
    return re.fullmatch(rb"[ -~]{4}", name) is not None and name[:3] != b"TAG" and name != b"APET"


def _aiff_sound(start: int, stop: int, common: bytes, sound: int | None) -> AudioPiece:
    if len(common) < 18:
        raise damaged("the header is damaged: it does not say what the samples are (no `COMM` chunk)")
    channels, frames, bits = (int.from_bytes(common[a:b], "big") for a, b in ((0, 2), (2, 6), (6, 8)))
    exponent, mantissa = int.from_bytes(common[8:10], "big") & 0x7FFF, int.from_bytes(common[10:18], "big")
    check_rate(int(mantissa * 2.0 ** max(-200, min(200, exponent - 16_446))), channels)
    if sound is None:
        if frames:
            raise damaged(f"the file is cut short: its header promises {frames} samples, it ends before them")
        raise AudioError("empty", "the file holds no samples")
    kind = common[18:22] or b"NONE"
    if kind in AIFF_IN_BLOCKS:
        return AudioPiece(start=start, stop=stop)
    if kind not in AIFF_WIDTHS:
        return AudioPiece(start=start, stop=stop, decoder="libav")
    width = (AIFF_WIDTHS[kind] or (bits + 7) // 8) * channels
    held = max(0, sound) // max(1, width)
    if frames > held and not is_unknown_length(frames):
        raise damaged(f"the header contradicts itself: {frames} samples in {sound} bytes")
    if frames < held and not is_unknown_length(frames) and sound - frames * width > width:
        raise damaged(f"the header contradicts itself: it states {frames} samples and holds {held}")
    return AudioPiece(start=start, stop=stop, promised=held)


def caf_pieces(data: ByteReader, start: int) -> list[AudioPiece]:
    """The sound of a Core Audio file: uncompressed samples and ALAC by libsndfile, anything else by libav.

    Raises:
        AudioError: samples are missing, bytes follow that are nothing known.
    """
    kind, packet, counted = b"", 0, None
    sound: int | None = None
    mends: dict[int, bytes] = {}  # what libsndfile must be told: place -> bytes
    desc = depth = 0
    place = start + 8
    while place + 12 <= data.size and _is_printable(data.at(place, 4)):
        name, length, body = data.at(place, 4), data.number(place + 4, 8, "big"), place + 12
        if name == b"data" and length == (1 << 64) - 1:  # written to a pipe, which libsndfile does not know of
            length = data.size - body
            mends[place + 4] = length.to_bytes(8, "big")
        if length > data.size - body:
            if sound is not None and name != b"pakt":
                break
            raise cut_short(length, data.size - body)
        if name == b"desc":
            check_rate(_double(data.number(body, 8, "big")), data.number(body + 24, 4, "big"))
            kind, packet = data.at(body + 8, 4), data.number(body + 16, 4, "big")
            desc = body
        elif name == b"kuki":
            depth = _alac_depth(data.at(body, min(length, 64)))
        elif name == b"pakt":
            counted = data.number(body + 8, 8, "big")
        elif name == b"data":
            sound = length - 4
        place = body + length
    if sound is None:
        raise damaged("the file is cut short: it ends before its samples (no `data` chunk)")
    check_rest(data, place, "samples")
    if kind == b"alac" and depth in ALAC_FLAGS and data.number(desc + 12, 4, "big") == 0:
        mends[desc + 12] = ALAC_FLAGS[depth].to_bytes(4, "big")  # libsndfile knows the depth from there alone
    piece = AudioPiece(start=start, stop=data.size, patch=_one_patch(data, start, mends))
    if kind in (b"lpcm", b"ulaw", b"alaw") and packet:
        return [replace(piece, promised=sound // packet)]
    return [replace(piece, decoder="libsndfile" if kind == b"alac" else "libav", promised=counted)]


def _alac_depth(cookie: bytes) -> int:
    """Bits per sample of Apple Lossless, by its configuration: alone, or in the two boxes that QuickTime and ffmpeg write."""
    config = cookie.rfind(b"alac") + 8 if b"alac" in cookie else 0
    return int.from_bytes(cookie[config + 5 : config + 6], "big")


def _one_patch(data: ByteReader, start: int, mends: dict[int, bytes]) -> tuple[int, bytes] | None:
    """Bytes of the head (place -> bytes) as they are to be read instead: from the first to the last of them."""
    if not mends:
        return None
    first, last = min(mends), max(mends)
    head = bytearray(data.at(first, last - first + len(mends[last])))
    for place, shown in mends.items():
        head[place - first : place - first + len(shown)] = shown
    return first - start, bytes(head)


def _double(bits: int) -> int:
    exponent, mantissa = bits >> 52 & 0x7FF, bits & ((1 << 52) - 1) | 1 << 52
    shift = exponent - 1075
    return mantissa << shift if 0 <= shift < 64 else mantissa >> -shift if -64 < shift < 0 else 0
