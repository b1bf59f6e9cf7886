"""The study's page says what its records say: prose with figures filled in, differences paired, seeds named."""

import re
from pathlib import Path

import numpy as np
import pytest

from model.scoring.accuracy import twins_of
from recipes.study.design.settings import load_study
from recipes.study.pages.brief import Brief
from recipes.study.records.choices import read_scored
from recipes.study.records.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/experiments/study-ladder.yaml"
BITS = "speech_bits_per_second"


@pytest.fixture(scope="module")
def brief() -> Brief:
    study = load_study(ROOT / CONFIG, [])
    return Brief(study.with_updates(results_dir=str(ROOT / study.results_dir)), CONFIG)


def test_prose_is_filled_from_the_records(brief: Brief) -> None:
    """A difference is that of the twins of the seeds that both arms have, and the committed page has it; an arm without runs is
    a dash."""
    shown = brief._filled("{static less plain S->T}, {none S->T}, {static S->S person}")
    shares = {}
    for arm in ("static", "plain"):
        points = []
        for seed in (1, 2):
            record = brief.ledger.read(f"runs/{arm}-s{seed}-compute")["measures"]["choices"][brief.figures.task]
            scored = read_scored(brief.ledger.read(f"tasks/{brief.figures.task}"), record)
            points.append([pair.point for pair in twins_of([s for s in scored if s.direction == "S->T"])])
        shares[arm] = np.mean(points)
    expected = f"{100 * (shares['static'] - shares['plain']):+.1f}"
    assert shown.startswith(f"{expected} [")
    assert ", -, " in shown
    assert re.search(r"\(\d seeds?\)$", shown)
    page = (ROOT / brief.study.page).read_text(encoding="utf-8")
    assert shown.split(" (")[0] in page, "of the table"
    assert "{" not in page.split("## Again")[0].replace("`{", ""), "a figure of the prose was not filled in"


def test_prose_may_ask_for_what_other_seeds_would_give(brief: Brief) -> None:
    """Of all seeds of both arms, of a preference or a loss, of a study beside this one too; wider than over pairs alone."""
    bits = "{study-ladder-low: static less plain bits over seeds}"
    text = "{study-ladder-low: static less plain S->T over seeds}"
    shown = brief._filled(
        f"{bits}; {text}; {text.replace(' over seeds', '')}; {{aligned-deep less plain S->T over seeds}}"
    )
    numbers = [[float(number) for number in re.findall(r"-?\d+\.\d", part)] for part in shown.split("; ")]
    assert all(low < value < high for value, low, high in numbers[:3])
    assert numbers[1][0] == numbers[2][0]
    assert numbers[1][1] < numbers[2][1] < numbers[2][2] < numbers[1][2]
    assert "] % (3 seeds); " in shown
    assert shown.endswith("; -"), "one seed says nothing of others"
    expected = brief.figures.sibling(CONFIG, "study-ladder-low").over_seeds("static", "plain", "S->S")
    assert brief._filled("{study-ladder-low: static less plain S->S p}") == f"{expected.p:.2g}"
    assert 0 < expected.p < 1
    assert brief._filled("{aligned-deep less plain S->T p}") == "-"


def test_no_figure_of_the_first_screen_is_typed_by_hand(brief: Brief) -> None:
    """What the study answers comes from its records, with interval and seeds; p and rates alone are written out."""
    answer = re.sub(r"\{[^}]*\}|\([^)]*\.md\)", "", brief.notes["Answer"])
    assert set(re.findall(r"\d+\.\d+(?!e)", answer)) <= {"0.01", "0.05"}
    assert "[" not in re.sub(r"\[[A-Za-z0-9.-]*[A-Za-z][A-Za-z0-9.-]*\]", "", answer), "an interval typed by hand"
    assert brief._filled("{static S->S each}").count(", ") == len(brief.figures.seeds("static")) - 1


def test_the_first_picture_climbs_over_the_studies_that_differ_in_operations(
    brief: Brief, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arms that all budgets have, each with its budgets in order and a dot for every seed of the records; under the answer."""
    drawn = {}

    def draw(found, out):
        drawn.update(found)
        return out

    monkeypatch.setattr(f"{Brief.__module__}.draw_operations", draw)
    shown, _ = brief._operations()
    page = (ROOT / brief.study.page).read_text(encoding="utf-8")
    assert (
        page.index("the paper's headline")
        < page.index("](study-ladder/operations.png)")
        < page.index("## What the runs say")
    )
    assert "operations.png" in shown
    for name, place in (("study-ladder-low", 0), ("study-ladder-twice", 1)):
        runs = Ledger(brief.ledger.folder.parent / name).all("runs", points=False)
        for arm, budgets in drawn["S->S"].items():
            seeds = sum(bool(re.fullmatch(rf"{arm}-s\d+-compute", run)) for run in runs)
            assert len(budgets[place].seeds) == seeds > 0
            assert budgets[place].interval.low <= np.mean(budgets[place].seeds) <= budgets[place].interval.high
            reach, interval = budgets[place].reach, budgets[place].interval
            assert (reach is None) == (seeds < 3)
            assert reach is None or (reach[0] < interval.low and reach[1] > interval.high), "seeds are drawn too"
    assert list(drawn["S->S"]) == ["plain", "static", "learned-deep"]
    low, twice = drawn["S->S"]["plain"]
    assert 1.9 < twice.tflop / low.tflop < 2.1


def test_rates_say_which_arm_ends_the_grid_and_which_has_none(brief: Brief, monkeypatch: pytest.MonkeyPatch) -> None:
    """An arm without trials is not one whose best rate lies at an end; a page without any grid says that."""
    shown = brief._rates()
    assert "inside the grid for every arm of it" in shown
    assert "Without a grid: learned-deep" in shown
    assert "| learned-deep |" not in shown
    scores = {f"static-{rate:g}": {"score": rate} for rate in brief.study.rates_of("static")}
    monkeypatch.setattr(brief.ledger, "all", lambda kind: scores)
    assert "at an end of the grid for static." in brief._rates()
    monkeypatch.setattr(brief.ledger, "all", lambda kind: {})
    assert brief._rates().startswith("No grid was run here")


def test_arms_show_core_seconds_of_what_ran_on_a_core(brief: Brief) -> None:
    """Equal operations are not equal time: a run on a GPU has a dash."""
    header, _, *rows = [line.strip("| ").split(" | ") for line in brief._arms().splitlines()]
    place, where = header.index("core s"), header.index("trained on")
    for row in rows:
        arm, seed = row[0].split(", seed ")
        spent = brief.runs[arm, int(seed)]["consumed"]["core_seconds"]
        assert row[place] == (f"{spent:.0f}" if row[where] == "CPU" else "-")
    assert {row[where] for row in rows} == {"CPU", "GPU"}


def test_a_page_of_more_controls_has_each_beside_the_same_baseline(tmp_path: Path) -> None:
    """Plain's runs answer every control; an arm's stand under their own, and prose can ask for them."""
    study = load_study(ROOT / "configs/experiments/study-ladder-phones.yaml", [])
    ledger = Ledger(ROOT / study.results_dir)
    mine = Ledger(tmp_path)
    for name in ("facts", "tasks/phones-test"):
        mine.write(name, ledger.read(name))
    for name, control in (("plain-s1", "compute"), ("plain-s2", "compute"), ("static-s1", "compute")):
        mine.write(f"runs/{name}-{control}", ledger.read(f"runs/{name}-compute"))
    for seed in (2, 3):
        record = {**ledger.read(f"runs/static-s{seed}-compute"), "control": "data"}
        mine.write(f"runs/static-s{seed}-data", record)
    brief = Brief(study.with_updates(results_dir=str(tmp_path), controls=["compute", "data", "clock"]), CONFIG)
    assert brief.figures.seeds("static") == [1]
    parts = brief._controlled()
    assert [part for part in parts if part.startswith("## ")] == ["## Data-controlled: equal documents"]
    of_two = np.mean([brief.ledger.all("runs")[f"static-s{s}-data"]["measures"]["held_out"][BITS] for s in (2, 3)])
    assert f"| static | 2 | {of_two:.2f} |" in parts[1]
    assert "| plain | 2 |" in parts[1]
    assert "| static | 2, 2 |" in parts[3]


def test_probes_are_explained_where_there_are_any(brief: Brief) -> None:
    assert "word, syntax: accuracy, the wrong ending being right nowhere." in brief._rungs()
    config = "configs/experiments/study-ladder-stories.yaml"
    study = load_study(ROOT / config, [])
    assert ": accuracy" not in Brief(study.with_updates(results_dir=str(ROOT / study.results_dir)), config)._rungs()


def test_prose_shows_a_loss_less_anothers_as_a_share_of_it(brief: Brief) -> None:
    """It showed the arm's own."""
    held = {(a, s): brief.figures.held(a, s, BITS) for a in ("static", "plain") for s in brief.figures.seeds(a)}
    seeds = [seed for arm, seed in held if arm == "static" and ("plain", seed) in held]
    share = 100 * np.mean([held["static", seed] / held["plain", seed] - 1 for seed in seeds])
    assert brief._filled("{static less plain bits}") == f"{share:+.1f} % ({len(seeds)} seeds)"
