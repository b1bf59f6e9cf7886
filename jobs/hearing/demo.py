"""Talk to a trained model in the browser: a box for a text, a microphone, and what the model says.

examples:
  python -m jobs.hearing.demo runs/train-tiny
  python -m jobs.hearing.demo runs/x --config my.yaml --port 8000 --open

The page is served on this machine alone (127.0.0.1). With --config, the pipeline spec that made the model's shards, it also
hears: what the microphone records becomes units as the training data did.
"""

from __future__ import annotations

import argparse
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.cluster.places import base_folder, resolve_spec
from jobs.hearing.server import HOST
from jobs.reporting.page import mp3
from jobs.reporting.terminal import printable
from model.inference.placement import add_placement
from model.voice.options import add_speaking_arguments
from schemas.commands.cli import Parser, amount, command, positive
from schemas.config import ConfigError, load_config, parse_config
from schemas.spec import PipelineSpec

if TYPE_CHECKING:
    from jobs.hearing.ear import Ear
    from jobs.hearing.listening import DemoPrompt, Said, SpeakingModel
    from model.inference.sampling import Sampling

PROMPT_SECONDS = 30.0


class Demo:
    """A model, its voice, and perhaps an ear."""

    def __init__(self, speaker: SpeakingModel, ear: Ear | None, sampling: Sampling, seconds: float) -> None:
        """
        Raises:
            ConfigError: the ear makes other units than the model was trained on.
        """
        self.speaker, self.ear, self.sampling, self.seconds = speaker, ear, sampling, seconds
        units = speaker.trained.units
        if ear is not None and (units is None or ear.tokenizer not in units.cards):
            raise ConfigError("the spec makes other units than the model's: give the one that made its shards")

    def answer(self, text: str, recording: bytes | None) -> dict[str, Any]:
        """What the page shows.

        Raises:
            ValueError: a sentence for the reader: the recording cannot be read, or holds nothing.
        """
        from jobs.hearing.listening import DemoPrompt, listen

        typed = DemoPrompt(name="text", text=text, units=None, audio=None)
        prompt = typed if recording is None else self._hear(recording)
        (said,) = listen(self.speaker, [prompt], seconds=self.seconds, tokens=80, sampling=self.sampling)
        spoken = next((item for item in said if item.to_speech), None)
        written = next(item for item in said if not item.to_speech)
        return {
            "heard": None if prompt.audio is None else sound(prompt.audio),
            "speech": None if spoken is None else self._new_part(spoken),
            "text": printable(written.text),
            "facts": "" if spoken is None else f"{len(spoken.units) - spoken.prompt_frames} new units",
        }

    def _hear(self, recording: bytes) -> DemoPrompt:
        from jobs.hearing.listening import DemoPrompt

        if self.ear is None:
            raise ValueError("this model was started without --config and cannot hear")
        try:
            units, audio = self.ear.hear(recording, PROMPT_SECONDS)
        except Exception as error:  # whatever a decoder may say of what a browser sent: the reader is told
            raise ValueError(f"the recording cannot be read: {error}") from error
        if not len(units):
            raise ValueError("the recording is shorter than one unit")
        return DemoPrompt(name="recording", text="", units=units, audio=audio)

    @staticmethod
    def _new_part(said: Said) -> str | None:
        """What came after the prompt; None where nothing did."""
        if said.audio is None or len(said.units) == said.prompt_frames:
            return None
        return sound(said.audio[len(said.audio) * said.prompt_frames // len(said.units) :])


def sound(audio: np.ndarray) -> str:
    """A waveform as a data URL."""
    return f"data:audio/mpeg;base64,{mp3(audio)}"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page on this machine until Ctrl-C."""
    given = make_parser().parse_args(arguments)
    from jobs.hearing.ear import Ear
    from jobs.hearing.report import open_speaker, run_facts
    from jobs.hearing.server import make_server
    from model.inference.sampling import Sampling

    speaker = open_speaker(given, given.run)
    ear = Ear(resolve_spec(load_config(PipelineSpec, given.config), base_folder())) if given.config else None
    sampling = parse_config(Sampling, {"temperature": given.temperature, "top_p": 0.95}, "the sampling options")
    demo = Demo(speaker, ear, sampling, given.seconds)
    facts = run_facts(given.run, speaker.trained)
    server = make_server(
        demo.answer, {"name": facts.label, "expectation": facts.expectation, "hears": ear is not None}, given.port
    )
    address = f"http://{HOST}:{server.server_port}/"
    print(f"{address} (Ctrl-C ends it)", flush=True)
    if given.open:
        threading.Timer(0.5, webbrowser.open, (address,)).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("ended")
    finally:
        server.server_close()
    return 0


def port(text: str) -> int:
    """A port that nobody listens on now: it is asked before a model is loaded; for `type=` of an option."""
    number = int(text)
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError(f"{text} is no port: 0 to 65535")
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, number))
        except OSError as error:
            raise argparse.ArgumentTypeError(f"port {text}: {error.strerror}; --port 0 takes a free one") from error
    return number


def make_parser() -> Parser:
    """Apart from `main`, for the reference of commands."""
    parser = Parser(__doc__)
    parser.add_argument("run", metavar="RUN", help="output_dir of a training run, or one of its checkpoints")
    parser.add_argument("--config", metavar="SPEC", help="the pipeline spec that made the shards, so that it can hear")
    parser.add_argument("--port", type=port, default="8000", help="0: a free one (default: %(default)s)")
    parser.add_argument("--seconds", type=positive, default=6.0, help="of new speech, at most (default: %(default)s)")
    parser.add_argument("--temperature", type=amount, default=0.8, help="(default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    add_placement(parser)
    add_speaking_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
