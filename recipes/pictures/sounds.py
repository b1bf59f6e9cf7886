"""Write the README's two sounds, docs/assets/recorded.mp3 and said.mp3: the beginning of a recording of the demo, and how the
demo's model goes on after it.

    make train && python -m recipes.pictures.sounds
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from jobs.hearing.listening import listen, speech_prompts
from jobs.hearing.report import make_parser, open_speaker
from model.inference.sampling import Sampling
from schemas.audio import SAMPLE_RATE
from schemas.commands.cli import Parser, command, natural
from schemas.config import ConfigError

ASSETS = Path(__file__).resolve().parents[2] / "docs" / "assets"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write both."""
    parser = Parser(__doc__)
    parser.add_argument("--checkpoint", default="runs/train-tiny", help="the run that speaks (default: %(default)s)")
    parser.add_argument("--shards", default="runs/demo/shards/index.json", help="where the prompt is from")
    parser.add_argument(
        "--prompt", type=natural, default=3, help="which of eight samples, from 0 (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    speaker = open_speaker(make_parser().parse_args([given.checkpoint]), given.checkpoint)
    prompts = speech_prompts(given.shards, count=8, seconds=3.0, speakers=[speaker])
    if given.prompt >= len(prompts):
        raise ConfigError(
            f"{given.shards} has {len(prompts)} samples to continue, and --prompt {given.prompt} counts from 0"
        )
    prompt = prompts[given.prompt]
    (answers,) = listen(speaker, [prompt], seconds=5.0, tokens=40, sampling=Sampling(temperature=0.8, top_p=0.95))
    said = next(answer for answer in answers if answer.to_speech)
    if prompt.audio is None:
        raise ConfigError(f"the shards {given.shards} carry no audio", "make them with stages.shards.audio: true")
    assert said.audio is not None
    for name, audio in (("recorded", prompt.audio), ("said", said.audio)):
        path = ASSETS / f"{name}.mp3"
        soundfile.write(path, np.clip(audio, -1.0, 1.0), SAMPLE_RATE, format="MP3")
        print(f"wrote {path}: {len(audio) / SAMPLE_RATE:.1f} s, after “{prompt.text}”")
    return 0


if __name__ == "__main__":
    sys.exit(main())
