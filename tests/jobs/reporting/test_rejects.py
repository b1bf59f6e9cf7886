"""A reject is seen where it happens: in the terminal, by `lst rejects`, in a report without shards; a bad run ends early."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import jobs.report as report
import jobs.reporting.rejects as rejects_command
from jobs.reporting.facts import gather_rejects
from jobs.reporting.summary import format_plan, format_unreadable, too_many_rejects
from jobs.runtime.accounting import totals
from jobs.runtime.drive import prepare, run_in_process
from jobs.runtime.plan import Plan, make_plan, refresh
from jobs.runtime.rejects import SPEC, RejectRate, allowance, few_lines, is_too_high, read_rejects
from jobs.tokenize_audio import show_plan
from pipeline import words
from schemas.config import parse_config
from schemas.spec import PipelineSpec
from tests.jobs.runtime.test_plan import run_here
from tests.jobs.small_corpus import make_spec, write_spec

BROKEN = ("torn.flac", "text.flac", "void.flac")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[PipelineSpec, Plan]:
    """Five recordings and three files that are none."""
    folder = tmp_path_factory.mktemp("rejects")
    spec = make_spec(folder)
    whole = (folder / "audio" / "sense_and_sensibility_0880.flac").read_bytes()
    for name, content in zip(BROKEN, (whole[: len(whole) // 2], b"a letter", b""), strict=True):
        (folder / "audio" / name).write_bytes(content)
    plan, _ = run_here(spec)
    plan.store.write_bytes(SPEC, plan.spec.model_dump_json().encode())
    return spec, plan


def test_every_reject_is_listed_with_its_sentence(
    run: tuple[PipelineSpec, Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    spec, plan = run
    config = write_spec(Path(spec.output).parent / "s.yaml", json.loads(spec.model_dump_json()))
    for line in ([spec.output], ["--config", str(config)]):
        assert rejects_command.main(line) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == len(list(read_rejects(plan))) == 3
        assert all(any(name in line for line in lines) for name in BROKEN)
    assert rejects_command.main([spec.output, "--code", "empty"]) == 0
    assert capsys.readouterr().out.splitlines() == ["recordings empty: void.flac: the file has zero bytes"]
    assert rejects_command.main([spec.output, "--stage", "words", "--code", "empty"]) == 0
    assert "nothing was rejected by words as empty" in capsys.readouterr().out


def test_what_no_reject_can_be_is_said(run: tuple[PipelineSpec, Plan], capsys: pytest.CaptureFixture[str]) -> None:
    """A code that was spelt wrong said that nothing was rejected, and a stage that the run has not ended in a traceback."""
    output = run[0].output
    with pytest.raises(SystemExit, match="2"):
        rejects_command.main([output, "--code", "decode_eror"])
    assert "decode_error" in capsys.readouterr().err
    assert rejects_command.main([output, "--stage", "text_quality"]) == 2
    assert "has no stage text_quality, but recordings, segments" in capsys.readouterr().err


def test_a_reject_of_a_part_is_listed_though_its_recording_went_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row of the corpus that cannot be used counts among no rows: `lst rejects` and the report left it out."""
    raw = json.loads(make_spec(tmp_path).model_dump_json())
    name = (tmp_path / "audio" / "sense_and_sensibility_0880.flac").name
    times = ((0.0, 1.0), (0.5, 1.0), (1.6, 0.05), (1.8, 0.05))
    rows = [{"file": name, "offset": begin, "duration": length, "text": "so it is"} for begin, length in times]
    (tmp_path / "audio" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    raw["source"] |= {"layout": "manifest", "manifest": "rows.jsonl", "transcripts": "none"}
    raw["stages"]["segments"] = {"backend": "given"}
    plan = make_plan(parse_config(PipelineSpec, raw, origin="test"), until="segments")
    prepare(plan)
    assert run_in_process(plan, ["recordings", "segments"]) == []
    refresh(plan)
    assert totals(plan, "segments").rejects == {"bad_row": 1, "too_short": 2}
    assert [reject.part for reject in read_rejects(plan)] == [f"rows.jsonl:{number}" for number in (2, 3, 4)]
    gathered = gather_rejects(plan)
    assert {group.code: group.count for group in gathered.groups} == {"bad_row": 1, "too_short": 2}
    assert gathered.seconds == pytest.approx(sum(reject.seconds for reject in read_rejects(plan)))
    assert gathered.seconds == pytest.approx(0.6), "half a second that no segment holds, and two of 50 ms"
    assert rejects_command.main(["--config", str(write_spec(tmp_path / "s.yaml", raw))]) == 0
    assert "rows.jsonl:2: it begins at 0.500 s" in capsys.readouterr().out


def test_a_copied_output_is_meant_itself(
    run: tuple[PipelineSpec, Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the folder that the run wrote to: what is shown would be another's, and what --retry forgets as well."""
    before = Path(run[0].output)
    shutil.copytree(before, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    assert rejects_command.main(["copy/", "--stage", "words"]) == 0
    assert capsys.readouterr().out == "copy: nothing was rejected by words\n"
    assert rejects_command.main(["copy", "--retry"]) == 0
    assert "0 rejects in 0 partitions are forgotten: none may pass another time" in capsys.readouterr().out
    assert list((tmp_path / "copy" / "control").glob("lease-*"))
    assert not list((before / "control").glob("lease-*"))


def test_an_output_may_have_an_equals_sign_in_its_path(
    run: tuple[PipelineSpec, Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Hive's folders have; it was taken for a change of the spec."""
    shutil.copytree(run[0].output, tmp_path / "day=1")
    assert rejects_command.main([str(tmp_path / "day=1"), "--stage", "words"]) == 0
    assert capsys.readouterr().out.endswith("day=1: nothing was rejected by words\n")
    assert report.main([str(tmp_path / "day=1")]) == 0
    assert (tmp_path / "day=1" / "report.html").exists()


def test_what_is_forgotten_is_looked_for_where_it_lies_now(run: tuple[PipelineSpec, Plan], tmp_path: Path) -> None:
    """A run that ended while the rejects were read may have gathered its commits, of which --retry knew the former files."""
    shutil.copytree(run[0].output, tmp_path / "copy")
    spec = run[0].with_updates(output=str(tmp_path / "copy"))
    plan = make_plan(spec, recorded=True)
    rejects = {(reject.stage, reject.id) for reject in read_rejects(plan)}
    make_plan(spec, recorded=True).logs["recordings"].gather()
    assert rejects_command._retry(plan, rejects) == 0
    assert make_plan(spec, recorded=True).pending("recordings")


def test_an_output_of_no_run_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rejects_command.main([str(tmp_path)]) == 2
    assert rejects_command.main([]) == 2
    assert "lst rejects OUTPUT" in capsys.readouterr().err


def test_the_first_sentences_and_the_way_to_the_rest_are_shown(run: tuple[PipelineSpec, Plan]) -> None:
    lines = few_lines(run[1], "lst rejects HERE")
    assert len(lines) == 4
    assert lines[-1].endswith("all of them: lst rejects HERE")


def test_a_sentence_of_each_code_comes_before_a_second_of_one(
    run: tuple[PipelineSpec, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.runtime.rejects.FIRST_FEW", 2)
    codes = [line.split(":")[0].split()[-1] for line in few_lines(run[1], "lst rejects HERE")[:-1]]
    assert sorted(codes) == sorted({reject.code for reject in read_rejects(run[1])}) == ["decode_error", "empty"]


def test_the_bound_says_what_it_means_for_few_rows(run: tuple[PipelineSpec, Plan]) -> None:
    assert allowance(0.05, 3) == "5.0% of 3 rows is 0.2, so not one"
    assert allowance(0.05, 100) == "5.0% of 100 rows is 5"
    complaint = too_many_rejects(run[1]) or ""
    assert complaint.startswith("recordings rejected 37.5% of its input")
    assert "max_reject_rate=0.38" in complaint
    accepted = run[1].spec.with_updates(max_reject_rate=0.38)
    assert too_many_rejects(make_plan(accepted)) is None


def test_a_dry_run_tells_what_cannot_be_read_as_far_as_headers_do(run: tuple[PipelineSpec, Plan]) -> None:
    said = format_unreadable(run[1])
    assert said.startswith("cannot be read: 2 of 8 files")
    assert "not listed" not in format_plan(run[1])


def test_every_dry_run_tells_it_until_the_recordings_are_done(
    run: tuple[PipelineSpec, Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = run[0].with_updates(output=str(tmp_path / "out"))
    for _ in range(2):
        assert show_plan(fresh, "shards") == 0
        assert "cannot be read: 2 of 8 files" in capsys.readouterr().out
    assert show_plan(run[0], "shards") == 0
    assert "cannot be read" not in capsys.readouterr().out


# ending early ----------------------------------------------------------------------------------------------------------


def test_a_rate_is_passed_when_it_is_certain_or_measured() -> None:
    assert is_too_high(1, 1, 3, 0.05), "one of three files can not become less than 5 %"
    assert not is_too_high(1, 1, 100, 0.05)
    assert not is_too_high(4, 20, None, 0.05), "twenty rows say little"
    assert not is_too_high(5, 60, None, 0.05), "as by chance"
    assert is_too_high(40, 200, None, 0.05)
    assert not is_too_high(1000, 1000, 1000, 1.0)


def test_workers_are_asked_to_stop_once_the_rate_is_passed(
    run: tuple[PipelineSpec, Plan], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plan = run
    strict = make_plan(plan.spec.with_updates(max_reject_rate=0.1))
    generous = make_plan(plan.spec.with_updates(max_reject_rate=0.5))
    assert RejectRate(strict, ["recordings"]).is_passed
    assert not RejectRate(generous, ["recordings", "words"]).is_passed
    monkeypatch.setattr("jobs.runtime.rejects.FIRST_FEW", 1)
    commits = list(strict.commits("recordings"))
    strict.done["recordings"][:] = False  # as if this run were doing them
    rate = RejectRate(strict, ["recordings"])
    assert not rate.is_passed
    assert rate.passes(commits)
    assert caplog.text.count("rejected: recordings") == 2
    monkeypatch.setattr("jobs.runtime.rejects.FIRST_FEW", 0)
    caplog.clear()
    RejectRate(strict, ["recordings"]).passes(commits)
    codes = {code for commit in commits for code in commit.rejects_by_code}
    assert caplog.text.count("rejected: recordings") == len(codes), "a code that is new is always shown"


def test_a_report_is_written_where_there_are_no_shards(tmp_path: Path, run: tuple[PipelineSpec, Plan]) -> None:
    spec = run[0].with_updates(output=str(tmp_path / "out"))
    plan = make_plan(spec)
    prepare(plan)
    run_in_process(plan, ["recordings"])
    assert report.main(["--config", str(write_spec(tmp_path / "s.yaml", json.loads(spec.model_dump_json())))]) == 0
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert all(name in page for name in BROKEN)
    assert "There are no shards" in page


def test_what_may_pass_another_time_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(tmp_path, max_reject_rate=1.0)
    honest = words.tokenise

    def broken(text: str, language: str = "en") -> object:
        if "selfish" in text:
            raise RuntimeError("out of sorts")
        return honest(text, language)

    monkeypatch.setattr(words, "tokenise", broken)
    plan, _ = run_here(spec)
    (reject,) = read_rejects(plan, ["words"])
    assert (reject.code, reject.retriable) == ("stage_error", True)
    assert "out of sorts" in reject.detail
    assert "in broken" in (reject.traceback or "")
    assert plan.is_complete(), "its neighbours are in the shards"
    monkeypatch.setattr(words, "tokenise", honest)
    plan.store.write_bytes(SPEC, spec.model_dump_json().encode())
    assert rejects_command.main([spec.output, "--code", "stage_error", "--retry"]) == 0
    refresh(plan)
    assert plan.pending("words")
    again, _ = run_here(spec)
    assert list(read_rejects(again)) == []
