"""The study's page says what its records say: prose with figures filled in, differences paired, seeds named."""

import re
from pathlib import Path

import numpy as np
import pytest

from model.scoring.accuracy import twins_of
from recipes.study.design.settings import load_study
from recipes.study.pages.brief import Brief
from recipes.study.records.choices import read_scored

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/experiments/study-ladder.yaml"


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
            record = brief.ledger.read(f"runs/{arm}-s{seed}-compute")["measures"]["choices"][brief.task]
            scored = read_scored(brief.ledger.read(f"tasks/{brief.task}"), record)
            points.append([pair.point for pair in twins_of([s for s in scored if s.direction == "S->T"])])
        shares[arm] = np.mean(points)
    expected = f"{100 * (shares['static'] - shares['plain']):+.1f}"
    assert shown.startswith(f"{expected} [")
    assert ", -, " in shown
    assert re.search(r"\(\d seeds?\)$", shown)
    page = (ROOT / brief.study.page).read_text(encoding="utf-8")
    assert shown.split(", -")[0] in page
    assert "{" not in page.split("## Again")[0].replace("`{", ""), "a figure of the prose was not filled in"
