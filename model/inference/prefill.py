"""Reading prompts in one packed pass: what every cache would hold after the same elements one by one, put there at once.

The modules run as they do in training; hooks keep what their attentions projected, and the keys and values that may still be read
are stored. A layer of the decoder runs over those elements alone on which a later step may depend: its own window, and one
more for each layer above it.

Shape suffixes: N elements of all rows, E entries of a row, L local elements, P latents, V joint vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from model.network.base import HeadRows, SpeechTextModel
from model.network.baseline import BaseState
from model.network.batch import Batch
from model.network.cache import Cache
from model.network.layers.blocks import CrossAttention, SelfAttention
from model.network.layout import derive
from model.network.lst import LST, LSTState
from model.network.vocabulary import SPEECH_MARK


@dataclass(frozen=True, kw_only=True)
class PatchedPrompt:
    """A row's elements and how they lie in patches."""

    ids: np.ndarray
    latent_id: np.ndarray
    """From 0. A plain transformer's elements are each a latent."""
    closed: np.ndarray


@torch.inference_mode()
def prefill(model: SpeechTextModel, state: Any, prompts: Sequence[PatchedPrompt]) -> torch.Tensor:
    """Logits [rows, V] after each prompt; the state, which must be new, then stands where steps would have left it."""
    batch = _pack(model, prompts)
    last = np.cumsum([len(prompt.ids) for prompt in prompts]) - 1
    row_R = torch.as_tensor(last, device=batch.ids_N.device)
    with _seen(model) as seen:
        if isinstance(model, LST):
            ends = _ends(model, prompts, row_R.device)
            parts = _head_rows(model, batch, row_R, ends)
            _fill_lst(model, state, prompts, seen, ends)
        else:
            parts = model.head_rows(batch, row_R)
            _fill_plain(model, state, prompts, seen)
    if state.history is not None:
        for row, prompt in enumerate(prompts):
            # no n-gram looks back further than this, and a unit's age only has to pass the longest
            for element in prompt.ids[-2 * state.history.ids_BM.shape[1] :]:
                row_X, id_X = np.asarray([row]), np.asarray([element])
                state.history.observe(row_X, id_X, id_X >= model.vocabulary.unit_offset)
    logits_RV = parts[0].states.new_empty(len(prompts), model.vocabulary.size)
    for part in parts:
        logits_RV[part.chosen] = part.head.joint_logits(part.states[part.index])
    return logits_RV


def _pack(model: SpeechTextModel, prompts: Sequence[PatchedPrompt]) -> Batch:
    ids, closed = (np.concatenate([getattr(p, name) for p in prompts]) for name in ("ids", "closed"))
    begins = np.cumsum([0, *(int(prompt.latent_id[-1]) + 1 for prompt in prompts)])
    latent = np.concatenate([prompt.latent_id + begin for prompt, begin in zip(prompts, begins, strict=False)])
    doc = np.repeat(np.arange(len(prompts)), [len(prompt.ids) for prompt in prompts])
    tensors = [torch.as_tensor(values) for values in (ids, ids >= model.vocabulary.unit_offset, latent, closed, doc)]
    return Batch(
        ids_N=tensors[0].long(),
        is_unit_N=tensors[1],
        latent_id_N=tensors[2].long(),
        closed_N=tensors[3],
        doc_id_N=tensors[4].long(),
        loss_mask_N=torch.zeros(len(ids), dtype=torch.bool),
        num_latents=int(begins[-1]),
    ).to(next(model.parameters()).device)


def _ends(model: LST, prompts: Sequence[PatchedPrompt], device: torch.device) -> list[torch.Tensor]:
    """For each layer of the decoder the local elements, as indices into L, on which logits or what is stored depends: the last
    layer's cache holds a window of its inputs, and each layer below must be right one window further back."""
    window, layers = model.decoder.stack.window, model.decoder.stack.num_layers
    elements = _spans([int(_is_local(model, prompt.ids).sum()) for prompt in prompts])
    return [
        torch.as_tensor(np.concatenate([row[max(0, len(row) - above * window) :] for row in elements]), device=device)
        for above in range(layers, 0, -1)
    ]


def _head_rows(model: LST, batch: Batch, row_R: torch.Tensor, ends: Sequence[torch.Tensor]) -> list[HeadRows]:
    """`model.head_rows`, where the decoder runs over `ends` alone; the other rows of its states stay zero and unread."""
    layout = derive(batch, model.config).plan(model.config.attention)
    x_LD, latent_PW = model.latents(batch, layout)
    decoded_LD = torch.zeros_like(x_LD)
    decoded_LD[ends[-1]] = model.decoder.forward_ends(x_LD, latent_PW, layout, ends)
    return model.rows_of(batch, row_R, decoded_LD, latent_PW)


@contextmanager
def _seen(model: nn.Module) -> Iterator[dict[nn.Module, tuple[Any, ...]]]:
    """What each attention of the model was called with, by module; and what each other layer gave."""
    seen: dict[nn.Module, tuple[Any, ...]] = {}
    attentions = [module for module in model.modules() if isinstance(module, SelfAttention | CrossAttention)]
    hooks = [a.register_forward_pre_hook(lambda m, inputs: seen.update({m: inputs})) for a in attentions]
    hooks += [
        a.qkv.register_forward_hook(lambda m, _, output: seen.update({m: (output,)}))
        for a in attentions
        if isinstance(a, SelfAttention)
    ]
    if isinstance(model, LST):
        first = model.encoder.stack.num_layers - len(model.encoder.cross_layers)
        layer = model.encoder.layers[first]
        hooks.append(layer.register_forward_hook(lambda m, _, output: seen.update({m: (output,)})))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _fill_plain(
    model: SpeechTextModel, state: BaseState, prompts: Sequence[PatchedPrompt], seen: dict[nn.Module, Any]
) -> None:
    sizes = [len(prompt.ids) for prompt in prompts]
    _fill_stack(model.global_transformer.layers, state.global_transformer.layers.cache, _spans(sizes), seen)
    state.global_transformer.num_latents_B[:] = sizes


def _fill_lst(
    model: LST,
    state: LSTState,
    prompts: Sequence[PatchedPrompt],
    seen: dict[nn.Module, Any],
    ends: Sequence[torch.Tensor],
) -> None:
    local = [_is_local(model, prompt.ids) for prompt in prompts]
    begun = [int(prompt.latent_id[-1]) + 1 for prompt in prompts]
    is_open = np.array([bool(here[-1]) and not p.closed[-1] for here, p in zip(local, prompts, strict=True)])
    done = [count - int(still) for count, still in zip(begun, is_open, strict=True)]
    elements = _spans([int(here.sum()) for here in local])
    starts = np.cumsum([0, *begun[:-1]])
    latents = [np.arange(start, start + count) for start, count in zip(starts, done, strict=True)]

    _fill_stack(model.global_transformer.layers, state.global_transformer.layers.cache, latents, seen)
    state.global_transformer.num_latents_B[:] = done

    own = [np.unique(p.latent_id[here], return_inverse=True)[1] for here, p in zip(local, prompts, strict=True)]
    _fill_stack(model.encoder.layers, state.encoder.layers.cache, elements, seen)
    _fill_stack(model.decoder.layers, state.decoder.layers.cache, elements, seen, ends)
    for part in (state.encoder, state.decoder):
        part.num_elements_B[:] = [len(rows) for rows in elements]
    _fill_cross(model.encoder.cross_layers, state.encoder.cross_cache, own, elements, seen)
    state.encoder.num_latents_B[:] = [int(tags[-1]) + 1 if len(tags) else 0 for tags in own]

    vectors = model.decoder.vectors_per_patch
    tags = [np.repeat(np.arange(count), vectors) for count in done]
    rows = [(latent[:, None] * vectors + np.arange(vectors)).reshape(-1) for latent in latents]
    _fill_cross(model.decoder.cross_layers, state.decoder.cross_cache, tags, rows, seen)
    state.decoder.num_latents_B[:] = done

    first = model.encoder.stack.num_layers - len(model.encoder.cross_layers)
    x_LD = seen[model.encoder.layers[first]][0]
    for row, (members, indices) in enumerate(zip(own, elements, strict=True)):
        if is_open[row]:
            last = torch.as_tensor(indices[members == members[-1]], device=x_LD.device)
            state.encoder.pooled_BD[row] = x_LD[last].amax(0)
    state.num_elements_B[:] = [len(prompt.ids) for prompt in prompts]
    state.open_B[:] = is_open


def _is_local(model: LST, ids: np.ndarray) -> np.ndarray:
    """bool: the element goes through the local modules."""
    speech: np.ndarray = (ids >= model.vocabulary.unit_offset) | (ids == SPEECH_MARK)
    return speech if model.direct else np.ones(len(ids), dtype=bool)


def _spans(sizes: Sequence[int]) -> list[np.ndarray]:
    """Consecutive indices, one array per row."""
    ends = np.cumsum(sizes)
    return [np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _fill_stack(
    layers: nn.ModuleList,
    cache: Cache,
    rows: list[np.ndarray],
    seen: dict[nn.Module, Any],
    ends: Sequence[torch.Tensor] | None = None,
) -> None:
    """Keys and values of self-attention; an entry's tag is its place in its row. `ends`: what each layer ran over, if not all."""

    def keys(layer: int, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        attention: Any = layers[layer].attention
        if ends is not None:
            index = torch.searchsorted(ends[layer], index)
        (qkv_NC,), (_, (cos, sin), _) = seen[attention.qkv], seen[attention]
        _, k, v = attention.split(qkv_NC[index], (cos[index], sin[index]))
        return k, v

    _store(cache, [np.arange(len(indices)) for indices in rows], rows, keys)


def _fill_cross(
    layers: nn.ModuleList, cache: Cache, tags: list[np.ndarray], rows: list[np.ndarray], seen: dict[nn.Module, Any]
) -> None:
    """Keys and values of cross-attention, from its sources."""

    def keys(layer: int, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cross: Any = layers[layer]
        pair: tuple[torch.Tensor, torch.Tensor] = cross.project_keys(seen[cross][1][index])
        return pair

    _store(cache, tags, rows, keys)


def _store(
    cache: Cache,
    tags: list[np.ndarray],
    rows: list[np.ndarray],
    keys: Callable[[int, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
) -> None:
    for row, first in enumerate(cache.begin_with(tags)):
        if len(rows[row]):
            index = torch.as_tensor(rows[row][first:], device=cache.keys.device)
            for layer in range(len(cache.keys)):
                cache.fill(layer, row, first, *keys(layer, index))
