"""The optimiser as a run's configuration names it. Read without torch: `lst train --help` answers at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.config import StrictModel


class AdamWConfig(StrictModel):
    """AdamW (the paper: lr 4e-4, betas 0.9 and 0.95, decay 0.1). Decay applies to matrices, not to gains."""

    kind: Literal["adamw"]
    """AdamW for all weights."""
    lr: float = Field(gt=0)
    """The peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the running means of gradient and square."""
    eps: float = 1e-8
    """Added to the root of the square."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled, times the learning rate."""


class MuonConfig(StrictModel):
    """Muon for each projection of the hidden layers; `adamw` for embeddings, output heads and gains."""

    kind: Literal["muon"]
    """Muon for hidden matrices."""
    lr: float = Field(gt=0)
    """The peak learning rate of the hidden matrices."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Nesterov momentum."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled, times the learning rate."""
    adjust_lr: Literal["original", "match_rms_adamw"] = "match_rms_adamw"
    """`match_rms_adamw` scales updates so that AdamW's learning rate and decay carry over."""
    adamw: AdamWConfig
    """For everything else."""


OptimiserConfig = Annotated[AdamWConfig | MuonConfig, Field(discriminator="kind")]
