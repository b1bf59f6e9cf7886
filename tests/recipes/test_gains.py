"""What arms gain over plain, study by study: picture and table are of the records, with seeds named and chance said."""

import functools
import re
from pathlib import Path

import numpy as np
import pytest

from model.scoring.accuracy import holm
from recipes.study.design.settings import load_study
from recipes.study.pages import brief, gains
from recipes.study.pages.brief import Brief
from recipes.study.pages.figures import LOSSES
from recipes.study.pages.gains import Gains
from recipes.study.records.ledger import Ledger
from recipes.study.records.preferences import PANELS, Gain, draw_gains

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/experiments/study-ladder.yaml"


@pytest.fixture(scope="module")
def found() -> Gains:
    study = load_study(ROOT / CONFIG, [])
    return Brief(study.with_updates(results_dir=str(ROOT / study.results_dir)), CONFIG).gains


@pytest.fixture(scope="module")
def table(found: Gains) -> tuple[dict[tuple[str, str], list[str]], str]:
    """(title, arm) -> the table's cells, and its note."""
    text, note = found.table(dict.fromkeys(found.arms, "page.md"))
    lines = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    return {(line[0].split("]")[0][1:], line[1]): line[2:] for line in lines}, note


@functools.cache
def records_of(folder: Path) -> dict[str, set[str]]:
    """run -> the tasks that it scored."""
    records = Ledger(folder).all("runs", points=False)
    return {name: set(record["measures"]["choices"]) for name, record in records.items()}


def test_every_difference_is_of_the_records(found: Gains, table: tuple[dict[tuple[str, str], list[str]], str]) -> None:
    """The mean over an arm's seeds less that over plain's, worked out from each run's own, and the number of records."""
    for (title, arm), (mine, theirs, heard, core, *cells) in table[0].items():
        figures = found.of[title]
        records = records_of(figures.ledger.folder)
        counts = [
            sum(
                bool(re.fullmatch(rf"{name}-s\d+-compute", run)) and figures.task in tasks
                for run, tasks in records.items()
            )
            for name in (arm, "plain")
        ]
        assert [int(mine), int(theirs)] == (counts if min(counts) > 1 else [1, 1])
        spent = [
            np.mean([figures.runs[name, seed]["consumed"]["core_seconds"] for seed in figures.seeds(name)])
            for name in (arm, "plain")
        ]
        assert core == f"{spent[0] / spent[1]:.2f}", "all of these ran on a core"
        assert 1 < float(heard) < 2.5, "fewer operations an element, or longer ones, are more speech"
        for what, cell in zip(PANELS, cells, strict=True):
            if what in LOSSES and "untrained" in title:
                assert cell == "-", "losses are of the runs, whatever they score"
                continue
            own = [figures.seeds(name) if min(counts) > 1 else [1] for name in (arm, "plain")]
            if what in LOSSES:
                logs = [
                    np.mean([np.log(figures.held(name, seed, LOSSES[what])) for seed in which])
                    for name, which in zip((arm, "plain"), own, strict=True)
                ]
                expected = np.exp(logs[0] - logs[1]) - 1
            else:
                means = [
                    np.mean([list(figures.points(name, [seed], what).values()) for seed in which])
                    for name, which in zip((arm, "plain"), own, strict=True)
                ]
                expected = means[0] - means[1]
            assert cell.strip("*").split(" [")[0] == f"{100 * expected:+.1f}"
            assert ("[" in cell) == (min(counts) > 1 or what not in LOSSES), "one seed of a loss has no interval"


def test_bold_is_what_holms_correction_over_the_table_leaves(
    found: Gains, table: tuple[dict[tuple[str, str], list[str]], str]
) -> None:
    tests = [
        (title, arm, what, seen.p)
        for title, arms in found.arms.items()
        for arm in arms
        for what in PANELS
        if not ("untrained" in title and what in LOSSES)
        if (seen := found.of[title].over_seeds(arm, "plain", what)) is not None
    ]
    likely = {test[:3] for test, p in zip(tests, holm([test[3] for test in tests]), strict=True) if p < 0.05}
    bold = {
        (title, arm, what)
        for (title, arm), (_, _, _, _, *cells) in table[0].items()
        for what, cell in zip(PANELS, cells, strict=True)
        if cell.startswith("**")
    }
    assert bold == likely
    assert 0 < len(bold) < len(tests)
    assert f"over the {len(tests)} cells" in table[1]
    column = [test for test in tests if test[2] == "S->S"]
    alone = [f"{arm} ({t})" for (t, arm, _, _), p in zip(column, holm([c[3] for c in column]), strict=True) if p < 0.05]
    assert f"over the {len(column)} of the column S→S alone it is below 0.05 for {', '.join(alone)}. " in table[1]


def test_the_picture_tells_seeds_from_pairs(found: Gains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, dict[str, dict[str, Gain]]] = {}
    monkeypatch.setattr(gains, "draw_gains", lambda shown, colours, out: drawn.update(shown) or out)
    found.draw(tmp_path / "a.png")
    assert {title: list(arms) for title, arms in drawn.items()} == found.arms
    for title, arms in drawn.items():
        for arm, cells in arms.items():
            several = min(len(found.of[title].seeds(name)) for name in (arm, "plain")) > 1
            for gain in cells.values():
                assert gain.over_seeds == several
                assert gain.low is None or gain.high is None or gain.low <= gain.value <= gain.high


def test_an_arm_has_one_colour_in_both_pictures(found: Gains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LST over a unit BPE was purple among the gains, and orange as the BPE alone among the preferences."""
    colours: dict[str, dict[str, str]] = {}

    def draw(shown: object, told: dict[str, str], out: Path) -> Path:
        colours[out.stem] = told
        return out

    monkeypatch.setattr(gains, "draw_gains", draw)
    monkeypatch.setattr(gains, "_gain", lambda *_: (None, None))
    found.draw(tmp_path / "gains.png")
    for title, figures in found.of.items():
        page = Brief(figures.study.with_updates(page=str(tmp_path / f"{title}.md")), CONFIG)
        monkeypatch.setattr(brief, "draw_preferences", draw)
        monkeypatch.setattr(Brief, "_pooled", lambda _: {})
        monkeypatch.setattr(Brief, "_picture", lambda _, name, title=title: tmp_path / f"{title}.png")
        monkeypatch.setattr(Brief, "_gains", lambda _: next(iter(())))  # the rest of the page is not asked for
        with pytest.raises(StopIteration):
            page.text()
        assert colours[title].items() <= colours["gains"].items()
    assert colours["gains"]["bpe-static-deep"] != colours["gains"]["bpe"] != colours["gains"]["static-deep"]


def test_arms_of_one_seed_are_drawn_otherwise(tmp_path: Path) -> None:
    pages = []
    for over_seeds in (True, False):
        row = {what: Gain(0.1, 0.0, 0.2, over_seeds=over_seeds) for what in PANELS}
        pages.append(
            draw_gains({"phones": {"static": row}}, {"static": "C0"}, tmp_path / f"{over_seeds}.png").read_bytes()
        )
    assert pages[0] != pages[1]
