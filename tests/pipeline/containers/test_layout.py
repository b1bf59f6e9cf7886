"""All of a file's sound, or a reject: what is joined, streamed, cut, damaged or lying, in every container that is read."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
import soxr

from pipeline.containers.base import AudioError
from pipeline.containers.mpeg import mpeg_frame
from pipeline.source.decode import decode_file, header_seconds, scan_file
from tests.pipeline.source.bad_audio import encode, encode_libav, speech

RATE = 16_000
VOICE = speech()
OTHER = speech("sense_and_sensibility_0930.flac")

Encode = Callable[[np.ndarray], bytes]


def by_libsndfile(format: str, subtype: str) -> Encode:
    return lambda samples: encode(samples, format=format, subtype=subtype)


def by_libav(container: str, codec: str, rate: int = RATE, bit_rate: int | None = None) -> Encode:
    return lambda samples: encode_libav(samples, container, codec, rate, bit_rate)


FORMATS: dict[str, Encode] = {
    f"{format}/{subtype}": by_libsndfile(format, subtype)
    for format, subtype in (
        ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("WAV", "NMS_ADPCM_16"), ("WAVEX", "PCM_24"),
        ("RF64", "PCM_16"), ("W64", "PCM_16"), ("W64", "ULAW"), ("AIFF", "PCM_16"), ("AIFF", "ULAW"), ("AIFF", "GSM610"),
        ("AU", "PCM_16"), ("AU", "ALAW"),
        ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("NIST", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
    )
} | {
    "m4a/aac": by_libav("ipod", "aac"),
    "m4a/aac/44100": by_libav("ipod", "aac", 44_100),
    "m4a/alac": by_libav("ipod", "alac"),
    "mp4/aac": by_libav("mp4", "aac", 48_000),
    "mov/pcm": by_libav("mov", "pcm_s16le"),
    "3gp/amr": by_libav("3gp", "libopencore_amrnb", 8_000, 12_200),
    "aac": by_libav("adts", "aac"),
    "amr": by_libav("amr", "libopencore_amrnb", 8_000, 12_200),
    "webm/opus": by_libav("webm", "libopus", 48_000),
    "mka/flac": by_libav("matroska", "flac"),
    "wma": by_libav("asf", "wmav2", 44_100, 64_000),
    "avi/mp3": by_libav("avi", "libmp3lame"),
    "ogg/flac": by_libav("ogg", "flac"),
}  # fmt: skip
ONE_ONLY = ("CAF/PCM_16", "CAF/ALAC_16", "NIST/PCM_16", "AU/PCM_16", "AU/ALAW", "wma")
"""Where a second file after the first is a reject."""


def close(samples: int, seconds: float) -> bool:
    """Within 0.11 s: a codec's priming and its last frame."""
    return abs(samples / RATE - seconds) < 0.11


def rejected(file: bytes) -> AudioError:
    with pytest.raises(AudioError) as caught:
        decode_file(file)
    return caught.value


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_file_is_read_whole_and_half_of_it_is_a_reject(name: str) -> None:
    whole = FORMATS[name](VOICE)
    samples, _ = decode_file(whole, -1)
    assert close(samples.shape[1], len(VOICE) / RATE)
    assert close(round((header_seconds(io.BytesIO(whole)) or 0) * RATE), len(VOICE) / RATE)
    error = rejected(whole[: len(whole) // 2 + 1])
    assert error.code == "decode_error"
    assert "cut short" in error.detail or "damaged" in error.detail


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_after_the_sound_are_known_or_a_reject(name: str) -> None:
    """A tag that players put there is no sound; anything else might be."""
    whole = FORMATS[name](VOICE)
    assert close(decode_file(whole + b"TAG" + b"title".ljust(125, b"\0"), -1)[0].shape[1], len(VOICE) / RATE)
    assert rejected(whole + b"\xf1\x37nobody knows this" * 9).code == "decode_error"


def test_a_tag_that_is_known_by_its_end_alone_is_passed_over_behind_and_between() -> None:
    """APE tags of the first version have no header; one that begins elsewhere than it says is nothing known."""
    item = struct.pack("<II", 5, 0) + b"Title\0" + b"hello"
    foot = b"APETAGEX" + struct.pack("<IIIQ", 1000, len(item) + 32, 1, 0)[:20] + bytes(4)
    mp3, other = (FORMATS["MP3/MPEG_LAYER_III"](samples) for samples in (VOICE, OTHER))
    assert len(foot) == 32
    assert close(decode_file(mp3 + item + foot, -1)[0].shape[1], len(VOICE) / RATE)
    joined = decode_file(mp3 + item + foot + other, -1)[0].shape[1]
    assert abs(joined - len(VOICE) - len(OTHER)) < 0.22 * RATE
    assert rejected(mp3 + b"more" + item + foot).code == "decode_error"


@pytest.mark.parametrize("name", FORMATS)
def test_joined_files_are_read_one_after_another_or_rejected(name: str) -> None:
    both = FORMATS[name](VOICE) + FORMATS[name](OTHER)
    if name in ONE_ONLY:
        assert rejected(both).code == "decode_error"
        return
    samples, info = decode_file(both, -1)
    assert abs(samples.shape[1] - len(VOICE) - len(OTHER)) < 0.22 * RATE
    scanned, same = scan_file(io.BytesIO(both))
    assert (scanned, same) == (samples.shape[1], info)


def test_joined_wavs_and_flacs_are_the_very_samples() -> None:
    for format in ("WAV", "FLAC"):
        both = encode(VOICE, format=format) + encode(OTHER, format=format)
        np.testing.assert_array_equal(decode_file(both)[0][0], np.concatenate([VOICE, OTHER]))
    twice = encode(VOICE) * 2  # equal lengths: the last frame's number alone would tell nothing
    assert decode_file(twice)[0].shape[1] == 2 * len(VOICE)


def test_aac_begins_where_the_speech_began() -> None:
    """The samples by which an encoder is primed are not part of the recording where the container says so."""
    for name in ("m4a/aac", "m4a/aac/44100", "mp4/aac"):
        samples = decode_file(FORMATS[name](VOICE), -1)[0][0]
        shift = np.correlate(samples[8000:24_000], VOICE[7000:25_000], "full")
        assert abs(int(shift.argmax()) - (len(VOICE[8000:25_000]) - 1)) <= 20


# lengths that nobody stated --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0xFFFFFFFF - 36, 0xFFFFFFFF - 44, 0x7FFFF000, 0x7FFFFFFF, 0x80000000])
def test_a_wav_that_was_written_to_a_pipe_is_read_to_its_end(length: int) -> None:
    file = bytearray(encode(VOICE, format="WAV"))
    struct.pack_into("<I", file, file.index(b"data") + 4, length)
    np.testing.assert_array_equal(decode_file(bytes(file))[0][0], VOICE)


def streamed_flac(samples: np.ndarray) -> bytes:
    """A FLAC whose header does not know its number of samples nor their MD5."""
    file = bytearray(encode(samples))
    file[21:26] = (int.from_bytes(file[21:26], "big") & ~((1 << 36) - 1)).to_bytes(5, "big")
    file[26:42] = bytes(16)
    return bytes(file)


def test_a_flac_that_was_written_to_a_pipe_is_read_to_its_end_and_a_cut_one_is_not() -> None:
    file = streamed_flac(VOICE)
    np.testing.assert_array_equal(decode_file(file)[0][0], VOICE)
    np.testing.assert_array_equal(decode_file(file + bytes(500))[0][0], VOICE)
    assert rejected(file[:-1]).code == rejected(file[: len(file) // 2 + 1]).code == "decode_error"


def test_an_au_that_was_written_to_a_pipe_is_read_to_its_end() -> None:
    file = bytearray(encode(VOICE, format="AU"))
    order = ">" if file[:4] == b".snd" else "<"
    struct.pack_into(f"{order}I", file, 8, 0xFFFFFFFF)
    assert decode_file(bytes(file))[0].shape[1] == len(VOICE)


def test_a_caf_that_was_written_to_a_pipe_is_read_to_its_end() -> None:
    file = bytearray(encode(VOICE, format="CAF"))
    struct.pack_into(">q", file, file.index(b"data") + 4, -1)
    np.testing.assert_array_equal(decode_file(bytes(file))[0][0], VOICE)


def test_apple_lossless_as_ffmpeg_writes_it_to_a_caf_is_read_to_its_last_sample() -> None:
    file = encode_libav(VOICE, "caf", "alac")
    samples, info = decode_file(file)
    assert info.codec.startswith("CAF/ALAC")
    np.testing.assert_allclose(samples[0], VOICE, atol=1 / 32768)
    with pytest.raises(AudioError):
        decode_file(file[: len(file) // 2])


@pytest.mark.parametrize("stated", [0, (1 << 64) - 1])
def test_an_rf64_that_was_written_to_a_pipe_is_read_to_its_end(stated: int) -> None:
    file = bytearray(encode(VOICE, format="RF64"))
    struct.pack_into("<QQ", file, file.index(b"ds64") + 8, stated, stated)
    np.testing.assert_array_equal(decode_file(bytes(file))[0][0], VOICE)


@pytest.mark.parametrize("stated", [None, 0])
def test_a_bw64_is_read_as_the_rf64_that_it_is(stated: int | None) -> None:
    file = bytearray(encode(VOICE, format="RF64"))
    file[:4] = b"BW64"
    if stated is not None:
        struct.pack_into("<QQ", file, file.index(b"ds64") + 8, stated, stated)
    np.testing.assert_array_equal(decode_file(bytes(file))[0][0], VOICE)
    if stated is None:
        assert "cut short" in rejected(bytes(file[: len(file) // 2])).detail


@pytest.mark.parametrize(
    "container, codec, rate, bit_rate",
    [("asf", "wmav2", 44_100, 64_000), ("webm", "libopus", 48_000, None), ("matroska", "flac", RATE, None)],
)
def test_what_libav_writes_to_a_pipe_is_read_to_its_end_and_a_cut_one_is_not(
    container: str, codec: str, rate: int, bit_rate: int | None
) -> None:
    file = encode_libav(VOICE, container, codec, rate, bit_rate, piped=True)
    assert close(decode_file(file, -1)[0].shape[1], len(VOICE) / RATE)
    assert rejected(file[: len(file) // 2 + 1]).code == "decode_error"


@pytest.mark.parametrize("valid, is_read", [(16, True), (12, True), (0, True), (1, False), (8, False), (17, False)])
def test_widths_of_a_sample_that_contradict_each_other_are_a_reject(valid: int, is_read: bool) -> None:
    """An extensible header states them twice, and decoders differ in which they believe: 16 bits of which 1 counts."""
    file = bytearray(encode(VOICE, format="WAVEX"))
    struct.pack_into("<H", file, file.index(b"fmt ") + 8 + 18, valid)
    if is_read:
        np.testing.assert_array_equal(decode_file(bytes(file))[0][0], VOICE)
    else:
        assert "contradicts itself" in rejected(bytes(file)).detail


# MP3 -----------------------------------------------------------------------------------------------------------------


def variable_mp3(samples: np.ndarray, rate: int) -> bytes:
    """An MP3 of variable bit rate without the Xing frame, which a stream cannot have."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", rate, 1, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.5
    ) as file:
        file.write(soxr.resample(samples, RATE, rate) if rate != RATE else samples)
    content = buffer.getvalue()
    first = mpeg_frame(content[:4])
    assert first is not None
    assert b"Xing" in content[: first.length]
    return content[first.length :]


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_an_mp3_of_variable_rate_without_a_length_is_read_whole(rate: int) -> None:
    pause = np.zeros(8 * RATE, np.float32)
    for parts in ([VOICE, pause, OTHER], [pause, VOICE]):
        sound = np.concatenate(parts)
        file = variable_mp3(sound, rate)
        assert close(decode_file(file, -1)[0].shape[1], len(sound) / RATE)
        assert rejected(file[: len(file) // 2 + 1]).code == "decode_error"


def test_an_mp3_whose_second_part_has_no_header_is_read_whole() -> None:
    both = encode(VOICE, format="MP3", subtype="MPEG_LAYER_III") + variable_mp3(OTHER, RATE)
    extra = decode_file(both, -1)[0].shape[1] - len(VOICE) - len(OTHER)
    assert 0 <= extra < 0.25 * RATE, "the delays of two encoders, which nobody states any more"


def test_damage_inside_an_mp3_is_a_reject_that_says_where() -> None:
    file = bytearray(encode(VOICE, format="MP3", subtype="MPEG_LAYER_III"))
    file[len(file) // 2 : len(file) // 2 + 1000] = bytes(range(1, 251)) * 4
    assert f"of {len(file)}" in rejected(bytes(file)).detail


def test_a_recording_of_a_broadcast_may_begin_inside_a_frame() -> None:
    file = variable_mp3(VOICE, RATE)
    first = mpeg_frame(file[:4])
    assert first is not None
    assert close(decode_file(file[first.length // 2 :], -1)[0].shape[1], len(VOICE) / RATE)


# headers that lie ------------------------------------------------------------------------------------------------------


def with_bytes(file: bytes, place: int, new: bytes) -> bytes:
    return file[:place] + new + file[place + len(new) :]


LIES = {
    "wav of 1 Hz": with_bytes(encode(VOICE, format="WAV"), 24, struct.pack("<I", 1)),
    "wav of 4 GHz": with_bytes(encode(VOICE, format="WAV"), 24, struct.pack("<I", 0xFFFFFFFF)),
    "wav of 65,535 channels": with_bytes(encode(VOICE, format="WAV"), 22, b"\xff\xff"),
    "sphere of 1 Hz": encode(VOICE, format="NIST").replace(b"sample_rate -i 16000", b"sample_rate -i 1    "),
    "sphere of 2^60 samples": encode(VOICE, format="NIST").replace(
        b"sample_count -i %d" % len(VOICE), b"sample_count -i %d" % (1 << 60)
    ),
    "au of 4 billion channels": with_bytes(encode(VOICE, format="AU"), 20, b"\xff\xff\xff\xff"),
    "aiff of 2^31 samples": with_bytes(encode(VOICE, format="AIFF"), 22, b"\x40\0\0\0"),
    "flac of 2^36 samples": with_bytes(encode(VOICE), 21, b"\x0f\xff\xff\xff\xff"),
    "flac of 540 kHz": with_bytes(encode(VOICE), 18, (540_288 << 4 | encode(VOICE)[20] & 15).to_bytes(3, "big")),
    "w64 of 2^60 bytes": with_bytes(
        encode(VOICE, format="W64"), encode(VOICE, format="W64").index(b"data") + 16, struct.pack("<Q", 1 << 60)
    ),
    "caf of 1e300 Hz": with_bytes(encode(VOICE, format="CAF"), 20, struct.pack(">d", 1e300)),
}


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies_costs_nothing(name: str) -> None:
    """A reject, and no more audio in the plan than the file's bytes could be."""
    assert rejected(LIES[name]).code == "decode_error"
    seconds = header_seconds(io.BytesIO(LIES[name])) or 0.0
    assert seconds * 500 <= len(LIES[name])


def test_a_small_file_of_endless_silence_is_given_up_at_the_limit() -> None:
    silence = encode(np.zeros(RATE * 600, np.float32))
    assert len(silence) < 100_000
    with pytest.raises(AudioError) as caught:
        scan_file(io.BytesIO(silence), max_seconds=60)
    assert caught.value.code == "too_long"


def test_several_streams_of_sound_are_a_reject_with_the_remedy() -> None:
    two = encode_libav(VOICE, "matroska", "flac", streams=2)
    assert rejected(two).code == "unsupported"
    assert "2 streams of sound" in rejected(two).detail


def test_what_is_no_audio_is_named_with_its_remedy() -> None:
    """By its bytes: the names are those of audio, and a text may begin as other containers do (G, a byte order mark)."""
    wav = encode(VOICE, format="WAV")
    archive, packed = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.wav", wav)
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.wav"))
    kinds = {
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n": "run `git lfs pull`",
        b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>": "text and no audio, .* begins with '<!DOCTYPE html>",
        b"Good morning. This is a letter.\n" * 40: "text and no audio",
        "Voil\u00e0, \U0001f600 un texte.\r\n".encode() * 40: "text and no audio",
        "This is a text.\r\n".encode("utf-16") * 40: r"text \(UTF-16\)",
        **{
            "This is a text, d\u00e9j\u00e0 vu.\r\n".encode(encoding): rf"text \({encoding[:6].upper()}\)"
            for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
        },
        b"RIFF\x4c\0\0\0WAVEfmt "
        + wav[16:36]
        + b"LIST\x2c\0\0\0wavl"
        + b"data\x20\0\0\0"
        + wav[4000:4032]: "one block",
        archive.getvalue(): "a zip archive: unpack it",
        packed.getvalue(): "a tar archive: unpack it",
        gzip.compress(wav): "compressed by gzip: unpack it",
        b"\x02\x01" * 500: "if ffmpeg knows it, convert it",
        encode_libav(VOICE, "avi", "pcm_s16le", piped=True): "-c copy OUT.avi`",
        encode_libav(VOICE, "aiff", "pcm_s16be", piped=True): "-c copy OUT.aiff`",
    }
    for content, sentence in kinds.items():
        with pytest.raises(AudioError, match=sentence):
            scan_file(io.BytesIO(content))
