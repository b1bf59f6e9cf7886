"""Facts of audio that both halves share: the sampling rate inside, and the kinds of patches."""

from __future__ import annotations

SAMPLE_RATE = 16_000


PATCH_WORD, PATCH_SILENCE, PATCH_FILLER = 0, 1, 2
"""`Patches.kind`: a patch that holds a word, silence, or speech that no word covers."""
