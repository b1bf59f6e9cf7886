"""The packed batch: one 1-D schema from which masks, positions and conditioning are derived, once per step.

Shape suffixes: N elements (a fixed budget), P latents (a fixed budget).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch


class LossSums(NamedTuple):
    """Sums and counts over a batch's valid targets, as 0-d tensors; the trainer divides once, by the global count.

    A tuple (not a dataclass) because FSDP looks for tensors in what a module returns by walking tuples.
    """

    nll_text: torch.Tensor
    """Nats, over targets that are text tokens or specials."""
    num_text: torch.Tensor
    """int64."""
    nll_unit: torch.Tensor
    """Nats, over targets that are speech units."""
    num_unit: torch.Tensor
    """int64."""
    nll_by_kind: torch.Tensor | None = None
    """fp64 [S, 3], where the batch names its S sources: nats of their specials, text tokens and units. No gradient."""
    squares: torch.Tensor | None = None
    """Where they were asked for: the sum of the targets' squared log partition functions (z-loss)."""


@dataclass(frozen=True, kw_only=True)
class Selections:
    """Which elements take part where: index lists whose lengths depend on the data. Made where the batch is on the host, since
    on CUDA counting them would make the host wait for the device (`model.network.layout.select`).

    Shape suffixes: R rows with a target, L local elements, S pooled latents, T text elements.
    """

    target_R: torch.Tensor
    """Elements whose next element is a target."""
    in_text: torch.Tensor
    """Those of the R rows outside speech spans, where there is a head per modality."""
    in_speech: torch.Tensor
    """The others of the R rows."""
    local_L: torch.Tensor
    """`text_path: direct`: elements in speech spans."""
    text_T: torch.Tensor
    """`text_path: direct`: the other elements."""
    pooled_S: torch.Tensor
    """`text_path: direct`: latents that have local elements (num_latents: the padding's)."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Packed documents. Padding stands at the end, with `doc_id_N == -1`, `latent_id_N == num_latents - 1` at most.

    Invariants (checked by `check`, in the loader): latent ids start at 0, never decrease, grow by at most 1 and change
    at every document boundary; a latent with more than one element holds units alone; an element that is not a unit is
    `closed`, and a closed element is the last of its latent; the first element of a document is never a target.
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
    source_N: torch.Tensor | None = None
    """int64: number of the source that the element comes from (0 for padding); None: nobody asks."""
    num_sources: int = 0
    selections: Selections | None = None
    """None: they are made when they are needed."""

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device; copies do not block where the memory is pinned."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The batch in pinned memory, from where it can be copied while the device computes."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        names = ("ids_N", "is_unit_N", "latent_id_N", "closed_N", "doc_id_N", "loss_mask_N")
        selections = self.selections
        if selections is not None:
            selections = Selections(
                **{field.name: change(getattr(selections, field.name)) for field in fields(selections)}
            )
        source_N = None if self.source_N is None else change(self.source_N)
        tensors = {name: change(getattr(self, name)) for name in names}
        return replace(self, selections=selections, source_N=source_N, **tensors)

    def check(self) -> Batch:
        """The batch itself, once its invariants hold. For the loader: it is never called in the hot path.

        Raises:
            ValueError: names the invariant, the element and the document.
        """
        types = {"ids_N": torch.int64, "latent_id_N": torch.int64, "doc_id_N": torch.int64}
        for name in ("ids_N", "is_unit_N", "latent_id_N", "closed_N", "doc_id_N", "loss_mask_N"):
            tensor = getattr(self, name)
            wanted = types.get(name, torch.bool)
            if tensor.ndim != 1 or len(tensor) != len(self.ids_N) or tensor.dtype != wanted:
                raise ValueError(
                    f"{name} must be {wanted} [{len(self.ids_N)}], found {tensor.dtype} {list(tensor.shape)}"
                )
        doc = self.doc_id_N.cpu().numpy()
        num_valid = int((doc >= 0).sum())
        if (doc[:num_valid] < 0).any():
            raise ValueError("padding (doc_id -1) must stand at the end of the batch")
        if num_valid:
            self._check_documents(num_valid)
        if self.loss_mask_N[num_valid:].any():
            raise ValueError("a padding element cannot be a target")
        return self

    def _check_documents(self, num_valid: int) -> None:
        doc, latent, unit, closed, target = (
            getattr(self, name)[:num_valid].cpu().numpy()
            for name in ("doc_id_N", "latent_id_N", "is_unit_N", "closed_N", "loss_mask_N")
        )
        doc_step, latent_step = np.diff(doc), np.diff(latent)
        first = np.concatenate([[True], doc_step != 0])
        same = latent_step == 0
        problems = (
            ("document ids start at 0", np.arange(num_valid) == 0, np.full(num_valid, doc[0] != 0)),
            ("latent ids start at 0", np.arange(num_valid) == 0, np.full(num_valid, latent[0] != 0)),
            ("document ids grow by 0 or 1", slice(1, None), (doc_step < 0) | (doc_step > 1)),
            ("latent ids grow by 0 or 1", slice(1, None), (latent_step < 0) | (latent_step > 1)),
            ("a document begins a latent", slice(1, None), (doc_step != 0) & same),
            ("a shared latent holds units alone", slice(1, None), same & ~(unit[1:] & unit[:-1])),
            ("a closed element ends its latent", slice(1, None), same & closed[:-1]),
            ("an element that is not a unit is closed", slice(None), ~unit & ~closed),
            ("the first element of a document is no target", slice(None), first & target),
        )
        for rule, where, broken in problems:
            rows = np.arange(num_valid)[where]
            bad = broken[rows] if len(broken) != len(rows) else broken
            if bad.any():
                row = int(rows[np.argmax(bad)])
                name = self.sample_ids[doc[row]] if 0 <= doc[row] < len(self.sample_ids) else f"number {doc[row]}"
                raise ValueError(f"batch breaks the rule '{rule}' at element {row}, document {name}")
        if latent[-1] >= self.num_latents:
            raise ValueError(f"{latent[-1] + 1} latents do not fit the budget of {self.num_latents}")
