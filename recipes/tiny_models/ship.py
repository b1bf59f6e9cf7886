"""Write the finished models under assets/, in fp16: `python -m recipes.tiny_models.ship {hubert,ctc}`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2Processor

from recipes.tiny_models import ctc, distil, letters, priors
from recipes.tiny_models.settings import UNIT_HOP, assets
from recipes.voices.settings import SAMPLE_RATE
from schemas.commands.cli import Parser, command


def ship_hubert() -> Path:
    """assets/tiny-hubert: a `HubertModel` without the recipe's head."""
    student = distil.Student(UNIT_HOP)
    student.load_state_dict(_newest(distil.checkpoint_path()))
    folder = assets() / "tiny-hubert"
    student.hubert.half().save_pretrained(folder)
    _extractor().save_pretrained(folder)
    return folder


def ship_ctc() -> Path:
    """assets/tiny-ctc: a `Wav2Vec2ForCTC` with its processor."""
    model = Wav2Vec2ForCTC(ctc.config())
    model.load_state_dict(_newest(ctc.checkpoint_path()))
    folder = assets() / "tiny-ctc"
    model.half().save_pretrained(folder)
    # WhisperX feeds float32 to whatever dtype the configuration names: stored in half, loaded in single precision.
    document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    document["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps(letters.INDEX, indent=1) + "\n", encoding="utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(
        str(vocabulary), bos_token=None, eos_token=None, unk_token="<unk>", pad_token="<pad>", word_delimiter_token="|"
    )
    Wav2Vec2Processor(feature_extractor=_extractor(), tokenizer=tokenizer).save_pretrained(folder)
    _extractor().save_pretrained(folder)
    priors.write(folder)
    return folder


def _newest(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    print(f"{path.name}: step {state['step']}")
    return dict(state["model"])


def _extractor() -> Wav2Vec2FeatureExtractor:
    # Models with layer-normed convolutions take the waveform at unit variance; these were trained on other levels too.
    return Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=SAMPLE_RATE, padding_value=0.0, do_normalize=True, return_attention_mask=True
    )


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write a trained model as the files that are shipped."""
    parser = Parser(__doc__)
    parser.add_argument("model", choices=["hubert", "ctc"])
    given = parser.parse_args(arguments)
    print({"hubert": ship_hubert, "ctc": ship_ctc}[given.model]())
    return 0


if __name__ == "__main__":
    sys.exit(main())
