"""Decoded audio is kept: in a process up to a bound, and on a node for the other processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.source.audio import SourceAudio
from pipeline.source.node_cache import OLD_SECONDS, NodeCache
from schemas.cards import hash_file
from schemas.tables import Recording, recording_id

SECONDS = 2
NBYTES = 4 * 16_000 * SECONDS


@pytest.fixture
def recordings(tmp_path: Path) -> list[Recording]:
    """Three files of two seconds."""
    (tmp_path / "audio").mkdir()
    found = []
    for number in range(3):
        samples = np.random.default_rng(number).uniform(-0.5, 0.5, 16_000 * SECONDS).astype(np.float32)
        path = tmp_path / "audio" / f"{number}.wav"
        soundfile.write(path, samples, 16_000, subtype="FLOAT")
        digest = hash_file(path)
        found.append(
            Recording(
                recording_id=recording_id(digest), uri=path.name, source="test", bytes=0, sha256=digest, codec="",
                sample_rate=16_000, channels=1, num_samples=len(samples), num_samples_16k=len(samples),
            )
        )  # fmt: skip
    return found


def counted(audio: SourceAudio, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The recordings that a reader decodes from now on."""
    decoded: list[str] = []
    honest = audio._decode

    def decode(recording: Recording, channel: int) -> np.ndarray:
        decoded.append(recording.uri)
        return honest(recording, channel)

    monkeypatch.setattr(audio, "_decode", decode)
    return decoded


def test_what_fits_is_decoded_once_and_the_longest_unused_goes_first(
    tmp_path: Path, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = SourceAudio(str(tmp_path / "audio"), keep_bytes=2 * NBYTES)
    decoded = counted(audio, monkeypatch)
    first, second, third = recordings
    for recording in (first, second, first, third, first, second):
        assert audio.read(recording).shape == (16_000 * SECONDS,)
        assert sum(samples.nbytes for samples in audio._kept.values()) <= 2 * NBYTES
    assert decoded == ["0.wav", "1.wav", "2.wav", "1.wav"]


def test_one_that_is_larger_than_all_that_may_be_kept_is_still_read(
    tmp_path: Path, recordings: list[Recording]
) -> None:
    audio = SourceAudio(str(tmp_path / "audio"), keep_bytes=NBYTES // 2)
    for recording in recordings:
        assert len(audio.read(recording)) == recording.num_samples_16k
    assert len(audio._kept) == 1


def test_another_process_of_the_node_takes_what_the_first_has_decoded(
    tmp_path: Path, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "audio")
    first, second = (SourceAudio(uri, node=NodeCache("run", tmp_path)) for _ in range(2))
    expected = [first.read(recording).copy() for recording in recordings]
    decoded = counted(second, monkeypatch)
    for recording, samples in zip(recordings, expected, strict=True):
        np.testing.assert_array_equal(second.read(recording), samples)
    assert decoded == []
    other = SourceAudio(uri, node=NodeCache("another run", tmp_path))
    assert not counted(other, monkeypatch)
    (tmp_path / "lst-audio-run" / f"{recordings[0].recording_id}.-1.npy").write_bytes(b"cut short")
    third = SourceAudio(uri, node=NodeCache("run", tmp_path))
    np.testing.assert_array_equal(third.read(recordings[0]), expected[0])


def test_the_node_holds_no_more_than_it_may_and_forgets_runs_that_are_over(
    tmp_path: Path, recordings: list[Recording]
) -> None:
    old = tmp_path / "lst-audio-old"
    old.mkdir()
    os.utime(old, (0, time.time() - 2 * OLD_SECONDS))
    cache = NodeCache("run", tmp_path, most_bytes=int(2.5 * NBYTES))
    assert not old.exists()
    for number, recording in enumerate(recordings):
        cache.put(recording.recording_id, -1, np.full(16_000 * SECONDS, number, np.float32))
        os.utime(tmp_path / "lst-audio-run" / f"{recording.recording_id}.-1.npy", (0, number))
    assert cache.get(recordings[0].recording_id, -1) is None
    assert cache.get(recordings[2].recording_id, -1) is not None
    cache.put("large", -1, np.zeros(16_000 * 60, np.float32))
    assert cache.get("large", -1) is None


def test_a_node_whose_folder_is_gone_costs_only_the_keeping(tmp_path: Path) -> None:
    """Another run may have taken it for that of a run that is over."""
    cache = NodeCache("run", tmp_path)
    (tmp_path / "lst-audio-run").rmdir()
    cache.put("a", -1, np.zeros(160, np.float32))
    assert cache.get("a", -1) is None


@pytest.mark.parametrize("left", [b"", b"\x93NUM", b"\x93NUMPY\x01\0"])
def test_a_file_that_was_never_written_is_decoded_anew(tmp_path: Path, left: bytes) -> None:
    """A machine that goes down leaves names without content; the run that goes on there has the same folder."""
    cache = NodeCache("run", tmp_path)
    (tmp_path / "lst-audio-run" / "a.-1.npy").write_bytes(left)
    assert cache.get("a", -1) is None
