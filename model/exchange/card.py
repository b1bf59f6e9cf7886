"""The model card of an exported folder, filled from the run: a README.md that the Hugging Face hub shows."""

from __future__ import annotations

from typing import Any

import yaml

from model.network.base import SpeechTextModel

NOT_STATED = "not stated"
USE = """```python
import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{name}", trust_remote_code=True).eval()
ids = torch.tensor([[1, 4, {unit}, {unit}, {unit}]])  # BOS <s> and three units; text ids are the tokenizer's + 5
logits = model(ids).logits  # [1, 5, {size}]
```

Joint ids: 0 padding, 1 BOS, 2 EOS, 3 `<t>`, 4 `<s>`, text tokens from 5, units from {unit}. With the project itself:
`lst generate --checkpoint {name}`, `lst score --checkpoint {name}`, `init_from: {name}`."""


def model_card(module: SpeechTextModel, run: dict[str, Any], patches: dict[str, Any], name: str) -> str:
    """Markdown with the hub's YAML head. `run` and `patches` as `model.exchange.folder.write_folder` keeps them."""
    licence, vocabulary, config = run["license"], module.vocabulary, run["config"]
    head = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": licence or "unknown",
        "tags": ["latent-speech-text", "speech-language-model", "custom_code"],
    }
    size = sum(parameter.numel() for parameter in module.parameters())
    rows = {
        "architecture": f"{config['model']['kind']}, {size / 1e6:.1f} M parameters",
        "vocabulary": f"{vocabulary.num_text:,} text tokens ({run['data']['tokenizer']}), {vocabulary.num_units} units",
        "patches in training": str(config["patches"]["policy"]),
        "patches here": ", ".join(f"{key} {value}" for key, value in patches.items() if value is not None),
        "conditioning": str(config["model"].get("conditioning") or "each element on all before it"),
        "steps": f"{run['step']:,}",
        "precision of training": str(config["precision"]),
        "licence of the weights": licence or NOT_STATED,
    }
    lines = ["---", yaml.safe_dump(head, sort_keys=False).rstrip(), "---", "", f"# {name}", ""]
    lines += ["A language model over text and speech units (Latent Speech-Text Transformer, arXiv 2510.06195).", ""]
    lines += ["| what | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
    lines += ["", "## Data", "", "| source | weight | content |", "|---|---|---|"]
    for (source, content), settings in zip(run["data"]["sources"].items(), config["data"]["sources"], strict=True):
        lines.append(f"| {source} | {settings['weight']:g} | `{content[:12]}` |")
    cards = (run["units"] or {}).get("cards", {})
    if cards:
        lines += ["", "## What made the units", "", "| step | model | identity | licence |", "|---|---|---|---|"]
        for card_id, card in sorted(cards.items()):
            licence_of_card = card["notes"].get("license") or NOT_STATED
            lines.append(f"| {card['kind']} | {card['name']} | `{card_id.rsplit('-', 1)[-1]}` | {licence_of_card} |")
    lines += ["", "## Use", "", USE.format(name=name, unit=vocabulary.unit_offset, size=vocabulary.size), ""]
    return "\n".join(lines)
