"""Write the cards of the shipped models, assets/*/README.md: `python -m benchmarks.tiny_models UNITS ALIGNMENT`.

The arguments are what `python -m benchmarks.units --json UNITS` and `python -m benchmarks.alignment --json ALIGNMENT` wrote.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jiwer
import numpy as np
import torch
from transformers import AutoProcessor, Wav2Vec2ForCTC

from benchmarks.harness import Measurement, format_table
from recipes.tiny_models import ctc, distil, speech
from recipes.tiny_models.corpus import real_clips
from recipes.tiny_models.settings import assets, one_thread
from recipes.voices.settings import SEED
from recipes.voices.store import VoicedSentence
from schemas.commands.cli import Parser, command

DATA = """Data: {hours} h of speech made by the recipe: flite voices slt, awb and kal16, 24 Kokoro voices, the Piper voice joe
(Shakespeare, Milton and word lists), two thirds of the flite and Piper sentences and three copies of Kokoro's resampled by
0.82 to 1.25; and the demo clips of two real readers. Held out: flite rms, four Kokoro voices, the readers of the Kennedy and
Austen clips, 5 % of the sentences.

Licence: Apache-2.0. {teacher}

Seed: {seed} (`recipes/tiny_models/settings.py`).

Command: `make -C recipes/tiny_models`; this model: `{command}`, {steps} steps of 12 s of speech, one CPU thread, bfloat16.
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure error rates, and write the four cards."""
    parser = Parser(__doc__)
    parser.add_argument("units", type=Path)
    parser.add_argument("alignment", type=Path)
    given = parser.parse_args(arguments)
    one_thread()
    told, aligned = _table(given.units), _table(given.alignment)
    hubert = DATA.format(
        hours="2.1",
        teacher="The teacher is Whisper-base (MIT); no label was used.",
        seed=SEED,
        command="python -m recipes.tiny_models.distil",
        steps=_steps(distil.checkpoint_path()),
    )
    letters = DATA.format(
        hours="3.9",
        teacher="Started from the tiny HuBERT (teacher: Whisper-base, MIT).",
        seed=SEED,
        command="python -m recipes.tiny_models.ctc",
        steps=_steps(ctc.checkpoint_path()),
    )
    measured = f"Measured by `python -m benchmarks.units` (what its tables are is said there):\n\n{told}\n"
    about = (
        "A `HubertModel` at 25 Hz (hop 640), 4 layers of 256, layer norms only; layer 4 is the one to cluster.\n"
        "Each layer attends to one second on each side: `attention_reach` in config.json, which transformers does not know and\n"
        "`pipeline/networks/attention_reach.py` does. A small model for the demo and CI, with English only: not a HuBERT-base."
    )
    _write("tiny-hubert", "Tiny HuBERT", about, hubert, measured)
    about = (
        "A `Wav2Vec2ForCTC` at 50 Hz (hop 320), letters a-z, apostrophe, delimiter and blank; trained so that letters sit where\n"
        "they are spoken. Made for alignment. As a recogniser it is poor: see the error rates."
    )
    measured = (
        f"Measured without a language model, greedy:\n\n{_error_rates()}\n\n"
        f"Measured by `python -m benchmarks.alignment` (flite's exact word times):\n\n{aligned}\n"
    )
    _write("tiny-ctc", "Tiny letter CTC", about, letters, measured)
    for size in (100, 500):
        about = f"{size} centroids on layer 4 of `tiny-hubert`, 25 Hz. `card.json` says which weights and every FAISS parameter."
        text = (
            "Data: every third utterance of the speech that `../tiny-hubert` was trained on.\n\nLicence: Apache-2.0.\n\n"
            f"Seed: {SEED}.\n\nCommand: `python -m recipes.tiny_models.kmeans {size}`\n"
        )
        _write(
            f"tiny-kmeans-{size}",
            f"{size} units",
            about,
            text,
            "Measured: see `../tiny-hubert/README.md`, `shipped`.\n",
        )
    return 0


def _table(path: Path) -> str:
    return format_table([Measurement(**row) for row in json.loads(path.read_text(encoding="utf-8"))])


def _steps(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["step"])


def _write(folder: str, title: str, about: str, facts: str, measured: str) -> None:
    (assets() / folder / "README.md").write_text(f"# {title}\n\n{about}\n\n{facts}\n{measured}", encoding="utf-8")


def _error_rates() -> str:
    """A table of character and word error rates per group of voices."""
    processor = AutoProcessor.from_pretrained(assets() / "tiny-ctc", local_files_only=True)
    model = Wav2Vec2ForCTC.from_pretrained(assets() / "tiny-ctc", dtype=torch.float32, local_files_only=True).eval()
    held_out = speech.held_out()
    groups = {
        "flite, unseen voice (rms)": held_out["unseen"],
        "flite, seen voices, unseen sentences": held_out["seen"],
        "real, unseen readers": real_clips(unseen=True),
        "real, readers in the training": real_clips(unseen=False),
    }
    lines = ["| speech | character error rate | word error rate |", "|---|---|---|"]
    for name, items in groups.items():
        texts = [" ".join(item.words) for item in items]
        heard = [_greedy(model, processor, item) for item in items]
        lines.append(f"| {name} | {jiwer.cer(texts, heard):.1%} | {jiwer.wer(texts, heard):.1%} |")
    return "\n".join(lines)


@torch.inference_mode()
def _greedy(model: Wav2Vec2ForCTC, processor: AutoProcessor, item: VoicedSentence) -> str:
    wave = item.audio.astype(np.float32) / 32768
    inputs = processor(wave, sampling_rate=16_000, return_tensors="pt")
    return str(processor.batch_decode(model(inputs.input_values).logits.argmax(dim=-1))[0])


if __name__ == "__main__":
    sys.exit(main())
