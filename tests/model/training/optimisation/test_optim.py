"""Optimisers: what gets which, decay where it belongs, and state that can be saved before the first step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model.network.layers.blocks import Block
from model.network.lst import build_model
from model.training.optimisation.config import AdamWConfig, MuonConfig
from model.training.optimisation.muon import ProjectionMuon, projection_rows
from model.training.optimisation.optim import Optimisers
from tests.model.network.cases import small_config


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False)])
        self.norm = nn.RMSNorm(4)
        self.heads = nn.ModuleDict({"joint": nn.Linear(4, 5, bias=False)})

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return self.heads["joint"](self.norm(x))


@pytest.fixture
def module() -> Small:
    torch.manual_seed(0)
    return Small()


ADAMW = AdamWConfig(kind="adamw", lr=0.01)
MUON = MuonConfig(kind="muon", lr=0.02, adamw=ADAMW)


def loss_of(module: Small) -> torch.Tensor:
    return module(torch.arange(5)).logsumexp(-1).sum()


def test_adamw_is_torchs(module: Small) -> None:
    """One step is one step of torch.optim.AdamW, with decay on matrices alone and the schedule's factor on the rate."""
    other = Small()
    other.load_state_dict(module.state_dict())
    matrices = [p for p in other.parameters() if p.ndim == 2]
    gains = [p for p in other.parameters() if p.ndim == 1]
    groups = [{"params": matrices}, {"params": gains, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=0.005, betas=(0.9, 0.95), weight_decay=0.1)
    ours = Optimisers(ADAMW, module)
    loss_of(module).backward()
    loss_of(other).backward()
    ours.step(0.5)
    theirs.step()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))
    assert all(p.grad is None for p in module.parameters())


def test_muon_gets_hidden_matrices_alone(module: Small) -> None:
    names = {
        name.split("/")[0] for name in Optimisers(MUON, module).tensors(module) if name.endswith("momentum_buffer")
    }
    assert names == {"layers.0.weight", "layers.1.weight"}


def test_tables_of_n_grams_are_embeddings_to_muon_too() -> None:
    """They are looked up and multiply nothing, wherever in the model they lie."""
    model = build_model(small_config(ngrams={"sizes": [2, 3], "buckets": 13}), 0)
    state = Optimisers(MUON, model).tensors(model)
    assert "ngrams.embedding.weight/exp_avg" in state
    assert "encoder.pool_projection.weight/momentum_buffer" in state


@pytest.mark.parametrize("config", [ADAMW, MUON])
def test_state_loaded_before_the_first_step_is_used(config: AdamWConfig | MuonConfig, module: Small) -> None:
    """Two steps in one go, and one step, save, load into a fresh optimiser, one step: the same weights, to the bit."""
    ours = Optimisers(config, module)
    loss_of(module).backward()
    ours.step(1.0)
    weights = {name: p.detach().clone() for name, p in module.named_parameters()}
    state = {name: tensor.clone() for name, tensor in ours.tensors(module).items()}
    loss_of(module).backward()
    ours.step(1.0)
    again = Small()
    with torch.no_grad():
        for name, parameter in again.named_parameters():
            parameter.copy_(weights[name])
    fresh = Optimisers(config, again)
    for name, tensor in fresh.tensors(again).items():
        tensor.copy_(state[name])
    loss_of(again).backward()
    fresh.step(1.0)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))


def test_the_factor_scales_both_parts_of_muon(module: Small) -> None:
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    ours = Optimisers(MUON, module)
    loss_of(module).backward()
    ours.step(0.0)
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_muon_updates_projections_as_if_each_were_a_matrix_of_its_own() -> None:
    """Two steps equal torch.optim.Muon's over the separate matrices: queries, keys and values of unequal heights, gate and up."""
    block = Block(8, 4, 2, 12, 1e-5, "dense")
    rows = projection_rows(block)
    assert rows == {"attention.qkv.weight": [8, 4, 4], "feed_forward.gate_up.weight": [12, 12]}
    named = {name: p for name, p in block.named_parameters() if p.ndim == 2}
    for parameter in named.values():
        nn.init.normal_(parameter)
    separate = {
        name: [nn.Parameter(x.clone()) for x in p.detach().split(rows.get(name, [len(p)]))] for name, p in named.items()
    }
    settings = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    ours = ProjectionMuon(
        list(named.values()), [rows.get(n, [len(p)]) for n, p in named.items()], adjust_lr="match_rms_adamw", **settings
    )
    theirs = torch.optim.Muon(
        [p for parts in separate.values() for p in parts], adjust_lr_fn="match_rms_adamw", **settings
    )
    for _ in range(2):
        for name, parameter in named.items():
            parameter.grad = torch.randn_like(parameter)
            for part, grad in zip(separate[name], parameter.grad.split(rows.get(name, [len(parameter)])), strict=True):
                part.grad = grad.clone()
        ours.step()
        theirs.step()
    for name, parameter in named.items():
        torch.testing.assert_close(
            parameter.detach(), torch.cat([p.detach() for p in separate[name]]), rtol=1e-5, atol=1e-6
        )
