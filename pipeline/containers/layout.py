"""Which container a file is, by its first bytes, and so which pieces of sound it holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from pipeline.containers.apple import aiff_pieces, caf_pieces
from pipeline.containers.base import AudioError, AudioPiece, ByteReader, damaged, skip_tag
from pipeline.containers.flac import flac_pieces
from pipeline.containers.foreign import LOOK, refuse_foreign, refuse_utf16
from pipeline.containers.mpeg import adts_frame, adts_pieces, amr_pieces, first_frame, mpeg_frame, mpeg_pieces
from pipeline.containers.nested import asf_pieces, avi_pieces, ebml_pieces, mp4_pieces
from pipeline.containers.ogg import ogg_pieces
from pipeline.containers.pcm import RIFF_NAMES, CutShort, au_pieces, sphere_pieces, w64_pieces, wav_pieces

Pieces = Callable[[ByteReader, int], list[AudioPiece]]

MAGIC: tuple[tuple[int, bytes, Pieces], ...] = (
    (8, b"WAVE", wav_pieces),
    (8, b"AVI ", avi_pieces),
    (0, b"fLaC", flac_pieces),
    (0, b"OggS", ogg_pieces),
    (4, b"ftyp", mp4_pieces),
    (4, b"moov", mp4_pieces),
    (4, b"mdat", mp4_pieces),
    (4, b"wide", mp4_pieces),
    (0, b"\x1a\x45\xdf\xa3", ebml_pieces),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", asf_pieces),
    (0, b"#!AMR", amr_pieces),
    (8, b"AIFF", aiff_pieces),
    (8, b"AIFC", aiff_pieces),
    (0, b".snd", au_pieces),
    (0, b"dns.", au_pieces),
    (0, b"NIST_1A", sphere_pieces),
    (0, b"caff", caf_pieces),
    (0, b"riff", w64_pieces),
)
OUTER = {b"WAVE": RIFF_NAMES, b"AVI ": (b"RIFF",), b"AIFF": (b"FORM",), b"AIFC": (b"FORM",)}
"""What a file whose name is at 8 begins with."""
STATED = {wav_pieces, aiff_pieces, au_pieces, sphere_pieces, caf_pieces, w64_pieces}
"""Containers whose first bytes state how many bytes of samples follow."""
FAR = 64 * 1024
"""Bytes at the head in which a first MPEG frame is looked for, where nothing else is known of a file."""


def is_cut_short(file: BinaryIO) -> bool:
    """Whether a header states more bytes of samples than the file has. Only the head of the file need be there; where it does
    not tell, the answer is no."""
    data = ByteReader(file)
    pieces = _known(data.at(0, 32))
    if pieces is None or pieces not in STATED:
        return False
    try:
        pieces(data, 0)
    except CutShort:
        return True
    except AudioError:
        pass  # what is wrong with it, or lies beyond its head, is for `lay_out`, which has the whole file
    return False


def _known(head: bytes) -> Pieces | None:
    for offset, magic, pieces in MAGIC:
        if head[offset : offset + len(magic)] == magic and head[:4] in OUTER.get(magic, (head[:4],)):
            return pieces
    return None


def lay_out(file: BinaryIO) -> list[AudioPiece]:
    """The pieces of sound that a file holds, in order; every other byte of it is known to be none.

    Raises:
        AudioError: empty; unsupported, with the remedy; decode_error where a container is damaged, cut short, or unknown.
    """
    data = ByteReader(file)
    if not data.size:
        raise AudioError("empty", "the file has zero bytes")
    start = 0
    while data.at(start, 3) == b"ID3" and (after := skip_tag(data, start)) > start:
        start = after
    head = data.at(start, 32)
    if (known := _known(head)) is not None:
        return known(data, start)
    refuse_utf16(data.at(start, LOOK))  # its byte order mark looks like the head of an MPEG frame
    if adts_frame(head) is not None:
        return adts_pieces(data, start)
    if mpeg_frame(head) is not None or start:
        return mpeg_pieces(data, start)
    refuse_foreign(data.at(start, LOOK))
    if (first := data.zeros_until(0, min(data.size, FAR))) and mpeg_frame(data.at(first, 4)) is not None:
        return mpeg_pieces(data, first)
    for read_head, pieces in ((mpeg_frame, mpeg_pieces), (adts_frame, adts_pieces)):
        if (first := first_frame(data, 0, read_head)) > 0:
            return pieces(data, first)
    raise damaged(
        "the file cannot be read as audio: no known container begins with its first bytes; if ffmpeg knows it, convert it: "
        "`ffmpeg -i IN OUT.flac`"
    )
