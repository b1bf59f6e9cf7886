"""The voice of a ladder: every rendition of every word once, as it was spoken, so that models of its units can be heard.
Of a ladder without renditions whole sentences, an hour for 690 words.

    python -m recipes.ladder.voice configs/stories/ladder-lex3.yaml --out runs/ladder-lex3/voice

Writes voice.ogg (Opus, 16 kHz) and voice.npy (the unit of each 40 ms of it). Needs the flite libraries, and minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.voice.unit_selection import UnitSelection
from recipes.ladder.make import learned_speaker
from recipes.ladder.settings import HOP, LadderConfig
from schemas.commands.cli import Parser, command
from schemas.config import load_config

SOUND, UNITS = "voice.ogg", "voice.npy"


def write_voice(folder: Path, pieces: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Pieces end to end: their units and their sound."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / UNITS, np.concatenate([units for units, _ in pieces]).astype(np.uint16))
    sound = np.concatenate([audio for _, audio in pieces])
    soundfile.write(folder / SOUND, sound, 16_000, format="OGG", subtype="OPUS", compression_level=0.9)


def read_voice(folder: Path, num_units: int) -> UnitSelection:
    """The voice in a folder.

    Raises:
        OSError: it is not there.
    """
    import soundfile

    units = np.load(folder / UNITS)
    audio, _ = soundfile.read(folder / SOUND, dtype="float32")
    whole = np.zeros(len(units) * HOP, np.float32)
    whole[: len(audio)] = audio[: len(whole)]
    return UnitSelection([(units, whole)], HOP, num_units)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write what a learned speaker says as a voice of unit selection."""
    parser = Parser(__doc__)
    parser.add_argument("config", help="a ladder of configs/stories/")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="fields to set, as the ladder was made with")
    parser.add_argument("--out", required=True, type=Path, help="the folder to write")
    given = parser.parse_args(arguments)
    speaker, said = learned_speaker(load_config(LadderConfig, given.config, given.overrides))
    pieces = list(speaker.pieces(said))
    write_voice(given.out, pieces)
    print(f"{given.out}: {len(pieces)} pieces, {sum(len(units) for units, _ in pieces) * HOP / 16_000:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
