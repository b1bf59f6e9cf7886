"""The next input is made while a network works on this one: decoding and features on a CPU thread, the network on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def made_ahead(make: Callable[[Item], Made], items: Iterable[Item], *, ahead: bool) -> Iterator[Made]:
    """`make(item)` for each item, in order; with `ahead`, one further than asked for, on a thread of its own.

    All calls of `make` are on one thread, one after the other: it may keep state. Without `ahead` it is called when asked for,
    which is right where the network needs the same cores.
    """
    if not ahead:
        yield from map(make, items)
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as thread:
        waiting = None
        for item in items:
            following = thread.submit(make, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
