"""The study's machinery on random shards: budgets that are equal, sittings that resume, records that can be made again, a page
that says what the records say."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from model.data.sources import TrainingData
from model.training.config import TrainConfig
from recipes.study import driver
from recipes.study.design.arms import budget_of, elements_of
from recipes.study.design.plan import units
from recipes.study.design.settings import load_study
from recipes.study.measure import measure
from recipes.study.pack import main as pack_main
from recipes.study.pages.render import render
from recipes.study.records.ledger import Ledger
from recipes.study.remeasure import main as remeasure_main
from recipes.study.remeasure import remeasure
from recipes.study.rerun import compare, other_data, train_again
from recipes.study.run import Work, main
from schemas.config import ConfigError, parse_config
from schemas.tasks import TaskHeader, read_task, write_task
from tests.recipes.small_study import write_study


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a study that has been run in one sitting."""
    config = write_study(tmp_path_factory.mktemp("study"))
    assert main([str(config)]) == 0
    return config


def test_a_finished_study_is_not_run_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study(finished, [])
    ledger = Ledger(study.results_dir)

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in ledger.folder.rglob("*.json*")}

    before = times()
    runs = 1 + 2 * 3  # a plain one, two arms under three controls
    assert len(before) == 1 + 1 + runs * 2, "facts, what the task is, runs and their log-likelihoods"
    monkeypatch.setattr(Work, "do", lambda *_: pytest.fail("a finished unit of work was run again"))
    assert main([str(finished)]) == 0
    assert times() == before


def test_other_settings_are_not_mixed_into_finished_records(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(finished), "training.clip_norm=0.5"]) == 2
    assert "the training's settings changed" in capsys.readouterr().err
    assert main([str(finished), "--only", "statik"]) == 2
    assert "no arm statik" in capsys.readouterr().err


def test_arms_are_added_to_a_study_with_records(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new arm is measured and planned beside the records; those who compare seconds measure all arms in turns, or none."""
    done = load_study(finished, [])
    shutil.copytree(done.results_dir, tmp_path / "results")
    places = [f"results_dir={tmp_path}/results", f"runs_dir={done.runs_dir}"]
    more = "arms.dynamic={kind: lst, patches: {policy: dynamic, rule: novelty, min_size: 2, max_size: 8}, seeds: [1]}"
    assert main([str(finished), *places, more, "--dry-run"]) == 2
    assert "the arms, whose seconds are to be measured in turns, changed" in capsys.readouterr().err
    ledger = Ledger(tmp_path / "results")
    facts = ledger.read("facts")
    del facts["study"]["model"]["norm_eps"]  # as if this field had come after the records
    ledger.write("facts", facts)
    before = facts["arms"]
    work = Work(load_study(finished, [*places, more, "controls=[compute]"]), driver.Watch(None, print))
    work.prepare()
    after = work.ledger.read("facts")["arms"]
    assert after.keys() == before.keys() | {"dynamic"}
    assert all(after[name] == before[name] for name in before)
    assert main([str(finished), *places, "arms.static.rates=[0.5]", "--dry-run"]) == 2
    assert "the rates of arm static changed" in capsys.readouterr().err


def test_every_control_consumes_its_budget(finished: Path) -> None:
    study = load_study(finished, [])
    work = Work(study, driver.Watch(None, print))
    for unit in units(study, work.facts):
        record = work.ledger.read(unit.name)
        budget = budget_of(study, work.facts, unit.arm, unit.control)
        step = study.training.elements / elements_of(budget, work.facts.arms[unit.arm])  # it ends with a whole one
        assert 1 <= budget.progress(record["consumed"]) < max(1.2, 1 + step)
        assert record["consumed"]["flops"] > 0
        assert {"config", "versions", "machine", "curve", "lr"} <= record.keys()
        assert [row for row in record["curve"] if "held_speech_bits_per_second" in row]


def test_a_sitting_that_is_cut_short_goes_on_to_the_same_figures(finished: Path, tmp_path: Path) -> None:
    """Cut in the trunk, cut in the branch, then finished: no record before the end, and the losses of an undisturbed run."""
    study = load_study(finished, [f"runs_dir={tmp_path}/runs", f"results_dir={tmp_path}/results"])
    done = Ledger(load_study(finished, []).results_dir)
    shared = Path(load_study(finished, []).runs_dir) / "shared"
    Path(study.runs_dir).mkdir()
    (Path(study.runs_dir) / "shared").symlink_to(shared)
    Ledger(study.results_dir).write("facts", done.read("facts"))
    cuts = iter([3, 5, None])
    for cut in cuts:
        work = Work(study, CountedWatch(cut))
        unit = next(u for u in units(study, work.facts) if u.name == "runs/static-s1-compute")
        if cut is None:
            work.do(unit)
        else:
            with pytest.raises(driver.OutOfTime):
                work.do(unit)
            assert not work.ledger.has(unit.name)
    again, before = work.ledger.read(unit.name), done.read(unit.name)
    assert again["measures"]["held_out"] == before["measures"]["held_out"]
    assert again["consumed"]["flops"] == before["consumed"]["flops"]


class CountedWatch(driver.Watch):
    """A sitting that is over after so many steps."""

    def __init__(self, steps: int | None) -> None:
        super().__init__(None, lambda _: None)
        self._left = steps

    @property
    def over(self) -> bool:
        if self._left is None:
            return False
        self._left -= 1
        return self._left < 0


def test_a_record_is_made_again_from_its_configuration_alone(finished: Path, tmp_path: Path) -> None:
    """One run from nothing equals trunk and branch, to the last digit of the record."""
    study = load_study(finished, [])
    record = Ledger(study.results_dir).read("runs/static-s1-data")
    found = train_again(study, record, tmp_path / "again")
    for old, new, _ in compare(record, found).values():
        assert new == pytest.approx(old, rel=1e-9)


def test_a_record_of_a_unit_bpe_is_made_again_where_no_tokenizer_is(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a clone: a record names the places of tokenizers, and both are trained again as they were."""
    study = load_study(finished, [])
    record = Ledger(study.results_dir).read("runs/bpe-s1-compute")
    shutil.rmtree(Path(study.runs_dir) / "shared")
    found = train_again(study, record, tmp_path / "again")
    for old, new, _ in compare(record, found).values():
        assert new == pytest.approx(old, rel=1e-9)
    assert "warning" not in capsys.readouterr().err


def test_a_run_made_again_on_other_data_says_so(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its figures would differ for that reason, which nothing else tells."""
    study = load_study(finished, [])
    facts, record = (Ledger(study.results_dir).read(unit) for unit in ("facts", "runs/plain-s1-compute"))
    facts["corpus"]["sources"]["speech"] = "other shards"
    moved = study.with_updates(results_dir=str(tmp_path))
    Ledger(tmp_path).write("facts", facts)
    train_again(moved, record, tmp_path / "again")
    assert "warning: not the records' data: speech; what" in capsys.readouterr().err
    assert other_data(study, TrainingData(parse_config(TrainConfig, record["config"], "").data)) == []


def test_a_task_that_is_added_is_scored_by_kept_checkpoints(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records get what their runs would have measured, and nothing else of them changes; without a checkpoint they stay."""
    done = load_study(finished, [])
    shutil.copytree(done.results_dir, tmp_path / "results")
    runs = tmp_path / "runs"
    shutil.copytree(done.runs_dir, runs)
    shutil.rmtree(runs / "bpe-s1-data" / "checkpoints")
    items = read_task(done.measures.tasks[0].path).items
    write_task(tmp_path / "more.jsonl", TaskHeader(task="more"), items[:4])
    document = yaml.safe_load(finished.read_text(encoding="utf-8"))
    document |= {"results_dir": str(tmp_path / "results"), "runs_dir": str(runs)}
    document["measures"]["tasks"].append({"path": str(tmp_path / "more.jsonl"), "items_per_group": 2})
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    before, after = Ledger(done.results_dir), Ledger(tmp_path / "results")
    left_alone = after.path("runs/bpe-s1-data").read_bytes()

    assert remeasure_main([str(config)]) == 0
    assert "left as they are: bpe-s1-data" in capsys.readouterr().err
    assert after.path("runs/bpe-s1-data").read_bytes() == left_alone
    old, new = before.read("runs/static-s1-compute"), after.read("runs/static-s1-compute")
    measured = measure(load_study(config, []), runs / "static-s1-compute")
    for part in ("tasks", "choices"):
        assert list(new["measures"][part]) == ["choice", "more"]
        assert new["measures"][part] == measured[part]
        assert new["measures"].pop(part)["choice"] == old["measures"].pop(part)["choice"]
    assert new == old
    written = {path: path.stat().st_mtime_ns for path in after.folder.rglob("*.json*")}
    assert remeasure_main([str(config)]) == 0
    assert written == {path: path.stat().st_mtime_ns for path in after.folder.rglob("*.json*")}, "nothing lacks"

    other = before.read("runs/static-s1-data")
    other["measures"]["step"] += 1
    with pytest.raises(ConfigError, match="are of different runs"):
        remeasure(load_study(config, []), other, runs / "static-s1-data")


def test_packed_records_are_read_as_before(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them, and none is made again; a record that is written later is read instead of the packed one."""
    done = load_study(finished, [])
    before = Ledger(done.results_dir)
    shutil.copytree(done.results_dir, tmp_path / "results")
    assert pack_main([str(tmp_path / "results")]) == 0
    assert "7 records" in capsys.readouterr().out
    assert not list((tmp_path / "results" / "runs").iterdir())
    after = Ledger(tmp_path / "results")
    assert after.all("runs") == before.all("runs")
    monkeypatch.setattr(Work, "do", lambda *_: pytest.fail("a packed unit of work was run again"))
    places = [f"results_dir={tmp_path}/results", f"page={tmp_path}/page.md"]
    assert main([str(finished), *places]) == 0
    record = after.read("runs/static-s1-data") | {"lr": 0.5}
    after.write("runs/static-s1-data", record)
    assert Ledger(tmp_path / "results").all("runs")["static-s1-data"]["lr"] == 0.5
    assert pack_main([str(tmp_path / "results")]) == 0
    again = Ledger(tmp_path / "results").all("runs")
    assert again == before.all("runs") | {"static-s1-data": record}


def test_a_longer_study_goes_on_from_the_trunk_of_a_shorter_one(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It comes to what training from nothing gives, says where it began, and refuses the trunk of other settings."""
    done = load_study(finished, [])
    longer = ["training.budget_elements=5000", "controls=[compute]", f"trunks=[{tmp_path}/none, {done.runs_dir}]"]
    places = [f"runs_dir={tmp_path}/runs", f"results_dir={tmp_path}/results", f"page={tmp_path}/page.md"]
    assert main([str(finished), *longer, *places, "--only", "plain"]) == 0
    record = Ledger(tmp_path / "results").read("runs/plain-s1-compute")
    begun = record["goes_on_from"]
    assert begun["trunk"] == f"{done.runs_dir}/plain-s1-trunk"
    assert 1000 < begun["consumed"]["elements"] < 0.6 * 5000 < 5000 <= record["consumed"]["elements"]
    again = train_again(load_study(finished, [*longer, *places]), record, tmp_path / "again")
    for old, new, _ in compare(record, again).values():
        assert new == pytest.approx(old, rel=1e-9)
    other = [f"runs_dir={tmp_path}/other", f"results_dir={tmp_path}/others", f"page={tmp_path}/page.md"]
    assert main([str(finished), *longer, *other, "training.clip_norm=0.5", "--only", "plain"]) == 2
    assert "clip_norm was 1.0 and is now 0.5" in capsys.readouterr().err
    assert not (tmp_path / "other" / "plain-s1-trunk").exists()


def test_the_page_says_what_the_records_say(finished: Path) -> None:
    """A figure changed in a record changes on the page, and nowhere else; every arm and control is there."""
    study = load_study(finished, [])
    before = render(study, "x").read_text()
    assert all(f"| {arm} |" in before for arm in study.arms)
    assert "All that was planned has been run" in before
    path = Ledger(study.results_dir).path("runs/bpe-s1-compute")
    kept = path.read_text()
    record = json.loads(kept)
    record["measures"]["held_out"]["text_nats_per_token"] = 123.4567
    path.write_text(json.dumps(record))
    try:
        after = render(study, "x").read_text()
        path.unlink()
        missing = render(study, "x").read_text()
    finally:
        path.write_text(kept)
    assert "123.4567" in after
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert {re.split(r"\s*\|\s*", line)[1] for line, _ in changed} <= {"bpe", "compute"}
    assert "still miss: bpe-s1-compute" in missing


def test_several_units_of_work_side_by_side(tmp_path: Path) -> None:
    """Three processes at a time: the grid before the run that needs it, one run of an arm and seed at a time, every unit once; an
    error is the exit code, and what needs the failed unit does not begin."""
    import sys

    from recipes.study.crew import run_crew
    from recipes.study.design.plan import WorkUnit

    wanted = [
        *(WorkUnit(kind="rates", arm="a", lr=lr, seconds=1.0) for lr in (0.1, 0.2)),
        *(WorkUnit(kind="runs", arm="a", control=control, seconds=1.0) for control in ("compute", "data")),
        WorkUnit(kind="runs", arm="b", seconds=1.0),
    ]
    work = """import pathlib, sys, time
path = pathlib.Path(sys.argv[1], sys.argv[sys.argv.index("--unit") + 1] + ".json")
others = sorted(p.name for p in pathlib.Path(sys.argv[1]).rglob("*.json"))
time.sleep(0.3)
if path.name in sys.argv[2:3]: sys.exit(7)
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(repr(others))"""
    ledger = Ledger(tmp_path / "good")
    assert run_crew([sys.executable, "-c", work, str(ledger.folder), "-"], wanted, ledger, 3, None) == 0
    assert all(ledger.has(unit.name) for unit in wanted)
    assert {"a-0.1.json", "a-0.2.json"} <= set(eval(ledger.path("runs/a-s1-compute").read_text()))
    assert "a-s1-compute.json" in eval(ledger.path("runs/a-s1-data").read_text()), "they would share a trunk"
    ledger = Ledger(tmp_path / "bad")
    assert run_crew([sys.executable, "-c", work, str(ledger.folder), "a-0.2.json"], wanted, ledger, 2, None) == 7
    assert not ledger.has("runs/a-s1-compute")
