"""The text tokenizer of a worker process, opened once."""

from __future__ import annotations

from functools import lru_cache

from model.data.text_tokenizer import TextTokenizer, load_tokenizer


@lru_cache(maxsize=2)
def open_tokenizer(path: str) -> TextTokenizer:
    """The tokenizer in a file or directory.

    Raises:
        ConfigError: there is none that can be read.
    """
    return load_tokenizer(path)
