"""The data card: what a shard set holds and how it was made, as a Markdown file that a model hub shows as well."""

from __future__ import annotations

from typing import Any

import yaml

from schemas.cards import Card
from schemas.shards import ShardIndex

FORMS = {
    "textgrid": "Praat TextGrids, tiers `words` and `segments`",
    "ctm": "NIST CTM in `words.ctm`",
    "lhotse": "lhotse cuts with word alignments in `cuts.jsonl.gz`",
    "hf": "Parquet for Hugging Face `datasets`",
    "slamkit": "slamkit feature rows in `features.jsonl`",
    "lst-jsonl": "the official LST code's JSONL, one chunk per shard",
}
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "n>1B")
NOT_STATED = "not stated"


def data_card(index: ShardIndex, shares: dict[str, dict[str, float]], form: str | None = None) -> str:
    """The card as Markdown with the YAML head of the Hugging Face hub.

    `shares` has seconds per language and per licence (characters in a text set); `form` is a key of FORMS, None for the shards.
    """
    totals, speech = index.totals, index.kind == "speech"
    samples = int(totals.get("samples", 0))
    licences = [name for name in shares["licenses"] if name != NOT_STATED]
    head: dict[str, Any] = {
        "language": sorted(name for name in shares["languages"] if name) or ["und"],
        "license": "other" if licences else "unknown",
        "task_categories": ["automatic-speech-recognition", "text-to-speech"] if speech else ["text-generation"],
        "tags": ["webdataset", "speech-units", "forced-alignment"] if speech else ["webdataset"],
        "size_categories": [SIZES[min(max(len(str(samples)) - 3, 0), len(SIZES) - 1)]],
    }
    if licences:
        head["license_name"] = "; ".join(licences)[:120]
    what = FORMS[form] if form else "WebDataset shards, listed in `index.json`"
    lines = ["---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(), "---", ""]
    lines += ["# Data card", "", f"Form: {what}.", "", "| what | how much |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _rows(index, shares)]
    if index.cards:
        lines += ["", "## How it was made", "", "| step | model | identity | licence |", "|---|---|---|---|"]
        lines += [_model(name, card) for name, card in sorted(index.cards.items())]
    lines += ["", f"Made by latent-speech-text; fingerprint of the making `{index.fingerprint[:16]}`.", ""]
    return "\n".join(lines)


def _rows(index: ShardIndex, shares: dict[str, dict[str, float]]) -> list[tuple[str, str]]:
    totals = index.totals
    rows = [("samples", f"{totals.get('samples', 0):,} in {index.num_shards} shards")]
    if index.kind == "text":
        return [*rows, ("characters", f"{totals.get('characters', 0):,}"), *_shares(shares, "share of the characters")]
    rows.append(("hours", f"{totals.get('seconds', 0.0) / 3600:.2f}"))
    if "recordings" in totals:
        rows.append(("recordings", f"{totals['recordings']:,}"))
    named = totals.get("speaker_seconds", 0.0)
    rows.append(("speakers", f"named in {named / 3600:.2f} h, segment by segment" if named else "not labelled"))
    rows += _shares(shares, "h")
    rate = index.sample_rate / index.hop
    rows += [
        ("units", f"{totals.get('frames', 0):,} of {index.num_units} kinds at {rate:g} Hz"),
        ("words", f"{totals.get('words', 0):,}"),
        ("word-aligned patches", f"{totals.get('patches', 0):,}"),
    ]
    return rows


def _shares(shares: dict[str, dict[str, float]], unit: str) -> list[tuple[str, str]]:
    def told(amounts: dict[str, float]) -> str:
        if not amounts:
            return NOT_STATED
        whole = sum(amounts.values()) or 1.0
        ordered = sorted(amounts.items(), key=lambda item: (-item[1], item[0]))
        if unit == "h":
            return ", ".join(f"{name or NOT_STATED} ({amount / 3600:.2f} h)" for name, amount in ordered)
        return ", ".join(f"{name or NOT_STATED} ({amount / whole:.0%})" for name, amount in ordered)

    return [("languages", told(shares["languages"])), ("licences of the data", told(shares["licenses"]))]


def _model(name: str, card: Card) -> str:
    licence = card.notes.get("license") or NOT_STATED
    return f"| {card.kind} | {card.name} | `{name.rsplit('-', 1)[-1]}` | {licence} |"
