"""Audio files to arrays: all of a file's sound, or a typed AudioError. Which decoder reads what: docs/decisions.md."""

from __future__ import annotations

import contextlib
import io
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np
import soundfile
import soxr

from pipeline.containers.base import AudioError, AudioPiece, Slice, damaged, open_piece
from pipeline.containers.layout import lay_out
from pipeline.containers.pcm import check_rate
from pipeline.source.libav import SoundStream, libav_seconds, open_libav
from schemas.audio import SAMPLE_RATE

BLOCK = 65_536
"""Frames decoded at a time: a long file with many channels never lies in memory at its own rate."""
UNKNOWN_LENGTH = 1 << 62
LOUDEST = 32.0
"""Peaks of float files above full scale are legal; beyond 30 dB of it the samples are whole numbers under a wrong name."""
LEAST_BITS_PER_SECOND = 4_000
"""A header that states more seconds than this lets its file hold is not believed when work is planned."""


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
        AudioError: decode_error (not audio, damaged, cut short), unsupported, empty, non_finite.
    """
    pieces: deque[np.ndarray] = deque()
    info = _decode(io.BytesIO(source) if isinstance(source, bytes) else source, channel, pieces.append)
    samples = np.empty((pieces[0].shape[1], sum(map(len, pieces))), np.float32)
    place = 0
    while pieces:  # each is let go when it has been copied: a long file does not lie in memory twice
        piece = pieces.popleft()
        samples[:, place : place + len(piece)] = piece.T
        place += len(piece)
    return samples, info


def scan_file(file: BinaryIO, max_seconds: float | None = None) -> tuple[int, AudioInfo]:
    """num_samples_16k and the facts of a file that is decoded to its end but not kept: hours of audio fit in little memory.

    Raises:
        AudioError: as `decode_file`; too_long as soon as more than `max_seconds` have come.
    """
    num_taken = 0  # libav gives 40 blocks a second: a list of them would be added up anew for each
    most = None if max_seconds is None else round(max_seconds * SAMPLE_RATE)

    def take(block: np.ndarray) -> None:
        nonlocal num_taken
        num_taken += len(block)
        if most is not None and num_taken > most + SAMPLE_RATE:
            raise AudioError("too_long", f"it lasts more than {max_seconds:g} s")

    info = _decode(file, -1, take)
    return num_taken, info


def _decode(file: BinaryIO, channel: int | None, take: Callable[[np.ndarray], None]) -> AudioInfo:
    """Give `take` the file in blocks, float32 [samples at 16 kHz, channels]; raises what `decode_file` raises."""
    pieces = lay_out(file)
    size = file.seek(0, io.SEEK_END)
    infos = []
    for piece in pieces:
        info, num_taken = _decode_piece(open_piece(file, piece, size), piece, channel, take)
        infos.append((info, num_taken))
    first = infos[0][0]
    if not sum(num_taken for _, num_taken in infos):
        raise AudioError("empty", "the file holds no samples")
    if len({info.channels for info, _ in infos}) > 1 and channel != -1:
        raise damaged("the parts of the file differ in their number of channels: cut it where they meet")
    num_samples = sum(round(info.num_samples * first.sample_rate / info.sample_rate) for info, _ in infos)
    return AudioInfo(codec=first.codec, sample_rate=first.sample_rate, channels=first.channels, num_samples=num_samples)


def _decode_piece(
    file: BinaryIO, piece: AudioPiece, channel: int | None, take: Callable[[np.ndarray], None]
) -> tuple[AudioInfo, int]:
    """The facts of a piece and how many samples at 16 kHz `take` was given of it."""
    with contextlib.ExitStack() as stack:
        if piece.decoder == "libav":
            stream, expected = open_libav(file, check_length=piece.promised is None), None
        else:
            sound = stack.enter_context(_open_sound(file))
            stream = SoundStream(f"{sound.format}/{sound.subtype}", sound.samplerate, sound.channels, _blocks(sound))
            expected = sound.frames if sound.frames < UNKNOWN_LENGTH else None
        rate, channels = stream.rate, stream.channels
        check_rate(rate, channels)
        kept = 1 if channel is not None else channels
        resampler = soxr.ResampleStream(rate, SAMPLE_RATE, kept, dtype="float32") if rate != SAMPLE_RATE else None
        num_samples = num_taken = 0
        peak = 0.0
        for block in stream.blocks:
            num_samples += len(block)
            if channel is not None and channels > 1:
                block = block.mean(axis=1, keepdims=True) if channel < 0 else block[:, channel : channel + 1]
            peak = max(peak, _peak(block))
            at_16k = block if resampler is None else resampler.resample_chunk(block)
            num_taken += len(at_16k)
            take(at_16k)
    _check_length(num_samples, rate, expected, piece)
    if peak > LOUDEST:
        raise damaged(
            f"its samples reach {peak:.0f} times the full scale of floats: its writer did not divide whole numbers (16-bit "
            "ones by 32768); mend it, for example with `ffmpeg -i IN -af volume=1/32768 OUT.flac`"
        )
    if resampler is not None and num_samples:
        rest = resampler.resample_chunk(np.zeros((0, kept), dtype=np.float32), last=True)
        num_taken += len(rest)
        take(rest)
    return AudioInfo(codec=stream.codec, sample_rate=rate, channels=channels, num_samples=num_samples), num_taken


def _peak(block: np.ndarray) -> float:
    """The largest magnitude.

    Raises:
        AudioError: non_finite.
    """
    peak = max(float(block.max(initial=0.0)), -float(block.min(initial=0.0)))
    if not math.isfinite(peak):
        raise AudioError("non_finite", "the file holds samples that are NaN or infinite")
    return peak


def _check_length(num_samples: int, rate: int, expected: int | None, piece: AudioPiece) -> None:
    """What was decoded must be all that the bytes of the piece are worth and all that the decoder saw in its header.

    Raises:
        AudioError: it is less.
    """
    tolerance = piece.tolerance * rate / piece.rate if piece.rate else piece.tolerance
    worth = piece.promised * rate / piece.rate if piece.promised is not None and piece.rate else piece.promised
    for promised in (worth, expected):
        if promised is not None and num_samples + tolerance < promised:
            raise damaged(
                f"the file is damaged or cut short: it holds {round(promised)} samples, {num_samples} could be read"
            )


def header_seconds(file: BinaryIO) -> float | None:
    """Duration as the header states it, or None where there is no readable header or the file is too small for it.

    A guess, by which work is planned and nothing else; nothing is decoded.
    """
    size = file.seek(0, io.SEEK_END)
    whole = cast(BinaryIO, Slice(file, 0, size))  # which takes the odd seeks that a damaged header makes a decoder try
    seconds = None
    with (
        contextlib.suppress(soundfile.LibsndfileError, OSError, RuntimeError, ValueError),
        soundfile.SoundFile(whole) as sound,
    ):
        if 0 < sound.frames < UNKNOWN_LENGTH and sound.samplerate > 0:
            seconds = sound.frames / sound.samplerate
    if seconds is None:
        whole.seek(0)
        seconds = libav_seconds(whole)
    return seconds if seconds is not None and seconds * LEAST_BITS_PER_SECOND <= size * 8 else None


def _open_sound(file: BinaryIO) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise damaged(f"the file cannot be read as audio: {_reason(error)}") from error


def _blocks(sound: soundfile.SoundFile) -> Iterator[np.ndarray]:
    num_read = 0
    while True:
        try:
            block = sound.read(BLOCK, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            after = num_read / sound.samplerate
            raise damaged(f"the file is damaged or cut short after {after:.1f} s: {_reason(error)}") from error
        if not len(block):
            return
        num_read += len(block)
        yield block


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or str(error)
    return str(text).strip().removeprefix("Error : ").rstrip(".")
