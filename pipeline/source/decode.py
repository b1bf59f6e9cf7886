"""Audio files to arrays: soundfile and soxr alone, no system package is needed. Every failure is a typed AudioError."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from pipeline.source.containers import AudioError, _check_container
from schemas.audio import SAMPLE_RATE

BLOCK = 65_536
"""Frames decoded at a time: a long file with many channels never lies in memory at its own rate."""
MP3_FRAME = 1152
UNKNOWN_LENGTH = 1 << 62


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
