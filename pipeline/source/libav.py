"""The second decoder: libav through PyAV, for what libsndfile does not read or not to its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from pipeline.containers.base import AudioError, damaged

SCALES = {"u8": 1 / 128, "s16": 1 / 32_768, "s32": 1 / 2_147_483_648, "s64": 1 / 9_223_372_036_854_775_808}
OPTIONS = {"err_detect": "crccheck+bitstream+buffer+explode"}
"""A decoder that meets damage says so instead of guessing."""
SLACK = 0.1
"""Seconds by which the length that a container states may exceed what is decoded: priming, the last packet's rounding."""


@dataclass(frozen=True)
class SoundStream:
    """One stream of sound: its facts, and float32 blocks [samples, channels]."""

    codec: str
    rate: int
    channels: int
    blocks: Iterator[np.ndarray]


def open_libav(file: BinaryIO, *, check_length: bool) -> SoundStream:
    """The one stream of sound in a file.

    `check_length`: hold what is decoded against the length that the container states (that of a bare stream is a guess).

    Raises:
        AudioError: decode_error, also from `blocks`; unsupported: no sound, several streams of it, a codec unknown to libav.
    """
    import av

    av.logging.set_level(av.logging.PANIC)
    try:
        container: Any = av.open(file, mode="r", metadata_errors="replace")
    except (av.error.FFmpegError, ValueError, OverflowError) as error:
        raise damaged(f"the file cannot be read as audio: {_reason(error)}") from error
    sounds = container.streams.audio
    if len(sounds) != 1:
        container.close()
        what = (
            "no stream of sound" if not sounds else f"{len(sounds)} streams of sound, and which is wanted nobody says"
        )
        raise AudioError(
            "unsupported", f"the file holds {what}; `ffmpeg -i IN -map 0:a:0 OUT.flac` takes out the first"
        )
    stream = sounds[0]
    context = stream.codec_context
    if context is None or not context.rate or not context.channels:
        container.close()
        raise AudioError("unsupported", "the file's codec is unknown to libav: convert it with what wrote it")
    container_name = container.format.name.split(",")[0]
    facts = (f"libav/{container_name}/{context.name}", int(context.rate), int(context.channels))
    return SoundStream(*facts, _blocks(container, stream, facts[1], facts[2], check_length))


def _blocks(container: Any, stream: Any, rate: int, channels: int, check_length: bool) -> Iterator[np.ndarray]:
    import av

    num_samples = 0
    try:
        stream.codec_context.options = OPTIONS
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise damaged(f"the file is damaged after {num_samples / rate:.1f} s: a packet is not whole")
            for frame in packet.decode():
                if (frame.sample_rate, frame.layout.nb_channels) != (rate, channels):
                    raise damaged(
                        f"after {num_samples / rate:.1f} s the file changes from {rate} Hz and {channels} channels to "
                        f"{frame.sample_rate} Hz and {frame.layout.nb_channels}: cut it there"
                    )
                num_samples += frame.samples
                yield _samples(frame, channels)
        stated = float(stream.duration * stream.time_base) if stream.duration else 0.0
        if check_length and stated - num_samples / rate > SLACK:
            raise damaged(
                f"the file is cut short: its header promises {stated:.1f} s, {num_samples / rate:.1f} s could be read"
            )
    except (av.error.FFmpegError, ValueError, OverflowError) as error:
        raise damaged(f"the file is damaged or cut short after {num_samples / rate:.1f} s: {_reason(error)}") from error
    finally:
        container.close()


def _samples(frame: Any, channels: int) -> np.ndarray:
    """float32 [samples, channels] in [-1, 1]."""
    array = frame.to_ndarray()
    rows = array.T if frame.format.is_planar else array.reshape(-1, channels)
    name = frame.format.name.rstrip("p")
    if name in SCALES:
        shift = 128 if name == "u8" else 0
        return np.ascontiguousarray((rows.astype(np.float64) - shift) * SCALES[name], dtype=np.float32)
    return np.ascontiguousarray(rows, dtype=np.float32)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).strip().rstrip(".") or type(error).__name__


def libav_seconds(file: BinaryIO) -> float | None:
    """Duration as a container's header states it; None where it does not, or cannot be read."""
    import av

    av.logging.set_level(av.logging.PANIC)
    try:
        with av.open(file, mode="r", metadata_errors="replace") as container:
            return container.duration / av.time_base if container.duration else None
    except (av.error.FFmpegError, ValueError, OverflowError):
        return None
