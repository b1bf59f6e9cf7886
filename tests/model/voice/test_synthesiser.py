"""Sound as files: what the suffix says, and a sentence where a disk is full."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from model.voice.synthesiser import write_wav
from schemas.errors import UserError

RATE = 16_000


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_the_suffix_says_the_format(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "folder" / f"sound{suffix}"
    write_wav(path, np.linspace(-2, 2, RATE, dtype=np.float32), RATE)
    samples, rate = soundfile.read(path)
    assert rate == RATE
    assert abs(len(samples) - RATE) < 3_000  # lossy frames at the ends
    assert np.abs(samples).max() < 1.5  # clipped at 1, and what a lossy code adds


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name it"):
        write_wav(tmp_path / "sound.xyz", np.zeros(RATE, np.float32), RATE)
    full = tmp_path / "full.wav"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left.*full\.wav"):
        write_wav(full, np.zeros(RATE, np.float32), RATE)
