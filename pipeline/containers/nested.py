"""Containers of boxes in boxes, for sound and for video: MP4 and its family, Matroska and WebM, ASF (WMA), AVI.

Their outer boxes must fill the file to its last byte. What is in them is for libav, whose demuxers pass over gaps in silence.
"""

from __future__ import annotations

from pipeline.containers.base import AudioPiece, ByteReader, check_rest, damaged, end_of_audio
from pipeline.containers.pcm import is_unknown_length

EBML_HEAD = 0x1A45DFA3
EBML_SEGMENT = 0x18538067
EBML_CLUSTER = 0x1F43B675
EBML_IN_CLUSTER = {0xE7, 0xA7, 0xAB, 0xA3, 0xA0, 0x5854, 0xAF, 0xEC, 0xBF}
"""What a cluster holds: its time, blocks, groups of blocks, void and checksums."""
ASF_HEADER, ASF_DATA, ASF_FILE = (
    bytes.fromhex(name)
    for name in (
        "3026b2758e66cf11a6d900aa0062ce6c",
        "3626b2758e66cf11a6d900aa0062ce6c",
        "a1dcab8c47a9cf118ee400c00c205365",
    )
)
ASF_END_OF_STREAM = b"$E"
"""What begins the 12 bytes with which a broadcast ends."""


def _whole(data: ByteReader, start: int) -> list[AudioPiece]:
    return [AudioPiece(start=start, stop=data.size, decoder="libav")]


def mp4_pieces(data: ByteReader, start: int) -> list[AudioPiece]:
    """MP4, M4A, MOV, 3GP: the boxes of the top level tile the file and one of them, `moov`, says where the sound is.

    Raises:
        AudioError: a box reaches past the end of the file, there is no `moov`, bytes follow that are no box.
    """
    place, names, first = start, list[bytes](), start
    pieces: list[AudioPiece] = []
    end = end_of_audio(data)
    while place + 8 <= end:
        length, name = data.number(place, 4, "big"), data.at(place + 4, 4)
        if length == 1:
            length = data.number(place + 8, 8, "big")
        elif length == 0 and name in (b"mdat", b"free", b"skip"):
            length = data.size - place
        if length < 8 or not name.isalnum():
            break
        if place + length > data.size:
            raise damaged(
                f"the file is cut short: its box {name.decode('latin-1')!r} has {length} bytes, {data.size - place} are there"
            )
        if name == b"ftyp" and b"moov" in names:  # "cat a.m4a b.m4a"; libav would read the first alone
            pieces.append(AudioPiece(start=first, stop=place, decoder="libav"))
            names, first = [], place
        names.append(name)
        place += length
    if b"moov" not in names:
        raise damaged("the file is cut short or was not finished: it has no `moov` box, which says where its sound is")
    check_rest(data, place, "boxes")
    return [*pieces, AudioPiece(start=first, stop=data.size, decoder="libav")]


def ebml_pieces(data: ByteReader, start: int) -> list[AudioPiece]:
    """Matroska and WebM: elements tile the file, and blocks their clusters; a live recording does not state their lengths.

    One after another where files were joined.

    Raises:
        AudioError: an element reaches past the end of the file, bytes between that are no element.
    """
    pieces: list[AudioPiece] = []
    place = first = start
    while data.at(place, 4) == EBML_HEAD.to_bytes(4, "big"):
        if place > first:  # "cat a.mkv b.mkv"; libav would read the first alone
            pieces.append(AudioPiece(start=first, stop=place, decoder="libav"))
            first = place
        place, _, length = _element(data, place)
        place += length or 0
        while place < data.size and data.at(place, 4) == EBML_SEGMENT.to_bytes(4, "big"):
            body, _, length = _element(data, place)
            place = _walk_segment(data, body, data.size if length is None else body + length)
    check_rest(data, place, "segment")
    return [*pieces, AudioPiece(start=first, stop=data.size, decoder="libav")]


def _walk_segment(data: ByteReader, place: int, stop: int) -> int:
    """The place after the segment: `stop`, or where another file begins inside of one that does not state its length."""
    inside = False  # of a cluster that does not state its length
    while place < stop:
        body, name, length = _element(data, place)
        if name == EBML_HEAD:
            return place
        if inside and name in EBML_IN_CLUSTER and length is not None:
            place = body + length
            continue
        inside = name == EBML_CLUSTER and length is None
        if name < 0x1000_0000 and name not in (0xEC, 0xBF):
            raise damaged(f"the file is damaged: no Matroska element begins at byte {place} of {data.size}")
        if name == EBML_CLUSTER and length is not None:
            _walk_cluster(data, body, body + length)
        place = body if inside else body + (length or 0)
    return place


def _walk_cluster(data: ByteReader, place: int, stop: int) -> None:
    while place < stop:
        body, name, length = _element(data, place)
        if name not in EBML_IN_CLUSTER or length is None or body + length > stop:
            raise damaged(f"the file is damaged: no Matroska block begins at byte {place} of {data.size}")
        place = body + length


def _element(data: ByteReader, place: int) -> tuple[int, int, int | None]:
    """(place of its content, name, length of its content or None where it is not stated)."""
    first = data.number(place, 1, "big")
    width = 9 - first.bit_length()
    if width > 4:
        raise damaged(f"the file is damaged: no Matroska element begins at byte {place} of {data.size}")
    name = data.number(place, width, "big")
    place += width
    lead = data.number(place, 1, "big")
    width = 9 - lead.bit_length()
    if width > 8:
        raise damaged(f"the file is damaged: a Matroska element without a length at byte {place} of {data.size}")
    length = data.number(place, width, "big") & ((1 << 7 * width) - 1)
    unknown = length == (1 << 7 * width) - 1
    if not unknown and place + width + length > data.size:
        raise damaged(
            f"the file is cut short: a Matroska element at byte {place} has {length} bytes, "
            f"{data.size - place - width} are there"
        )
    return place + width, name, None if unknown else length


def asf_pieces(data: ByteReader, start: int) -> list[AudioPiece]:
    """ASF (WMA, WMV): objects tile the file, and packets of one size the data object, which reaches to the end in a broadcast.

    Raises:
        AudioError: an object reaches past the end of the file, there is no data, bytes follow that are no object.
    """
    place, packets, size, has_data, is_broadcast = start, 0, 0, False, False
    while place + 24 <= data.size:
        name, length = data.at(place, 16), data.number(place + 16, 8, "little")
        if length < 24 or not name.strip(b"\0"):
            break
        if name == ASF_DATA and is_broadcast:  # written to a pipe: neither length nor number of packets is known
            end = data.size - 12 if data.at(data.size - 12, 2) == ASF_END_OF_STREAM else data.size
            if size and (end - place - 50) % size:
                raise damaged(f"the file is cut short in the middle of its last packet of {size} bytes")
            # Its header's length is a guess of the writer's, so only whole packets are asked for.
            return [AudioPiece(start=start, stop=data.size, decoder="libav", promised=0)]
        if place + length > data.size:
            raise damaged(f"the file is cut short: an ASF object has {length} bytes, {data.size - place} are there")
        if name == ASF_HEADER:
            at = next(data.find(ASF_FILE, place, place + length), None)
            if at is not None:
                is_broadcast = bool(data.number(at + 88, 4, "little") & 1)
                size = data.number(at + 92, 4, "little")
        if name == ASF_DATA:
            has_data, packets = True, data.number(place + 40, 8, "little")
            if packets and size and length != 50 + packets * size:
                raise damaged(
                    f"the file is damaged: {packets} packets of {size} bytes are no {length - 50} bytes of data"
                )
        place += length
    if not has_data:
        raise damaged("the file is cut short: it ends before its data")
    check_rest(data, place, "objects")
    return _whole(data, start)


def avi_pieces(data: ByteReader, start: int) -> list[AudioPiece]:
    """AVI: its lists (RIFF AVI, RIFF AVIX) tile the file.

    Raises:
        AudioError: a list reaches past the end of the file, bytes follow that are none.
    """
    place, firsts = start, list[int]()
    while data.at(place, 4) == b"RIFF":
        if data.at(place + 8, 4) == b"AVI ":
            firsts.append(place)
        length = data.number(place + 4, 4, "little")
        if is_unknown_length(length):
            raise damaged(
                "it was written to a pipe, so that nothing says where it ends: have its lists written anew by "
                "`ffmpeg -i IN -c copy OUT.avi`"
            )
        if place + 8 + length > data.size:
            raise damaged(f"the file is cut short: a list has {length} bytes, {data.size - place - 8} are there")
        place += 8 + length + (length & 1)
    check_rest(data, min(place, data.size), "lists")
    stops = [*firsts[1:], data.size]
    return [AudioPiece(start=first, stop=stop, decoder="libav") for first, stop in zip(firsts, stops, strict=True)]
