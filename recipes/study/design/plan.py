"""The units of work of a study, in order, with their expected core seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from recipes.study.design.arms import budget_of, elements_of
from recipes.study.design.facts import StudyFacts
from recipes.study.design.settings import Control, Study
from recipes.study.records.ledger import Ledger

MEASURING = 0.15
"""Held-out losses and tasks, as a share of a run's training (the records say what it was)."""


@dataclass(frozen=True, kw_only=True)
class WorkUnit:
    """A unit of work. `name` is also where its record lies."""

    kind: Literal["rates", "runs", "asr"]
    arm: str
    seconds: float
    """Expected, of one core, if nothing of it has been done."""
    lr: float = 0.0
    """rates alone."""
    seed: int = 1
    control: Control = "compute"

    @property
    def name(self) -> str:
        if self.kind == "rates":
            return f"rates/{self.arm}-{self.lr:g}"
        if self.kind == "asr":
            return f"asr/{self.arm}-s{self.seed}"
        return f"runs/{run_name(self.arm, self.seed, self.control)}"


def run_name(arm: str, seed: int, control: Control) -> str:
    """The name of a run, and of its folder."""
    return f"{arm}-s{seed}-{control}"


def units(study: Study, facts: StudyFacts) -> Iterator[WorkUnit]:
    """All units in the order of work: seed by seed, and within a seed arm by arm with all its controls, so that a sitting that
    ends early leaves whole comparisons. An arm's grid comes before its first run."""
    for number in range(max(len(arm.seeds) for arm in study.arms.values())):
        for arm, settings in study.arms.items():
            if number == 0 and len(study.rates_of(arm)) > 1:
                yield from _grid(study, facts, arm)
            if number < len(settings.seeds):
                for control in study.controls if arm != study.baseline else study.controls[:1]:
                    seconds = _run_seconds(study, facts, arm, control)
                    yield WorkUnit(kind="runs", arm=arm, seed=settings.seeds[number], control=control, seconds=seconds)
        if study.measures.asr_steps:
            for arm, settings in study.arms.items():
                if number < len(settings.seeds):
                    yield WorkUnit(
                        kind="asr", arm=arm, seed=settings.seeds[number], seconds=_asr_seconds(study, facts, arm)
                    )


def _grid(study: Study, facts: StudyFacts, arm: str) -> Iterator[WorkUnit]:
    mine, training = facts.arms[arm], study.training
    elements = training.rate_share * elements_of(budget_of(study, facts, arm, "compute"), mine)
    for lr in study.rates_of(arm):
        yield WorkUnit(kind="rates", arm=arm, lr=lr, seconds=elements * mine.seconds_per_element)


def _asr_seconds(study: Study, facts: StudyFacts, arm: str) -> float:
    """Fine-tuning alone."""
    mine, training = facts.arms[arm], study.training
    return (
        study.measures.asr_steps
        * training.elements
        * training.global_microbatches
        * mine.fill
        * mine.seconds_per_element
    )


def _run_seconds(study: Study, facts: StudyFacts, arm: str, control: Control) -> float:
    """A control's branch, the part of the trunk that no earlier control has paid for, and the measuring."""
    mine, decay = facts.arms[arm], study.training.decay_share
    lengths = [elements_of(budget_of(study, facts, arm, c), mine) for c in study.controls]
    index = study.controls.index(control)
    paid = max(lengths[:index], default=0.0)
    trained = decay * lengths[index] + (1 - decay) * max(0.0, lengths[index] - paid)
    return (trained + MEASURING * lengths[index]) * mine.seconds_per_element


def describe_plan(study: Study, facts: StudyFacts, ledger: Ledger, wanted: list[WorkUnit]) -> str:
    """What `--dry-run` prints."""
    lines = [f"{'unit of work':<40} {'core hours':>10}  record"]
    left = 0.0
    for unit in wanted:
        done = ledger.has(unit.name)
        left += 0.0 if done else unit.seconds
        lines.append(f"{unit.name:<40} {unit.seconds / 3600:>10.3f}  {'finished' if done else '-'}")
    total = sum(unit.seconds for unit in wanted)
    lines.append(f"{'in all':<40} {total / 3600:>10.3f}")
    lines.append(f"{'left':<40} {left / 3600:>10.3f}")
    lines.append(
        f"rates measured with {facts.rounds} rounds of {facts.steps_per_round} steps per arm, in turns, on one core:"
    )
    for name, arm in facts.arms.items():
        lines.append(
            f"  {name:<14} {1 / arm.seconds_per_element:>8.0f} elements/s  {arm.flops_per_element / 1e6:>6.2f} MFLOP/element  "
            f"{arm.parameters / 1e6:.2f} M parameters ({arm.global_parameters / 1e6:.2f} M global)  "
            f"{arm.latents_per_element:.3f} latents/element"
        )
    return "\n".join(lines)
