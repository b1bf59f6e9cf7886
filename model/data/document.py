"""A document: what the loader makes of one sample, before patching and packing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Document:
    """One training document, [BOS] ... [EOS] included. All arrays have one entry per element (length n).

    What is known of alignment rides along, so that every patch policy can be applied to the same document.
    """

    ids: np.ndarray
    """int32 [n], joint vocabulary."""
    is_unit: np.ndarray
    """bool [n]: a speech unit. Only units are patched; every other element is a patch of its own."""
    patch_start: np.ndarray
    """bool [n]: an aligned patch (word, silence or filler) of the shard begins at this unit; False where not a unit."""
    patch_kind: np.ndarray
    """int8 [n]: kind of the aligned patch the unit lies in (0 word, 1 silence, 2 filler); -1 where not a unit."""
    token_start: np.ndarray
    """bool [n]: the time of a text token of the spoken word begins at this unit (BPE-aligned patching); all False where
    the shard has no character times."""
    target: np.ndarray
    """bool [n]: the element counts in the loss. The first element (BOS) never does."""
    sample_id: str
    """Shard key (and span) for messages about this document."""
