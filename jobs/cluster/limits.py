"""Bounds on a worker process: what its libraries take, how long a call may last, and how much memory it may hold."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable

import psutil

from schemas.spec import PipelineSpec
from schemas.tables import RejectCode

LOOK_SECONDS = 0.25
"""How often a bound on memory is looked at."""
RETURN_SECONDS = 20.0
"""How often freed memory goes back to the system. Each time costs up to a quarter of a second, to clear the pages once more when
they are needed: too much after every partition of some seconds."""
KEPT_OPERATIONS = 64
"""How many oneDNN keeps, each for the next input of its shape: more than the 30 to 40 of one pass through a network, so that
windows of one length find all of theirs. It would keep 1,024, of ever new lengths of segments, and each lies between activations
that are freed around it: after half an hour of speech 1.1 GiB of holes that the next activations do not fit."""


def limit_libraries(threads: int) -> None:
    """Set the number of threads of the BLAS libraries and of torch, and how many of its operations oneDNN keeps: both are read
    when the libraries are loaded or first called. What the environment says of oneDNN stands.

    torch is not loaded for it: most stages do without, and it takes seconds and half a gigabyte.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KEPT_OPERATIONS))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


class FreedMemory:
    """What this process has freed and glibc keeps for its next use, a share that grows for hours.

    Rows, audio and operations that outlive a call lie between the activations of models, which come in ever new sizes: the holes
    between them fit fewer and fewer.
    """

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        self._returned = time.monotonic()

    def give_back(self) -> None:
        """To the system, unless that was done less than RETURN_SECONDS ago."""
        if self._trim is not None and time.monotonic() - self._returned >= RETURN_SECONDS:
            self._trim(0)
            self._returned = time.monotonic()


def _devices(spec: PipelineSpec) -> dict[str, str | None]:
    parts = {"transcripts": spec.stages.transcripts, "words": spec.stages.words, "units": spec.stages.units.encoder}
    return {stage: getattr(part, "device", None) for stage, part in parts.items()}


def cuda_stages(spec: PipelineSpec) -> list[str]:
    """The stages that ask for CUDA by name (`auto` takes what there is)."""
    return [stage for stage, device in _devices(spec).items() if device == "cuda"]


def gpu_stages(spec: PipelineSpec) -> list[str]:
    """The stages with a network that uses a GPU where its worker has one."""
    return [stage for stage, device in _devices(spec).items() if device in ("auto", "cuda")]


class Guard:
    """Ends this process if the body takes longer than `seconds`, or more memory than `most_bytes` (0: any).

    A hang becomes a death, which the driver counts. `note` is told the reject code beforehand: what is known here and not there.
    """

    def __init__(self, seconds: float, most_bytes: int, note: Callable[[RejectCode], object]) -> None:
        self._ended = threading.Event()
        self._arguments = (time.monotonic() + seconds, most_bytes, note)
        self._thread = threading.Thread(target=self._watch, args=self._arguments, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._ended.set()

    def _watch(self, until: float, most_bytes: int, note: Callable[[RejectCode], object]) -> None:
        me = psutil.Process()
        while not self._ended.wait(self._pause(until, most_bytes)):
            if time.monotonic() >= until:
                self._end(note, "timeout")
            if most_bytes and me.memory_info().rss > most_bytes:
                self._end(note, "out_of_memory")

    @staticmethod
    def _pause(until: float, most_bytes: int) -> float:
        left = max(until - time.monotonic(), 0.0)
        return min(left, LOOK_SECONDS) if most_bytes else left

    def _end(self, note: Callable[[RejectCode], object], code: RejectCode) -> None:
        try:
            note(code)
        finally:
            os._exit(70)
