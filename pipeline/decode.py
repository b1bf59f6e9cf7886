"""Audio files to arrays: soundfile and soxr alone, no system package is needed. Every failure is a typed AudioError."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import fsspec
import numpy as np
import soundfile
import soxr

from schemas.config import ConfigError
from schemas.tables import SAMPLE_RATE, Recording, RejectCode

BLOCK = 65_536
"""Frames decoded at a time: a long file with many channels never lies in memory at its own rate."""
MP3_FRAME = 1152
UNKNOWN_LENGTH = 1 << 62

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


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What a file says of itself once it has been decoded to its end."""

    codec: str
    sample_rate: int
    channels: int
    num_samples: int
    """Per channel, at `sample_rate`."""


def decode_file(source: bytes | BinaryIO, channel: int | None = None) -> tuple[np.ndarray, AudioInfo]:
    """Decode a whole file to 16 kHz.

    Args:
        source: the file's bytes, or a seekable binary file.
        channel: None for all channels, -1 for their mean, else one of them.

    Returns:
        float32 [channels, num_samples_16k] ([1, num_samples_16k] unless channel is None), and the file's facts.

    Raises:
        AudioError: decode_error (not audio, damaged, cut short), unsupported (needs ffmpeg), empty, non_finite.
    """
    pieces: list[np.ndarray] = []
    info = _decode(io.BytesIO(source) if isinstance(source, bytes) else source, channel, pieces.append)
    return np.ascontiguousarray(np.concatenate(pieces).T), info


def scan_file(file: BinaryIO) -> tuple[int, AudioInfo]:
    """num_samples_16k and the facts of a file that is decoded to its end but not kept: hours of audio fit in little memory.

    Raises:
        AudioError: as `decode_file`.
    """
    lengths: list[int] = []
    info = _decode(file, -1, lambda block: lengths.append(len(block)))
    return sum(lengths), info


def _decode(file: BinaryIO, channel: int | None, take: Callable[[np.ndarray], None]) -> AudioInfo:
    """Give `take` the file in blocks, float32 [samples at 16 kHz, channels]; raises what `decode_file` raises."""
    _check_container(file)
    with _open_sound(file) as sound:
        rate, channels, expected = sound.samplerate, sound.channels, sound.frames
        kept = 1 if channel is not None else channels
        resampler = soxr.ResampleStream(rate, SAMPLE_RATE, kept, dtype="float32") if rate != SAMPLE_RATE else None
        num_samples = num_taken = 0
        for block in _blocks(sound):
            num_samples += len(block)
            if channel is not None:
                block = block.mean(axis=1, keepdims=True) if channel < 0 else block[:, channel : channel + 1]
            if not np.isfinite(block).all():
                raise AudioError("non_finite", "the file holds samples that are NaN or infinite")
            at_16k = block if resampler is None else resampler.resample_chunk(block)
            num_taken += len(at_16k)
            take(at_16k)
        codec = f"{sound.format}/{sound.subtype}"
        tolerance = MP3_FRAME if sound.format == "MP3" else 0
    if expected < UNKNOWN_LENGTH and num_samples + tolerance < expected:
        raise AudioError(
            "decode_error",
            f"the file is cut short: its header promises {expected} samples, {num_samples} could be read",
        )
    if resampler is not None and num_samples:
        rest = resampler.resample_chunk(np.zeros((0, kept), dtype=np.float32), last=True)
        num_taken += len(rest)
        take(rest)
    if num_taken == 0:
        raise AudioError("empty", "the file holds no samples")
    return AudioInfo(codec=codec, sample_rate=rate, channels=channels, num_samples=num_samples)


def header_seconds(file: BinaryIO) -> float | None:
    """Duration as the header states it, or None where there is no readable header. Nothing is decoded."""
    try:
        with soundfile.SoundFile(file) as sound:
            return sound.frames / sound.samplerate if 0 < sound.frames < UNKNOWN_LENGTH else None
    except (soundfile.LibsndfileError, OSError, RuntimeError):
        return None


def _open_sound(file: BinaryIO) -> soundfile.SoundFile:
    file.seek(0)
    try:
        return soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError("decode_error", f"the file cannot be read as audio: {_reason(error)}") from error


def _blocks(sound: soundfile.SoundFile) -> Iterator[np.ndarray]:
    num_read = 0
    while True:
        try:
            block = sound.read(BLOCK, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            after = num_read / sound.samplerate
            detail = f"the file is damaged or cut short after {after:.1f} s: {_reason(error)}"
            raise AudioError("decode_error", detail) from error
        if not len(block):
            return
        num_read += len(block)
        yield block


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or str(error)
    return str(text).strip().removeprefix("Error : ").rstrip(".")


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


class SourceFolder:
    """The folder that holds the audio: a path or any fsspec URL. Names inside are uris relative to it."""

    def __init__(self, uri: str) -> None:
        self.filesystem, root = fsspec.core.url_to_fs(uri)
        self.uri = uri
        self.root = str(root).rstrip("/")

    def open(self, uri: str) -> BinaryIO:
        """A seekable binary file. A remote file is fetched whole, for it is read twice: to hash it and to decode it.

        Raises:
            OSError: the file cannot be opened.
        """
        path = f"{self.root}/{uri}"
        if "file" in _protocols(self.filesystem):
            return open(path, "rb")
        return io.BytesIO(self.filesystem.cat_file(path))


def _protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (filesystem.protocol,) if isinstance(filesystem.protocol, str) else tuple(filesystem.protocol)


def hash_stream(file: BinaryIO) -> str:
    """The sha256 of a file from its beginning, read in pieces."""
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


class SourceAudio:
    """Decoded audio by recording (an AudioReader). Keeps the last recording, so ask for segments in recording order."""

    def __init__(self, source_uri: str) -> None:
        self._folder = SourceFolder(source_uri)
        self._key: tuple[str, int] | None = None
        self._samples = np.zeros(0, dtype=np.float32)

    def read(self, recording: Recording, channel: int = -1) -> np.ndarray:
        """float32 [num_samples_16k], mono at 16 kHz; channel -1 is the mean of all channels.

        Raises:
            ConfigError: the file is no longer the one that became this recording.
        """
        key = (recording.recording_id, channel)
        if key != self._key:
            self._samples = self._decode(recording, channel)
            self._key = key
        return self._samples

    def _decode(self, recording: Recording, channel: int) -> np.ndarray:
        with self._folder.open(recording.uri) as file:
            if hash_stream(file) != recording.sha256:
                raise ConfigError(
                    f"{recording.uri} has changed since it was listed: leave the source alone during a run; start again"
                )
            samples, _ = decode_file(file, channel)
        assert samples.shape[1] == recording.num_samples_16k, "decoding the same bytes gave another length"
        mono: np.ndarray = samples[0]
        return mono
