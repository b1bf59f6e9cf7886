"""Each arm's full training configuration, by function: arms differ in what `Arm` says and in nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model.cost.presets import match_plain, plain_like
from model.data.patching import CurriculumConfig
from model.data.shards import read_index
from model.describe import Mix, count_mix
from model.network.config import ModelConfig
from model.network.vocabulary import Vocabulary
from model.training.config import BudgetConfig, TrainConfig
from model.training.optimisation.config import OptimiserConfig
from model.training.parts import with_known_boundaries
from recipes.study.design.facts import ArmFacts, StudyFacts
from recipes.study.design.settings import Arm, Control, Study
from schemas.config import parse_config
from schemas.models.unit_bpe import UnitBpe

ENDLESS = 1e18
"""Elements: a trunk's budget, of which no progress is ever made, so that its rate stays constant."""


def model_of(study: Study, arm: Arm, mix: Mix) -> ModelConfig:
    """The arm's model; `mix` is what its layers are matched on, where they are."""
    changed = _merged(study.network.model_dump(), arm.model)
    model = parse_config(ModelConfig, changed, "arms.*.model") if arm.model else study.network
    if arm.kind == "lst":
        return model.with_updates(text_path=arm.text_path) if arm.text_path else model
    if arm.layers == "as lst":
        return plain_like(model)
    lst = model.with_vocabulary(vocabulary_of(study))
    matched = match_plain(lst, arm.layers, (count_mix(lst, mix), count_mix(plain_like(lst), mix)))
    return matched.with_updates(vocabulary=None)  # the run's own, as every arm's


def vocabulary_of(study: Study) -> Vocabulary:
    """Of the arms that have units."""
    return Vocabulary(num_text=study.data.text_tokens, num_units=read_index(study.data.speech).num_units)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `changes`, mapping by mapping."""
    result = dict(base)
    for key, value in changes.items():
        inner = result.get(key)
        result[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


def shared_folder(study: Study) -> Path:
    """Tokenizers, trained once."""
    return Path(study.runs_dir) / "shared"


def unit_bpe_path(study: Study) -> Path:
    """The unit BPE of the arms that have one."""
    return shared_folder(study) / f"unit-bpe-{study.data.unit_tokens}.json"


def shared_unit_bpe(study: Study) -> UnitBpe:
    """The unit BPE, trained on the study's speech where it is missing."""
    path = unit_bpe_path(study)
    if not path.exists():
        from schemas.reading.shard_reader import unit_sequences

        index = read_index(study.data.speech)
        bpe = UnitBpe.train(unit_sequences(study.data.speech, index), index.num_units, study.data.unit_tokens)
        path.parent.mkdir(parents=True, exist_ok=True)
        bpe.save(path)
    return UnitBpe.load(path)


def training_of(
    study: Study,
    name: str,
    *,
    seed: int,
    lr: float,
    budget: BudgetConfig,
    latents: int,
    steps: int,
    shares: dict[str, float],
    folder: Path,
) -> TrainConfig:
    """A run: what `python -m model.train` would need to make it from nothing.

    `latents` is the budget of a micro-batch, `steps` what a curriculum's shares refer to, `shares` the length of documents in
    tokens of the unit BPE relative to units: weights count elements, and every arm is to read the same documents.
    """
    arm, data, training = study.arms[name], study.data, study.training
    spoken = {"interleaved": {"spans": data.spans.model_dump()}, "speech": {}}
    weights = {kind: getattr(data.weights, kind) * (shares[kind] if arm.unit_bpe else 1.0) for kind in spoken}
    sources: list[dict[str, Any]] = [
        {"kind": kind, "data": data.speech, "weight": round(weights[kind], 6), **more} for kind, more in spoken.items()
    ]
    sources.append({"kind": "text", "data": data.text, "weight": data.weights.text, "document_chars": 1})
    document = {
        "output_dir": str(folder),
        "seed": seed,
        "model": model_of(study, arm, mix_of(study)).model_dump(),
        "data": {
            "sources": sources,
            "tokenizer": {"path": str(shared_folder(study) / "tokenizer.json"), "train_size": data.text_tokens},
            "unit_bpe": str(unit_bpe_path(study)) if arm.unit_bpe else None,
            "held_out": data.held_out,
            "lanes": data.lanes,
            "workers": 0,
        },
        "patches": with_known_boundaries(arm.patches, folder, vocabulary_of(study)).model_dump(),
        "curriculum_steps": steps if isinstance(arm.patches, CurriculumConfig) else None,
        "packing": {"elements": training.elements, "latents": latents, "min_piece": 8},
        "global_microbatches": training.global_microbatches,
        "optimiser": _with_rate(arm.optimiser or training.optimiser, lr),
        "schedule": {
            "kind": "wsd", "warmup_steps": training.warmup_steps, "decay_share": training.decay_share, "min_ratio": 0.0,
        },
        "clip_norm": training.clip_norm,
        "budget": budget.model_dump(),
        "precision": training.precision,
        "threads": 1,
        "checkpoint": {"every_seconds": training.save_seconds, "keep": 1},
        "log": {"level": "warning", "progress": False, "tensorboard": False},
    }  # fmt: skip
    return parse_config(TrainConfig, document, f"arm {name}")


def _with_rate(optimiser: OptimiserConfig, lr: float) -> dict[str, Any]:
    """The optimiser at a rate: Muon's and that of its AdamW alike, which `match_rms_adamw` makes comparable."""
    document = {**optimiser.model_dump(), "lr": lr}
    if "adamw" in document:
        document["adamw"] = {**document["adamw"], "lr": lr}
    return document


def mix_of(study: Study) -> Mix:
    """The stream as `model.describe` counts it, for matched layers alone; interleaved documents are half speech in words."""
    weights = study.data.weights
    total = weights.interleaved + weights.speech + weights.text
    units = (0.75 * weights.interleaved + weights.speech) / total
    share = (weights.interleaved + weights.speech) / total
    return Mix(interleaved=share, speech=units / share, context=512)


def budget_of(study: Study, facts: StudyFacts, name: str, control: Control) -> BudgetConfig:
    """What a control gives an arm: the plain baseline's operations, its documents, or its core seconds."""
    mine, base, elements = facts.arms[name], facts.arms[study.baseline], study.training.budget_elements
    if name == study.baseline:
        return BudgetConfig(elements=elements)
    if control == "compute":
        return BudgetConfig(flops=float(f"{elements * base.flops_per_element:.6g}"))
    if control == "data":
        return BudgetConfig(elements=float(round(elements / mine.content_per_element)))
    return BudgetConfig(elements=float(round(elements * base.seconds_per_element / mine.seconds_per_element)))


def elements_of(budget: BudgetConfig, facts: ArmFacts) -> float:
    """A budget in the arm's own elements."""
    if budget.elements is not None:
        return budget.elements
    assert budget.flops is not None
    return budget.flops / facts.flops_per_element


def steps_of(study: Study, facts: StudyFacts, name: str) -> int:
    """Steps of the arm's compute-controlled run: the length of its curriculum."""
    training, mine = study.training, facts.arms[name]
    elements = elements_of(budget_of(study, facts, name, "compute"), mine)
    return max(1, round(elements / (training.elements * training.global_microbatches * mine.fill)))
