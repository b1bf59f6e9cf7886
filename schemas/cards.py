"""Cards: what a model is, in enough detail that its id changes when its output may change."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from schemas.config import StrictModel

CardKind = Literal["asr", "vad", "aligner", "encoder", "kmeans", "unit_tokenizer", "text_tokenizer"]

NO_MODEL = "no model: the corpus's own"
OWN = "your own: fitted here"
"""What stands for a licence on the cards of what was not published by anybody."""


class Card(StrictModel):
    """A model as the tables refer to it. `facts` holds what determines its output; `notes` what is only good to know."""

    kind: CardKind
    name: str
    """For people, such as "whisper-tiny.en"."""
    facts: dict[str, Any]
    """File hashes, layer, hop, beam: JSON values only. Never a path: a moved model is the same model."""
    notes: dict[str, Any] = {}
    """Licence, training data, metrics. Not part of the id."""

    @property
    def card_id(self) -> str:
        """Kind, name and 12 hex digits of the hash of kind and facts."""
        digest = fingerprint({"kind": self.kind, "facts": self.facts})
        return f"{self.kind}-{self.name}-{digest[:12]}"


def fingerprint(value: Any) -> str:
    """The sha256 of a JSON value in canonical form (sorted keys, no white space, no NaN).

    Raises:
        TypeError, ValueError: the value is not plain JSON.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def hash_file(path: str | Path) -> str:
    """The sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_directory(path: str | Path, names: tuple[str, ...]) -> dict[str, str]:
    """The sha256 of the named files of a model directory; files that are absent are left out.

    Raises:
        FileNotFoundError: none of the names is there.
    """
    folder = Path(path)
    found = {name: hash_file(folder / name) for name in names if (folder / name).is_file()}
    if not found:
        raise FileNotFoundError(f"{folder} holds none of {', '.join(names)}: is it the right model directory?")
    return found
