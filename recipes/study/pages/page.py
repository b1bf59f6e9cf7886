"""The study's page: every number in it is read from the records under `results_dir`, the prose from `notes.md` beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from model.scoring.accuracy import ConfidenceInterval
from model.scoring.seeds import SeedInterval
from recipes.study.design.facts import StudyFacts
from recipes.study.design.plan import units
from recipes.study.design.settings import Control, Study
from recipes.study.records import paper
from recipes.study.records.charts import draw_accuracies, draw_curves
from recipes.study.records.ledger import Ledger
from recipes.study.records.readings import Record, accuracy, at, difference, directions_in, run_of, spread, tasks_in

TITLES: dict[Control, str] = {
    "compute": "Compute-controlled: equal operations",
    "data": "Data-controlled: equal documents",
    "clock": "Wall-clock-controlled: equal seconds of one core",
}
SHARES = (0.25, 0.5, 0.7)
AXES = {"the operations": "flops", "the documents": "content", "the core seconds": "core_seconds"}
LOSSES = {"bits/s of speech": ("speech_bits_per_second", 2), "nats per text token": ("text_nats_per_token", 4)}


class Page:
    """The page of one study."""

    def __init__(self, study: Study, config: str) -> None:
        self.study, self.config = study, config
        self.ledger = Ledger(study.results_dir)
        facts = self.ledger.read("facts")
        self.facts = StudyFacts.model_validate({name: facts[name] for name in StudyFacts.model_fields})
        self.runs = self.ledger.all("runs")
        self.tasks = tasks_in(self.runs)
        self.columns = [(task, direction) for task in self.tasks for direction in directions_in(self.runs, task)]
        self.notes = read_notes(self.ledger.folder / "notes.md")

    def text(self) -> str:
        """Markdown."""
        parts = [
            f"# {self.study.name}",
            f"Written by `python -m recipes.study.run {self.config} --page` from the records in "
            f"[{self.ledger.folder.name}/]({self._link(self.ledger.folder)}); no number of ours is typed in.",
            self._status(),
            *self._note("Question"),
            *self._note("Expected"),
            *self._note("Rules"),
            "## Arms",
            self._arms(),
        ]
        for control in self.study.controls:
            parts += [f"## {TITLES[control]}", self._results(control), _beside(paper.BESIDE.get(control))]
        parts += [
            "## Rung by rung, at equal operations",
            self._rungs(),
            "## Over seeds, at equal operations",
            self._seeds(),
        ]
        parts += ["## What was seen", *filter(None, [self.notes.get("Seen", "")]), self._differences()]
        parts += [
            "## Curves",
            *self._pictures(),
            self._along(),
            "## Learning rates",
            self._rates(),
            *self._asr(),
            *self._pilots(),
        ]
        parts += [*self._note("Limits"), *self._note("Rerun")]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _link(self, path: Path) -> str:
        folder = Path(self.study.page).parent
        return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)

    def _note(self, title: str) -> list[str]:
        return [f"## {title}", self.notes[title]] if title in self.notes else []

    def _seeded(self) -> Iterator[tuple[str, int, str]]:
        """(arm, seed, label) of every planned run."""
        for arm, settings in self.study.arms.items():
            for seed in settings.seeds:
                yield arm, seed, arm if len(settings.seeds) == 1 else f"{arm}, seed {seed}"

    def _run(self, arm: str, seed: int, control: Control) -> Record | None:
        return run_of(self.runs, arm, seed, control, self.study.baseline)

    def _status(self) -> str:
        planned = list(units(self.study, self.facts))
        done = [unit for unit in planned if self.ledger.has(unit.name)]
        ours = [unit for unit in planned if unit.kind == "runs"]
        begun = {unit.arm for unit in ours if unit in done}
        missing = [unit.name.removeprefix("runs/") for unit in ours if unit not in done and unit.arm in begun]
        untouched = [arm for arm in self.study.arms if arm not in begun]
        counts = []
        for kind, name in (("rates", "trials of a learning rate"), ("runs", "runs"), ("asr", "fine-tunings")):
            total = sum(unit.kind == kind for unit in planned)
            if total:
                counts.append(f"{sum(unit.kind == kind for unit in done)} of {total} {name}")
        spent = sum(record["consumed"]["core_seconds"] for record in self.runs.values())
        state = "All that was planned has been run."
        if len(done) < len(planned):
            state = f"**Not all has been run.** Arms without any run: {', '.join(untouched) or 'none'}. "
            state += f"Runs that the other arms still miss: {', '.join(missing) or 'none'}."
        return f"{state} Finished: {', '.join(counts)}. Core seconds of training in the finished runs: {spent:.0f}."

    def _arms(self) -> str:
        header = ["arm", "parameters, M", "global, M", "local, M", "embeddings and heads, M", "latents per element"]
        header += [
            "tokens and units per element",
            "MFLOP per element",
            "elements/s of one core",
            "learning rate",
            "seeds",
        ]
        rows = []
        for name, settings in self.study.arms.items():
            mine = self.facts.arms[name]
            record = self._run(name, settings.seeds[0], "compute")
            sizes = (mine.parameters, mine.global_parameters, mine.local_parameters, mine.embedding_parameters)
            rows.append(
                [
                    name,
                    *(f"{size / 1e6:.3f}" for size in sizes),
                    "1" if settings.kind == "plain" else f"{mine.latents_per_element:.3f}",
                    f"{mine.content_per_element:.3f}",
                    f"{mine.flops_per_element / 1e6:.3f}",
                    f"{1 / mine.seconds_per_element:.0f}",
                    "-" if record is None else f"{record['lr']:g}",
                    " ".join(map(str, settings.seeds)),
                ]
            )
        return table(header, rows)

    def _results(self, control: Control) -> str:
        header = ["arm", "elements, M", "TFLOP", "core s", *LOSSES]
        header += [f"{task} {direction}" for task, direction in self.columns]
        rows = []
        for arm, seed, label in self._seeded():
            record = self._run(arm, seed, control)
            if record is not None:
                rows.append([label, *self._figures(record)])
        return table(header, rows) if rows else "Not run yet."

    def _figures(self, record: Record) -> list[str]:
        used, held = record["consumed"], record["measures"]["held_out"]
        cells = [f"{used['elements'] / 1e6:.3f}", f"{used['flops'] / 1e12:.3f}", f"{used['core_seconds']:.0f}"]
        cells += [f"{held[key]:.{digits}f}" for key, digits in LOSSES.values()]
        return cells + [percent(accuracy(record, task, direction)) for task, direction in self.columns]

    def _rungs(self) -> str:
        if not self.columns:
            return "No task has been scored."
        parts = []
        for task, direction in self.columns:
            rows = [
                [label, *(percent(accuracy(record, task, direction, group)) for group in self.tasks[task])]
                for arm, seed, label in self._seeded()
                if (record := self._run(arm, seed, "compute")) is not None
            ]
            parts += [f"**{task}, {direction}**", table(["arm", *self.tasks[task]], rows)]
        return "\n\n".join(parts)

    def _seeds(self) -> str:
        rows = []
        for arm, settings in self.study.arms.items():
            records = [record for seed in settings.seeds if (record := self._run(arm, seed, "compute")) is not None]
            if len(records) < 2:
                continue
            row = [arm, str(len(records))]
            row += [mean([r["measures"]["held_out"][key] for r in records], digits) for key, digits in LOSSES.values()]
            for task, direction in self.columns:
                found = [accuracy(record, task, direction) for record in records]
                row.append(mean([100 * a.value for a in found if a is not None], 1))
            rows.append(row)
        header = ["arm", "seeds", *LOSSES, *(f"{task} {direction}" for task, direction in self.columns)]
        own = table(header, rows) if rows else "No arm has two finished seeds yet."
        return f"{own}\n\n{_beside(paper.SEEDS)}"

    def _differences(self) -> str:
        lines = []
        for control in self.study.controls:
            for arm, seed, label in self._seeded():
                mine, base = self._run(arm, seed, control), self._run(self.study.baseline, seed, control)
                if arm != self.study.baseline and mine is not None and base is not None:
                    lines.append([control, label, *self._against(mine, base)])
        if not lines:
            return ""
        header = [
            "control",
            "arm",
            *LOSSES,
            *(f"{task} {direction}" for task, direction in self.columns),
        ]
        return (
            "Less the plain baseline of the same seed: losses in per cent (less is better), accuracies in points on the same "
            f"items, resampled in pairs (more is better; an interval that holds 0 tells nothing).\n\n{table(header, lines)}"
        )

    def _against(self, mine: Record, base: Record) -> list[str]:
        a, b = mine["measures"]["held_out"], base["measures"]["held_out"]
        cells = [f"{100 * (a[key] / b[key] - 1):+.2f} %" for key, _ in LOSSES.values()]
        return cells + [percent(difference(mine, base, task, direction), "+") for task, direction in self.columns]

    def _pictures(self) -> list[str]:
        if not self.runs:
            return []
        arms = list(self.study.arms)
        curves = draw_curves(self.runs, arms, self.ledger.folder / "curves.png")
        accuracies = draw_accuracies(self.runs, arms, self.ledger.folder / "accuracies.png")
        parts = [
            f"![held-out losses]({self._link(curves)})",
            "Held-out losses along the compute-controlled runs of the first seed. The rate is constant, then falls to 0 over the "
            f"last {self.study.training.decay_share:.0%} of the run: the bend at the end. The first tenth is left out.",
        ]
        if accuracies is not None:
            parts.append(f"![accuracies]({self._link(accuracies)})")
            parts.append(
                "Accuracies at equal operations, 95 % intervals over items; dotted: chance between two endings."
            )
        return parts

    def _along(self) -> str:
        """The curves read at shares of the baseline's budget, where no rate has fallen yet."""
        base = self._run(self.study.baseline, self.study.arms[self.study.baseline].seeds[0], "compute")
        if base is None:
            return ""
        rows = []
        for arm, settings in self.study.arms.items():
            record = self._run(arm, settings.seeds[0], "compute")
            if record is not None:
                content = self.facts.arms[arm].content_per_element
                curve = [{**row, "content": content * row["elements"]} for row in record["curve"]]
                for name, (key, digits) in LOSSES.items():
                    rows.append([arm, name, *self._read(curve, base["consumed"], f"held_{key}", digits)])
        header = ["arm", "held-out loss", *(f"{share:.0%} of {name}" for name in AXES for share in SHARES)]
        return (
            "The same curves read between their points at shares of what the plain baseline had in all, at constant rates. A "
            f"dash: the curve does not reach there.\n\n{table(header, rows)}"
        )

    def _read(self, curve: Sequence[Record], total: Record, key: str, digits: int) -> list[str]:
        cells: list[str] = []
        for axis in AXES.values():
            whole = total["elements"] if axis == "content" else total[axis]
            found = [at(curve, axis, share * whole, key) for share in SHARES]
            cells += ["-" if value is None else f"{value:.{digits}f}" for value in found]
        return cells

    def _rates(self) -> str:
        records = self.ledger.all("rates")
        rates = sorted({rate for arm in self.study.arms for rate in self.study.rates_of(arm)})
        if len(rates) == 1:
            return "One rate for all arms, without a grid."
        rows = []
        for arm in self.study.arms:
            scores = [records[name]["score"] if (name := f"{arm}-{lr:g}") in records else None for lr in rates]
            best = min((score for score in scores if score is not None), default=None)
            cells = ["-" if s is None else f"**{s:.4f}**" if s == best else f"{s:.4f}" for s in scores]
            rows.append([arm, *cells])
        return (
            f"The same grid for every arm, {self.study.training.rate_share:.0%} of its compute budget each, seed 1. A cell is "
            "ln(nats per text token) + ln(bits per second of speech) on held-out documents; the least is the arm's rate.\n\n"
            + table(["arm", *(f"{lr:g}" for lr in rates)], rows)
        )

    def _asr(self) -> list[str]:
        if not self.study.measures.asr_steps:
            return []
        rows = [
            [name, f"{record['wer']:.1f}", f"{record['cer']:.1f}", f"{record['context_share']:.3f}", str(record["steps"]),
             str(record["utterances"]), f"{record['core_seconds']:.0f}"]
            for name, record in self.ledger.all("asr").items()
        ]  # fmt: skip
        header = ["run", "WER, %", "CER, %", "context latents per unit", "steps", "utterances", "core s"]
        own = table(header, rows) if rows else "Not run yet."
        return ["## Transcription after equal fine-tuning steps", own, _beside(paper.ASR)]

    def _pilots(self) -> list[str]:
        records = self.ledger.all("pilots").values()
        if not records:
            return []
        rows = [
            [record["name"], record["what"], f"{record['parameters'] / 1e6:.2f}", f"{record['elements'] / 1e6:.2f}",
             f"{record['core_seconds']:.0f}", "; ".join(f"{key} {value:.3f}" for key, value in record["found"].items())]
            for record in records
        ]  # fmt: skip
        header = ["pilot", "what", "parameters, M", "elements, M", "core s", "found"]
        return ["## Pilots", self.notes.get("Pilots", ""), table(header, rows)]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows))


def percent(found: ConfidenceInterval | SeedInterval | None, sign: str = "") -> str:
    """A share or a difference of shares, with its interval, in per cent."""
    if found is None:
        return "-"
    value, low, high = (f"{100 * x:{sign}.1f}" for x in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


def mean(values: Sequence[float], digits: int) -> str:
    """A mean and its sample standard deviation."""
    if not values:
        return "-"
    found = spread(values)
    deviation = "" if found.deviation is None else f" ± {found.deviation:.{digits}f}"
    return f"{found.mean:.{digits}f}{deviation}"


def _beside(found: paper.PaperTable | None) -> str:
    return "" if found is None else f"{found.caption}\n\n{table(found.header, found.rows)}"


def read_notes(path: Path) -> dict[str, str]:
    """Prose by heading, out of a file of `## Heading` sections; {} where there is none. The page lies a folder above it."""
    if not path.exists():
        return {}
    prose = path.read_text(encoding="utf-8").replace("](../", "](")
    parts = re.split(r"^## (.+)$", prose, flags=re.MULTILINE)[1:]
    return {title.strip(): body.strip("\n") for title, body in zip(parts[::2], parts[1::2], strict=True)}
