"""The page of examples: made of any two runs in seconds, as CI makes it of the demo's; or of exported runs of the study, with the
study's own figures.
"""

import base64
import io
import re
from pathlib import Path

import pytest
import soundfile

from model.inference.trained import load_trained
from model.training.config import TrainConfig
from model.training.loop import train
from recipes.ladder.voice import read_voice
from recipes.pictures.example import RUNS, main
from recipes.pictures.study_models import LADDER, MODELS, NUM_UNITS, facts_of, run_of, stories
from schemas.config import parse_config
from schemas.tasks import read_task
from tests.model.training.training_runs import MODEL, run_document
from tests.synthetic_shards import write_speech_shards, write_text_shards

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "study-ladder-natural-cuts" / "page.md"
needs_models = pytest.mark.skipif(
    not all(folder.is_dir() for folder in (LADDER / "voice", *map(run_of, MODELS))),
    reason="the study's models or their voice are missing: they are not kept in git",
)


def trained_runs(folder: Path) -> dict[str, str]:
    """A plain and an LST run of one step each on the same shards, by the name of the option that takes it."""
    write_speech_shards(folder / "speech", [5, 4], words=(10, 40), num_units=40, audio=True)
    write_text_shards(folder / "text", [12, 9])
    networks = {
        "plain": {"kind": "plain", "global_transformer": MODEL["global_transformer"], "head": "joint"},
        "lst": MODEL,
    }
    for name, network in networks.items():
        document = run_document(folder, folder / name)
        document.update(model=network, patches={"policy": "static", "size": 4}, budget={"steps": 1})
        document.pop("curriculum_steps")
        assert train(parse_config(TrainConfig, document, "a test")) == 0
    return {f"--{name}": str(folder / name) for name in networks}


def test_the_demos_page_lets_both_models_go_on_in_speech_and_text(tmp_path: Path) -> None:
    runs = trained_runs(tmp_path)
    assert set(runs) == {f"--{name}" for name in RUNS}
    out = tmp_path / "new" / "page.html"
    assert main([*(word for pair in runs.items() for word in pair), "--seconds", "1", "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    assert "babble" in page
    assert "https://" not in page, "nothing is fetched"
    for name in RUNS:
        assert page.count(f"<figcaption>{name}, in speech") == 4, "three spoken prompts and a written one"
        assert page.count(f"<span>{name}, in text") == 4
    lst, plain = (page.count(f'aria-label="{name}, in speech"') for name in ("lst", "plain"))
    assert lst >= 3
    assert plain >= 3, "after a spoken prompt there is always something to draw"
    assert "word patch of 4 units" in page, "LST's patches are under the play head"
    for sound in re.findall(r'src="data:audio/mpeg;base64,([^"]+)"', page):
        samples, _ = soundfile.read(io.BytesIO(base64.b64decode(sound)))
        assert len(samples) > 1600
    assert page.count("<audio") >= 3 + 6


def test_a_run_that_is_not_there_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plain", str(tmp_path / "none"), "--out", str(tmp_path / "page.html")]) != 0
    said = capsys.readouterr().err
    assert "none" in said
    assert "Traceback" not in said
    assert not (tmp_path / "page.html").exists()


def runs_of(page: Path) -> dict[str, dict[str, str]]:
    """A page's rows on single runs: column -> cell."""
    lines = page.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    (header,) = (cells for cells in rows if cells[0] == "run" and "TFLOP" in cells)
    runs = (cells for cells in rows if re.fullmatch(r"[\w-]+, seed \d", cells[0]))
    return {cells[0]: dict(zip(header, cells, strict=True)) for cells in runs}


def test_the_figures_are_the_studys_own() -> None:
    runs = runs_of(PAGE)
    for arm, _, speech, text in MODELS.values():
        row = runs[f"{arm}, seed 1"]
        assert (row["S->S"], row["S->T"]) == (speech, text)


@needs_models
def test_the_voice_says_the_stories_and_the_models_read_their_units() -> None:
    voice = read_voice(LADDER / "voice", NUM_UNITS)
    cards = set(read_task(LADDER / "test.jsonl").header.cards or ())
    for name in MODELS:
        trained = load_trained(run_of(name))
        assert trained.units is not None
        assert set(trained.units.cards) & cards
        assert len(facts_of(name, trained).facts) == 4
    for story in stories(voice):
        if story.units is not None and story.audio is not None:
            assert len(story.audio) == len(story.units) * voice.hop
            assert abs(story.audio).max() > 0.05


@needs_models
def test_the_page_can_be_heard(tmp_path: Path) -> None:
    assert main(["--study", "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    sounds, quotes = page.count("<audio"), page.count('<p class="said">')
    assert quotes == 5 * 3, "each of five prompts is answered in text by three models"
    assert sounds >= 4 + 12, "four spoken prompts, and what each model says to them"
    assert "https://" not in page, "nothing is fetched"
