"""The page for a reader who has two minutes: the answer, one figure, what it rests on, then tables. Studies with `layout: brief`.

Every number is read from the records; prose is that of `notes.md` beside them. Figures over several seeds take the mean over the
seeds of each pair of stories first, and resample pairs: they hold for these seeds, and each seed's own figure stands beside.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from model.scoring.accuracy import ConfidenceInterval, bootstrap, holm, sign_test
from model.scoring.documents import DIRECTIONS
from model.scoring.scorer import Scored
from recipes.study.design.facts import StudyFacts
from recipes.study.design.plan import units
from recipes.study.design.settings import Control, Study
from recipes.study.pages.context import context
from recipes.study.pages.figures import LOSSES, Figures
from recipes.study.pages.further import further
from recipes.study.pages.gains import LIKELY, Gains
from recipes.study.pages.page import TITLES, percent, read_notes, table
from recipes.study.pages.prose import filled
from recipes.study.records import paper
from recipes.study.records.ledger import Ledger
from recipes.study.records.preferences import AtBudget, draw_operations, draw_preferences


class Brief:
    """The page of one study; its tables are of the runs under one control."""

    def __init__(self, study: Study, config: str, control: Control = "compute") -> None:
        self.study, self.config = study, config
        self.ledger = Ledger(study.results_dir)
        facts = self.ledger.read("facts")
        self.facts = StudyFacts.model_validate({name: facts[name] for name in StudyFacts.model_fields})
        self.figures = Figures(study, control)
        self.runs = self.figures.runs
        self.gains = Gains(self.figures, config)
        self.notes = read_notes(self.ledger.folder / "notes.md")

    def text(self) -> str:
        """Markdown."""
        bars = draw_preferences(self._pooled(), self.figures.colours(), self._picture("preferences"))
        parts = [
            f"# {self.study.name}",
            self._filled(self.notes.get("Setting", "")),
            *self._gains(),
            self._filled(self.notes.get("Answer", "")),
            *self._operations(),
            *self._gains_as_table(),
            *self._note("What the runs say"),
            self._shown("preferences", bars),
            self._status(),
            self._answer(),
            self._heading("Against the plain baseline, on the same seeds and pairs"),
            self._differences(),
            *self._over_seeds(),
            *self._controlled(),
            self._heading("Rung by rung, speech to speech"),
            self._rungs(),
            *further(self.figures),
            *context(self.ledger, self.runs),
            *self._note("What it rests on"),
            self._heading("Arms and seeds"),
            self._arms(),
            "## Learning rates",
            self._rates(),
            "## The paper's figures beside",
            f"{paper.COMPUTE.caption}\n\n{table(paper.COMPUTE.header, paper.COMPUTE.rows)}",
            *self._note("What earlier pages said wrongly"),
            *self._note("Limits"),
            *self._note("Again"),
            f"Written by `python -m recipes.study.run {self.config} --page`.",
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _heading(self, title: str) -> str:
        return f"## {title}" + (f" ({self.study.tables})" if self.study.tables else "")

    def _picture(self, name: str) -> Path:
        """Among the records; a second page of the same records has its own under its name."""
        page = Path(self.study.page)
        second = page.parent == self.ledger.folder and page.stem != "page"
        return self.ledger.folder / (f"{page.stem}-{name}.png" if second else f"{name}.png")

    def _shown(self, name: str, picture: Path) -> str:
        folder = Path(self.study.page).parent
        return f"![{name}]({picture.relative_to(folder) if picture.is_relative_to(folder) else picture})"

    def _gains(self) -> list[str]:
        """The picture of what arms gain over plain in the studies that this one compares."""
        if not self.study.compared:
            return []
        caption = (
            "*Each arm less the plain baseline with the same units. Blue: patches (LST); orange: a unit BPE without them; "
            "purple: both. Filled: intervals over seeds and pairs of stories, 95 %; hollow: one seed, over its pairs alone (of "
            "a loss none). The figures stand in the first table.*"
        )
        return [self._shown("gains", self.gains.draw(self._picture("gains"))), caption]

    def _gains_as_table(self) -> list[str]:
        if not self.study.compared:
            return []
        folder = Path(self.study.page).parent
        links = {title: os.path.relpath(page, folder) for title, page in self.gains.pages().items()}
        found, note = self.gains.table(links)
        meaning = (
            "Less the plain baseline of the same study: points of twin preference, losses in per cent. Intervals: 95 %, seeds "
            "and pairs of stories taken as drawn; of one seed over its pairs alone, for losses none. "
        )
        return ["## The first picture as a table", meaning + note, found]

    def _operations(self) -> list[str]:
        """The picture over the studies that differ in their operations alone, of the arms that all of them have."""
        if not self.study.budgets:
            return []
        studies = [self.figures.sibling(self.config, name) for name in self.study.budgets]
        arms = [arm for arm in studies[0].begun() if all(study.seeds(arm) for study in studies)]
        found: dict[str, dict[str, list[AtBudget]]] = {
            direction: {arm: [study.at_budget(arm, direction) for study in studies] for arm in arms}
            for direction in DIRECTIONS
        }
        caption = (
            "*Twin preference against operations: lines of means, single seeds as dots, bars for what other seeds would give "
            "(95 %, over seeds and pairs; of three seeds or more). Dotted: chance.*"
        )
        return [self._shown("operations", draw_operations(found, self._picture("operations"))), caption]

    def _note(self, title: str) -> list[str]:
        return [f"## {title}", self._filled(self.notes[title])] if title in self.notes else []

    def _filled(self, prose: str) -> str:
        return filled(prose, self.figures, self.config)

    def _pooled(self) -> dict[str, dict[str, tuple[ConfidenceInterval, list[float]]]]:
        """direction -> arm -> preference over its seeds, and that of each seed."""
        found: dict[str, dict[str, tuple[ConfidenceInterval, list[float]]]] = {}
        for direction in DIRECTIONS:
            points = {arm: self.figures.at_budget(arm, direction) for arm in self.figures.begun()}
            found[direction] = {arm: (point.interval, point.seeds) for arm, point in points.items()}
        return found

    def _status(self) -> str:
        planned = [unit for unit in units(self.study, self.facts) if unit.kind == "runs"]
        missing = [unit.name.removeprefix("runs/") for unit in planned if not self.ledger.has(unit.name)]
        pairs = len(self.figures.margins(*next(iter(self.runs)), "S->S"))
        flops = max(record["consumed"]["flops"] for record in self.runs.values()) / 1e12
        state = (
            "All runs that were planned are here."
            if not missing
            else f"**Not run** of those planned: {', '.join(missing)}."
        )
        return (
            f"{len(planned) - len(missing)} of {len(planned)} runs of {flops:.1f} TFLOP each, {pairs} pairs of stories. {state} "
            "The figure and the table below give the twin preference in per cent: how often each of two prompts likes its own "
            "ending better than the other prompt does. Chance is 50. Intervals: 95 %, over pairs, the seeds taken as they are; "
            "dots: single seeds."
        )

    def _answer(self) -> str:
        rows = []
        for arm in self.figures.begun():
            seeds = self.figures.seeds(arm)
            held = [self.runs[arm, seed]["measures"]["held_out"] for seed in seeds]
            right = [
                np.mean(
                    [
                        i.point("token")
                        for i in self.figures.scored(arm, seed)
                        if i.direction == d and i.choice and self._is_twin(i)
                    ]
                )
                for d in ("S->S", "T->T")
                for seed in seeds
            ]
            half = len(seeds)
            rows.append(
                [
                    arm,
                    str(half),
                    f"{np.mean([h['speech_bits_per_second'] for h in held]):.2f}",
                    f"{np.mean([h['text_nats_per_token'] for h in held]):.4f}",
                    *(percent(self.figures.preference(arm, seeds, direction)) for direction in DIRECTIONS),
                    f"{100 * np.mean(right[:half]):.1f}",
                    f"{100 * np.mean(right[half:]):.1f}",
                ]
            )
        header = [
            "arm",
            "seeds",
            "bits/s of speech",
            "nats per text token",
            *DIRECTIONS,
            "S->S accuracy",
            "T->T accuracy",
        ]
        return table(header, rows)

    def _is_twin(self, item: Scored) -> bool:
        return (item.group, item.cluster) in self.figures.margins(*next(iter(self.runs)), item.direction)

    def _differences(self) -> str:
        """Paired with the baseline on the seeds that both have."""
        base, rows, cells, tests = self.study.baseline, [], [], []
        for arm in self.figures.begun():
            seeds = [seed for seed in self.figures.seeds(arm) if (base, seed) in self.runs]
            if arm == base or not seeds:
                continue
            losses = []
            for name in ("speech_bits_per_second", "text_nats_per_token"):
                ratio = [self.figures.held(arm, seed, name) / self.figures.held(base, seed, name) - 1 for seed in seeds]
                losses.append(f"{100 * np.mean(ratio):+.1f} %")
            rows.append([arm, " ".join(map(str, seeds)), *losses])
            for direction in DIRECTIONS:
                mine, theirs = (self.figures.points(name, seeds, direction) for name in (arm, base))
                cells.append(self.figures.difference(arm, base, seeds, direction))
                tests.append(sign_test([mine[cluster] - theirs[cluster] for cluster in mine], list(mine)))
        adjusted = holm(tests)
        for number, row in enumerate(rows):
            for place in range(4 * number, 4 * number + 4):
                shown = percent(cells[place], "+")
                row.append(f"**{shown}**" if adjusted[place] < LIKELY else shown)
        note = (
            "Less the plain baseline: losses in per cent, preferences in points. Bold: exact sign test over pairs, "
            f"p below {LIKELY} after Holm's correction over the {len(tests)} cells of this table. The test holds for these "
            "seeds alone: of intervals over pairs half miss what other seeds would give where seeds differ as here."
        )
        return note + "\n\n" + table(["arm", "seeds", "bits/s", "text", *DIRECTIONS], rows)

    def _over_seeds(self) -> list[str]:
        """The differences with seeds taken as drawn, where there are two of each arm at least."""
        base, names = self.study.baseline, (*LOSSES, *DIRECTIONS)
        found = {
            arm: [self.figures.over_seeds(arm, base, what) for what in names]
            for arm in self.figures.begun()
            if arm != base
        }
        whole = {arm: [cell for cell in cells if cell is not None] for arm, cells in found.items() if None not in cells}
        if not whole:
            return []
        adjusted = iter(holm([cell.p for cells in whole.values() for cell in cells]))
        rows = []
        for arm, cells in whole.items():
            shown = [percent(cell, "+") for cell in cells]
            texts = [f"**{text}**" if next(adjusted) < LIKELY else text for text in shown]
            degrees = f"{cells[names.index('S->S')].degrees:.1f}"
            rows.append([arm, f"{len(self.figures.seeds(arm))}, {len(self.figures.seeds(base))}", *texts, degrees])
        note = (
            "The same differences, losses in per cent too, with the seeds taken as drawn like the pairs (all seeds of both arms, "
            "Student's interval; docs/scoring.md): what other seeds would give lies in these with 95 %. Bold: p below "
            f"{LIKELY} after Holm's correction over the {sum(map(len, whole.values()))} cells."
        )
        header = ["arm", "seeds, plain's", "bits/s", "text", *DIRECTIONS, "degrees of freedom of S->S"]
        return [self._heading("What other seeds would give"), note, table(header, rows)]

    def _controlled(self) -> list[str]:
        """What the arms are worth under the study's further controls, beside the same baseline."""
        parts = []
        for control in self.study.controls[1:]:
            other = Brief(self.study, self.config, control)
            if other.figures.begun() != [self.study.baseline]:
                parts += [f"## {TITLES[control]}", other._answer(), *other._over_seeds()[1:], other._arms()]
        return parts

    def _rungs(self) -> str:
        """Preference by rung, then the probes, which have no twins, by accuracy."""
        first = next(iter(self.runs))
        rungs = list(dict.fromkeys(rung for rung, _ in self.figures.margins(*first, "S->S")))
        probes = [g for g in dict.fromkeys(i.group for i in self.figures.scored(*first)) if g not in rungs]
        cells, tests = [], []
        for arm in self.figures.begun():
            for rung in rungs:
                points = self.figures.points(arm, self.figures.seeds(arm), "S->S", rung)
                cells.append(bootstrap(list(points.values()), list(points), bounds=(0.0, 1.0)))
                tests.append(sign_test(list(points.values()), list(points), chance=0.5))
        adjusted = holm(tests)
        rows = []
        for number, arm in enumerate(self.figures.begun()):
            own = range(len(rungs) * number, len(rungs) * (number + 1))
            row = [f"**{percent(cells[i])}**" if adjusted[i] < LIKELY else percent(cells[i]) for i in own]
            for probe in probes:
                items = [
                    [i for i in self.figures.scored(arm, s) if i.direction == "S->S" and i.group == probe]
                    for s in self.figures.seeds(arm)
                ]
                row.append(f"{100 * np.mean([i.point('token') for found in items for i in found]):.1f}")
            rows.append([arm, *row])
        note = f"Preference in per cent. Bold: not chance (exact sign test, Holm over the {len(tests)} cells)."
        if probes:
            note += f" {', '.join(probes)}: accuracy, the wrong ending being right nowhere."
        return note + "\n\n" + table(["arm", *rungs, *probes], rows)

    def _arms(self) -> str:
        rows = []
        for arm in self.figures.begun():
            facts = self.facts.arms[arm]
            for seed in self.figures.seeds(arm):
                record = self.runs[arm, seed]
                own = [f"{100 * np.mean(list(self.figures.points(arm, [seed], d).values())):.1f}" for d in DIRECTIONS]
                where = record["machine"].get("device", "cpu")
                rows.append(
                    [
                        f"{arm}, seed {seed}", f"{facts.parameters / 1e6:.2f}",
                        "1" if self.study.arms[arm].kind == "plain" else f"{facts.latents_per_element:.3f}",
                        f"{record['consumed']['elements'] / 1e6:.2f}", f"{record['consumed']['flops'] / 1e12:.1f}",
                        f"{record['consumed']['core_seconds']:.0f}" if where == "cpu" else "-",
                        f"{record['lr']:g}", f"{self.figures.held(arm, seed, 'speech_bits_per_second'):.2f}",
                        f"{self.figures.held(arm, seed, 'text_nats_per_token'):.4f}", *own, "GPU" if where != "cpu" else "CPU",
                    ]
                )  # fmt: skip
        header = [
            "run", "parameters, M", "latents per element", "elements, M", "TFLOP", "core s", "rate", "bits/s", "nats per token",
            *DIRECTIONS, "trained on",
        ]  # fmt: skip
        return table(header, rows)

    def _rates(self) -> str:
        rates = sorted({rate for arm in self.study.arms for rate in self.study.rates_of(arm)})
        records = self.ledger.all("rates")
        rows, at_an_end, untried = [], [], []
        for arm in self.study.arms:
            scores = [records[name]["score"] if (name := f"{arm}-{rate:g}") in records else None for rate in rates]
            best = min((score for score in scores if score is not None), default=None)
            if best is None:
                untried.append(arm)
                continue
            if best in (scores[0], scores[-1]):
                at_an_end.append(arm)
            rows.append([arm, *("-" if s is None else f"**{s:.3f}**" if s == best else f"{s:.3f}" for s in scores)])
        if not rows:
            return f"No grid was run here: all arms have the rates that `{self.config}` gives them."
        share = self.study.training.rate_share
        where = (
            f"at an end of the grid for {', '.join(at_an_end)}" if at_an_end else "inside the grid for every arm of it"
        )
        note = (
            f"ln(nats per text token) + ln(bits/s) on held-out documents after {share:.0%} of the budget, seed 1; least is "
            f"best. The best rate lies {where}." + (f" Without a grid: {', '.join(untried)}." if untried else "")
        )
        return note + "\n\n" + table(["arm", *(f"{rate:g}" for rate in rates)], rows)
