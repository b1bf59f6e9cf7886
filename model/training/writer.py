"""Writing checkpoints, at once or beside training: the tensors are copied to the host, and a thread does the rest."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import torch

from model.training.checkpoint import retain, save
from model.training.config import CheckpointConfig
from model.training.distributed import Ranks
from model.training.storage.stores import Checkpoints


class Writer:
    """A rank's writer. One checkpoint is under way at most; what went wrong with it is raised by the next call."""

    def __init__(self, store: Checkpoints, config: CheckpointConfig, ranks: Ranks) -> None:
        self._store, self._config = store, config
        # a thread's messages must not mix with those of the step that goes on meanwhile
        self._ranks = replace(ranks, host=ranks.writers) if config.beside else ranks
        self._thread: threading.Thread | None = None
        self._problem: BaseException | None = None

    def write(self, step: int, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Write and publish a checkpoint, then let go of old ones. With `beside` this returns once the tensors are copied.

        Raises:
            CheckpointError: see `model.training.checkpoint.save`; of this checkpoint, or of the one before.
        """
        self.wait()
        if not self._config.beside:
            self._write(step, tensors, facts)
            return
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        self._thread = threading.Thread(target=self._try, args=(step, copies, facts), name=f"checkpoint-{step}")
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is under way.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
        problem, self._thread, self._problem = self._problem, None, None
        if problem is not None:
            raise problem

    def _try(self, step: int, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        try:
            self._write(step, tensors, facts)
        except Exception as error:
            self._problem = error

    def _write(self, step: int, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        save(self._store, step, tensors, facts, self._ranks)
        if self._ranks.is_main:
            retain(self._store, self._config)
