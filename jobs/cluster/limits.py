"""Bounds on a worker process: how many threads its libraries start, and how long a call may take."""

from __future__ import annotations

import os
import sys
import threading

from schemas.spec import PipelineSpec


def limit_threads(count: int) -> None:
    """Set the number of threads of the BLAS libraries and of torch, which read it when they are loaded.

    torch is not loaded for it: most stages do without, and it takes seconds and half a gigabyte.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def cuda_stages(spec: PipelineSpec) -> list[str]:
    """The stages that ask for CUDA by name (`auto` takes what there is)."""
    parts = {"transcripts": spec.stages.transcripts, "words": spec.stages.words, "units": spec.stages.units.encoder}
    return [stage for stage, part in parts.items() if getattr(part, "device", None) == "cuda"]


class Watchdog:
    """Ends this process if the body takes longer than `seconds`: a hang becomes a crash, which is counted and taken apart."""

    def __init__(self, seconds: float):
        self.timer = threading.Timer(seconds, os._exit, (70,))
        self.timer.daemon = True

    def __enter__(self) -> None:
        self.timer.start()

    def __exit__(self, *exc: object) -> None:
        self.timer.cancel()
