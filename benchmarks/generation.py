"""Generation of speech units on this CPU, unit by unit, greedily.

Rival 1: `transformers`' BLT port at the same sizes and patch lengths, after 512 units. Its cache covers the local modules and
not the global one, so with patches of four units it can only generate by a forward pass over the whole sequence for each unit:
that is what is timed.

Rival 2: our own plain transformer with a key-value cache, whose transformer is LST's global part. One row at a time a step
does little but read: its weights, and the keys and values it attends to. So the ratio of the bytes that each must read stands
beside each measurement: short of four because the local modules run for every unit. It is what one may expect where all bytes are
read equally fast; calls into the library take LST below it at small sizes, and keys and values, which are read more slowly than
weights, take it above at large ones. Two sizes decide the goal, at the paper's length of 4,096 units: 20m, which one trains on
such a machine, and the published 1b, where the matrices and not the calls take the time. Weights are random numbers and the
caches are filled with noise, which changes no time.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.harness import Measurement, main, seconds_per_call
from benchmarks.model_step import (
    PATCH,
    UNITS_PER_SECOND,
    VOCABULARY,
    blt_port,
    lst_config,
    port_patch_lengths,
    speech_batch,
)
from model.cost.presets import empty_model, plain_like
from model.data.patching import StaticConfig
from model.inference.session import Session
from model.network.cache import Cache
from model.network.config import ModelConfig
from model.network.lst import LSTState, build_model
from model.network.vocabulary import BOS, SPEECH_MARK
from schemas.config import load_config

PROMPT, GENERATED, ROWS = 512, 64, 8
LONG = 4096
"""Units of context: the paper's sequence."""
ROUNDS, TURN = 12, 2 * PATCH
PER_LATENT = (
    "global_transformer.", "latent_projection.", "encoder.pool_projection.", "decoder.latent_projection.",
    *(f"encoder.cross_layers.{layer}.{part}" for layer in range(64) for part in ("query", "out")),
    *(f"decoder.cross_layers.{layer}.key" for layer in range(64)),
)  # fmt: skip
"""Parameters of LST that a patch reads once, not each of its units."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A comparison with the plain transformer."""

    name: str
    config: ModelConfig
    dtype: torch.dtype
    context: int
    rows: int = 1


def read_bytes(config: ModelConfig, context: int, rows: int, itemsize: int) -> float:
    """Bytes that a step of one unit reads, weights and caches, with static patches."""
    per_unit = per_latent = 0
    for name, parameter in empty_model(config).named_parameters():
        if "embedding" in name:
            continue  # a row of it
        if config.kind == "lst" and name.startswith(PER_LATENT):
            per_latent += parameter.numel()
        else:
            per_unit += parameter.numel()
    stack, latents = config.global_transformer, context // PATCH
    width = 2 * stack.num_layers * stack.kv_heads * stack.head_dim
    if config.kind == "plain":
        return itemsize * (per_unit + rows * width * context)
    parts = config.patch_parts
    encoder, decoder = parts.encoder, parts.decoder
    local = sum(2 * s.num_layers * s.kv_heads * s.head_dim * min(context, s.window) for s in (encoder, decoder))
    cross = 2 * decoder.num_layers * decoder.dim * min(latents, decoder.cross_window) * parts.vectors_per_patch
    caches = local + cross + width * latents / PATCH
    return itemsize * (per_unit + per_latent / PATCH + rows * caches)


def open_session(size: Size, config: ModelConfig) -> Session:
    """A session that stands where `context` units have been generated; large models get random bytes as weights."""
    model = empty_model(config).to(size.dtype).to_empty(device="cpu").eval()
    noise = torch.randn(1 << 20).mul_(0.02).to(size.dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            flat = parameter.view(-1)
            for start in range(0, len(flat), len(noise)):
                flat[start : start + len(noise)] = noise[: len(flat) - start]
            if parameter.ndim == 1:
                parameter.fill_(1)
    capacity = size.context // (PATCH if config.kind == "lst" else 1) + TURN * (ROUNDS + 1)
    session = Session(model, StaticConfig(policy="static", size=PATCH), size.rows, capacity)
    _stand_at(session, size.context)
    return session


def _stand_at(session: Session, context: int) -> None:
    state, latents = session.state, context // PATCH
    if not isinstance(state, LSTState):
        _fill(state.global_transformer.layers.cache, context)
        state.global_transformer.num_latents_B[:] = context
        return
    encoder, decoder, part = state.encoder, state.decoder, state.global_transformer
    for counts, value in (
        (state.num_elements_B, context), (encoder.num_elements_B, context), (decoder.num_elements_B, context),
        (encoder.num_latents_B, latents), (decoder.num_latents_B, latents), (part.num_latents_B, latents),
    ):  # fmt: skip
        counts[:] = value
    for stack, entries in ((encoder.layers, context), (decoder.layers, context), (part.layers, latents)):
        _fill(stack.cache, entries)
    _fill(encoder.cross_cache, context, PATCH)
    vectors = session.model.config.patch_parts.vectors_per_patch
    _fill(decoder.cross_cache, latents * vectors, vectors)


def _fill(cache: Cache, entries: int, per_tag: int = 1) -> None:
    """As if `entries` had been written, `per_tag` of them under each tag."""
    for part in (cache.keys, cache.values):
        part.copy_(torch.randn(part.shape[-2:]).mul_(0.1))
    index = np.arange(max(0, entries - cache.capacity), entries)
    cache.tag_BT[:, index % cache.capacity] = index // per_tag
    cache.count_B[:] = entries
    cache._even = entries


def turn(session: Session) -> Callable[[], float]:
    """Seconds per step over a whole number of patches."""
    rows, unit = len(session.patchers), session.model.vocabulary.unit_offset

    def run() -> float:
        units = [unit] * rows
        before, start = session.num_global_steps_B.sum(), time.perf_counter()
        for _ in range(TURN):
            units = (session.feed(units)[:, unit:].argmax(-1) + unit).tolist()
        seconds = (time.perf_counter() - start) / TURN
        steps = TURN if session.model.config.kind == "plain" else TURN // PATCH
        assert session.num_global_steps_B.sum() - before == rows * steps
        return seconds

    return run


def compare(size: Size) -> tuple[float, float]:
    """Seconds per step of LST and of the plain transformer: the best of some turns, alternately where both fit in memory."""
    plain = plain_like(size.config)
    large = sum(parameter.numel() for parameter in empty_model(size.config).parameters()) > 1e9
    best = []
    for group in [[size.config], [plain]] if large else [[size.config, plain]]:
        turns = [turn(open_session(size, config)) for config in group]
        for one in turns:
            one()
        seconds = [[one() for one in turns] for _ in range(ROUNDS)]
        best += [min(column) for column in zip(*seconds, strict=True)]
        del turns
        gc.collect()
    return best[0], best[1]


def sizes() -> list[Size]:
    """Small to large, short and long, one row and several."""
    fp32, bf16 = torch.float32, torch.bfloat16
    small, middle, large = (
        load_config(ModelConfig, f"configs/model/{name}.yaml", ["head=joint"]) for name in ("20m", "420m", "1b")
    )
    small = small.with_vocabulary(VOCABULARY)
    return [
        Size(name="20m", config=small, dtype=fp32, context=PROMPT),
        Size(name="20m", config=small, dtype=fp32, context=LONG),
        Size(name="20m", config=small, dtype=fp32, context=LONG, rows=ROWS),
        Size(name="420m", config=middle, dtype=bf16, context=LONG),
        Size(name="1b", config=large, dtype=bf16, context=PROMPT),
        Size(name="1b", config=large, dtype=bf16, context=LONG),
    ]


def plain_rows() -> list[Measurement]:
    """LST against the plain transformer."""
    found = []
    for size in sizes():
        ours, plain = compare(size)
        itemsize = size.dtype.itemsize
        bytes_ours, bytes_plain = (
            read_bytes(c, size.context, size.rows, itemsize) for c in (size.config, plain_like(size.config))
        )
        where = f"{size.name}, {str(size.dtype).removeprefix('torch.')}, after {size.context} units" + (
            f", {size.rows} rows" if size.rows > 1 else ""
        )
        decides = size.name in ("20m", "1b") and size.context == LONG and size.rows == 1
        found += [
            Measurement(name=where, value=size.rows / ours, unit="units/s", rival="plain", rival_value=size.rows / plain),
            Measurement(
                name=f"times as many, {where}", value=plain / ours, unit="", rival="ratio of bytes read",
                rival_value=bytes_plain / bytes_ours, goal=">= 3" if decides else "",
                holds=plain / ours >= 3 if decides else None,
            ),
        ]  # fmt: skip
    return found


def seconds_per_unit(config: ModelConfig, dtype: torch.dtype) -> float:
    """Seconds per step of one sequence, after a prompt that is not counted."""
    model = build_model(config, seed=0).to(dtype).eval()
    session = Session(model, StaticConfig(policy="static", size=PATCH), 1, capacity=PROMPT + TURN + GENERATED)
    logits = session.prefill([speech_batch().ids_N[:PROMPT].tolist()])
    start = 0.0
    for step in range(TURN + GENERATED):
        if step == TURN:  # the first steps compile the fused ones, where no earlier run has
            start = time.perf_counter()
        units = logits[:, VOCABULARY.unit_offset :].argmax(-1) + VOCABULARY.unit_offset
        logits = session.feed(units.tolist())
    return (time.perf_counter() - start) / GENERATED


def seconds_per_unit_of_port(dtype: torch.dtype) -> float:
    """Seconds per unit of the port at the middle of the generated stretch."""
    config = lst_config()
    model = blt_port(config).to(dtype).eval()
    length = PROMPT + GENERATED // 2
    batch = speech_batch()
    ids = batch.ids_N[None, :length]
    lengths = port_patch_lengths(batch).cumsum(1)
    lengths = (
        lengths[:, : int((lengths < length + 1).sum()) + 1].clamp(max=length + 1).diff(dim=1, prepend=torch.zeros(1, 1))
    )

    def forward() -> None:
        with torch.inference_mode():
            model(input_ids=ids, patch_lengths=lengths.long(), use_cache=False, logits_to_keep=1)

    return seconds_per_call(forward, 3)


def port_rows() -> list[Measurement]:
    """One sequence against the port."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        ours, port = seconds_per_unit(lst_config(), dtype), seconds_per_unit_of_port(dtype)
        rows += [
            Measurement(
                name=f"generation, {name}", value=1 / ours, unit="units/s", rival="BLT port", rival_value=1 / port,
                goal=">= 10x", holds=port / ours >= 10,
            ),
            Measurement(name=f"real-time factor, {name}", value=1 / ours / UNITS_PER_SECOND, unit="s of speech per s"),
        ]  # fmt: skip
    return rows


def prompt_row() -> Measurement:
    """Seconds until the first unit after a prompt of LONG units: one packed pass against element by element."""
    model = build_model(lst_config(), seed=0).eval()
    units = np.random.default_rng(0).integers(VOCABULARY.unit_offset, VOCABULARY.size, LONG - 2)
    prompt = [[BOS, SPEECH_MARK, *units.tolist()]]

    def seconds(read: Callable[[Session], torch.Tensor]) -> float:
        session = Session(model, StaticConfig(policy="static", size=PATCH), 1, capacity=LONG)
        begun = time.perf_counter()
        read(session)
        return time.perf_counter() - begun

    packed = min(seconds(lambda session: session.prefill(prompt)) for _ in range(ROUNDS))
    stepped = seconds(lambda session: session.one_by_one(prompt))
    return Measurement(
        name=f"a prompt of {LONG} units, 20m, fp32", value=packed, unit="s", rival="element by element", rival_value=stepped,
        goal=">= 20x", holds=stepped / packed >= 20,
    )  # fmt: skip


def run() -> list[Measurement]:
    """The port, a long prompt, then the plain transformer."""
    return [*port_rows(), prompt_row(), *plain_rows()]


if __name__ == "__main__":
    main(run, __doc__)
