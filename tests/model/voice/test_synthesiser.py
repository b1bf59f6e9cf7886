"""Sound as files: what the suffix says, and a sentence where a disk is full."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
import soundfile

from model.data.shards import ShardSet
from model.data.sources import DataConfig, UnitFacts
from model.training.config import VoiceConfig
from model.voice.options import HOURS, add_speaking_arguments, open_synthesiser
from model.voice.synthesiser import Synthesiser, _from_recording, write_wav
from model.voice.unit_selection import UnitSelection
from schemas.commands.cli import Parser
from schemas.errors import ConfigError, UserError
from tests.synthetic_shards import HOP, speech_sample, write_speech_shards

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


def speaker_of(index: str, cache: Path) -> Any:
    """What a model of these shards says of its units and its data."""
    shards = ShardSet(index).index
    data = DataConfig.model_validate(
        {
            "sources": [
                {"kind": "speech", "data": index.replace(str(Path(index).parent), "memory://voice"), "weight": 1.0}
            ],
            "tokenizer": {"path": "unread"},
            "cache_dir": str(cache),
        }
    )
    units = UnitFacts(num_units=shards.num_units, hop=shards.hop, cards=shards.cards)
    return SimpleNamespace(units=units, config=SimpleNamespace(data=data))


def options(*arguments: str) -> Namespace:
    parser = Parser("")
    add_speaking_arguments(parser)
    given: Namespace = parser.parse_args(arguments)
    return given


def test_a_voice_of_remote_shards_is_copied_to_where_the_run_keeps_its_copies(tmp_path: Path) -> None:
    """Without a copy an evaluation while training, which speaks, could not begin on shards of an object storage."""
    index = write_speech_shards(tmp_path / "speech", [3], num_units=20, audio=True)
    store = fsspec.filesystem("memory")
    for path in index.parent.iterdir():
        store.pipe(f"/voice/{path.name}", path.read_bytes())
    voice = open_synthesiser(options(), speaker_of(str(index), tmp_path / "cache"))
    assert len(voice(np.arange(5))) == 5 * HOP
    assert list((tmp_path / "cache").glob("*.tar"))


def test_a_voice_takes_no_more_hours_than_it_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nor reads more; and says so. Where all fit the option changes nothing."""
    index = str(write_speech_shards(tmp_path, [3, 2], num_units=20, audio=True))
    trained, shards = speaker_of(index, tmp_path), ShardSet(index)
    lengths = [shards.read(shard, number).meta.num_frames for shard, number in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))]

    def voice(frames: float) -> Synthesiser:
        hours = f"{frames * HOP / RATE / 3600:.12f}"
        return open_synthesiser(options("--voice-shards", index, "--voice-hours", hours), trained)

    def spoken(voice: Synthesiser) -> int:
        assert isinstance(voice, UnitSelection)
        return int((voice.units_F < 20).sum())

    assert VoiceConfig().voice_hours == HOURS
    whole = open_synthesiser(options("--voice-shards", index), trained)
    assert np.array_equal(whole(np.arange(20)), voice(sum(lengths) + 1)(np.arange(20)))
    assert not caplog.records
    (tmp_path / "shard-00001.tar").unlink()
    assert spoken(voice(1)) == lengths[0]
    assert spoken(voice(sum(lengths[:2]) + 1)) == sum(lengths[:2])
    assert "--voice-hours (in a training run evaluation.voice.voice_hours)" in caplog.text
    told = Namespace(**VoiceConfig(voice_shards=index, voice_hours=1e-9).model_dump())
    assert spoken(open_synthesiser(told, trained)) == lengths[0]


def test_the_recording_of_a_channel_is_that_channel(tmp_path: Path) -> None:
    """Where channels were cut apart, a voice was made of units of one side and the sound of both."""
    sample, _ = speech_sample("call", 5, 20, np.random.default_rng(0))
    sides = np.stack([np.full(sample.num_frames * HOP, level, np.float32) for level in (0.25, -0.5)], axis=1)
    soundfile.write(tmp_path / "call.wav", sides, RATE, subtype="FLOAT")

    def sound(channel: str) -> np.ndarray:
        spans = [
            span.model_copy(update={"segment_id": f"call{channel}-{span.start:010d}-{span.end:010d}"})
            for span in sample.segments
        ]
        meta = sample.model_copy(update={"segments": spans})
        return _from_recording(SimpleNamespace(meta=meta), str(tmp_path), "index.json")  # type: ignore[arg-type]

    for channel, level in (("", -0.125), ("-c0", 0.25), ("-c1", -0.5)):
        assert np.allclose(sound(channel), level)
    with pytest.raises(ConfigError, match=r"call\.wav has no channel 3"):
        sound("-c2")
