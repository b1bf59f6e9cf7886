"""Inputs as they come from the world: broken, odd and hostile files, each with what should become of it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import soxr

from schemas.tables import RejectCode

DEMO = Path(__file__).parents[3] / "data" / "demo"
RATE = 16_000
LONG_MINUTES = 40


def speech(name: str = "sense_and_sensibility_0880.flac") -> np.ndarray:
    """float32 [samples] of a demo recording at 16 kHz."""
    samples, rate = soundfile.read(DEMO / name, dtype="float32")
    assert rate == RATE
    return np.asarray(samples)


def encode(samples: np.ndarray, rate: int = RATE, format: str = "FLAC", subtype: str = "PCM_16") -> bytes:
    """[samples] or [samples, channels] as the bytes of a file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()


class Pipe(io.RawIOBase):
    """What can be written to and not gone back in."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.content += bytes(data)
        return len(data)


def encode_libav(
    samples: np.ndarray,
    container: str,
    codec: str,
    rate: int = RATE,
    bit_rate: int | None = None,
    streams: int = 1,
    piped: bool = False,
) -> bytes:
    """[samples] at 16 kHz as the bytes of a file that libav writes, resampled to `rate`; `streams` times the same sound."""
    buffer = Pipe() if piped else io.BytesIO()
    voice = soxr.resample(samples, RATE, rate) if rate != RATE else samples
    with av.open(buffer, "w", format=container) as file:
        added = [file.add_stream(codec, rate=rate) for _ in range(streams)]
        for stream in added:
            stream.layout = "mono"
            if bit_rate:
                stream.bit_rate = bit_rate
            stream.codec_context.open()
        for stream in added:
            context = stream.codec_context
            size = context.frame_size if context.frame_size > 1 else 1024
            resampler = av.AudioResampler(format=context.format, layout="mono", rate=rate, frame_size=size)
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(voice[None], np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = rate, 0
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                file.mux(stream.encode(part))
            file.mux(stream.encode(None))
    return bytes(buffer.content) if isinstance(buffer, Pipe) else buffer.getvalue()


def write_bad_inputs(folder: Path) -> dict[str, RejectCode | None]:
    """Write the files into `folder`; returns name -> the code it is rejected with, None where it ends in the shards.

    The same files on every call. `silence.flac` is rejected by `segments` under its recording id, the others by
    `recordings` under their names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    voice = speech()
    flac, wav = encode(0.9 * voice), encode(0.9 * voice, format="WAV")
    middle = len(flac) // 2
    pause = np.zeros(RATE * 60 * LONG_MINUTES - 2 * len(voice), dtype=np.float32)
    with_nan = 0.7 * voice
    with_nan[1000] = np.nan
    with_infinity = 0.7 * voice
    with_infinity[-1] = np.inf
    eight = np.stack([gain * voice for gain in np.linspace(0.3, 1.0, 8)], axis=1)
    files: dict[str, tuple[bytes, RejectCode | None]] = {
        "corrupt.flac": (flac[:middle] + bytes(2000) + flac[middle + 2000 :], "decode_error"),
        "truncated.flac": (flac[: len(flac) * 2 // 3], "decode_error"),
        "truncated.wav": (wav[: len(wav) * 2 // 3], "decode_error"),
        "truncated.ogg": (encode(voice, format="OGG", subtype="VORBIS")[:-3000], "decode_error"),
        "truncated.mp3": (encode(voice, format="MP3", subtype="MPEG_LAYER_III")[:-6000], "decode_error"),
        "text.wav": (b"This is a letter, not a recording.\n" * 40, "decode_error"),
        "spoken.m4a": (encode_libav(0.85 * voice, "ipod", "aac"), None),
        "unfinished.m4a": (b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(2000), "decode_error"),
        "a_voc.wav": (encode(voice, format="VOC"), "unsupported"),
        "zero_bytes.flac": (b"", "empty"),
        "zero_bytes_again.wav": (b"", "empty"),
        "zero_samples.wav": (encode(np.zeros(0, dtype=np.float32), format="WAV"), "empty"),
        "short.wav": (encode(voice[:800], format="WAV"), "too_short"),
        "nan.wav": (encode(with_nan, format="WAV", subtype="FLOAT"), "non_finite"),
        "infinity.wav": (encode(with_infinity, format="WAV", subtype="FLOAT"), "non_finite"),
        "silence.flac": (encode(np.zeros(RATE * 5, dtype=np.float32)), "no_speech"),
        "equal_bytes_1.flac": (encode(0.8 * voice), None),
        "equal_bytes_2.flac": (encode(0.8 * voice), "duplicate"),
        "eight_channels.wav": (encode(eight, format="WAV"), None),
        "8khz.wav": (encode(soxr.resample(voice, RATE, 8000), 8000, format="WAV"), None),
        "44khz_stereo.mp3": (
            encode(soxr.resample(np.stack([voice, voice], axis=1), RATE, 44_100), 44_100, "MP3", "MPEG_LAYER_III"),
            None,
        ),
        "spoken.opus": (encode(voice, 16_000, "OGG", "OPUS"), None),
        "d\u00e9j\u00e0 vu/caf\u00e9 [1] \u2013 \u00e9t\u00e9.flac": (encode(0.95 * voice), None),
        "forty_minutes.flac": (encode(np.concatenate([voice, pause, 0.6 * voice])), None),
    }
    for name, (content, _) in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "notes.txt").write_text("Not audio by its name: counted as not listed, rejected nowhere.\n")
    return {name: code for name, (_, code) in files.items()}
