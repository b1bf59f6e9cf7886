"""Training steps, attention and generation at the sizes of the paper, timed on one GPU.

Shape suffixes: Q queries, H heads, K head width.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._functorch import config as functorch
from torch.profiler import ProfilerActivity, profile

from model.cost.flops import count_batch, training_flops
from model.cost.memory import MemoryPlan, memory_by_part
from model.cost.presets import empty_model, plain_like
from model.cost.synthetic import synthetic_batch
from model.data.patching import StaticConfig
from model.gpu.apart import CARD, work_through
from model.inference.session import Session
from model.monitor.metrics import gemm_flops, published_peak
from model.network.config import ModelConfig
from model.network.layers.attention import attend
from model.network.layers.flex import block_mask
from model.network.layout import derive, select
from model.network.lst import build_model
from model.network.vocabulary import BOS, SPEECH_MARK
from model.training.module import compile_blocks, recompute
from model.training.optimisation.config import AdamWConfig
from model.training.optimisation.optim import Optimisers
from model.training.optimisation.step import accumulate, gradient_norm, update
from schemas.config import load_config

ELEMENTS, LATENTS = 20480, 16384
"""Budgets of a micro-batch in configs/train/1b.yaml."""
CUDA = torch.device("cuda")
Figures = dict[str, Any]


def environment() -> Figures:
    """The card, and its own rate."""
    size = 8192
    return {
        "card": torch.cuda.get_device_name(),
        "memory_gib": torch.cuda.get_device_properties(0).total_memory / 2**30,
        "published_tflops_bf16": (published_peak(CUDA) or float("nan")) / 1e12,
        "product_8192_tflops_bf16": gemm_flops(CUDA, torch.bfloat16, size=size, seconds=0.5) / 1e12,
    }


def preset(name: str) -> ModelConfig:
    """A model of configs/model/."""
    return load_config(ModelConfig, f"configs/model/{name}.yaml")


def random_model(config: ModelConfig, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model on the card with weights of the usual spread, drawn there."""
    with torch.device("meta"):
        module: nn.Module = build_model(config, 0)
    module.to_empty(device=CUDA)
    for parameter in module.parameters():
        nn.init.ones_(parameter) if parameter.ndim < 2 else nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return module.to(dtype)


def training(
    name: str,
    *,
    micro: int = 1,
    compiled: bool = True,
    recomputed: bool | str = False,
    plain: bool = False,
    steps: int = 4,
) -> Figures:
    """A training step of `micro` micro-batches: time, rates, memory, and where the device's time went."""
    config = plain_like(preset(name)) if plain else preset(name)
    batches = [
        synthetic_batch(config.data_vocabulary, ELEMENTS, ELEMENTS if plain else LATENTS, seed=seed)
        for seed in range(micro)
    ]
    flops = sum(training_flops(empty_model(config), count_batch(batch, config)) for batch in batches)
    targets = float(sum(int(batch.loss_mask_N.sum()) for batch in batches))
    elements = sum(int((batch.doc_id_N >= 0).sum()) for batch in batches)
    latents = sum(int(batch.latent_id_N.max()) + 1 for batch in batches)
    placed = [replace(batch, selections=select(batch)).pin_memory().to(CUDA) for batch in batches]
    torch.cuda.reset_peak_memory_stats()
    module = random_model(config)
    if recomputed:
        recompute(module, recomputed == "selective", compiled)
    if compiled:
        compile_blocks(module)
    optimisers = Optimisers(AdamWConfig(kind="adamw", lr=1e-4), module)

    def step() -> torch.Tensor:
        totals = accumulate(module, placed, targets, bf16=True)
        update(module, optimisers, 1.0, gradient_norm(module), 1.0)
        return totals

    first = seconds_of(step, 1)
    seconds_of(step, 1)
    seconds = seconds_of(step, steps) / steps
    plan = MemoryPlan(
        elements=ELEMENTS,
        latents=LATENTS,
        bf16=True,
        recompute=recomputed is True,
        shards=1,
        muon=False,
        keeps_gathered=False,
        compiled=compiled,
    )
    peak = published_peak(CUDA)
    figures: Figures = {
        "ms": 1e3 * seconds,
        "mfu": None if peak is None else flops / seconds / peak,
        "elements_per_second": elements / seconds,
        "latents_per_second": latents / seconds,
        "tflop_per_step": flops / 1e12,
        "fill_latents": latents / (micro * (ELEMENTS if plain else LATENTS)),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "planned_gib": sum(memory_by_part(config, plan).values()) / 2**30,
        "first_step_s": first,
    }
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as record:
        step()
        torch.cuda.synchronize()
    events = [
        e for e in record.key_averages() if e.device_type == torch.autograd.DeviceType.CUDA and e.self_device_time_total
    ]
    events.sort(key=lambda e: -e.self_device_time_total)
    figures["device_ms"] = sum(e.self_device_time_total for e in events if "Optimizer" not in e.key) / 1e3
    figures["kernels"] = [[e.key[:80], round(e.self_device_time_total / 1e3, 2), e.count] for e in events[:60]]
    return figures


def seconds_of(call: Callable[[], Any], times: int) -> float:
    """Wall clock of `times` calls, the device's queue emptied before and after."""
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(times):
        call()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def attention() -> Figures:
    """Forward and backward of 1B's attention patterns, FlexAttention against variable-length flash attention; milliseconds."""
    config = preset("1b")
    layout = derive(synthetic_batch(config.data_vocabulary, ELEMENTS, LATENTS).to(CUDA), config)
    figures: Figures = {}
    shapes = {"global_self": 128, "decoder_self": 64, "decoder_cross": 64, "encoder_cross": 64}
    for name, width in shapes.items():
        intervals = getattr(layout, name)
        plan = partial(block_mask, intervals.lo_Q, intervals.hi_Q, intervals.num_keys)
        figures[f"{name} mask"] = 1e3 * seconds_of(plan, 5) / 5
        sizes = (len(intervals.lo_Q), intervals.num_keys, intervals.num_keys)
        q, k, v = (torch.randn(n, 16, width, device=CUDA, dtype=torch.bfloat16, requires_grad=True) for n in sizes)
        for backend in ("flex", "varlen") if intervals.starts_Q is not None else ("flex",):

            def both(backend: Any = backend, qkv: Any = (q, k, v), intervals: Any = intervals) -> None:
                attend(qkv[0], qkv[1], qkv[2], intervals, backend).sum().backward()

            seconds_of(both, 3)
            figures[f"{name} {backend}"] = 1e3 * seconds_of(both, 10) / 10
    return figures


def generation(name: str, units: int = 96) -> Figures:
    """One row in bf16, units per second, against the plain baseline with its cache."""
    config, figures = preset(name), {}
    if config.vocabulary is None:
        config = config.with_vocabulary(preset("1b").data_vocabulary)
    vocabulary = config.data_vocabulary
    drawn = np.random.default_rng(0).integers(vocabulary.unit_offset, vocabulary.size, units + 16).tolist()
    for kind, model in (("lst", config), ("plain", plain_like(config))):
        module: Any = random_model(model, torch.bfloat16).eval()
        session = Session(module, StaticConfig(policy="static", size=4), 1)
        for element in [BOS, SPEECH_MARK, *drawn[:14]]:
            session.feed([element])

        def rest(session: Session = session) -> None:
            for element in drawn[16:]:
                session.feed([element]).argmax().item()

        figures[f"{kind} units/s"] = units / seconds_of(rest, 1)
    figures["times the plain baseline"] = figures["lst units/s"] / figures["plain units/s"]
    return figures


MEASUREMENTS: dict[str, Callable[[], Figures]] = {
    "1b, bf16, compiled, one micro-batch a step": partial(training, "1b"),
    "1b, bf16, compiled, four micro-batches a step": partial(training, "1b", micro=4, steps=2),
    "1b, bf16, compiled, blocks recomputed": partial(training, "1b", recomputed=True),
    "1b, bf16, compiled, selectively recomputed": partial(training, "1b", recomputed="selective"),
    "1b, bf16, not compiled, blocks recomputed": partial(training, "1b", compiled=False, recomputed=True),
    "plain baseline of 1b, bf16, compiled": partial(training, "1b", plain=True),
    "420m, bf16, compiled": partial(training, "420m"),
    "420m, bf16, not compiled": partial(training, "420m", compiled=False),
    "attention of 1b, ms": attention,
    "generation, 20m, one row": partial(generation, "20m"),
    "generation, 1b, one row": partial(generation, "1b"),
}


def attempt(name: str, measure: Callable[[], Figures]) -> Figures:
    """A measurement; what it raises is its result."""
    try:
        figures = measure()
    except Exception as error:
        return {"name": name, "status": "failed", "why": f"{type(error).__name__}: {error}"[:600]}
    finally:
        functorch.activation_memory_budget = 1.0
        torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {"name": name, "status": "passed", **figures}


def main(arguments: Sequence[str]) -> int:
    """For `model.gpu_check`: names of measurements, then the file that takes the results."""
    measurements = {CARD: environment, **MEASUREMENTS}
    return work_through(
        Path(arguments[-1]), {name: partial(attempt, name, measurements[name]) for name in arguments[:-1]}
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
