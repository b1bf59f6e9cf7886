"""What the 1-D schema implies: positions, document starts, conditioning, and the interval of every attention.

Derived once per step, without a loop over elements. On CUDA nothing here waits for the device where the batch brings its
selections with it.

Shape suffixes: N elements, P latents, L elements that the local modules run over (all N, or with `text_path: direct`
the speech elements), S latents that the patch encoder makes (all P, or those of the L elements).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from model.network.batch import Batch, Selections
from model.network.config import ModelConfig
from model.network.layers.attention import Intervals, self_intervals
from model.network.layers.backend import Backend
from model.network.vocabulary import SPEECH_MARK


@dataclass(eq=False, kw_only=True)
class PlainLayout:
    """For the plain transformer: elements alone."""

    position_N: torch.Tensor
    intervals: Intervals


@dataclass(eq=False, kw_only=True)
class LatentLayout:
    """For LST. Patterns: see `model.network.layers.attention`; the ones across k vectors per latent are expanded already."""

    local_L: torch.Tensor | None
    """Index into N of the local elements; None: all of them."""
    position_L: torch.Tensor
    """Of the element in its document (counting all elements)."""
    pool_L: torch.Tensor
    """Latent among S that the element is pooled into; S for padding."""
    num_pooled: int
    """S."""
    pooled_S: torch.Tensor | None
    """Index into P of the latents that the encoder makes; None: all of them."""
    text_N: torch.Tensor | None
    """With `text_path: direct`, the elements that are latents by themselves; else None."""
    latent_position_P: torch.Tensor
    encoder_self: Intervals
    encoder_cross: Intervals
    global_self: Intervals
    decoder_self: Intervals
    decoder_cross: Intervals

    def plan(self, backend: Backend) -> LatentLayout:
        """Itself, each pattern ready for the backend."""
        patterns = (self.encoder_self, self.encoder_cross, self.global_self, self.decoder_self, self.decoder_cross)
        for intervals in patterns:
            intervals.plan(backend)
        return self


def speech_rows(batch: Batch) -> torch.Tensor:
    """bool [N]: inside a speech span, its mark included; the next element is then a unit or a special."""
    return batch.is_unit_N | ((batch.ids_N == SPEECH_MARK) & (batch.doc_id_N >= 0))


def select(batch: Batch) -> Selections:
    """The batch's index lists. Call it where the batch is on the host, or the host will wait for the device."""
    if batch.selections is not None:
        return batch.selections
    speech_N, valid_N = speech_rows(batch), batch.doc_id_N >= 0
    target_R = batch.loss_mask_N[1:].nonzero().squeeze(-1)
    speech_R = speech_N[target_R]
    local_L = speech_N.nonzero().squeeze(-1)
    latent_L = batch.latent_id_N[local_L]
    return Selections(
        target_R=target_R,
        in_text=(~speech_R).nonzero().squeeze(-1),
        in_speech=speech_R.nonzero().squeeze(-1),
        local_L=local_L,
        text_T=(valid_N & ~speech_N).nonzero().squeeze(-1),
        pooled_S=latent_L[torch.diff(latent_L, prepend=latent_L.new_full((1,), -1)) != 0],
    )


def target_rows(batch: Batch) -> torch.Tensor:
    """Indices of the elements whose next element is a target: the only rows that need the output head."""
    if batch.selections is not None:
        return batch.selections.target_R
    return batch.loss_mask_N[1:].nonzero().squeeze(-1)


def by_modality(batch: Batch, row_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of these rows stand outside speech spans, and which in one: what the two heads predict."""
    if batch.selections is not None and row_R is batch.selections.target_R:
        return batch.selections.in_text, batch.selections.in_speech
    speech_R = speech_rows(batch)[row_R]
    return (~speech_R).nonzero().squeeze(-1), speech_R.nonzero().squeeze(-1)


def derive_plain(batch: Batch) -> PlainLayout:
    """The layout of the plain transformer over the batch's elements."""
    start_N = _starts(batch.doc_id_N)
    return PlainLayout(
        position_N=torch.arange(len(start_N), device=start_N.device) - start_N,
        intervals=self_intervals(start_N, batch.doc_id_N >= 0, None),
    )


def derive(batch: Batch, config: ModelConfig) -> LatentLayout:
    """The layout of LST for this batch."""
    parts = config.patch_parts
    encoder, decoder, k = parts.encoder, parts.decoder, parts.vectors_per_patch
    num_latents, doc_N = batch.num_latents, batch.doc_id_N
    valid_N = doc_N >= 0
    latent_N = torch.where(valid_N, batch.latent_id_N, num_latents)
    doc_P = doc_N.new_full((num_latents + 1,), -1).scatter(0, latent_N, doc_N)[:-1]
    latent_start_P = _starts(doc_P)
    start_N = _starts(doc_N)
    position_N = torch.arange(len(doc_N), device=doc_N.device) - start_N
    cond_N = readable_latent(batch, config.conditioning == "paper")

    direct = config.text_path == "direct"
    selected = select(batch) if direct else None
    local_L = None if selected is None else selected.local_L
    doc_L, latent_L, cond_L, position_L = (
        x_N if local_L is None else x_N[local_L] for x_N in (doc_N, latent_N, cond_N, position_N)
    )
    if selected is not None:
        changes_L = torch.diff(latent_L, prepend=latent_L.new_full((1,), -1)) != 0
        pool_L, pooled_S = changes_L.long().cumsum(0) - 1, selected.pooled_S
        doc_S, num_pooled = doc_P[pooled_S], len(pooled_S)
    else:
        pool_L, pooled_S, doc_S, num_pooled = latent_N, None, doc_P, num_latents
    start_L = _starts(doc_L)
    first_L = latent_start_P[latent_L.clamp(max=num_latents - 1)]
    lo_L = torch.maximum(first_L, cond_L - decoder.cross_window + 1)
    reads_L = (doc_L >= 0) & (cond_L >= first_L)
    encoder_self = self_intervals(start_L, doc_L >= 0, encoder.window)
    same_window = decoder.window == encoder.window
    return LatentLayout(
        local_L=local_L,
        position_L=position_L,
        pool_L=pool_L,
        num_pooled=num_pooled,
        pooled_S=pooled_S,
        text_N=None if selected is None else selected.text_T,
        latent_position_P=torch.arange(num_latents, device=doc_N.device) - latent_start_P,
        encoder_self=encoder_self,
        encoder_cross=_pooling_intervals(pool_L, doc_S, encoder.cross_window).per_vector(queries=k),
        global_self=self_intervals(latent_start_P, doc_P >= 0, None),
        decoder_self=encoder_self if same_window else self_intervals(start_L, doc_L >= 0, decoder.window),
        decoder_cross=Intervals(
            lo_Q=lo_L, hi_Q=torch.where(reads_L, cond_L, lo_L - 1), num_keys=num_latents
        ).per_vector(keys=k),
    )


def readable_latent(batch: Batch, paper: bool) -> torch.Tensor:
    """int64 [N]: the newest latent that the row of each element may read (it may lie before the document: none).

    Causal: the element's own latent once it is known to be complete, else the one before. Paper: every latent before
    the one that holds the *next* element, which tells the row whether a patch ends here (released code: patch ids of
    `patch_lengths[1:]`).
    """
    causal_N = batch.latent_id_N - (~batch.closed_N).long()
    if not paper:
        return causal_N
    same_N = batch.doc_id_N[1:] == batch.doc_id_N[:-1]
    published_N = torch.where(same_N, batch.latent_id_N[1:] - 1, causal_N[:-1])
    return torch.cat([published_N, causal_N[-1:]])


def _starts(doc_X: torch.Tensor) -> torch.Tensor:
    """Index at which the run of equal document ids begins, for each entry."""
    index_X = torch.arange(len(doc_X), device=doc_X.device)
    changes_X = torch.diff(doc_X, prepend=doc_X.new_full((1,), -2)) != 0
    return torch.where(changes_X, index_X, 0).cummax(0).values if len(doc_X) else index_X


def _pooling_intervals(pool_L: torch.Tensor, doc_S: torch.Tensor, window: int) -> Intervals:
    """Latent s reads the elements of latents (s - window, s] of its document."""
    num_pooled = len(doc_S)
    index_L = torch.arange(len(pool_L), device=pool_L.device)
    first_S = index_L.new_full((num_pooled + 1,), len(pool_L)).scatter_reduce(0, pool_L, index_L, "amin")[:-1]
    last_S = index_L.new_full((num_pooled + 1,), -1).scatter_reduce(0, pool_L, index_L, "amax")[:-1]
    reach_S = torch.maximum(_starts(doc_S), torch.arange(num_pooled, device=pool_L.device) - window + 1)
    return Intervals(lo_Q=first_S[reach_S], hi_Q=torch.where(doc_S >= 0, last_S, -1), num_keys=len(pool_L))
