"""Mutated audio files through the decoder: none may exhaust memory, hang, crash, or lose sound in silence.

A voice-like sound in 22 formats is damaged at random (bytes changed, cut out, put in, cut off, header fields replaced) and
decoded as the recordings stage does it. What is accepted is decoded once more by the other decoder, naively: if that finds
more, sound was lost without a word. Deterministic for a seed.

    python -m benchmarks.stress.mutations
"""

from __future__ import annotations

import io
import resource
import signal
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType

import av
import numpy as np
import soundfile

from benchmarks.harness import Measurement, main
from pipeline.containers.base import AudioError
from pipeline.source.decode import header_seconds, scan_file
from schemas.audio import SAMPLE_RATE

MUST_NOT_BE = ("out of memory", "hang", "exception", "silent loss")
SECONDS = 0.25
LIMIT_SECONDS = 5.0
"""A file that takes longer hangs."""
MEMORY_BYTES = 2 << 30
"""Beyond what the process has before the first file."""
TOLERANCE = 0.12
"""Seconds by which two decoders may differ: delay, padding and the frame that states them of an MP3 at 16 kHz are 0.11 s."""
WRITTEN_BY_LIBSNDFILE = (
    ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("WAV", "IMA_ADPCM"), ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("NIST", "PCM_16"),
    ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
)  # fmt: skip
WRITTEN_BY_LIBAV = (
    ("ipod", "aac", None), ("adts", "aac", None), ("webm", "libopus", None), ("matroska", "flac", None), ("asf", "wmav2", 64_000),
    ("amr", "libopencore_amrnb", 12_200),
)  # fmt: skip
RATES = {"libopus": 48_000, "libopencore_amrnb": 8_000}


FILES = 100_000
SEED = 0


def run() -> list[Measurement]:
    """The table: what became of the files, and how long it took."""
    limit_memory()
    begin = time.process_time()
    outcomes, lines = damage_and_read(FILES, SEED)
    seconds = time.process_time() - begin
    print("\n".join(lines[:20]))
    rows = [
        Measurement(
            name=f"{outcome}, of {FILES} files",
            value=outcomes[outcome],
            unit="files",
            goal="0",
            holds=not outcomes[outcome],
        )
        for outcome in MUST_NOT_BE
    ]
    rows += [Measurement(name=outcome, value=outcomes[outcome], unit="files") for outcome in ("rejected", "accepted")]
    return [*rows, Measurement(name="time", value=seconds, unit="core s", goal="< 300", holds=seconds < 300)]


def damage_and_read(files: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Outcome -> files, and a line on each that is not as it should be."""
    outcomes: Counter[str] = Counter()
    lines: list[str] = []
    signal.signal(signal.SIGALRM, _on_alarm)
    for name, content in mutations(files, seed):
        outcome, detail = judge(content)
        outcomes[outcome] += 1
        if outcome not in ("rejected", "accepted"):
            lines.append(f"{outcome}: {name}: {detail}")
    return outcomes, lines


class _Hang(Exception):
    """The file took too long."""


def _on_alarm(_number: int, _frame: FrameType | None) -> None:
    raise _Hang


def judge(content: bytes) -> tuple[str, str]:
    """What becomes of a file: accepted, rejected, or one of the four things that must not be, and a sentence."""
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
    try:
        header_seconds(io.BytesIO(content))
        num_samples, info = scan_file(io.BytesIO(content), max_seconds=3600)
    except AudioError:
        return "rejected", ""
    except MemoryError:
        return "out of memory", ""
    except _Hang:
        return "hang", ""
    except Exception as error:
        return "exception", f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    ours = num_samples / SAMPLE_RATE
    theirs = second_opinion(content, by_libav=not info.codec.startswith("libav"))
    if theirs > ours + TOLERANCE and theirs > ours * 1.05:
        return "silent loss", f"{ours:.3f} s of {theirs:.3f} s ({info.codec}, {info.sample_rate} Hz)"
    return "accepted", ""


def second_opinion(content: bytes, *, by_libav: bool) -> float:
    """Seconds that the other decoder finds, however damaged the file is."""
    if not by_libav:
        with (
            suppress(soundfile.LibsndfileError, RuntimeError, MemoryError),
            soundfile.SoundFile(io.BytesIO(content)) as sound,
        ):
            samples = 0
            for block in sound.blocks(1 << 16, always_2d=True):
                samples += len(block)
            return float(samples / sound.samplerate)
        return 0.0
    seconds = 0.0
    with (
        suppress(av.error.FFmpegError, ValueError, OverflowError, MemoryError),
        av.open(io.BytesIO(content)) as container,
    ):
        for packet in container.demux(container.streams.audio[:1]):
            with suppress(av.error.FFmpegError):
                seconds += sum(frame.samples / frame.sample_rate for frame in packet.decode())
    return seconds


# the files -------------------------------------------------------------------------------------------------------------


def mutations(files: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(name, content) of damaged files, formats in turn."""
    originals = list(whole_files(seed).items())
    random = np.random.default_rng(seed)
    for number in range(files):
        name, content = originals[number % len(originals)]
        damaged = bytearray(content)
        for _ in range(int(random.integers(1, 4))):
            _damage(damaged, random)
        yield f"{name} #{number}", bytes(damaged)


def _damage(content: bytearray, random: np.random.Generator) -> None:
    """Change a file in place, half of the time within its first 200 bytes, where the headers are."""
    size = len(content)
    if not size:
        return
    place = int(random.integers(0, min(size, 200) if random.random() < 0.5 else size))
    length = int(random.integers(1, 1 + max(1, min(size // 4, 2000))))
    match int(random.integers(0, 8)):
        case 0:
            content[place] ^= 1 << int(random.integers(0, 8))
        case 1:
            content[place] = int(random.integers(0, 256))
        case 2:
            content[place : place + 4] = struct.pack(
                "<I", int(random.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
            )
        case 3:
            content[place : place + 8] = struct.pack(">Q", int(random.integers(0, 1 << 62)))
        case 4:
            del content[place:]
        case 5:
            del content[place : place + length]
        case 6:
            content[place:place] = random.bytes(length)
        case _:
            content[place : place + length] = bytes(length)


def whole_files(seed: int) -> dict[str, bytes]:
    """A quarter of a second of a voice-like sound in every format."""
    times = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(seed).normal(scale=0.01, size=len(times))
    voice = (
        sum(np.sin(2 * np.pi * 130 * k * times) / k for k in range(1, 20)) * 0.2 * np.sin(np.pi * 4 * times) ** 2
        + noise
    )
    sound = voice.astype(np.float32)
    files: dict[str, bytes] = {}
    for format, subtype in WRITTEN_BY_LIBSNDFILE:
        buffer = io.BytesIO()
        soundfile.write(buffer, sound, SAMPLE_RATE, format=format, subtype=subtype)
        files[f"{format}/{subtype}"] = buffer.getvalue()
    for container, codec, bit_rate in WRITTEN_BY_LIBAV:
        files[f"{container}/{codec}"] = _by_libav(sound, container, codec, bit_rate)
    return files


def _by_libav(sound: np.ndarray, container: str, codec: str, bit_rate: int | None) -> bytes:
    buffer, rate = io.BytesIO(), RATES.get(codec, SAMPLE_RATE)
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.layout = "mono"
        if bit_rate:
            stream.bit_rate = bit_rate
        context = stream.codec_context
        context.open()
        size = context.frame_size if context.frame_size > 1 else 1024
        resampler = av.AudioResampler(format=context.format, layout="mono", rate=rate, frame_size=size)
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, 0
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def limit_memory() -> None:
    """Let this process have MEMORY_BYTES more than it has."""
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_BYTES, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main(run, __doc__)
