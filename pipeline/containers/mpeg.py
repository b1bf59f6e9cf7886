"""Streams of frames without a container: MPEG audio (MP3), ADTS (AAC), AMR. Their frames are walked and counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.containers.base import AudioError, AudioPiece, ByteReader, check_rest, damaged, end_of_audio, skip_tag

BIT_RATES = {
    (3, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""kbit/s by (3: MPEG 1, 2: MPEG 2 and 2.5; layer bits of the header: 3 is layer I) and the header's index less one."""
RATES = (44_100, 48_000, 32_000)
ADTS_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
AMR_SIZES = {
    b"#!AMR\n": (13, 14, 16, 18, 20, 21, 27, 32, 6, 6, 6, 6, 0, 0, 0, 1),
    b"#!AMR-WB\n": (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 6, 0, 0, 0, 1, 1),
}
"""Bytes of a frame with its head, by its mode."""
DECODER_DELAY = 529
"""Samples by which the output of an MPEG decoder lags its input: 528 of the filter banks, and one by convention."""


@dataclass(frozen=True)
class Frame:
    """A frame's head: its length in bytes, its samples, and what does not change within a stream."""

    length: int
    samples: int
    rate: int
    kind: int
    """Version, layer, rate, and whether it is mono; equal in all frames of a stream."""


def mpeg_frame(head: bytes) -> Frame | None:
    """The frame that 4 bytes begin, or None. Frames of "free" bit rate are None as well: their length is not stated."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer, index, rate_index = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 0 or not 0 < index < 15 or rate_index == 3:
        return None
    first = version == 3
    rate = RATES[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    bits = BIT_RATES[3 if first else 2, layer][index - 1] * 1000
    padding, kind = head[2] >> 1 & 1, head[1] >> 1 | rate_index << 7 | (head[3] >> 6 == 3) << 9
    if layer == 3:
        return Frame((12 * bits // rate + padding) * 4, 384, rate, kind)
    samples = 1152 if layer == 2 or first else 576
    return Frame(samples // 8 * bits // rate + padding, samples, rate, kind)


def adts_frame(head: bytes) -> Frame | None:
    """The ADTS frame that 7 bytes begin, or None."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 >= len(ADTS_RATES):
        return None
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    if length < 7:
        return None
    return Frame(length, 1024 * ((head[6] & 3) + 1), ADTS_RATES[head[2] >> 2 & 15], head[1] >> 1 | head[2] >> 2 << 7)


def mpeg_pieces(data: ByteReader, start: int) -> list[AudioPiece]:
    """The streams of an MP3 file, one after another. A new one begins with a Xing or Info frame, or where the rate changes.

    Raises:
        AudioError: bytes that belong to no frame, a last frame that is not whole, fewer frames than a Xing header counts.
    """
    walk = _walk(data, start, mpeg_frame, "MPEG")
    pieces: list[AudioPiece] = []
    first, index = 0, 1
    while index <= len(walk):
        if index == len(walk) or walk[index][1].kind != walk[first][1].kind or _xing(data, *walk[index]) is not None:
            stop = walk[index][0] if index < len(walk) else walk[-1][0] + walk[-1][1].length
            pieces.append(_mpeg_piece(data, walk[first:index], stop))
            first = index
        index += 1
    return pieces


def _mpeg_piece(data: ByteReader, frames: list[tuple[int, Frame]], stop: int) -> AudioPiece:
    place, head = frames[0]
    samples = sum(frame.samples for _, frame in frames)
    xing = _xing(data, place, head)
    if xing is None:
        return AudioPiece(
            start=place, stop=stop, decoder="libav", promised=samples, rate=head.rate, tolerance=3 * head.samples
        )
    counted, delay, padding = xing
    held = len(frames) - 1
    if counted is not None and counted > held:
        raise damaged(f"the file is cut short: its header counts {counted} MPEG frames, {held} are there")
    samples -= head.samples
    if counted != held:  # frames were joined on: what the header says of length and padding is of others
        after = frames[1][0] if held else stop
        return AudioPiece(
            start=after, stop=stop, decoder="libav", promised=samples, rate=head.rate, tolerance=3 * head.samples
        )
    return AudioPiece(
        start=place,
        stop=stop,
        promised=max(0, samples - delay - padding),
        rate=head.rate,
        tolerance=0 if delay or padding else 2 * head.samples + DECODER_DELAY,
    )


def _xing(data: ByteReader, place: int, head: Frame) -> tuple[int | None, int, int] | None:
    """(frames, encoder delay, padding) as a Xing or Info frame states them (None: it does not); None for any other frame."""
    if head.kind & 3 != 1:  # layer III alone
        return None
    frame = data.at(place, min(head.length, 256))
    at = frame.find(b"Xing", 4, 44)
    at = at if at >= 0 else frame.find(b"Info", 4, 44)
    if at < 0 or len(frame) < at + 8:
        return None
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    counted = int.from_bytes(frame[at + 8 : at + 12], "big") if flags & 1 else None
    lame = at + 8 + 4 * bool(flags & 1) + 4 * bool(flags & 2) + 100 * bool(flags & 4) + 4 * bool(flags & 8)
    delay = frame[lame + 21 : lame + 24]
    if len(delay) < 3 or not frame[lame : lame + 4].isalnum():
        return counted, 0, 0
    return counted, delay[0] << 4 | delay[1] >> 4, (delay[1] & 15) << 8 | delay[2]


def adts_pieces(data: ByteReader, start: int) -> list[AudioPiece]:
    """The one stream of an ADTS file. HE-AAC decodes to twice the rate, so what is promised is compared in seconds.

    Raises:
        AudioError: bytes that belong to no frame, a last frame that is not whole.
    """
    walk = _walk(data, start, adts_frame, "AAC")
    samples, last = sum(frame.samples for _, frame in walk), walk[-1]
    return [
        AudioPiece(
            start=walk[0][0],
            stop=last[0] + last[1].length,
            decoder="libav",
            promised=samples,
            rate=last[1].rate,
            tolerance=3 * 1024,
        )
    ]


def _walk(
    data: ByteReader, start: int, read_head: Callable[[bytes], Frame | None], name: str
) -> list[tuple[int, Frame]]:
    """Every frame from `start` on, with its place. Tags between frames are passed over.

    A recording of a broadcast may begin in the middle of a frame: what comes before the first whole one is passed over too.

    Raises:
        AudioError: anything else between, or an end in the middle of a frame.
    """
    place = start
    walk: list[tuple[int, Frame]] = []
    while place < data.size:
        frame = read_head(data.at(place, 7))
        if frame is not None and place + frame.length > data.size:
            if not walk or frame.kind == walk[-1][1].kind:
                raise damaged(f"the file is cut short in the middle of its last {name} frame")
            frame = None
        if frame is not None and (walk and frame.kind != walk[-1][1].kind):
            following = read_head(data.at(place + frame.length, 7))
            if following is None or following.kind != frame.kind:
                frame = None
        if frame is None:
            after = skip_tag(data, place)
            if after == place and not walk:
                after = first_frame(data, place, read_head)
            if after == place:
                raise damaged(
                    f"the file is damaged: no {name} frame begins at byte {place} of {data.size}, after {len(walk)} frames"
                )
            place = after
            continue
        walk.append((place, frame))
        place += frame.length
    if not walk:
        raise damaged(f"the file cannot be read as audio: it holds no {name} frame")
    return walk


def first_frame(data: ByteReader, place: int, read_head: Callable[[bytes], Frame | None] = mpeg_frame) -> int:
    """Where three frames follow each other, not further than a frame is long; `place` where they do not."""
    block = data.at(place, 2 * 2881)
    for offset in range(1, len(block) // 2):
        if block[offset] != 0xFF:
            continue
        at, kinds = place + offset, set[int]()
        for _ in range(3):
            frame = read_head(data.at(at, 7))
            if frame is None:
                break
            kinds.add(frame.kind)
            at += frame.length
        else:
            if len(kinds) == 1:
                return place + offset
    return place


def amr_pieces(data: ByteReader, start: int) -> list[AudioPiece]:
    """The streams of an AMR file, narrow or wide band, one after another: frames of 20 ms.

    Raises:
        AudioError: bytes that belong to no frame, a last frame that is not whole, several channels.
    """
    pieces: list[AudioPiece] = []
    place, stop = start, end_of_audio(data)
    while magic := next((magic for magic in AMR_SIZES if data.at(place, len(magic)) == magic), None):
        first, rate, frames = place, 16_000 if b"WB" in magic else 8_000, 0
        place += len(magic)
        while place < stop and data.at(place, len(magic)) != magic:
            length = AMR_SIZES[magic][data.number(place, 1, "big") >> 3 & 15]
            if not length:
                break
            if place + length > data.size:
                raise damaged("the file is cut short in the middle of its last AMR frame")
            place, frames = place + length, frames + 1
        samples = frames * rate // 50
        pieces.append(
            AudioPiece(start=first, stop=place, decoder="libav", promised=samples, rate=rate, tolerance=rate // 50)
        )
    if not pieces:
        raise AudioError(
            "unsupported", "AMR of several channels is not read here: convert it with `ffmpeg -i IN OUT.flac`"
        )
    check_rest(data, place, "frames")
    return pieces
