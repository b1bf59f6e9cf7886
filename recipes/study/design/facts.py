"""What is measured of every arm before it trains: sizes, operations, core seconds. Budgets and the plan rest on it.

The arms take turns at a few training steps each, so that all meet the same weather, and the least time of each is kept.
Seconds are those of one core (process time): other people's work on the machine does not count.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from model.data.compose import Composer
from model.data.document import to_bpe
from model.data.lanes import Lane, LaneState
from model.data.sources import TrainingData
from model.network.batch import Batch
from model.training.config import TrainConfig
from model.training.distributed import Ranks
from model.training.run import Run
from model.training.stream import make_stream
from schemas.config import StrictModel
from schemas.models.unit_bpe import UnitBpe

SAMPLE = 48
"""Micro-batches that are looked at to choose a latent budget."""


class ArmFacts(StrictModel):
    """Of one arm, per element of its own (a token of a unit BPE is one element)."""

    parameters: int
    global_parameters: int
    local_parameters: int
    embedding_parameters: int
    """Embeddings and heads."""
    latents: int
    """Budget of a micro-batch."""
    latents_per_element: float
    fill: float
    """Elements in use, of the budget."""
    content_per_element: float
    """Text tokens, marks and *units*: 1 but for a unit BPE."""
    flops_per_element: float
    seconds_per_element: float


class StudyFacts(StrictModel):
    """What was measured of the arms before any was trained: `facts.json`."""

    arms: dict[str, ArmFacts]
    shares: dict[str, float]
    """Elements of a document in tokens of the unit BPE, relative to units, by kind of source."""
    rounds: int
    steps_per_round: int


def measure_facts(
    configs: Mapping[str, Callable[[int], TrainConfig]], folder: Path, rounds: int, steps: int
) -> dict[str, ArmFacts]:
    """Facts of each arm. `configs[name](latents)` is its configuration with that latent budget (0: one for each
    element); `folder` is cleared."""
    torch.set_num_threads(1)
    ranks = Ranks(0, 1, torch.device("cpu"))
    runs, looks = {}, {}
    for name, make in configs.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        config = make(0)
        corpus = TrainingData(config.data)
        looks[name] = look_at_batches(config, corpus)
        runs[name] = Run(make(int(looks[name]["budget"])), corpus, ranks)
        runs[name].resume()
        runs[name].step()  # allocates
    best = dict.fromkeys(runs, float("inf"))
    before = {name: dict(run.consumed) for name, run in runs.items()}
    for _ in range(rounds):
        for name, run in runs.items():
            elements, begin = run.consumed["elements"], time.process_time()
            for _ in range(steps):
                run.step()
            spent = (time.process_time() - begin) / (run.consumed["elements"] - elements)
            best[name] = min(best[name], spent)
    facts = {}
    for name, run in runs.items():
        used = run.consumed["elements"] - before[name]["elements"]
        sizes = {part: sum(p.numel() for p in module.parameters()) for part, module in run.module.named_children()}
        rest = sum(size for part, size in sizes.items() if part in ("embedding", "heads"))
        facts[name] = ArmFacts(
            parameters=sum(sizes.values()),
            global_parameters=sizes["global_transformer"],
            local_parameters=sum(sizes.values()) - rest - sizes["global_transformer"],
            embedding_parameters=rest,
            latents=int(looks[name]["budget"]),
            latents_per_element=looks[name]["latents"],
            fill=looks[name]["fill"],
            content_per_element=looks[name]["content"],
            flops_per_element=(run.consumed["flops"] - before[name]["flops"]) / used,
            seconds_per_element=best[name],
        )
        run.close()
    return facts


def bpe_shares(corpus: TrainingData, bpe: UnitBpe, documents: int = 100) -> dict[str, float]:
    """How much shorter the unit BPE makes the documents of each spoken source: elements with it per element without."""
    composer = Composer(corpus.tokenizer, corpus.vocabulary, token_starts=False)
    shares = {}
    for source in corpus.sources(0, "train"):
        if source.config.kind == "text":
            continue
        found = [d for i in range(documents) for d in source.documents(i, composer)]
        encoded = [to_bpe(document, corpus.vocabulary, bpe) for document in found]
        shares[source.name] = sum(len(d.ids) for d in encoded) / sum(len(d.ids) for d in found)
    return shares


def look_at_batches(config: TrainConfig, corpus: TrainingData) -> dict[str, float]:
    """Latents, fill and content of micro-batches where elements alone bind; `budget`: latents that hold all of them.

    Half of what is looked at is patched as at the start of the run, half as at its end: a curriculum differs.
    """
    stream = make_stream(config, corpus, "train")
    lanes = config.data.lanes
    totals = {"latents": 0.0, "elements": 0.0, "content": 0.0}
    most = 0
    for step in (0, config.curriculum_steps or 1):
        for number in range(lanes):
            lane = Lane(stream, number, LaneState.start(len(stream.sources)))
            for _ in range(max(1, SAMPLE // (2 * lanes))):
                batch, _ = lane.next(step)
                elements = int((batch.doc_id_N >= 0).sum())
                latents = int(batch.latent_id_N[elements - 1]) + 1
                most = max(most, latents)
                totals["latents"] += latents
                totals["elements"] += elements
                totals["content"] += elements + _extra_units(batch, corpus)
    batches = 2 * lanes * max(1, SAMPLE // (2 * lanes))
    roomy = min(config.packing.elements, -(-int(1.02 * most) // 32) * 32)
    return {
        "latents": totals["latents"] / totals["elements"],
        "fill": totals["elements"] / (batches * config.packing.elements),
        "content": totals["content"] / totals["elements"],
        "budget": float(roomy),
    }


def _extra_units(batch: Batch, corpus: TrainingData) -> float:
    """Units beyond one per element."""
    units = corpus.speech_seconds(batch) / corpus.seconds_per_unit
    return units - int(batch.is_unit_N.sum())
