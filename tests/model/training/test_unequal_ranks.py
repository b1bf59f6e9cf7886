"""Ranks that have unequal work in a step: gradients are those of one process over all data, and no rank waits for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from model.network.batch import Batch
from model.network.config import ModelConfig
from model.network.lst import build_model
from model.network.vocabulary import BOS, EOS, SPEECH_MARK, TEXT_MARK
from model.training.config import ShardingConfig
from model.training.distributed import Ranks, shard
from model.training.module import _layers, recompute
from model.training.optimisation.step import accumulate, gradient_norm
from tests.model.network.cases import CONFIGS_OF_BOTH, VOCABULARY, document_of, make_batch, make_document
from tests.model.training.training_runs import start_process

MODELS = ("own patch", "direct text", "n-grams", "plain")
WAYS: dict[str, dict[str, Any]] = {
    "free": {},
    "keep": {"after_forward": "keep"},
    "pairs": {"group": 2},
    "recomputed": {},
}


def _one_kind(speech: bool, length: int) -> list[int]:
    mark, first, stop = (
        (SPEECH_MARK, VOCABULARY.unit_offset, VOCABULARY.size) if speech else (TEXT_MARK, 5, VOCABULARY.unit_offset)
    )
    rng = np.random.default_rng(length)
    return [BOS, mark, *rng.integers(first, stop, length).tolist(), EOS]


def batches_of(rank: int) -> list[Batch]:
    """Two micro-batches: of a rank with much, of one with text alone, of one with speech alone, of one whose data is used up."""
    rng = np.random.default_rng(rank)
    if rank == 0:
        return [make_batch([make_document(rng, 90), make_document(rng, 40)]), make_batch([make_document(rng, 70)])]
    if rank in (1, 2):
        some = [make_batch([document_of(_one_kind(rank == 2, size), rng)], latents=20) for size in (13, 5)]
        return some if rank == 1 else some[::-1]
    last = make_batch([document_of([BOS, EOS], rng)], elements=16, latents=8)
    return [last, _without_documents(last)]


def _without_documents(batch: Batch) -> Batch:
    nothing = torch.zeros_like(batch.is_unit_N)
    return Batch(
        ids_N=torch.zeros_like(batch.ids_N),
        is_unit_N=nothing,
        latent_id_N=torch.zeros_like(batch.latent_id_N),
        closed_N=nothing,
        doc_id_N=torch.full_like(batch.doc_id_N, -1),
        loss_mask_N=nothing,
        num_latents=batch.num_latents,
    )


def dealt(rank: int, world: int) -> list[Batch]:
    """The same eight micro-batches, dealt to fewer ranks in unequal shares of elements."""
    return [batch for number in range(rank * 4 // world, (rank + 1) * 4 // world) for batch in batches_of(number)]


def gradients(module: nn.Module, batches: list[Batch], targets: float) -> dict[str, torch.Tensor]:
    """Of every parameter, whole, by name; and the norm over all, and what the step counted."""
    totals = accumulate(module, batches, targets, bf16=False)
    found = {"norm": gradient_norm(module).detach(), "totals": totals}
    for name, parameter in module.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        found[name] = grad.full_tensor() if isinstance(grad, DTensor) else grad
    return found


def model_of(name: str) -> nn.Module:
    """In fp64, so that another order of sums is no difference."""
    config: ModelConfig = CONFIGS_OF_BOTH[name]
    torch.manual_seed(0)
    return build_model(config, 0).double()


def _rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    ranks = Ranks(rank, world, torch.device("cpu"))
    batches = dealt(rank, world)
    [targets] = ranks.sum([float(sum(int(batch.loss_mask_N.sum()) for batch in batches))])
    for name in MODELS:
        for way, settings in WAYS.items():
            module = model_of(name)
            if way == "recomputed":
                recompute(module, False, False)
            shard(module, _layers(module), ranks, ShardingConfig(**settings))
            found = gradients(module, batches, targets)
            found["totals"] = ranks.sum_tensor(found["totals"])
            if rank == 0:
                torch.save(found, f"{folder}/{name}, {way}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 4])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ranks, all over before this returns, have left their gradients."""
    place, world = tmp_path_factory.mktemp("unequal"), request.param
    processes = [start_process(_rank, rank, world, str(place)) for rank in range(world)]
    for process in processes:
        process.join(120)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * world, "a rank failed, or they wait for each other"
    return place


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_one_process_over_all_data(name: str, way: str, folder: Path) -> None:
    """One rank has many elements, one text alone, one speech alone, one two targets and then nothing but padding."""
    batches = dealt(0, 1)
    targets = float(sum(int(batch.loss_mask_N.sum()) for batch in batches))
    wanted = gradients(model_of(name), batches, targets)
    found = torch.load(folder / f"{name}, {way}.pt")
    assert found.keys() == wanted.keys()
    assert wanted["norm"] > 0
    for part, value in wanted.items():
        torch.testing.assert_close(found[part], value, rtol=0, atol=1e-6 * float(value.abs().max()) + 1e-12, msg=part)
