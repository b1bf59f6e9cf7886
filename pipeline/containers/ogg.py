"""Ogg: pages that follow each other without a gap, streams that end where they say so, links of a chain (RFC 3533)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from pipeline.containers.base import AudioError, AudioPiece, ByteReader, damaged, skip_tag

REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
HEAD = 27
BY_LIBSNDFILE = (b"\x01vorbis", b"OpusHead")


@dataclass
class _Link:
    """Streams that begin together; a chain has one link after another."""

    start: int
    codecs: list[bytes]
    next_page: dict[int, int]
    """Serial number of a stream that has not ended -> number of its next page."""


def ogg_pieces(data: ByteReader, start: int) -> list[AudioPiece]:
    """The links of an Ogg file. A link of Vorbis or Opus alone goes to libsndfile, any other to libav.

    Raises:
        AudioError: bytes between pages, a page that is missing or damaged, a stream without its end.
    """
    place, links = start, list[_Link]()
    while place < data.size:
        if data.at(place, 4) != b"OggS":
            after = skip_tag(data, place)
            if after == place:
                raise damaged(f"the file is damaged: no Ogg page begins at byte {place} of {data.size}")
            place = after
            continue
        page = _page(data, place)
        serial, number, flags = page[14:18], int.from_bytes(page[18:22], "little"), page[5]
        key = int.from_bytes(serial, "little")
        if flags & 2:
            if not links or not links[-1].next_page:
                links.append(_Link(start=place, codecs=[], next_page={}))
            body = HEAD + page[26]
            links[-1].codecs.append(page[body : body + 8])
            links[-1].next_page[key] = number
        if not links or links[-1].next_page.get(key) != number:
            raise damaged(
                f"the file is damaged: pages of its Ogg stream are missing before byte {place} of {data.size}"
            )
        if flags & 4:
            del links[-1].next_page[key]
        else:
            links[-1].next_page[key] = number + 1
        place += len(page)
    if links[-1].next_page:
        raise damaged("the file is cut short: its last Ogg page is not marked as the stream's end")
    stops = [link.start for link in links[1:]] + [data.size]
    return [_piece(link, stop) for link, stop in zip(links, stops, strict=True)]


def _page(data: ByteReader, place: int) -> bytes:
    """A page whose checksum is right."""
    lacing = data.at(place + HEAD, data.number(place + 26, 1, "big"))
    length = HEAD + len(lacing) + sum(lacing)
    page = data.at(place, length)
    if len(page) < length:
        raise damaged("the file is cut short in the middle of its last Ogg page")
    if checksum(page) != page[22:26]:
        raise damaged(f"the file is damaged: the Ogg page at byte {place} of {data.size} has a wrong checksum")
    return page


def checksum(page: bytes) -> bytes:
    """The four bytes that a page should hold at 22: a CRC-32 that takes the bits of a byte from the other end than zlib's."""
    mirrored = (page[:22] + bytes(4) + page[26:]).translate(REVERSED)
    return (zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF).to_bytes(4, "big").translate(REVERSED)


def _piece(link: _Link, stop: int) -> AudioPiece:
    audio = [codec for codec in link.codecs if not codec.startswith(b"fishead")]
    own = len(audio) == 1 and any(audio[0].startswith(name) for name in BY_LIBSNDFILE)
    if not audio:
        raise AudioError("unsupported", "the Ogg file holds no stream of sound")
    return AudioPiece(start=link.start, stop=stop, decoder="libsndfile" if own else "libav")
