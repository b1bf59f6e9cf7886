"""The report's last section: what the recordings may be used for, and the models with what decides their output."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from jobs.reporting.facts import ReportFacts
from jobs.reporting.strips import clean
from schemas.cards import Card


def recordings(facts: ReportFacts) -> str:
    """Files and seconds by licence."""
    rows = "".join(
        f"<tr><th>{clean(name)}</th><td>{count_text(count, 'file')}</td><td>{seconds_text(seconds)}</td></tr>"
        for name, (count, seconds) in facts.licences.items()
    )
    return f'<h3>Recordings</h3><table class="licences"><tbody>{rows}</tbody></table><h3>Models</h3>'


def models(cards: Iterable[Card]) -> str:
    """A box per card."""
    return f'<div class="cards">{"".join(_card(card) for card in sorted(cards, key=lambda card: card.card_id))}</div>'


def _card(card: Card) -> str:
    licence = card.notes.get("license") or card.notes.get("licence") or "not stated"
    notes = {key: _brief(value) for key, value in card.notes.items()}
    rest = f"<h4>notes</h4><pre>{_json(notes)}</pre>" if notes else ""
    return (
        f'<div class="card"><span class="kind">{clean(card.kind.replace("_", " "))}</span><b>{clean(card.name)}</b>'
        f"<span>licence: {clean(str(licence))}</span><code>{clean(card.card_id)}</code>"
        f"<details><summary>what decides its output</summary><pre>{_json(card.facts)}</pre>{rest}</details></div>"
    )


def _json(value: Any) -> str:
    lines = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True).split("\n")
    return "\n".join(map(clean, lines))


def _brief(value: Any) -> Any:
    """A long list as its length: the counts of 500 centroids say nothing on a page."""
    return f"{len(value)} values" if isinstance(value, list) and len(value) > 12 else value


def seconds_text(seconds: float) -> str:
    """Seconds as a person reads them: 312.2 s, 12 min 07 s, 12 h 05 min."""
    if seconds < 600:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole // 60 % 60:02d} min"


def count_text(number: int, noun: str, plural: str = "s") -> str:
    """A number with its noun: 1 file, 2,000 files."""
    return f"{number:,} {noun}{'' if number == 1 else plural}"
