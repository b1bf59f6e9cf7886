"""The spike guard: a step whose loss or gradient norm jumps far beyond what is usual is left out."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from schemas.config import StrictModel


class SpikeConfig(StrictModel):
    """Steps are left out whose loss or gradient norm is more than so many times the median of the steps before."""

    loss: float | None = Field(None, gt=1)
    """Times the median loss; null: losses are not looked at."""
    grad_norm: float | None = Field(None, gt=1)
    """Times the median of the gradient norm before it is cut; null: norms are not looked at."""
    window: int = Field(128, ge=2)
    """Steps that the medians are of. What was left out counts too, so that a lasting change is taken for usual in the end."""
    patience: int = Field(32, ge=2)
    """Steps before the first that can be left out."""


class SpikeGuard:
    """Knows the last losses and gradient norms. Its state is part of a checkpoint."""

    def __init__(self, config: SpikeConfig) -> None:
        self._config = config
        self._seen: dict[str, deque[float]] = {
            name: deque(maxlen=config.window) for name in ("loss", "grad_norm") if getattr(config, name) is not None
        }

    def refuses(self, loss: float, grad_norm: float) -> str | None:
        """Take note of a step; where it is a spike, say why. Numbers that are not finite are somebody else's business."""
        found = None
        for name, value in (("loss", loss), ("grad_norm", grad_norm)):
            if name not in self._seen or not math.isfinite(value):
                continue
            before = self._seen[name]
            if len(before) >= min(self._config.patience, self._config.window):
                # A median, since one spike would lift a mean while it is remembered; skipped steps are remembered too, or a
                # lasting change of the loss, as where a curriculum begins, would have every later step refused.
                usual, bound = statistics.median(before), getattr(self._config, name)
                if value > bound * usual:
                    found = (
                        f"{name} {value:.4g} is more than {bound:g} times the median {usual:.4g} of {len(before)} steps"
                    )
            before.append(value)
        return found

    def state(self) -> dict[str, Any]:
        """For JSON, which keeps every bit of a float."""
        return {name: list(values) for name, values in self._seen.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. What it lacks (an older checkpoint) begins anew."""
        for name, values in self._seen.items():
            values.clear()
            values.extend(state.get(name, ()))
