"""What crosses a boundary: tables, cards, commits, the shard index and the pipeline spec. Imports none of the other rooms."""

from importlib import import_module
from typing import Any

__all__ = ["open_output"]


def __getattr__(name: str) -> Any:
    if name == "open_output":  # on first use: Arrow's datasets take a moment that most importers need not spend
        return import_module("schemas.reading.output").open_output
    raise AttributeError(f"module 'schemas' has no attribute {name!r}")
