"""The page of examples is made of exported runs of the study, and its figures are those of the study."""

import re
from pathlib import Path

import pytest

from model.inference.trained import load_trained
from recipes.ladder.voice import read_voice
from recipes.pictures.example import ASSETS, MODELS, NUM_UNITS, facts_of, main, stories
from schemas.tasks import read_task

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
OTHER_RATES = RESULTS / "study-ladder-rate" / "page.md"
needs_models = pytest.mark.skipif(
    not ASSETS.is_dir(), reason="runs/example is missing: the example's models are not kept in git"
)


def runs_of(page: Path) -> dict[str, list[str]]:
    """The cells of a page's rows on single runs."""
    rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.read_text(encoding="utf-8").splitlines()
    )
    return {cells[0]: cells for cells in rows if re.fullmatch(r"[\w-]+, seed \d", cells[0])}


def test_the_figures_are_the_studys_own() -> None:
    best, others = runs_of(RESULTS / "study.md"), runs_of(OTHER_RATES)
    for folder, (what, speech, text) in MODELS.items():
        name = re.search(r"\(([\w-]+, seed \d)\)", what)
        assert name is not None
        row = (others if folder == "plain" else best)[name[1]]
        assert (row[8], row[10]) == (speech, text)
    assert f"{best['plain, seed 1'][8]} and {best['plain, seed 1'][10]} %" in MODELS["plain"][0]


@needs_models
def test_the_voice_says_the_stories_and_the_models_read_their_units() -> None:
    voice = read_voice(ASSETS / "voice", NUM_UNITS)
    cards = set(read_task(ASSETS / "prompts.jsonl").header.cards or ())
    for name in MODELS:
        trained = load_trained(ASSETS / name)
        assert trained.units is not None
        assert set(trained.units.cards) & cards
        assert len(facts_of(name, trained).facts) == 4
    for story in stories(voice):
        if story.units is not None and story.audio is not None:
            assert len(story.audio) == len(story.units) * voice.hop
            assert abs(story.audio).max() > 0.05


@needs_models
def test_the_page_can_be_heard(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    sounds, quotes = page.count("<audio"), page.count('<p class="said">')
    assert quotes == 4 * 3, "each of four prompts is answered in text by three models"
    assert sounds >= 3 + 8, "three spoken prompts, and at least eight spoken answers"
    assert "https://" not in page, "nothing is fetched"
