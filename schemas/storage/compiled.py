"""Functions that numba compiles: the code is kept beside them or in the user's cache, where either can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` with these options, without the interpreter's lock; where nothing can be kept, each process compiles."""
    try:  # transformers wants every library that exported code imports, unless it is tried
        import numba  # here, for it takes a second, which readers of files do without
    except ImportError:
        raise

    def compile_(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # "no locator available": a machine that is read-only
            return numba.njit(nogil=True, **options)(function)

    return compile_
