"""Checks on a container before it is decoded: what it is, and whether it holds all that its header promises."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

from schemas.tables import RejectCode

# Containers and codecs that libsndfile does not read, by their first bytes: (offset, bytes, name).
FOREIGN_MAGIC = (
    (4, b"ftyp", "MP4/M4A"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (0, b"\x30\x26\xb2\x75", "WMA"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska/WebM"),
    (0, b"#!AMR", "AMR"),
)


class AudioError(Exception):
    """A file that is not usable audio: a reject code and a sentence for people."""

    def __init__(self, code: RejectCode, detail: str) -> None:
        super().__init__(detail)
        self.code: RejectCode = code
        self.detail = detail


def _check_container(file: BinaryIO) -> None:
    """What libsndfile does not say: foreign codecs by name, and files that it clips to their real length in silence."""
    file.seek(0)
    head = file.read(64)
    if not head:
        raise AudioError("empty", "the file has zero bytes")
    for offset, magic, name in FOREIGN_MAGIC:
        if head[offset : offset + len(magic)] == magic:
            raise AudioError(
                "unsupported",
                f"{name} audio is not read here (wav, flac, mp3, ogg and opus are); convert it, for example with "
                "`ffmpeg -i IN OUT.flac`",
            )
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        _check_wav(file)
    elif head[:4] == b"OggS":
        _check_ogg(file)


def _check_wav(file: BinaryIO) -> None:
    """libsndfile clips a `data` chunk that runs past the end of the file without a word."""
    size = file.seek(0, io.SEEK_END)
    position = 12
    unfinished = False
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8))
        there = size - position - 8
        if name == b"data":
            # 0xFFFFFFFF is what writers to a pipe leave, and what RF64 has where the length is elsewhere.
            if length != 0xFFFFFFFF and length > there:
                detail = f"the file is cut short: its header promises {length} bytes of samples, {there} are there"
                raise AudioError("decode_error", detail)
            if length > 0:
                return
            unfinished = there > 0
        elif position + 8 + length > size:
            break
        position += 8 + length + (length & 1)
    if unfinished and position < size:  # what follows the empty `data` is not a chain of chunks, so it is samples
        detail = "the file was not finished by its writer: its header promises no samples, but bytes follow it"
        raise AudioError("decode_error", detail)


def _check_ogg(file: BinaryIO) -> None:
    """An Ogg stream carries no length: only its last page says that it is the last."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 65_536 - 27 - 255))  # no page is longer
    tail = file.read()
    last = tail.rfind(b"OggS")
    if last < 0 or len(tail) < last + 27 or not tail[last + 5] & 4:
        raise AudioError("decode_error", "the file is cut short: its last Ogg page is not marked as the stream's end")
    num_lacing = tail[last + 26]
    if len(tail) < last + 27 + num_lacing + sum(tail[last + 27 : last + 27 + num_lacing]):
        raise AudioError("decode_error", "the file is cut short in the middle of its last Ogg page")
