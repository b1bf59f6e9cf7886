"""Learning-rate schedules over the progress of a run, which is a pure function of what has been consumed."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from schemas.config import StrictModel


class _Schedule(StrictModel):
    warmup_steps: int = Field(ge=0)
    """The factor rises linearly from 0 over these steps."""

    def factor(self, step: int, progress: float) -> float:
        """What the peak learning rate is multiplied by for step `step` (from 0) at `progress` in [0, 1] of the budget."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return warmup * self.shape(min(1.0, max(0.0, progress)))

    def shape(self, progress: float) -> float:
        """The factor without the warm-up."""
        raise NotImplementedError


class CosineSchedule(_Schedule):
    """Half a cosine from 1 down to `min_ratio` (the paper: 2000 steps of warm-up, 0.01)."""

    kind: Literal["cosine"]
    """Half a cosine."""
    min_ratio: float = Field(ge=0, le=1)
    """The last factor."""

    def shape(self, progress: float) -> float:
        """From 1 at the beginning to `min_ratio` at the end, along half a cosine."""
        return self.min_ratio + (1 - self.min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


class WsdSchedule(_Schedule):
    """Warm-up, stable, decay: 1 until the last `decay_share` of the budget, then linearly down to `min_ratio`.

    A run can be resumed with a larger budget before its decay has begun, and is then equal to one that had it from the start.
    """

    kind: Literal["wsd"]
    """Warm-up, stable, decay."""
    decay_share: float = Field(gt=0, le=1)
    """The last share of the budget, over which the factor falls."""
    min_ratio: float = Field(ge=0, le=1)
    """The last factor."""

    def shape(self, progress: float) -> float:
        """1, then linearly to `min_ratio` over the last `decay_share`."""
        left = min(1.0, (1 - progress) / self.decay_share)
        return self.min_ratio + (1 - self.min_ratio) * left


Schedule = Annotated[CosineSchedule | WsdSchedule, Field(discriminator="kind")]
