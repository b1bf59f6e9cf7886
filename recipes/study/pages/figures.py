"""Figures of a study whose tasks have twins, read from its records: preferences by pair and seed, losses, differences."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from model.scoring.accuracy import ConfidenceInterval, bootstrap, twins_of
from model.scoring.scorer import Scored
from model.scoring.seeds import SeedInterval, over_seeds
from recipes.study.design.settings import Control, Study, load_study
from recipes.study.records.choices import read_scored
from recipes.study.records.ledger import Ledger
from recipes.study.records.preferences import AtBudget

LOSSES = {"bits": "speech_bits_per_second", "text": "text_nats_per_token"}
COLOURS = {("lst", False): "C0", ("plain", True): "C1", ("lst", True): "C4", ("plain", False): "C7"}
"""Of an arm, by its kind and whether a unit BPE is before it: patches blue, BPE orange, both purple, neither grey."""


class Figures:
    """What the runs of one study say under one of its controls; the plain baseline's runs answer all of them.

    Of its first task, unless another is asked for: then of the runs that scored that. `rungs`: of these alone.
    """

    def __init__(
        self, study: Study, control: Control = "compute", task: str | None = None, rungs: Collection[str] | None = None
    ) -> None:
        self.study, self.control, self.rungs = study, control, rungs
        self.ledger = Ledger(study.results_dir)
        self.runs = {
            (record["arm"], int(record["seed"])): record
            for record in self.ledger.all("runs", points=False).values()
            if record["control"] == ("compute" if record["arm"] == study.baseline else control)
        }
        self.task = task or self.tasks()[0]
        self.runs = {run: record for run, record in self.runs.items() if self.task in record["measures"]["choices"]}

    def sibling(self, config: str, name: str, control: Control = "compute", task: str | None = None) -> Figures:
        """Those of the study that lies beside `config` under `name`, with its records beside this one's."""
        study = load_study(Path(config).with_name(f"{name}.yaml"), [])
        folder = self.ledger.folder.with_name(Path(study.results_dir).name)
        return Figures(study.with_updates(results_dir=str(folder)), control, task)

    def tasks(self) -> list[str]:
        """Those that any run scored, the study's first one first."""
        return list(dict.fromkeys(task for record in self.runs.values() for task in record["measures"]["choices"]))

    def seeds(self, arm: str) -> list[int]:
        """Those of which there is a run."""
        return sorted(seed for name, seed in self.runs if name == arm)

    def begun(self) -> list[str]:
        """The arms of which there is a run."""
        return [arm for arm in self.study.arms if self.seeds(arm)]

    def colours(self) -> dict[str, str]:
        """arm -> its colour."""
        return {name: COLOURS[arm.kind, arm.unit_bpe] for name, arm in self.study.arms.items()}

    def held(self, arm: str, seed: int, name: str) -> float:
        """A held-out loss."""
        return float(self.runs[arm, seed]["measures"]["held_out"][name])

    @functools.cache  # noqa: B019  as long as one page is made
    def scored(self, arm: str, seed: int) -> list[Scored]:
        """Every item in every direction."""
        facts = self.ledger.read(f"tasks/{self.task}")
        return read_scored(facts, self.runs[arm, seed]["measures"]["choices"][self.task])

    @functools.cache  # noqa: B019
    def margins(self, arm: str, seed: int, direction: str) -> dict[tuple[str, str], float]:
        """(group, cluster) -> margin in nats of each pair of twins."""
        members = [item for item in self.scored(arm, seed) if item.direction == direction]
        pairs = twins_of(members)
        return {(p.group, p.cluster): p.margin for p in pairs if self.rungs is None or p.group in self.rungs}

    def points(self, arm: str, seeds: Sequence[int], direction: str, group: str | None = None) -> dict[str, float]:
        """cluster -> share of the seeds that prefer rightly."""
        found = [self.margins(arm, seed, direction) for seed in seeds]
        pairs = [pair for pair in found[0] if group in (None, pair[0])]
        margins_SP = np.array([[margins[pair] for pair in pairs] for margins in found])
        shares_P = np.where(margins_SP == 0, 0.5, margins_SP > 0).mean(0)
        return dict(zip((cluster for _, cluster in pairs), shares_P.tolist(), strict=True))

    def preference(
        self, arm: str, seeds: Sequence[int], direction: str, group: str | None = None
    ) -> ConfidenceInterval:
        """Of the seeds as they are, over pairs."""
        points = self.points(arm, seeds, direction, group)
        return bootstrap(list(points.values()), list(points), bounds=(0.0, 1.0))

    def at_budget(self, arm: str, direction: str) -> AtBudget:
        """Of all its seeds, with the operations of its first run."""
        seeds = self.seeds(arm)
        points_SP = np.array([list(self.points(arm, [seed], direction).values()) for seed in seeds])
        reach = None
        if len(seeds) > 2:
            found = over_seeds(points_SP, np.zeros_like(points_SP))
            reach = max(0.0, found.low), min(1.0, found.high)
        tflop = self.runs[arm, seeds[0]]["consumed"]["flops"] / 1e12
        return AtBudget(
            tflop=tflop, interval=self.preference(arm, seeds, direction), seeds=points_SP.mean(1).tolist(), reach=reach
        )

    def difference(
        self, arm: str, base: str, seeds: Sequence[int], direction: str, group: str | None = None
    ) -> ConfidenceInterval:
        """Of the seeds as they are, over pairs, resampled together."""
        mine, theirs = (self.points(name, seeds, direction, group) for name in (arm, base))
        return bootstrap([mine[cluster] - theirs[cluster] for cluster in mine], list(mine))

    def over_seeds(self, arm: str, base: str, what: str, group: str | None = None) -> SeedInterval | None:
        """The difference of two arms over seeds and pairs alike: of a preference, or of a loss (`LOSSES`) as a share of the
        base's. None: one of them has fewer than two seeds."""
        if min(len(self.seeds(arm)), len(self.seeds(base))) < 2:
            return None
        if what not in LOSSES:
            one, two = (
                np.array([list(self.points(name, [seed], what, group).values()) for seed in self.seeds(name)])
                for name in (arm, base)
            )
            return over_seeds(one, two)
        one, two = (
            np.array([[math.log(self.held(name, seed, LOSSES[what]))] for seed in self.seeds(name)])
            for name in (arm, base)
        )
        found = over_seeds(one, two)
        value, low, high = (math.expm1(log) for log in (found.value, found.low, found.high))
        return SeedInterval(value=value, low=low, high=high, p=found.p, degrees=found.degrees)
