"""The Latent Speech-Text Transformer: patch encoder -> global transformer -> patch decoder.

Shape suffixes: N elements, P latents, L local elements, S pooled latents, R rows asked for, T text elements,
D local width, W global width, E encoder output width, V joint vocabulary; in generation B rows of a batch, X the rows
that take part in a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from model.network.base import HeadRows, HeadSteps, SpeechTextModel, split_rows
from model.network.baseline import BaseSpeechLM
from model.network.batch import Batch
from model.network.config import ModelConfig
from model.network.global_transformer import GlobalState, GlobalTransformer
from model.network.head import Share, share_size, to_share
from model.network.init import init_weights
from model.network.layers.ngrams import UnitHistory
from model.network.layout import LatentLayout, by_modality, derive, speech_rows
from model.network.patch_decoder import DecoderState, PatchDecoder
from model.network.patch_encoder import EncoderState, PatchEncoder
from model.network.stepping import Product
from model.network.vocabulary import PAD, SPEECH_MARK


def build_model(config: ModelConfig, seed: int) -> SpeechTextModel:
    """The model of a configuration, its weights drawn from `seed` (see `model.network.init`).

    Under `torch.device("meta")` nothing is drawn: call `init_weights(module, seed)` after `to_empty`.

    Raises:
        ValueError: the configuration has no vocabulary yet.
    """
    if config.vocabulary is None:
        raise ValueError(
            "the model configuration has no vocabulary: set num_text and num_units, or use with_vocabulary"
        )
    model = LST(config) if config.kind == "lst" else BaseSpeechLM(config)
    init_weights(model, seed)
    return model


@dataclass(eq=False)
class LSTState:
    """Of generation; mirrors the modules."""

    encoder: EncoderState
    global_transformer: GlobalState
    decoder: DecoderState
    heads: dict[Share, HeadSteps]
    latent_projection: Product | None
    """None: the latents have the global width already."""
    num_elements_B: np.ndarray
    open_B: np.ndarray
    """bool: the row's newest patch has not gone through the global transformer yet."""
    history: UnitHistory | None


class LST(SpeechTextModel):
    """The model of the paper (section 3), strictly causal by default. `forward` gives the loss of a packed batch."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        patched, vocabulary = config.patch_parts, self.vocabulary
        self.direct = config.text_path == "direct"
        local_dim, global_dim = patched.decoder.dim, config.global_transformer.dim
        self.local_share: Share = "units" if self.direct else "joint"
        self.embedding = nn.Embedding(share_size(vocabulary, self.local_share), local_dim)
        self.ngrams = self.make_ngrams(local_dim)
        self.text_embedding = nn.Embedding(share_size(vocabulary, "text"), global_dim) if self.direct else None
        self.encoder = PatchEncoder(config)
        latent_dim = patched.vectors_per_patch * local_dim
        fits = latent_dim == global_dim
        self.latent_projection = nn.Identity() if fits else nn.Linear(latent_dim, global_dim, bias=False)
        self.global_transformer = GlobalTransformer(config)
        self.decoder = PatchDecoder(config)
        text_dim = global_dim if self.direct else local_dim
        joint = config.head == "joint"
        self.heads = self.make_heads({"joint": local_dim} if joint else {"text": text_dim, "units": local_dim})

    def states(self, batch: Batch, layout: LatentLayout) -> tuple[torch.Tensor, torch.Tensor]:
        """What the heads read: decoder states [L, D] and global latents [P, W]."""
        x_LD, latent_PW = self.latents(batch, layout)
        return self.decoder(x_LD, latent_PW, layout), latent_PW

    def latents(self, batch: Batch, layout: LatentLayout) -> tuple[torch.Tensor, torch.Tensor]:
        """What the decoder reads: encoder states [L, D] and global latents [P, W]."""
        ids_L = batch.ids_N if layout.local_L is None else batch.ids_N[layout.local_L]
        x_LD = self.embedding(to_share(ids_L, self.vocabulary, self.local_share))
        if self.ngrams is not None:
            added_ND = self.ngrams(batch.ids_N, batch.is_unit_N, batch.doc_id_N)
            x_LD = x_LD + (added_ND if layout.local_L is None else added_ND[layout.local_L])
        x_LD, latent_SE = self.encoder(x_LD, layout)
        latent_PW = self.latent_projection(latent_SE).to(x_LD.dtype)
        if layout.text_N is not None:
            assert layout.pooled_S is not None
            assert self.text_embedding is not None
            text_TW = self.text_embedding(batch.ids_N[layout.text_N])
            place_T = batch.latent_id_N[layout.text_N]
            empty_PW = latent_PW.new_zeros(batch.num_latents, latent_PW.shape[1])
            latent_PW = empty_PW.index_copy(0, layout.pooled_S, latent_PW).index_copy(0, place_T, text_TW)
        return x_LD, self.global_transformer(latent_PW, layout.latent_position_P, layout.global_self)

    def head_rows(self, batch: Batch, row_R: torch.Tensor) -> list[HeadRows]:
        """The rows of each head. With `text_path: direct` the text head reads the global latents."""
        states = self.states(batch, derive(batch, self.config).plan(self.config.attention))
        return self.rows_of(batch, row_R, *states)

    def rows_of(
        self, batch: Batch, row_R: torch.Tensor, decoded_LD: torch.Tensor, latent_PW: torch.Tensor
    ) -> list[HeadRows]:
        """`head_rows` from the states there are."""
        if self.config.head == "joint":
            return [HeadRows(self.head("joint"), decoded_LD, row_R, torch.arange(len(row_R), device=row_R.device))]
        in_text, in_speech = by_modality(batch, row_R)
        if not self.direct:
            return [
                HeadRows(self.head("text"), decoded_LD, row_R[in_text], in_text),
                HeadRows(self.head("units"), decoded_LD, row_R[in_speech], in_speech),
            ]
        rank_N = speech_rows(batch).long().cumsum(0) - 1  # where each speech element stands among the local ones
        return [
            HeadRows(self.head("text"), latent_PW, batch.latent_id_N[row_R[in_text]], in_text),
            HeadRows(self.head("units"), decoded_LD, rank_N[row_R[in_speech]], in_speech),
        ]

    def make_state(self, num_rows: int, capacity: int, packed: bool = False) -> LSTState:
        """Empty caches: windows for the local modules, one entry per latent for the global transformer."""
        projection = self.latent_projection
        return LSTState(
            encoder=self.encoder.make_state(num_rows, packed),
            global_transformer=self.global_transformer.make_state(num_rows, capacity, packed),
            decoder=self.decoder.make_state(num_rows, packed),
            heads=self.head_steps(num_rows, packed),
            latent_projection=Product(projection.weight, packed, num_rows)
            if isinstance(projection, nn.Linear)
            else None,
            num_elements_B=np.zeros(num_rows, dtype=np.int64),
            open_B=np.zeros(num_rows, dtype=bool),
            history=self.make_history(num_rows),
        )

    def step(self, state: LSTState, ids_B: np.ndarray, begins_B: np.ndarray, closed_B: np.ndarray) -> torch.Tensor:
        """See `SpeechTextModel.step`. The global transformer runs once per latent: when the latent is known to be complete, or
        when the next one begins; rows get there at different times."""
        active_B = ids_B != PAD
        self._finish_patches(state, active_B & begins_B & state.open_B)
        speech_B = (ids_B >= self.vocabulary.unit_offset) | (ids_B == SPEECH_MARK)
        local_B = active_B & speech_B if self.direct else active_B
        local_X, position_B = np.flatnonzero(local_B), state.num_elements_B
        if state.history is not None:
            rows_X = np.flatnonzero(active_B)
            state.history.observe(rows_X, ids_B[rows_X], ids_B[rows_X] >= self.vocabulary.unit_offset)
        state.num_elements_B = position_B + active_B
        parts = []
        if len(local_X):
            ids_X = to_share(self._tensor(ids_B[local_X]), self.vocabulary, self.local_share)
            x_XD = self.embedding(ids_X) + self.ngrams_of(state.history, local_X)
            x_XD = self.encoder.step(x_XD, local_X, position_B[local_X], begins_B[local_X], state.encoder)
            state.open_B |= local_B
            self._finish_patches(state, local_B & closed_B)
        if self.direct and len(text_X := np.flatnonzero(active_B & ~speech_B)):
            assert self.text_embedding is not None
            latent_XW = self._read_latents(state, self.text_embedding(self._tensor(ids_B[text_X])), text_X)
            parts.append((state.heads["text"], latent_XW, text_X))
        if len(local_X):
            x_XD = self.decoder.step(x_XD, local_X, position_B[local_X], state.decoder)
            if self.config.head == "joint":
                parts.append((state.heads["joint"], x_XD, local_X))
            else:
                parts += split_rows(state.heads, x_XD, local_X, speech_B[local_X])
        return self.joint_rows(parts, len(ids_B))

    def _finish_patches(self, state: LSTState, rows_B: np.ndarray) -> None:
        rows_X = np.flatnonzero(rows_B)
        if len(rows_X):
            latent_XE = self.encoder.finish(rows_X, state.encoder)
            latent_XW = latent_XE if state.latent_projection is None else state.latent_projection(latent_XE)
            self._read_latents(state, latent_XW, rows_X)
            state.open_B[rows_X] = False

    def _read_latents(self, state: LSTState, latent_XW: torch.Tensor, rows_X: np.ndarray) -> torch.Tensor:
        latent_XW = self.global_transformer.step(latent_XW, rows_X, state.global_transformer)
        self.decoder.read_latent(latent_XW, rows_X, state.decoder)
        return latent_XW

    def _tensor(self, ids_X: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(ids_X, device=self.embedding.weight.device)
