"""How attention is computed. Apart from `attention.py`, so that a configuration can be read without loading torch."""

from __future__ import annotations

from typing import Literal

Backend = Literal["auto", "dense", "blocks", "flex", "varlen"]
"""See `model.network.layers.attention`; `auto` picks by device and size."""
