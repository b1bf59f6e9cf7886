"""Floating-point operations, counted from the modules themselves: every linear map times the rows it is applied to, and
every attention times its query-key pairs. A multiply-add is two operations; norms, activations and softmax are not counted.

Shape suffixes as in `model.network.layout`: N elements, L local elements, P latents, S pooled latents.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from model.network.base import SpeechTextModel
from model.network.batch import Batch
from model.network.config import ModelConfig
from model.network.layers.attention import Intervals
from model.network.layers.blocks import Block, CrossAttention
from model.network.layout import derive, derive_plain, speech_rows, target_rows
from model.network.patch_decoder import PatchDecoder
from model.network.patch_encoder import PatchEncoder

BACKWARD_RATIO = 2
"""The backward pass computes two products for each of the forward pass. Recomputation is overhead, not counted."""


@dataclass(frozen=True, kw_only=True)
class ForwardWork:
    """What a forward pass has to do, padding left out. Pairs are per layer, all heads as one."""

    latents: float
    """P; for the plain transformer its elements."""
    text_rows: float
    unit_rows: float
    """Rows of each output head; a joint head computes the sum of both."""
    global_pairs: float
    local_elements: float = 0
    """L, of LST alone, as all that follows."""
    pooled_latents: float = 0
    """S."""
    encoder_pairs: float = 0
    encoder_cross_pairs: float = 0
    decoder_pairs: float = 0
    decoder_cross_pairs: float = 0


def count_batch(batch: Batch, config: ModelConfig) -> ForwardWork:
    """The counts of a packed batch. Call it where the batch is on the CPU: it reads numbers out of tensors."""
    speech_R = speech_rows(batch)[target_rows(batch)]
    unit_rows = int(speech_R.sum())
    text_rows = len(speech_R) - unit_rows
    if config.kind == "plain":
        intervals = derive_plain(batch).intervals
        return ForwardWork(
            latents=_queries(intervals), text_rows=text_rows, unit_rows=unit_rows, global_pairs=intervals.count_pairs()
        )
    layout = derive(batch, config)
    pooled = layout.encoder_cross
    return ForwardWork(
        latents=_queries(layout.global_self),
        text_rows=text_rows,
        unit_rows=unit_rows,
        global_pairs=layout.global_self.count_pairs(),
        local_elements=_queries(layout.encoder_self),
        pooled_latents=_queries(pooled) / config.patch_parts.vectors_per_patch,
        encoder_pairs=layout.encoder_self.count_pairs(),
        encoder_cross_pairs=pooled.count_pairs(),
        decoder_pairs=layout.decoder_self.count_pairs(),
        decoder_cross_pairs=layout.decoder_cross.count_pairs(),
    )


def _queries(intervals: Intervals) -> int:
    return int((intervals.hi_Q >= intervals.lo_Q).sum())


def forward_flops(model: SpeechTextModel, counts: ForwardWork) -> float:
    """Operations of one forward pass."""
    return sum(flops_by_part(model, counts).values())


def training_flops(model: SpeechTextModel, counts: ForwardWork) -> float:
    """Operations of one training step: forward and backward."""
    return (1 + BACKWARD_RATIO) * forward_flops(model, counts)


def flops_by_part(model: SpeechTextModel, counts: ForwardWork) -> dict[str, float]:
    """Operations of a forward pass, part by part."""
    parts = {"global transformer": _blocks(model.global_transformer.layers, counts.latents, counts.global_pairs)}
    for name, module in model.named_children():
        if isinstance(module, PatchEncoder):
            parts["patch encoder"] = _encoder(module, counts)
        elif isinstance(module, PatchDecoder):
            parts["patch decoder"] = _decoder(module, counts)
        elif name == "latent_projection":
            parts["latent projection"] = _linears(module, counts.pooled_latents)
    rows = {"joint": counts.text_rows + counts.unit_rows, "text": counts.text_rows, "units": counts.unit_rows}
    return parts | {f"{share} head": _linears(head, rows[share]) for share, head in model.heads.items()}


def _linears(module: nn.Module, rows: float) -> float:
    return 2 * rows * sum(int(part.weight.numel()) for part in module.modules() if isinstance(part, nn.Linear))


def _blocks(layers: nn.ModuleList, rows: float, pairs: float) -> float:
    total = 0.0
    for layer in layers:
        assert isinstance(layer, Block)
        total += _linears(layer, rows) + _attention(layer.attention.out, pairs)
    return total


def _attention(out: nn.Linear, pairs: float) -> float:
    return 4 * pairs * int(out.in_features)  # scores and weighted values, over all heads


def _cross(layer: nn.Module, queries: float, keys: float, pairs: float) -> float:
    assert isinstance(layer, CrossAttention)
    projections = _linears(layer.query, queries) + _linears(layer.key_value, keys) + _linears(layer.out, queries)
    return projections + _attention(layer.out, pairs)


def _encoder(encoder: PatchEncoder, counts: ForwardWork) -> float:
    queries = counts.pooled_latents * encoder.vectors_per_patch
    return (
        _blocks(encoder.layers, counts.local_elements, counts.encoder_pairs)
        + _linears(encoder.pool_projection, counts.pooled_latents)
        + sum(_cross(c, queries, counts.local_elements, counts.encoder_cross_pairs) for c in encoder.cross_layers)
    )


def _decoder(decoder: PatchDecoder, counts: ForwardWork) -> float:
    vectors = counts.latents * decoder.vectors_per_patch
    return (
        _linears(decoder.latent_projection, counts.latents)
        + _blocks(decoder.layers, counts.local_elements, counts.decoder_pairs)
        + sum(_cross(c, counts.local_elements, vectors, counts.decoder_cross_pairs) for c in decoder.cross_layers)
    )
