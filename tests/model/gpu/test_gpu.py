"""What only a GPU can tell: run by `python -m model.gpu_check`, or `pytest -m gpu` where there is a card."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from model.cost.memory import MemoryPlan, memory_by_part
from model.cost.synthetic import synthetic_batch
from model.data.patching import PatchPolicyConfig
from model.inference.continuation import Generator
from model.inference.placement import Dtype, open_trained
from model.inference.sampling import Sampling
from model.inference.session import Session
from model.inference.trained import Trained
from model.monitor.metrics import read_rows
from model.network.batch import Batch
from model.network.config import ModelConfig
from model.network.layers.attention import Intervals, attend, self_intervals
from model.network.layout import derive, select
from model.network.lst import build_model
from model.network.vocabulary import BOS, SPEECH_MARK, Vocabulary
from model.scoring.documents import DIRECTIONS
from model.scoring.scorer import make_scorer
from model.training.config import TrainConfig
from model.training.distributed import Ranks
from model.training.module import compile_blocks
from model.training.run import Run
from tests.model.network.layers.test_blocks import gradients
from tests.model.scoring.scoring_cases import random_items
from tests.model.training import training_runs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

TOLERANCES: dict[Dtype, float] = {"fp32": 2e-3, "bf16": 0.1}
"""Nats a token may lie from the CPU's."""

VOCABULARY = Vocabulary(num_text=90, num_units=70)
LOCAL = {"num_layers": 2, "dim": 64, "num_heads": 2, "rope_theta": 1e4, "cross_heads": 2}


def model_of(**changes: Any) -> ModelConfig:
    document: dict[str, Any] = {
        "kind": "lst",
        "patch_encoder": {**LOCAL, "window": 40, "cross_window": 3, "cross_layers": "all"},
        "global_transformer": {"num_layers": 2, "dim": 128, "num_heads": 2, "rope_theta": 1e4},
        "patch_decoder": {**LOCAL, "window": 50, "cross_window": 4},
        "vectors_per_patch": 2,
        "conditioning": "causal",
        "text_path": "local",
        "head": "joint",
        "vocabulary": VOCABULARY.model_dump(),
    }
    return ModelConfig.model_validate({**document, **changes})


PLAIN = ModelConfig.model_validate(
    {
        "kind": "plain",
        "global_transformer": {"num_layers": 2, "dim": 64, "num_heads": 4, "num_kv_heads": 2, "rope_theta": 1e4},
        "head": "joint",
        "vocabulary": VOCABULARY.model_dump(),
    }
)
MODELS = {
    "local": model_of(),
    "heads": model_of(head="per_modality"),
    "direct": model_of(text_path="direct", head="per_modality"),
    "paper": model_of(conditioning="paper"),
    "plain": PLAIN,
}


def batch_of(seed: int = 0, speech: float = 0.4, elements: int = 1024) -> Batch:
    batch = synthetic_batch(VOCABULARY, elements, elements, speech=speech, length=(30, 200), seed=seed)
    return replace(batch, selections=select(batch))


def loss_and_norm(config: ModelConfig, device: str, bf16: bool, batch: Batch) -> tuple[float, float]:
    model = build_model(config, 0).to(device)
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        sums = model(batch.to(device))
    ((sums.nll_text + sums.nll_unit) / max(1, int(batch.loss_mask_N.sum()))).backward()
    assert all(p.grad is not None for p in model.parameters())
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    return float((sums.nll_text + sums.nll_unit).detach()), float(norm)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-5), (torch.bfloat16, 4e-2)])
@pytest.mark.parametrize("backend", ["flex", "varlen"])
def test_intervals_equal_dense_attention(dtype: torch.dtype, tolerance: float, backend: Any) -> None:
    """Self and cross patterns of a layout, with documents, windows, padding and queries without keys; with gradients."""
    if backend == "varlen" and dtype == torch.float32:
        pytest.skip("the kernel takes bf16 alone")
    layout = derive(batch_of(), MODELS["local"])
    patterns = [
        layout.encoder_self,
        layout.encoder_cross,
        layout.global_self,
        layout.decoder_self,
        layout.decoder_cross,
    ]
    padded = self_intervals(torch.zeros(300, dtype=torch.int64), torch.arange(300) < 200, 64)
    for pattern in [*patterns, padded]:
        starts = None if pattern.starts_Q is None else pattern.starts_Q.cuda()
        intervals = Intervals(
            lo_Q=pattern.lo_Q.cuda(),
            hi_Q=pattern.hi_Q.cuda(),
            num_keys=pattern.num_keys,
            window=pattern.window,
            starts_Q=starts,
        )
        q, k, v = (
            torch.randn(size, heads, 64, device="cuda", dtype=dtype)
            for size, heads in ((len(pattern.lo_Q), 4), (pattern.num_keys, 2), (pattern.num_keys, 2))
        )
        expected = gradients(lambda *x: attend(*x, intervals, "dense"), q.float(), k.float(), v.float())  # noqa: B023
        found = gradients(lambda *x: attend(*x, intervals, backend), q, k, v)  # noqa: B023
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(
                one.float(), other, rtol=tolerance, atol=tolerance * float(other.abs().max().clamp(min=1))
            )


@pytest.mark.parametrize("name", MODELS)
def test_models_compute_what_they_do_on_the_cpu(name: str) -> None:
    batch = batch_of()
    expected = loss_and_norm(MODELS[name], "cpu", False, batch)
    assert loss_and_norm(MODELS[name], "cuda", False, batch) == pytest.approx(expected, rel=2e-4)
    assert loss_and_norm(MODELS[name], "cuda", True, batch) == pytest.approx(expected, rel=2e-2)


@pytest.mark.parametrize("name", ["local", "direct", "plain"])
@pytest.mark.parametrize("speech", [0.0, 1.1], ids=["text", "speech"])
def test_batches_of_one_modality_go_through(name: str, speech: float) -> None:
    batch = batch_of(speech=speech, elements=256)
    expected = loss_and_norm(MODELS[name], "cpu", False, batch)
    assert loss_and_norm(MODELS[name], "cuda", True, batch) == pytest.approx(expected, rel=2e-2)


def test_compiled_blocks_are_one_graph_a_pattern_and_equal_plain_ones() -> None:
    """Over training and validation, and batches of other documents."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = build_model(MODELS["local"], 0).cuda()
    model = copy.deepcopy(plain)
    compile_blocks(model)
    for seed in range(3):
        batch = batch_of(seed).to("cuda")
        results = []
        for module in (plain, model):
            with torch.autocast("cuda", torch.bfloat16):
                sums = module(batch)
            (sums.nll_text + sums.nll_unit).backward()
            norm = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
            results.append((float((sums.nll_text + sums.nll_unit).detach()), float(norm)))
        assert results[1] == pytest.approx(results[0], rel=1e-2)
    model.eval()
    with torch.autocast("cuda", torch.bfloat16):
        model(batch_of(7).to("cuda"))
    own = [key for key in torch._dynamo.utils.counters["frames"] if key == "ok"]
    assert own
    assert (
        torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 5 + 8
    )  # patterns, and the plain model's calls of flex


def run_of(tmp_path: Path, name: str = "run", **changes: Any) -> dict[str, Any]:
    if not (tmp_path / "data").exists():
        training_runs.write_data(tmp_path / "data")
    document = training_runs.run_document(tmp_path / "data", tmp_path / name)
    for part, dim in (("patch_encoder", 64), ("global_transformer", 128), ("patch_decoder", 64)):
        document["model"][part]["dim"] = dim
    document.update(
        {"budget": {"steps": 8}, "validation": {"every_steps": 4, "batches": 2}, "precision": "bf16", **changes}
    )
    return document


@pytest.mark.parametrize("compiled", [False, True])
def test_a_run_trains_validates_saves_and_resumes(tmp_path: Path, compiled: bool) -> None:
    from model.train import main

    whole, parts = (run_of(tmp_path, name, compile=compiled) for name in ("whole", "parts"))
    assert main([str(training_runs.write_run(whole, tmp_path / "whole.yaml"))]) == 0
    config = str(training_runs.write_run(parts, tmp_path / "parts.yaml"))
    assert main([config, "budget.steps=5"]) == 0
    assert main([config]) == 0
    rows, other = (read_rows(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    assert [row["step"] for row in other] == list(range(1, 9))
    assert [row["loss"] for row in other[:4]] == pytest.approx([row["loss"] for row in rows[:4]], rel=1e-3)
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("name", ["local", "direct", "heads"])
def test_a_step_waits_for_the_device_once_at_most(tmp_path: Path, name: str) -> None:
    """Counted by torch: everything that makes the host wait warns."""
    document = run_of(tmp_path)
    changes = {
        "direct": {"text_path": "direct", "head": "per_modality"},
        "heads": {"head": "per_modality"},
        "local": {},
    }
    document["model"].update(changes[name])
    config = TrainConfig.model_validate(document)
    from model.data.sources import TrainingData

    run = Run(config, TrainingData(config.data), Ranks(0, 1, torch.device("cuda")))
    run.resume()
    for _ in range(2):
        run.launch()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        run.launch()
        torch.cuda.set_sync_debug_mode("default")
    run.close()
    waits = [
        f"{w.filename}:{w.lineno}" for w in seen if "synchroniz" in str(w.message) and "prototype" not in str(w.message)
    ]
    assert len(waits) <= 1, waits


@pytest.mark.parametrize("name", ["local", "plain"])
def test_steps_with_a_cache_equal_the_packed_pass(name: str) -> None:
    model = build_model(MODELS[name], 0).cuda().eval()
    policy = TypeAdapter(PatchPolicyConfig).validate_python({"policy": "static", "size": 4})
    units = np.random.default_rng(0).integers(VOCABULARY.unit_offset, VOCABULARY.size, 30)
    ids = [BOS, SPEECH_MARK, *units.tolist()]
    session = Session(model, policy, 1)
    stepped = torch.stack([session.feed([element])[0] for element in ids])
    host = Session(build_model(MODELS[name], 0).eval(), policy, 1)
    expected = torch.stack([host.feed([element])[0] for element in ids])
    torch.testing.assert_close(stepped.cpu(), expected, rtol=1e-3, atol=1e-3)


def scores(trained: Trained) -> list[float]:
    """Nats a token of endings in every direction."""
    scored = make_scorer(trained, "static:4", "fp32").score(random_items(seed=1, count=4), DIRECTIONS)
    return [ending.value("token") for item in scored for ending in item.endings]


def test_a_run_scores_on_the_card_as_on_the_cpu_and_speaks(tmp_path: Path) -> None:
    from model.train import main

    assert main([str(training_runs.write_run(run_of(tmp_path), tmp_path / "run.yaml"))]) == 0
    expected = scores(open_trained(tmp_path / "run", "cpu"))
    for dtype, tolerance in TOLERANCES.items():
        trained = open_trained(tmp_path / "run", "cuda", dtype)
        assert scores(trained) == pytest.approx(expected, abs=tolerance)
        generator = Generator.of(trained)
        prompts = [generator.speech_prompt(np.arange(30)), generator.text_prompt("abc")]
        for to in ("speech", "text"):
            said = generator.generate(prompts, to, Sampling(temperature=0.0), max_units=12, max_tokens=12)
            assert all(
                1 <= len(one.ids) <= 13 for one in said
            )  # the mark of the modality, and as many as were asked for


def test_memory_is_what_the_dry_run_says() -> None:
    """Within a sixth, at 134 M parameters."""
    from model.training.optimisation.config import AdamWConfig
    from model.training.optimisation.optim import Optimisers
    from model.training.optimisation.step import accumulate, gradient_norm, update

    stack = {"num_heads": 8, "rope_theta": 1e4}
    local = {**stack, "num_layers": 2, "dim": 512, "window": 128, "cross_heads": 8, "cross_window": 16}
    config = model_of(
        patch_encoder={**local, "cross_layers": "last"},
        global_transformer={**stack, "num_layers": 8, "dim": 1024},
        patch_decoder=local,
        vocabulary=Vocabulary(num_text=16000, num_units=500).model_dump(),
    )
    assert config.vocabulary is not None
    batch = synthetic_batch(config.vocabulary, 8192, 6656)
    placed = replace(batch, selections=select(batch)).to("cuda")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    module = build_model(config, 0).cuda()
    compile_blocks(module)
    optimisers = Optimisers(AdamWConfig(kind="adamw", lr=1e-4), module)
    for _ in range(3):
        accumulate(module, [placed], 8000.0, bf16=True)
        update(module, optimisers, 1.0, gradient_norm(module), 1.0)
    used = torch.cuda.max_memory_allocated() - before
    plan = MemoryPlan(
        elements=8192, latents=6656, bf16=True, recompute=False, shards=1, muon=False, keeps_gathered=False
    )
    assert sum(memory_by_part(config, plan).values()) == pytest.approx(used, rel=1 / 6)
