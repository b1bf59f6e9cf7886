"""What is continued: prompts by name."""

from __future__ import annotations

import io
from typing import Any, cast

import fsspec
import numpy as np
import pytest

from model.generate import make_parser, read_prompts
from schemas.config import ConfigError


def prompts_of(source: str) -> list[Any]:
    given = make_parser().parse_args(["--checkpoint", "unread", "--speech", source])
    return read_prompts(given, 25.0, cast(Any, None))


def test_an_array_of_units_may_lie_in_a_bucket() -> None:
    """Shards were read from there, and arrays looked for in a folder of this machine that is called after the bucket."""
    file = io.BytesIO()
    np.save(file, np.arange(7, dtype=np.uint16))
    fsspec.filesystem("memory").pipe("/units/clip.npy", file.getvalue())
    (prompt,) = prompts_of("memory://units/clip.npy")
    assert prompt.name == "clip.npy"
    assert prompt.units.tolist() == list(range(7))


@pytest.mark.parametrize("name", ["none.npy", "none.jsonl"])
def test_what_is_not_there_is_a_sentence_with_its_url(name: str) -> None:
    with pytest.raises(ConfigError, match=f"memory://units/{name}"):
        prompts_of(f"memory://units/{name}")
