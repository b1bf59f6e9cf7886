"""Memory of eight ranks' training step on one processor: tensors and a process group that have sizes and no contents."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.fsdp._fully_shard import _fsdp_param
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from model.cost.memory import MemoryPlan, memory_by_part
from model.cost.synthetic import synthetic_batch
from model.network.config import ModelConfig
from model.network.layers import blocks
from model.network.layout import select
from model.network.lst import build_model
from model.network.vocabulary import Vocabulary
from model.training.config import ShardingConfig
from model.training.distributed import Ranks, shard
from model.training.module import _layers, recompute
from model.training.optimisation.config import AdamWConfig
from model.training.optimisation.optim import Optimisers
from model.training.optimisation.step import accumulate, gradient_norm, update
from schemas.config import load_config

WORLD = 8


@pytest.fixture
def fake_ranks() -> Iterator[Ranks]:
    """The first of eight ranks, whose messages go nowhere."""
    dist.init_process_group("fake", rank=0, world_size=WORLD, store=FakeStore())
    yield Ranks(0, WORLD, torch.device("cpu"))
    dist.destroy_process_group()


class LiveBytes(TorchDispatchMode):  # type: ignore[misc]
    """Bytes of the storages that are alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.total = self.peak = 0

    def add(self, tensor: torch.Tensor) -> None:
        """Take notice of a tensor, or of another size of its storage."""
        if is_traceable_wrapper_subclass(tensor):
            parts = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
            for part in parts:
                if isinstance(part, torch.Tensor):
                    self.add(part)
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.sizes:
            weakref.finalize(storage, self._gone, key)
        self.total += storage.nbytes() - self.sizes.get(key, 0)
        self.sizes[key] = storage.nbytes()
        self.peak = max(self.peak, self.total)

    def _gone(self, key: int) -> None:
        self.total -= self.sizes.pop(key)

    def __torch_dispatch__(self, call: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = call(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return out


class KeepsInputs(torch.autograd.Function):  # type: ignore[misc]
    """Attention as FlexAttention holds memory: inputs, output and log-sums until the backward pass, and no scores."""

    @staticmethod
    def forward(ctx: Any, q_QHK: torch.Tensor, k_MHK: torch.Tensor, v_MHK: torch.Tensor) -> torch.Tensor:
        out_QHK = q_QHK.new_empty(q_QHK.shape)
        ctx.save_for_backward(q_QHK, k_MHK, v_MHK, out_QHK, q_QHK.new_empty(q_QHK.shape[:2], dtype=torch.float32))
        return out_QHK

    @staticmethod
    def backward(ctx: Any, _grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


@pytest.mark.parametrize(
    "name,recomputed,micro,reduce",
    [
        pytest.param("1b", True, 1, "step", marks=pytest.mark.slow),
        pytest.param("7b", True, 2, "step", marks=pytest.mark.slow),
        pytest.param("7b", True, 2, "micro_batch", marks=pytest.mark.slow),
        pytest.param("7b", False, 1, "step", marks=pytest.mark.slow),
        ("7b", True, 1, "step"),
        ("1b", False, 2, "step"),
        ("1b", False, 2, "micro_batch"),
    ],
)
def test_a_rank_holds_what_was_planned(
    name: str,
    recomputed: bool,
    micro: int,
    reduce: Literal["step", "micro_batch"],
    fake_ranks: Ranks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its shards to the byte. At the peak of a step of `micro` micro-batches, with blocks recomputed and with blocks that are not
    compiled, little more than all parts of the plan together, which need not peak at once. The models have fewer layers here, of
    the same sizes.
    """
    sizes = load_config(ModelConfig, f"configs/model/{name}.yaml")
    few = sizes.global_transformer.model_copy(update={"num_layers": 14})
    config = sizes.model_copy(update={"global_transformer": few}).with_vocabulary(
        Vocabulary(num_text=32_000, num_units=500)
    )
    monkeypatch.setattr(blocks, "attend", lambda q, k, v, *_: KeepsInputs.apply(q, k, v))
    batch = synthetic_batch(config.data_vocabulary, 8192, 6656)
    batch = replace(batch, selections=select(batch))
    with torch.device("meta"):
        module = build_model(config, 0)
    if recomputed:
        recompute(module, False, False)
    shard(module, _layers(module), fake_ranks, ShardingConfig())
    live = LiveBytes()

    def resized(change: Any) -> Any:
        """FSDP gives gathered weights room and takes it away behind torch's dispatcher."""

        def call(tensor: torch.Tensor) -> None:
            change(tensor)
            live.add(tensor)

        return call

    for change in ("alloc_storage", "free_storage"):
        monkeypatch.setattr(_fsdp_param, change, resized(getattr(_fsdp_param, change)))
    plan = MemoryPlan(
        elements=8192,
        latents=6656,
        bf16=True,
        recompute=recomputed,
        shards=WORLD,
        muon=False,
        keeps_gathered=False,
        compiled=False,
        accumulates=micro > 1 and reduce == "step",
    )
    planned = memory_by_part(config, plan)
    with FakeTensorMode(allow_non_fake_inputs=True):
        module.to_empty(device="cpu")
        optimisers = Optimisers(AdamWConfig(kind="adamw", lr=1e-4), module)
        for tensor in (*module.parameters(), *optimisers.tensors(module).values()):
            live.add(tensor)
        assert live.total == pytest.approx(planned["weights"] + planned["optimiser"], rel=1e-3)
        for group in optimisers._groups():
            group["fused"] = True  # as on CUDA: the other way reads the step's number
        placed = batch._each(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
        with live:
            accumulate(module, [placed] * micro, 1000.0, bf16=True, reduce=reduce)
            fixed = planned["weights"] + planned["optimiser"] + planned["weights"]  # gradients, dealt out by now
            assert live.total == pytest.approx(fixed, rel=1e-3)
            update(module, optimisers, 1.0, gradient_norm(module), 1.0)
    assert 0.8 * sum(planned.values()) < live.peak < 1.05 * sum(planned.values())
