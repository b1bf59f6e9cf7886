"""What every step shares: folders, the seed, the voices and who is held out of what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

FRAME = 320
"""Samples per frame of the CTC model and of the teacher."""
UNIT_HOP = 640
"""Samples per frame of the tiny HuBERT: 25 Hz, the rate of the paper's units."""
PAD = 40
"""Samples of context the convolutions need on each side for exactly `samples // hop` frames."""

TRAIN_FLITE = ("slt", "awb", "kal16")
UNSEEN_FLITE = "rms"
"""Never synthesised for training, of either model."""
UNSEEN_KOKORO = ("af_heart", "am_michael", "bf_emma", "bm_george")
ACCENTS = (
    "ef_dora", "em_alex", "ff_siwis", "hf_alpha", "hm_omega", "if_sara",
    "im_nicola", "jf_alpha", "jm_kumo", "pf_dora", "pm_alex", "zf_xiaobei",
)  # fmt: skip
"""Kokoro's voices of other languages, which speak English with an accent: no training hears them, no bound was set on them."""
UNSEEN_REAL = ("jfk_inaugural_1961", "sense_and_sensibility")
"""File name prefixes of real readers kept out of training."""


def assets() -> Path:
    """Where the finished models go."""
    return Path(__file__).parents[2] / "assets"


def train_from_arguments(
    doc: str | None, arguments: Sequence[str] | None, steps: int, train: Callable[[int], object]
) -> int:
    """A trainer's command: `--steps`, one thread, and `train` from its last checkpoint on."""
    from schemas.commands.cli import Parser, count

    parser = Parser(doc)
    parser.add_argument("--steps", type=count, default=steps, help="default: %(default)s")
    given = parser.parse_args(arguments)
    one_thread()
    train(given.steps)
    return 0


def one_thread() -> None:
    """One torch thread: on a shared small machine two threads are slower than one for products of this size."""
    import torch  # synthesisers need these settings and no torch

    torch.set_num_threads(1)
