from __future__ import annotations

import io
import struct
from collections.abc import Iterable

import numpy as np
import pytest
import soundfile
import soxr

from pipeline.containers.base import AudioError
from pipeline.source import decode
from pipeline.source.audio import SourceAudio
from pipeline.source.decode import decode_file, scan_file
from schemas.errors import StorageError
from tests.pipeline.conftest import DemoTables
from tests.pipeline.source.bad_audio import encode, speech


@pytest.mark.parametrize(
    "format,subtype", [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "PCM_24"), ("FLAC", "PCM_16"), ("AIFF", "PCM_16")]
)
def test_lossless_formats_give_back_what_was_written(format: str, subtype: str) -> None:
    voice = speech()
    samples, info = decode_file(encode(voice, format=format, subtype=subtype))
    assert samples.dtype == np.float32
    assert samples.shape == (1, len(voice))
    np.testing.assert_array_equal(samples[0], voice)
    assert (info.codec, info.sample_rate, info.channels) == (f"{format}/{subtype}", 16_000, 1)


@pytest.mark.parametrize("format,subtype", [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_lossy_formats_sound_like_what_was_written(format: str, subtype: str) -> None:
    voice = speech()
    samples, info = decode_file(encode(voice, format=format, subtype=subtype))
    assert info.num_samples == samples.shape[1] == len(voice)
    assert np.corrcoef(samples[0], voice)[0, 1] > 0.95


def test_a_scan_adds_each_block_once_however_short_the_blocks_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six hours of AAC are a million blocks: the sum of all before, for each of them, took an hour and more."""
    added = 0

    def counting(numbers: Iterable[int], *start: int) -> int:
        nonlocal added
        numbers = list(numbers)
        added += len(numbers)
        return sum(numbers, *start)

    voice = speech()
    file = encode(voice, format="WAV", subtype="PCM_16")
    monkeypatch.setattr(decode, "BLOCK", 100)
    monkeypatch.setattr(decode, "sum", counting, raising=False)
    assert scan_file(io.BytesIO(file), 3600.0)[0] == len(voice)
    assert added <= len(voice) // 100 + 10


def test_resampling_in_blocks_equals_resampling_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    voice = soxr.resample(speech(), 16_000, 44_100)
    file = encode(voice, 44_100, format="WAV", subtype="FLOAT")
    at_once = soxr.resample(voice, 44_100, 16_000)
    whole, _ = decode_file(file)
    monkeypatch.setattr(decode, "BLOCK", 1000)
    in_blocks, info = decode_file(file)
    assert info.num_samples == len(voice)
    assert abs(in_blocks.shape[1] - len(at_once)) <= 1
    length = min(in_blocks.shape[1], len(at_once))
    np.testing.assert_allclose(in_blocks[0, :length], at_once[:length], atol=1e-5)
    assert in_blocks.shape == whole.shape


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_scanning_a_file_gives_the_length_of_decoding_it(rate: int) -> None:
    file = encode(soxr.resample(np.stack([speech()] * 2, axis=1), 16_000, rate), rate)
    samples, info = decode_file(file, channel=-1)
    assert scan_file(io.BytesIO(file)) == (samples.shape[1], info)


def test_a_sound_too_short_to_have_a_sample_at_16_khz_is_empty() -> None:
    with pytest.raises(AudioError) as caught:
        decode_file(encode(np.zeros(1, dtype=np.float32), 96_000, format="WAV"))
    assert caught.value.code == "empty"


def test_channels_are_kept_mixed_or_chosen() -> None:
    voice = speech()
    both = np.stack([voice, -0.5 * voice], axis=1)
    file = encode(both, format="WAV", subtype="FLOAT")
    np.testing.assert_array_equal(decode_file(file)[0], both.T)
    np.testing.assert_allclose(decode_file(file, channel=-1)[0][0], 0.25 * voice, atol=1e-6)
    np.testing.assert_array_equal(decode_file(file, channel=1)[0][0], -0.5 * voice)


def test_floats_may_exceed_full_scale_and_whole_numbers_under_their_name_may_not() -> None:
    loud = 3.0 * speech()[:16_000]
    samples, _ = decode_file(encode(loud, format="WAV", subtype="FLOAT"))
    np.testing.assert_array_equal(samples[0], loud)
    with pytest.raises(AudioError, match=r"full scale.*divide") as caught:
        decode_file(encode(speech()[:16_000] * 32_768, format="WAV", subtype="FLOAT"))
    assert caught.value.code == "decode_error"


def test_a_wav_cut_anywhere_is_an_error() -> None:
    """libsndfile alone would return the shorter sound without a word."""
    whole = encode(speech(), format="WAV")
    for kept in (len(whole) - 2, len(whole) // 2, 100, 50):
        cut = whole[:kept]
        with pytest.raises(AudioError, match="cut short") as caught:
            decode_file(cut)
        assert caught.value.code == "decode_error"


def with_data_length(file: bytes, length: int) -> bytes:
    """A WAV file whose header states another length."""
    changed = bytearray(file)
    struct.pack_into("<I", changed, file.index(b"data") + 4, length)
    return bytes(changed)


def test_a_streamed_wav_without_a_length_is_read_to_its_end() -> None:
    voice = speech()
    samples, _ = decode_file(with_data_length(encode(voice, format="WAV"), 0xFFFFFFFF))
    assert samples.shape[1] == len(voice)


def test_a_wav_whose_writer_was_killed_is_not_taken_for_an_empty_one() -> None:
    with pytest.raises(AudioError, match=r"not finished.*ffmpeg -i IN -c copy") as caught:
        decode_file(with_data_length(encode(speech(), format="WAV"), 0))
    assert caught.value.code == "decode_error"
    with pytest.raises(AudioError) as caught:
        decode_file(encode(np.zeros(0, dtype=np.float32), format="WAV"))
    assert caught.value.code == "empty"


@pytest.mark.parametrize(
    "format,subtype", [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("FLAC", "PCM_16")]
)
@pytest.mark.parametrize("share", [0.9, 0.5, 0.05])
def test_a_compressed_file_cut_short_is_an_error(format: str, subtype: str, share: float) -> None:
    whole = encode(speech(), format=format, subtype=subtype)
    with pytest.raises(AudioError) as caught:
        decode_file(whole[: int(len(whole) * share)])
    assert caught.value.code == "decode_error"


def test_an_ogg_cut_between_two_pages_is_an_error() -> None:
    """Nothing in the file is damaged then: only the mark of the last page is missing."""
    whole = encode(np.tile(speech(), 4), format="OGG", subtype="VORBIS")
    between = whole.rindex(b"OggS")
    assert whole.count(b"OggS") > 3
    with pytest.raises(AudioError, match="not marked as the stream's end") as caught:
        decode_file(whole[:between])
    assert caught.value.code == "decode_error"


def test_a_recording_that_changed_is_noticed(demo: DemoTables) -> None:
    recording = demo.recordings[0].with_updates(sha256="0" * 64)
    with pytest.raises(StorageError, match="has changed since it was listed"):
        SourceAudio(demo.source.uri).read(recording)


def test_the_last_recording_is_kept_and_equals_the_file(demo: DemoTables) -> None:
    recording = demo.recordings[0]
    audio = SourceAudio(demo.source.uri)
    first = audio.read(recording)
    assert audio.read(recording) is first
    expected, _ = soundfile.read(f"{demo.source.uri}/{recording.uri}", dtype="float32")
    np.testing.assert_array_equal(first, expected)
    assert len(first) == recording.num_samples_16k
