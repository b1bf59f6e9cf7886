"""Containers of samples that state how many bytes of them they hold: WAV, RF64, BW64, W64, AU, NIST SPHERE."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from pipeline.containers.base import AudioError, AudioPiece, ByteReader, check_rest, damaged

Order = Literal["big", "little"]

MIN_RATE, MAX_RATE, MAX_CHANNELS = 4_000, 768_000, 256
"""What a header may state. A flipped bit in it would otherwise be read as a recording of another length and pitch."""

BY_SAMPLE = {1, 3, 6, 7, 0xFFFE}
"""WAV formats whose frames are all `block align` bytes: PCM, float, A-law, mu-law, extensible."""
BY_LIBSNDFILE = BY_SAMPLE | {0x02, 0x11, 0x31, 0x38}
"""And those in blocks (MS, IMA and NMS ADPCM, GSM), which libsndfile counts. What else a WAV may hold is for libav."""
RIFF_NAMES = (b"RIFF", b"RF64", b"BW64")
"""What a file of WAV samples begins with."""
W64_GUID_TAILS = tuple(
    bytes.fromhex(tail) for tail in ("f3acd3118cd100c04f8edb8a", "2e91cf11a5d628db04c10000", "2f91cf11a5d628db04c10000")
)
"""What follows the four letters of a name: of most chunks, of `riff`, of `list`."""
AU_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}


class CutShort(AudioError):
    """The file ends before the bytes of samples that its header states."""


def cut_short(stated: int, there: int) -> CutShort:
    """Fewer bytes than `stated` are there."""
    detail = f"the file is cut short: its header promises {stated} bytes of samples, {there} are there"
    return CutShort("decode_error", detail)


def unfinished(suffix: str) -> AudioError:
    """The writer of the file was killed, or wrote to a pipe and left zeros for the lengths."""
    return damaged(
        "the file was not finished by its writer: its header promises no samples, but bytes follow it, and nothing "
        f"says where they end; if they are samples, have the header written anew: `ffmpeg -i IN -c copy OUT.{suffix}`"
    )


def is_unknown_length(length: int) -> bool:
    """Whether a 32-bit length is what writers to a pipe leave, who cannot know it: the largest there is, less a header.

    0xFFFFFFFF and a little less (ffmpeg, others), 0x7FFFF000 and 0x7FFFFFFF and the like (sox, espeak, arecord).
    """
    return length >= 0xFFFFFF00 or 0x7FFFF000 <= length <= 0x80000100


def wav_pieces(data: ByteReader, start: int) -> list[AudioPiece]:
    """The sounds of a WAV, RF64 or BW64 file, one after another ("cat a.wav b.wav" makes two).

    Raises:
        AudioError: samples are missing, the writer did not finish, bytes follow that are nothing known.
    """
    pieces: list[AudioPiece] = []
    place: int | None = start
    while place is not None:
        piece, place = _wav_piece(data, place)
        pieces.append(piece)
    return pieces


def _wav_piece(data: ByteReader, start: int) -> tuple[AudioPiece, int | None]:
    """The sound that begins at `start`, and where the next one does."""
    place = start + 12
    form: bytes | None = None
    stated: int | None = None
    sizes = 0
    patch: tuple[int, bytes] | None = None
    if data.at(start, 4) == b"BW64":  # what broadcasters call an RF64 now, and libsndfile does not know
        patch = 0, b"RF64"
    sound: tuple[int, int] | None = None
    while place + 8 <= data.size:
        name, length = data.at(place, 4), data.number(place + 4, 4, "little")
        body, there = place + 8, data.size - place - 8
        if sound is not None and name in RIFF_NAMES:
            return replace(_wav_sound(start, place, form, sound), patch=patch), place
        if name == b"ds64":
            stated, sizes = data.number(body + 8, 8, "little"), body
        elif name == b"fmt ":
            form = data.at(body, min(length, 40))
        elif name == b"data":
            if sound is not None:
                raise damaged("the file holds two blocks of samples (`data`), of which decoders read one")
            if length == 0xFFFFFFFF and stated in (0, (1 << 64) - 1):  # RF64 to a pipe; libsndfile must be told
                length = there
                told = (data.size - start - 8).to_bytes(8, "little") + there.to_bytes(8, "little")
                patch = 0, b"RF64" + data.at(start + 4, sizes - start - 4) + told
            elif length == 0xFFFFFFFF and stated is not None:
                length = stated
                if length > there:
                    raise cut_short(length, there)
            elif length > there:
                if not is_unknown_length(length):
                    raise cut_short(length, there)
                length = there
            elif length == 0 and there and not _is_chunk(data, body):
                raise unfinished("wav")
            sound = (body, length)
        elif not _is_chunk(data, place):
            break
        elif name == b"LIST" and data.at(body, 4) == b"wavl":
            raise AudioError(
                "unsupported",
                "its samples lie in a list of stretches and silences (`wavl`), which is not read: write it anew as one block",
            )
        elif length > there:
            if sound is None:
                raise damaged("the file is cut short inside its header")
            break
        place = body + length
        if length & 1 and (data.at(place, 1) == b"\0" or not _is_chunk(data, place)):
            place += 1  # a chunk of odd length is padded, by writers who know the rule
    if sound is None:
        raise damaged("the file is cut short: it ends before its samples (no `data` chunk)")
    check_rest(data, place, "samples")
    return replace(_wav_sound(start, data.size, form, sound), patch=patch), None


def _is_chunk(data: ByteReader, place: int) -> bool:
    """Whether a chunk that fits begins here: four characters and a length."""
    head = data.at(place, 8)
    known = len(head) == 8 and re.fullmatch(rb"[ -~]{4}", head[:4]) is not None and head[:3] != b"TAG"
    return known and head[:8] != b"APETAGEX" and place + 8 + int.from_bytes(head[4:], "little") <= data.size


def _wav_sound(start: int, stop: int, form: bytes | None, sound: tuple[int, int]) -> AudioPiece:
    if form is None or len(form) < 16:
        raise damaged("the header is damaged: it does not say what the samples are (no `fmt ` chunk)")
    tag, align = int.from_bytes(form[:2], "little"), int.from_bytes(form[12:14], "little")
    if tag == 0xFFFE and len(form) >= 26:
        tag = int.from_bytes(form[24:26], "little")
        _check_valid_bits(int.from_bytes(form[14:16], "little"), int.from_bytes(form[18:20], "little"))
    check_rate(int.from_bytes(form[4:8], "little"), int.from_bytes(form[2:4], "little"))
    if tag not in BY_LIBSNDFILE:
        return AudioPiece(start=start, stop=stop, decoder="libav")
    promised = None
    if tag in BY_SAMPLE:
        if not align:
            raise damaged("the header contradicts itself: a sample of all channels takes 0 bytes")
        promised = sound[1] // align
    return AudioPiece(start=start, stop=stop, promised=promised)


def _check_valid_bits(bits: int, valid: int) -> None:
    """An extensible header states the width of a sample twice; readers differ in which of the two they go by.

    Equal widths in bytes are right whoever reads it, and so are 17 to 31 bits in 32, which every reader takes from the block.

    Raises:
        AudioError: the two contradict each other.
    """
    if valid and (valid + 7) // 8 * 8 != bits and not (bits == 32 and 16 < valid < 32):
        raise damaged(f"the header contradicts itself: samples of {bits} bits of which {valid} count")


def check_rate(rate: int, channels: int) -> None:
    """What no decoder need be asked: rates and numbers of channels that no recording has.

    Raises:
        AudioError: one of them.
    """
    if not MIN_RATE <= rate <= MAX_RATE:
        raise damaged(f"the header states a rate of {rate} Hz, which no recording of speech has")
    if not 1 <= channels <= MAX_CHANNELS:
        raise damaged(f"the header states {channels} channels, and {MAX_CHANNELS} are the most that are read")


def w64_pieces(data: ByteReader, start: int) -> list[AudioPiece]:
    """The sounds of a Sony Wave64 file, one after another: chunks named by GUIDs, their 64-bit sizes with the 24 of the head.

    Raises:
        AudioError: samples are missing, bytes follow that are nothing known.
    """
    pieces: list[AudioPiece] = []
    first, place, align, sound = start, start + 40, 0, None
    while place + 24 <= data.size:
        name, length = data.at(place, 16), data.number(place + 16, 8, "little")
        if name[4:] not in W64_GUID_TAILS or length < 24:
            break
        if name[:4] == b"riff" and sound is not None:
            pieces.append(AudioPiece(start=first, stop=place, promised=sound // align if align else None))
            first, place, align, sound = place, place + 40, 0, None
            continue
        if place + length > data.size:
            raise cut_short(length - 24, data.size - place - 24)
        if name[:4] == b"fmt ":
            check_rate(data.number(place + 28, 4, "little"), data.number(place + 26, 2, "little"))
            tag = data.number(place + 24, 2, "little")
            align = data.number(place + 36, 2, "little") if tag in BY_SAMPLE else 0
        elif name[:4] == b"data":
            sound = length - 24
        place = min(place + (length + 7 & ~7), data.size)
    if sound is None:
        raise damaged("the file is cut short: it ends before its samples")
    check_rest(data, place, "samples")
    return [*pieces, AudioPiece(start=first, stop=data.size, promised=sound // align if align else None)]


def au_pieces(data: ByteReader, start: int) -> list[AudioPiece]:
    """The sound of an AU file (Sun, NeXT), which reaches to the end of the file where its header does not know.

    Raises:
        AudioError: samples are missing, bytes follow that are nothing known.
    """
    order: Order = "big" if data.at(start, 4) == b".snd" else "little"
    offset, length, kind, rate, channels = (data.number(start + place, 4, order) for place in range(4, 24, 4))
    check_rate(rate, channels)
    there = data.size - start - offset
    if offset < 24 or there < 0:
        raise damaged(f"the header is damaged: it states that samples begin at byte {offset}")
    if is_unknown_length(length):
        length = there
    if length > there:
        raise cut_short(length, there)
    check_rest(data, start + offset + length, "samples")
    if kind not in AU_WIDTHS:
        return [AudioPiece(start=start, stop=data.size, decoder="libav")]
    return [AudioPiece(start=start, stop=data.size, promised=length // (AU_WIDTHS[kind] * channels))]


def sphere_pieces(data: ByteReader, start: int) -> list[AudioPiece]:
    """The sound of a NIST SPHERE file (TIMIT, Switchboard): a header of text that states the number of samples.

    Raises:
        AudioError: samples are missing or too many, or compressed by shorten.
    """
    size = data.at(start + 8, 8).strip()
    if not size.isdigit():
        raise damaged("the header is damaged: a SPHERE file states its header's length in its second line")
    head = data.at(start, min(int(size), 1 << 16))
    fields = dict(re.findall(rb"^(\w+) -(?:i|r|s\d+) (.*?)\r?$", head, re.MULTILINE))
    if b"shorten" in fields.get(b"sample_coding", b"") or b"wavpack" in fields.get(b"sample_coding", b""):
        raise AudioError(
            "unsupported",
            "the SPHERE file is compressed (shorten), which is not read here: convert it, for example with "
            "`sph2pipe -f wav IN OUT.wav`",
        )
    try:
        count, channels, rate, width = (
            int(fields.get(name, default))
            for name, default in (
                (b"sample_count", b""),
                (b"channel_count", b"1"),
                (b"sample_rate", b""),
                (b"sample_n_bytes", b""),
            )
        )
    except ValueError as error:
        raise damaged("the SPHERE header is damaged: it lacks sample_count, sample_rate or sample_n_bytes") from error
    check_rate(rate, channels)
    stated, there = count * channels * width, data.size - start - int(size)
    if stated > there:
        raise cut_short(stated, max(0, there))
    check_rest(data, start + int(size) + stated, "samples")
    return [AudioPiece(start=start, stop=data.size, promised=count)]
