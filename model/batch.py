"""The packed batch: one 1-D schema from which masks, positions and conditioning are derived, once per step.

Shape suffixes: N elements (a fixed budget), P latents (a fixed budget).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Packed documents. Padding stands at the end, with `doc_id_N == -1`, `latent_id_N == num_latents - 1` at most.

    Invariants (checked by `check`, in the loader): latent ids start at 0, never decrease, grow by at most 1 and change at
    every document boundary; a latent with more than one element holds units alone; an element that is not a unit is
    `closed`; the first element of a document is never a target.
    """

    ids_N: torch.Tensor
    """int64: joint vocabulary."""
    is_unit_N: torch.Tensor
    """bool: a speech unit."""
    latent_id_N: torch.Tensor
    """int64: the patch that the element lies in, counted through the batch."""
    closed_N: torch.Tensor
    """bool: after this element its patch is known to be complete, from elements up to and including this one."""
    doc_id_N: torch.Tensor
    """int64: document, counted through the batch; -1 for padding."""
    loss_mask_N: torch.Tensor
    """bool: the element is a target (it is predicted from what stands before it)."""
    num_latents: int
    """The latent budget P: the global transformer always runs over this many."""
    sample_ids: tuple[str, ...] = ()
    """Of the documents, for messages."""
