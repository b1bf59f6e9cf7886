"""One training step (forward, backward, AdamW) of LST on this CPU.

Against `transformers`' BLT port: same widths, depths, vocabulary and patch lengths, own-patch cross-attention as the port has it.
Against our plain baseline, whose blocks are LST's global part: the speed-up should follow from the operations saved.
Against the machine's own matrix products, measured in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import BltConfig, BltForCausalLM

from benchmarks.harness import Measurement, main
from model.cost.flops import count_batch, training_flops
from model.data.document import Document
from model.data.packing import PackingConfig, pack, whole
from model.data.patching import StaticConfig, assign_patches
from model.network.batch import Batch, LossSums
from model.network.config import ModelConfig
from model.network.lst import build_model
from model.network.vocabulary import BOS, SPEECH_MARK, Vocabulary
from schemas.config import load_config

ELEMENTS, PATCH = 2048, 4
UNITS_PER_SECOND = 25
VOCABULARY = Vocabulary(num_text=7, num_units=500)
ROUNDS, GEMM_SIZE = 5, 2048


def speech_batch(seed: int = 0) -> Batch:
    """One document of speech that fills the element budget, in static patches."""
    units = np.random.default_rng(seed).integers(VOCABULARY.unit_offset, VOCABULARY.size, ELEMENTS - 2)
    ids = np.concatenate([[BOS, SPEECH_MARK], units]).astype(np.int32)
    is_unit = ids >= VOCABULARY.unit_offset
    document = Document(
        ids=ids,
        is_unit=is_unit,
        patch_start=is_unit,
        patch_kind=np.where(is_unit, 0, -1).astype(np.int8),
        token_start=np.zeros(len(ids), dtype=bool),
        target=np.arange(len(ids)) > 0,
        sample_id="benchmark",
    )
    patches = assign_patches(StaticConfig(policy="static", size=PATCH), document, 0.0, np.random.default_rng(0))
    latents = int(patches[0][-1]) + 1
    return pack([whole(document, *patches)], PackingConfig(elements=ELEMENTS, latents=latents))


def lst_config() -> ModelConfig:
    """The 20m preset with one head over the joint vocabulary, as the port has."""
    return load_config(ModelConfig, "configs/model/20m.yaml", ["head=joint"]).with_vocabulary(VOCABULARY)


def plain_config(lst: ModelConfig) -> ModelConfig:
    """The baseline whose transformer is LST's global part."""
    return ModelConfig(kind="plain", global_transformer=lst.global_transformer, head="joint", vocabulary=lst.vocabulary)


def blt_port(lst: ModelConfig) -> BltForCausalLM:
    """The port at LST's sizes, without its byte-hash embeddings and its own patcher."""
    local = lst.patch_parts
    parts = {"encoder": local.encoder, "decoder": local.decoder, "global": lst.global_transformer}
    shapes = {
        f"{name}_config": {
            "hidden_size": part.dim,
            "num_attention_heads": part.num_heads,
            "num_hidden_layers": part.num_layers,
            "intermediate_size": part.ffn_dim,
            "vocab_size": VOCABULARY.size,
            "cross_attn_k": lst.vectors_per_patch,
            "hidden_size_global": lst.global_transformer.dim,
            "max_position_embeddings": ELEMENTS,
        }
        for name, part in parts.items()
    }
    config = BltConfig(
        vocab_size=VOCABULARY.size,
        patch_in_forward=False,
        cross_attn_k=lst.vectors_per_patch,
        encoder_hash_byte_group_nb_functions=0,
        local_attention_window_len=local.encoder.window,
        attn_implementation="sdpa",
        **shapes,
    )
    return BltForCausalLM(config)


def port_patch_lengths(batch: Batch) -> torch.Tensor:
    """[1, patches]: the batch's patches plus the element after the last, as the port wants them."""
    lengths = torch.bincount(batch.latent_id_N)
    lengths[-1] += 1
    return lengths[None]


def training_step(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Forward, backward and AdamW, alike for every model here."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        loss().backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def our_step(config: ModelConfig, batch: Batch, dtype: torch.dtype) -> Callable[[], None]:
    """A training step of one of our models."""
    model = build_model(config, seed=0).to(dtype)

    def loss() -> torch.Tensor:
        sums: LossSums = model(batch)
        return (sums.nll_text + sums.nll_unit) / (sums.num_text + sums.num_unit)

    return training_step(model, loss)


def port_step(config: ModelConfig, batch: Batch, dtype: torch.dtype) -> Callable[[], None]:
    """A training step of the port."""
    model = blt_port(config).to(dtype).train()
    ids, lengths = batch.ids_N[None], port_patch_lengths(batch)

    def loss() -> torch.Tensor:
        result: torch.Tensor = model(input_ids=ids, patch_lengths=lengths, labels=ids, use_cache=False).loss
        return result

    return training_step(model, loss)


def matrix_product(dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """A square product of GEMM_SIZE."""
    left, right = (torch.randn(GEMM_SIZE, GEMM_SIZE).to(dtype) for _ in range(2))

    def product() -> torch.Tensor:
        return torch.mm(left, right)

    return product


def best_seconds(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The best of ROUNDS for each call, taken in turns, so that what else the machine does falls on all alike."""
    for call in calls.values():
        call()
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def run() -> list[Measurement]:
    """All rows, fp32 first."""
    batch, lst = speech_batch(), lst_config()
    plain = plain_config(lst)
    flops, plain_flops = (training_flops(build_model(config, 0), count_batch(batch, config)) for config in (lst, plain))
    audio = ELEMENTS / UNITS_PER_SECOND
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        name, full = str(dtype).removeprefix("torch."), dtype == torch.float32
        seconds = best_seconds(
            {
                "lst": our_step(lst, batch, dtype),
                "port": port_step(lst, batch, dtype),
                "plain": our_step(plain, batch, dtype),
                "gemm": matrix_product(dtype),
            }
        )
        rate = 2 * GEMM_SIZE**3 / seconds["gemm"]
        ours, port, baseline = seconds["lst"], seconds["port"], seconds["plain"]
        share, plain_share = flops / ours / rate, plain_flops / baseline / rate
        ratio = (baseline / ours) / (plain_flops / flops)
        rows += [
            _row(f"step, {name}", ours, "s", "BLT port", port),
            _row(f"times faster than the port, {name}", port / ours, "", goal=">= 1.5", holds=port / ours >= 1.5),
            _row(f"speech, {name}", audio / ours, "s/s", "plain baseline", audio / baseline),
            _row(f"FLOP ratio plain : LST, {name}", plain_flops / flops, ""),
            _row(
                f"speed-up over FLOP ratio, {name}", ratio, "",
                goal=">= 0.9" if full else "", holds=ratio >= 0.9 if full else None,
            ),
            _row(
                f"share of GEMM rate, {name}", share, f"of {rate / 1e9:.0f} GFLOP/s", "plain baseline", plain_share,
                ">= 0.65" if full else "", share >= 0.65 if full else None,
            ),
        ]  # fmt: skip
    return rows


def _row(
    name: str, value: float, unit: str, rival: str = "", rival_value: float | None = None, goal: str = "",
    holds: bool | None = None,
) -> Measurement:  # fmt: skip
    return Measurement(name=name, value=value, unit=unit, rival=rival, rival_value=rival_value, goal=goal, holds=holds)


if __name__ == "__main__":
    main(run, __doc__)
