"""What a worker remembers of texts does not grow with the weeks that it reads."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from pipeline.text.other_numbers import _say
from pipeline.text.romanise import _romanise
from pipeline.text.segmentation import _cut

MANY = ["".join(letters) for letters in product("\u0f40\u0f41", repeat=17)]
"""Runs of Tibetan letters, 131,072 of them."""


@pytest.mark.parametrize(
    "remembered, asked",
    [
        (_romanise, [(f"word{number}",) for number in range(len(MANY))]),
        (_say, [(str(number), "nowhere") for number in range(len(MANY))]),
        (_cut, [(run,) for run in MANY]),
    ],
)
def test_words_are_forgotten_in_time(remembered: Callable[..., Any], asked: list[tuple[str, ...]]) -> None:
    for words in asked:
        remembered(*words)
    assert remembered.cache_info().currsize <= len(asked) // 2  # type: ignore[attr-defined]
    remembered.cache_clear()  # type: ignore[attr-defined]
