"""Which voice speaks: the choice of a synthesiser on a command line."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.commands.cli import natural, positive
from schemas.config import ConfigError
from schemas.models.hub import folder_of

if TYPE_CHECKING:
    from model.inference.trained import Trained
    from model.voice.synthesiser import Synthesiser

log = logging.getLogger(__name__)
HOURS = 5.0
"""Of recordings that are joined, where nobody says how many: an hour takes 1.1 GB of memory."""
WEIGHTS = ("*.safetensors", "*.pt", "*.pth", "g_*")


def add_speaking_arguments(parser: argparse.ArgumentParser) -> None:
    """--voice-shards and --vocoder, and what they need."""
    group = parser.add_argument_group("voice")
    group.add_argument(
        "--voice-shards",
        metavar="INDEX",
        help="speech shards whose recordings are joined (default: the model's training data)",
    )
    group.add_argument("--audio-root", metavar="DIR", help="where the recordings lie, if the shards carry no audio")
    group.add_argument("--voice", default="", metavar="NAME", help="only recordings with this in their path")
    group.add_argument(
        "--voice-hours",
        type=positive,
        metavar="HOURS",
        help=f"of recordings, at most: the first in the shards; an hour takes 1.1 GB of memory (default: {HOURS:g})",
    )
    group.add_argument("--mean-spectrum", action="store_true", help="speak with mean spectra instead of joined pieces")
    group.add_argument(
        "--vocoder",
        metavar="DIR",
        help="a unit HiFi-GAN instead: a folder or a fetched hub name",
    )
    group.add_argument("--speaker", type=natural, default=0, help="of a vocoder with several (default: %(default)s)")


def open_synthesiser(given: argparse.Namespace, trained: Trained) -> Synthesiser:
    """The voice that was asked for, checked against the units of the model.

    Raises:
        ConfigError: it cannot be opened, or is of other units.
        ShardError: the shards cannot be read.
    """
    from model.data.shards import ShardSet
    from model.data.sources import command_cache
    from model.voice.mean_spectrum import MeanSpectrum
    from model.voice.synthesiser import first_hours, spoken_samples
    from model.voice.unit_selection import UnitSelection
    from model.voice.vocoder import Vocoder, load_vocoder

    units = trained.units
    if units is None:
        raise ConfigError("the model was trained on text alone, so it has no units to speak")
    if given.vocoder:
        voice = Vocoder(load_vocoder(*_vocoder_files(folder_of(given.vocoder) or Path(given.vocoder))), given.speaker)
        if voice.model.config.num_embeddings < units.num_units:
            raise ConfigError(
                f"the vocoder knows {voice.model.config.num_embeddings} units, the model {units.num_units}"
            )
        if voice.hop * 16_000 != units.hop * voice.sample_rate:
            raise ConfigError(
                f"the vocoder speaks {voice.sample_rate / voice.hop:g} units a second, the model {16_000 / units.hop:g}"
            )
        return voice
    spoken = (source for source in trained.config.data.sources if source.kind != "text")
    index = given.voice_shards or next(source.data for source in spoken)
    shards = ShardSet(index, command_cache(trained.config.data, index))
    units.check_tokenizer(shards.index.cards, index)
    hours = given.voice_hours or HOURS
    samples, are_all = first_hours(spoken_samples(shards, given.audio_root, given.voice), hours)
    recordings = [(spoken.sample.units, spoken.audio) for spoken in samples]
    if not recordings:
        raise ConfigError(f"{index} has no recording with {given.voice!r} in its path")
    if not are_all:
        log.warning(
            "the voice is the first %g hours of %s: --voice-hours (in a training run evaluation.voice.voice_hours) takes more, "
            "at 1.1 GB of memory an hour, and --voice NAME those of one name",
            hours,
            index,
        )
    kind = MeanSpectrum if given.mean_spectrum else UnitSelection
    return kind(recordings, units.hop, units.num_units)


def _vocoder_files(folder: Path) -> tuple[Path, Path]:
    found = sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)})
    if not (folder / "config.json").is_file() or len(found) != 1:
        raise ConfigError(
            f"{folder} must hold config.json and one file of weights ({', '.join(WEIGHTS)}), found {len(found)}; a hub name is "
            "fetched beforehand, by `lst fetch --config` of a training configuration that names it"
        )
    return folder / "config.json", found[0]
