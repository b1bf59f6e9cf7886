"""Run a study, or go on where the last sitting stopped.

    python -m recipes.study.run configs/experiments/study.yaml --dry-run           the plan, with hours from measured rates
    python -m recipes.study.run configs/experiments/study.yaml                     everything that has no record yet
    python -m recipes.study.run configs/experiments/study.yaml --hours 2           one sitting of two hours
    python -m recipes.study.run configs/experiments/study.yaml --only plain,bpe    these arms
    python -m recipes.study.run configs/experiments/study.yaml --page              render the page from the records, train nothing

Each finished unit of work leaves a record under `results_dir` and is not run again. Killed, it goes on from its last checkpoint.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from model.data.sources import TrainingData
from model.monitor.rows import LogRow
from model.training.checkpoint import latest
from model.training.config import BudgetConfig, TrainConfig
from model.training.memory import steady_memory
from model.training.run import Run
from recipes.study.crew import run_crew
from recipes.study.design.arms import (
    ENDLESS,
    budget_of,
    elements_of,
    shared_unit_bpe,
    steps_of,
    training_of,
)
from recipes.study.design.facts import StudyFacts, bpe_shares, measure_facts
from recipes.study.design.plan import WorkUnit, describe_plan, run_name, units
from recipes.study.design.settings import Arm, Control, Study, load_study
from recipes.study.driver import OutOfTime, Watch, adopt, advance, begin, curve, leave_trunk
from recipes.study.heldout import choice_of_rate, losses, open_held_out
from recipes.study.measure import measure
from recipes.study.records.ledger import Ledger
from schemas.commands.cli import Parser, command, count, positive
from schemas.config import ConfigError, parse_config
from schemas.errors import ExitCode

ROUNDS, STEPS = 3, 4
"""Of measuring the rates."""


class Work:
    """A study with its records: what every unit of work needs."""

    def __init__(self, study: Study, watch: Watch, device: str = "cpu") -> None:
        self.study, self.watch, self.device = study, watch, device
        self.ledger = Ledger(study.results_dir)
        self.runs = Path(study.runs_dir)

    @property
    def facts(self) -> StudyFacts:
        """What `prepare` recorded."""
        record = self.ledger.read("facts")
        return StudyFacts.model_validate({name: record[name] for name in StudyFacts.model_fields})

    def prepare(self) -> None:
        """Tokenizers, where they are missing, and the facts on which the budgets rest, where they have no record."""
        study = self.study
        units_alone = next(name for name, arm in study.arms.items() if not arm.unit_bpe)
        corpus = TrainingData(self._unbudgeted(units_alone, {}, 0).data)  # trains the text tokenizer
        shares = bpe_shares(corpus, shared_unit_bpe(study)) if any(a.unit_bpe for a in study.arms.values()) else {}
        known: dict[str, Any] = {}
        if self.ledger.has("facts"):
            self._check_unchanged(corpus)
            known = self.ledger.read("facts")["arms"]
        new = [name for name in study.arms if name not in known]
        if not new:
            return
        self.watch.say(f"measuring sizes and rates of {'more' if known else 'all'} arms, in turns")
        makers = {name: partial(self._unbudgeted, name, shares) for name in new}
        arms = measure_facts(makers, self.runs / "facts", ROUNDS, STEPS)
        self.ledger.write(
            "facts",
            {
                "arms": known | {name: facts.model_dump() for name, facts in arms.items()},
                "shares": shares,
                "rounds": ROUNDS,
                "steps_per_round": STEPS,
                "study": study.model_dump(mode="json"),
                "corpus": corpus.fingerprint(),
            },
        )

    def _check_unchanged(self, corpus: TrainingData) -> None:
        """Refuse to set runs of other data, sizes or budgets beside the records there are.

        Raises:
            ConfigError: naming what has changed since the facts were measured.
        """
        record = self.ledger.read("facts")
        study = self.study.model_dump(mode="json")
        before = Study.model_validate(record["study"]).model_dump(mode="json")  # in today's fields
        parts = {"data": "the data's settings", "model": "the model", "training": "the training's settings"}
        changed = [what for part, what in parts.items() if before[part] != study[part]]
        old, new = before["arms"], study["arms"]
        changed += [f"arm {arm}'s patches" for arm in new if arm in old and _kind_of(old[arm]) != _kind_of(new[arm])]
        changed += [f"the rates of arm {arm}" for arm in new if self._made_at_another_rate(arm)]
        if "clock" in study["controls"] and not new.keys() <= old.keys():
            changed.append("the arms, whose seconds are to be measured in turns,")
        if record["corpus"] != corpus.fingerprint():
            changed.append("what the shards or the text hold")
        if changed:
            raise ConfigError(
                f"since {self.ledger.path('facts')} was written, {', '.join(changed)} changed, and records of both cannot stand "
                "in one table: change it back, give the study another results_dir and runs_dir, or remove the old records"
            )

    def _made_at_another_rate(self, arm: str) -> bool:
        """Whether a run of the arm was made at a rate that its grid no longer holds."""
        records = self.ledger.all("runs").values()
        return any(record["arm"] == arm and record["lr"] not in self.study.rates_of(arm) for record in records)

    def _unbudgeted(self, name: str, shares: dict[str, float], latents: int) -> TrainConfig:
        """A run of an arm of which only the first steps are taken. `latents` 0: as many as elements."""
        training = self.study.training
        return training_of(
            self.study, name, seed=1, lr=self.study.rates_of(name)[0], budget=BudgetConfig(elements=ENDLESS),
            latents=latents or training.elements, steps=1000, shares=shares, folder=self.runs / "facts" / name,
        )  # fmt: skip

    def config(self, unit: WorkUnit, budget: BudgetConfig, lr: float, folder: Path, share: float = 1.0) -> TrainConfig:
        """The training configuration of a unit of work; a curriculum ends within `share` of the arm's full length."""
        facts = self.facts
        return training_of(
            self.study, unit.arm, seed=unit.seed, lr=lr, budget=budget, latents=facts.arms[unit.arm].latents,
            steps=max(1, round(share * steps_of(self.study, facts, unit.arm))), shares=facts.shares, folder=folder,
        )  # fmt: skip

    def rate_of(self, arm: str) -> float:
        """The learning rate that the grid chose for an arm."""
        rates = self.study.rates_of(arm)
        if len(rates) == 1:
            return rates[0]
        scores = {lr: self.ledger.read(f"rates/{arm}-{lr:g}")["score"] for lr in rates}
        return min(scores, key=lambda lr: scores[lr])

    def do(self, unit: WorkUnit) -> None:
        """Do a unit of work and write its record.

        Raises:
            OutOfTime: the sitting is over.
        """
        began = time.time()
        record = {"rates": self._rate, "runs": self._run, "asr": self._asr}[unit.kind](unit)
        self.ledger.write(unit.name, {**record, "wall_seconds_of_last_sitting": time.time() - began})

    def _rate(self, unit: WorkUnit) -> dict[str, Any]:
        share = self.study.training.rate_share
        full = budget_of(self.study, self.facts, unit.arm, "compute")
        budget = BudgetConfig(**{name: share * limit for name, limit in full.limits().items()})
        config = self.config(unit, budget, unit.lr, self.runs / unit.name, share)
        run = begin(config, self.device)
        advance(run, budget, 1.0, self.watch, lambda _: {}, 2.0)
        held = open_held_out(run.config, self.study.measures.curve_documents)
        assert hasattr(run.module, "head_rows")
        found = losses(run.module, held)
        run.close()
        return {
            "arm": unit.arm,
            "lr": unit.lr,
            "held_out": found,
            "score": choice_of_rate(found),
            "consumed": run.consumed,
        }

    def _run(self, unit: WorkUnit) -> dict[str, Any]:
        study, facts = self.study, self.facts
        share, lr = 1 - study.training.decay_share, self.rate_of(unit.arm)
        budgets = {c: budget_of(study, facts, unit.arm, c) for c in self._open_controls(unit)}
        folders = {c: self.runs / run_name(unit.arm, unit.seed, c) for c in budgets}
        order = sorted(budgets, key=lambda c: elements_of(budgets[c], facts.arms[unit.arm]))
        target = folders[unit.control]
        config = self.config(unit, budgets[unit.control], lr, target)
        trunk = self.config(unit, BudgetConfig(elements=ENDLESS), lr, self.runs / f"{unit.arm}-s{unit.seed}-trunk")
        every = 1 / study.measures.curve_points
        observe = self._observer(config)
        adopted = adopt(trunk, study.trunks)
        leave_trunk(
            trunk, [(folders[c], budgets[c]) for c in order], target, share, self.watch, observe, every, self.device
        )
        run = begin(config, self.device)
        advance(run, budgets[unit.control], 1.0, self.watch, observe, every)
        run.close()
        return {
            "arm": unit.arm,
            "seed": unit.seed,
            "control": unit.control,
            "lr": lr,
            "config": run.config.model_dump(mode="json"),
            **({"goes_on_from": adopted} if adopted else {}),
            "consumed": run.consumed,
            "measures": measure(study, target, self.device),
            "curve": curve(target, 60),
        }

    def _open_controls(self, unit: WorkUnit) -> list[Control]:
        """The controls of the unit's arm and seed that have no record yet: their branches leave the same trunk."""
        wanted = [u for u in units(self.study, self.facts) if (u.kind, u.arm, u.seed) == ("runs", unit.arm, unit.seed)]
        return [u.control for u in wanted if u.control == unit.control or not self.ledger.has(u.name)]

    def _observer(self, config: TrainConfig) -> Any:
        held = open_held_out(config, self.study.measures.curve_documents)

        def observe(run: Run) -> LogRow:
            return {f"held_{name}": value for name, value in losses(run.module, held).items()}

        return observe

    def _asr(self, unit: WorkUnit) -> dict[str, Any]:
        from recipes.study.transcription import word_errors

        name = run_name(unit.arm, unit.seed, "compute")
        folder = self.runs / name
        if latest(folder / "checkpoints") is None:
            self.watch.say(f"the checkpoint of {name} is gone: it is trained again from its record")
            config = parse_config(TrainConfig, self.ledger.read(f"runs/{name}")["config"], name)
            run = begin(config, self.device)
            advance(run, config.budget, 1.0, self.watch, lambda _: {}, 2.0)
            run.close()
        return {"arm": unit.arm, "seed": unit.seed, **word_errors(self.study, folder, self.runs / unit.name)}


def _kind_of(arm: dict[str, Any]) -> dict[str, Any]:
    """What an arm is, its seeds and its grid of rates apart: they may be added to."""
    return Arm.model_validate(arm).model_dump(mode="json", exclude={"seeds", "rates"})


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Do the study's pending units of work, then render its page."""
    parser = Parser(__doc__)
    parser.add_argument("config", help="a file of configs/experiments/")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="fields to set, read as YAML")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and its hours, and stop")
    parser.add_argument("--only", metavar="ARM,ARM", help="the units of these arms alone")
    parser.add_argument(
        "--hours", type=positive, help="end the sitting after so many hours (exit code 75: there is more to do)"
    )
    parser.add_argument(
        "--jobs", type=count, default=1, metavar="N", help="so many single-threaded processes side by side"
    )
    parser.add_argument("--device", default="cpu", help="cuda: train and measure on a GPU (default: %(default)s)")
    parser.add_argument("--unit", metavar="NAME", help="this unit of work alone, such as runs/static-s1-compute")
    parser.add_argument("--page", action="store_true", help="render the page from the records there are, and stop")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    steady_memory()
    logging.getLogger("model.training.checkpoint").setLevel(
        logging.ERROR
    )  # each branch has another budget than its trunk, and means it
    study = load_study(given.config, given.overrides)
    work = Work(study, Watch(given.hours, lambda line: print(line, file=sys.stderr, flush=True)), given.device)
    if given.page:
        _render(study, given.config)
        return 0
    work.prepare()
    arms = study.arms_of(given.only)
    wanted = [unit for unit in units(study, work.facts) if unit.arm in arms]
    if given.unit:
        wanted = [unit for unit in wanted if unit.name == given.unit]
        if not wanted:
            raise ConfigError(f"the plan has no unit {given.unit}; --dry-run lists them")
    if given.dry_run:
        print(describe_plan(study, work.facts, work.ledger, wanted))
        return 0
    if given.jobs > 1:
        again = [sys.executable, "-m", "recipes.study.run", given.config, *given.overrides, "--device", given.device]
        code = run_crew(again, wanted, work.ledger, given.jobs, given.hours)
        _render(study, given.config)
        return code
    return sitting(work, wanted, given.config, render=not given.unit)


def sitting(work: Work, wanted: list[WorkUnit], config: str, render: bool = True) -> int:
    """Do what has no record yet; with `render` the page is written anew at the end, and after a unit when it is a minute old."""
    rendered = time.monotonic()
    for number, unit in enumerate(wanted, start=1):
        if work.ledger.has(unit.name):
            continue
        left = sum(u.seconds for u in wanted[number - 1 :] if not work.ledger.has(u.name))
        work.watch.say(f"[{number}/{len(wanted)}] {unit.name}; {left / 3600:.2f} core hours left in all")
        try:
            work.do(unit)
        except OutOfTime:
            work.watch.say(f"the sitting is over within {unit.name}; run the same command to go on")
            if render:
                _render(work.study, config)
            return ExitCode.TRY_AGAIN
        if render and time.monotonic() - rendered > 60:
            rendered = time.monotonic()
            _render(work.study, config)
    if render:
        _render(work.study, config)
    return 0


def _render(study: Study, config: str) -> None:
    from recipes.study.pages.render import render

    print(f"wrote {render(study, config)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
