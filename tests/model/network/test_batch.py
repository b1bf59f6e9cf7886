"""The packed schema: what the loader promises is checked, and a breach says where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.network.batch import Batch
from model.network.layout import derive, readable_latent
from tests.model.network.cases import POLICIES, make_batch, make_document, small_config


def good_batch() -> Batch:
    """BOS <s> u u u | u EOS, then BOS <t> t EOS, then padding; patches of 3."""
    u, t = 13, 6
    return Batch(
        ids_N=torch.tensor([1, 4, u, u, u, u, 2, 1, 3, t, 2, 0, 0]),
        is_unit_N=torch.tensor([0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], dtype=torch.bool),
        latent_id_N=torch.tensor([0, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8, 8, 8]),
        closed_N=torch.tensor([1, 1, 0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1], dtype=torch.bool),
        doc_id_N=torch.tensor([0] * 7 + [1] * 4 + [-1] * 2),
        loss_mask_N=torch.tensor([0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 0], dtype=torch.bool),
        num_latents=9,
        sample_ids=("first", "second"),
    )


def test_a_good_batch_passes() -> None:
    assert good_batch().check() is not None


BREACHES = {
    "document ids start at 0": ("doc_id_N", slice(0, 11), 1, "element 0"),
    "document ids grow by 0 or 1": ("doc_id_N", slice(7, 11), 2, "element 7"),
    "latent ids start at 0": ("latent_id_N", slice(0, 1), 1, "element 0"),
    "latent ids grow by 0 or 1": ("latent_id_N", slice(6, 7), 6, "element 6"),
    "a document begins a latent": ("latent_id_N", slice(7, 11), [4, 5, 6, 7], "second"),
    "a shared latent holds units alone": ("latent_id_N", slice(8, 11), [5, 6, 7], "second"),
    "a closed element ends its latent": ("closed_N", slice(3, 4), True, "element 4"),
    "an element that is not a unit is closed": ("closed_N", slice(9, 10), False, "second"),
    "the first element of a document is no target": ("loss_mask_N", slice(7, 8), True, "second"),
    "padding": ("doc_id_N", slice(2, 3), -1, "end of the batch"),
    "a padding element cannot be a target": ("loss_mask_N", slice(12, 13), True, ""),
}


@pytest.mark.parametrize("rule", BREACHES)
def test_each_broken_invariant_is_named(rule: str) -> None:
    field, where, value, place = BREACHES[rule]
    batch = good_batch()
    broken = getattr(batch, field).clone()
    broken[where] = torch.as_tensor(value, dtype=broken.dtype)
    with pytest.raises(ValueError, match=rule) as caught:
        replace(batch, **{field: broken}).check()
    assert place in str(caught.value)


def test_shapes_and_types_are_checked() -> None:
    batch = good_batch()
    with pytest.raises(ValueError, match="is_unit_N must be"):
        replace(batch, is_unit_N=batch.is_unit_N[:-1]).check()
    with pytest.raises(ValueError, match=r"ids_N must be torch\.int64"):
        replace(batch, ids_N=batch.ids_N.int()).check()
    with pytest.raises(ValueError, match="budget of 8"):
        replace(batch, num_latents=8).check()


def test_all_padding_is_a_batch() -> None:
    batch = make_batch([make_document(np.random.default_rng(0), 9)], elements=12, latents=12)
    empty = replace(
        batch, doc_id_N=torch.full_like(batch.doc_id_N, -1), loss_mask_N=torch.zeros_like(batch.loss_mask_N)
    )
    assert empty.check().num_latents == 12


def test_conditioning_by_hand() -> None:
    """The worked example of docs/patching.md: the newest latent each row may read."""
    batch = good_batch()
    #                                    BOS <s>  u  u  u  u EOS
    assert readable_latent(batch, paper=False)[:7].tolist() == [0, 1, 1, 1, 2, 2, 4]
    assert readable_latent(batch, paper=True)[:6].tolist() == [0, 1, 1, 1, 2, 3]  # row 5 is told that EOS comes


@pytest.mark.parametrize("policy_name", POLICIES)
@pytest.mark.parametrize("changes", [{}, {"text_path": "direct", "head": "per_modality"}, {"conditioning": "paper"}])
def test_intervals_equal_masks_made_one_pair_at_a_time(policy_name: str, changes: dict) -> None:
    config = small_config(encoder__cross_window=2, decoder__cross_window=2, **changes)
    rng = np.random.default_rng(1)
    batch = make_batch([make_document(rng, n) for n in (20, 7, 15)], policy_name, elements=50, latents=45)
    layout = derive(batch, config)
    local = range(50) if layout.local_L is None else layout.local_L.tolist()
    doc, latent = batch.doc_id_N.tolist(), batch.latent_id_N.tolist()
    pooled = range(45) if layout.pooled_S is None else layout.pooled_S.tolist()
    doc_of_latent = {latent[i]: doc[i] for i in range(50) if doc[i] >= 0}
    cond = readable_latent(batch, paper=changes.get("conditioning") == "paper").tolist()
    local_pairs = [
        [doc[i] >= 0 and doc[i] == doc[j] and a - 5 < b <= a for b, j in enumerate(local)] for a, i in enumerate(local)
    ]
    assert layout.encoder_self.dense_mask().tolist() == local_pairs
    rank = {p: s for s, p in enumerate(pooled)}
    pooling = [
        [
            p in doc_of_latent and doc[j] == doc_of_latent[p] and s - 2 < rank[latent[j]] <= s
            for j in local
        ]
        for s, p in enumerate(pooled)
    ]  # fmt: skip
    assert layout.encoder_cross.dense_mask()[::2].tolist() == pooling
    assert layout.encoder_cross.dense_mask()[1::2].tolist() == pooling
    reading = [
        [doc[i] >= 0 and doc_of_latent.get(p) == doc[i] and cond[i] - 2 < p <= cond[i] for p in range(45)]
        for i in local
    ]
    assert layout.decoder_cross.dense_mask()[:, ::2].tolist() == reading
    assert layout.decoder_cross.dense_mask()[:, 1::2].tolist() == reading
    causal = [
        [p in doc_of_latent and doc_of_latent[p] == doc_of_latent.get(q) and q <= p for q in range(45)]
        for p in range(45)
    ]
    assert layout.global_self.dense_mask().tolist() == causal
