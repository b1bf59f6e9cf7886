"""Files that are named like audio and are none that is read: what they are, by their first bytes, and what to do about it."""

from __future__ import annotations

import codecs
import unicodedata

from pipeline.containers.base import AudioError, damaged

LOOK = 512
"""Bytes at the head by which a text is known."""
APPLE_DOUBLE = b"\0\x05\x16\x07"
AUDIO = (
    (0, b"wvpk", "WavPack"),
    (0, b"RIFX", "a WAV with the bytes of each number turned round (RIFX)"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"TTA1", "True Audio"),
    (0, b"ajkg", "Shorten"),
    (0, b".RMF", "RealMedia"),
    (0, b"FLV\x01", "Flash video"),
    (0, b"\x0b\x77", "AC-3"),
    (0, b"Creative Voice File", "VOC"),
    (0, b"\x64\xa3", "IRCAM"),
    (0, b"PVF1", "PVF"),
    (0, b"\x47", "an MPEG transport stream"),
    (0, b"\0\0\x01\xba", "an MPEG program stream"),
    (8, b"8SVX", "8SVX"),
    (0, b"MThd", "MIDI"),
)
"""What is audio, but is not read: nobody here can say whether all of it was."""
ARCHIVES = (
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "compressed by gzip"),
    (0, b"BZh", "compressed by bzip2"),
    (0, b"\xfd7zXZ\0", "compressed by xz"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!", "a rar archive"),
    (257, b"ustar", "a tar archive"),
)
MOSTLY = 0.8
"""The share of the letters of a wide text that are of the West, at least, where no byte order mark says what it is."""
LFS_POINTER = b"version https://git-lfs"
BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def refuse_foreign(head: bytes) -> None:
    """Raises AudioError, with what the file is, where its first `LOOK` bytes say that; else it returns."""
    if head.startswith(APPLE_DOUBLE):
        raise AudioError(
            "unsupported",
            "it is what a Mac notes of the file whose name lacks the `._` (AppleDouble) and holds no sound: delete it, with all "
            "of them by `find SOURCE -name '._*' -delete`",
        )
    if head.startswith(LFS_POINTER):
        raise damaged("it is a pointer of Git LFS to the file, and not the file: run `git lfs pull`")
    if encoding := _wide_encoding(head):
        raise damaged(f"it is text ({encoding}) and no audio")
    if is_text(head, "utf-8"):
        raise damaged(f"it is text and no audio, perhaps what a server said instead: fetch it again; {_begins(head)}")
    if name := _named(AUDIO, head):
        raise AudioError(
            "unsupported",
            f"{name} is not read here (docs/pipeline.md lists what is): convert it, for example with `ffmpeg -i IN OUT.flac`",
        )
    if name := _named(ARCHIVES, head):
        raise AudioError("unsupported", f"it is {name}: unpack it")


def refuse_utf16(head: bytes) -> None:
    """Raises AudioError where a text in UTF-16 begins with its byte order mark."""
    if head.startswith(BYTE_ORDER_MARKS) and is_text(head, "utf-16"):
        raise damaged("it is text (UTF-16) and no audio")


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark that says so, by its zeros: most letters of the West have one in every place but one."""
    for name, width in (("UTF-32", 4), ("UTF-16", 2)):
        for place, order in ((0, "le"), (width - 1, "be")):
            letters = len(head[place::width])
            zeros = head.count(0) - head[place::width].count(0)
            if zeros >= MOSTLY * letters * (width - 1) and is_text(head, f"{name}-{order}"):
                return name
    return None


def is_text(head: bytes, encoding: str) -> bool:
    """Whether the first bytes of a file, the last character perhaps cut through, are text that can be shown."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(
        char in "\t\r\n\f" or unicodedata.category(char) not in ("Cc", "Cn", "Co") for char in text
    )


def _begins(head: bytes) -> str:
    first = " ".join(head[:200].decode("utf-8", "ignore").split())
    return f"it begins with {first[:40]!r}"


def _named(kinds: tuple[tuple[int, bytes, str], ...], head: bytes) -> str | None:
    return next((name for offset, magic, name in kinds if head[offset : offset + len(magic)] == magic), None)
