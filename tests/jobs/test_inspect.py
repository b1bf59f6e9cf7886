"""The columns show a segment's whole rows, at any width of the terminal, and an unknown name is answered with near ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import jobs.inspect_segment as inspect_segment
from jobs.inspect_segment import inspect, lines_of, list_segments
from jobs.reporting.terminal import columns, cut
from jobs.runtime.plan import Plan
from schemas.arrow import Row
from schemas.audio import SAMPLE_RATE
from schemas.config import ConfigError
from schemas.tables import Patches, Reject, Segment, Units, Word
from tests.jobs.small_corpus import write_spec
from tests.jobs.synthetic_run import GIVEN_WORDS, HOP, REJECT_DETAIL, SCRIPT, make_run

Run = tuple[Plan, dict[str, list[Row]]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run, not to be changed."""
    return make_run(tmp_path_factory.mktemp("inspect"))


def segments_of_the_long_recording(run: Run) -> list[Segment]:
    """Four, of which the second was rejected."""
    found = [row for row in run[1]["segments"] if isinstance(row, Segment)]
    first = next(row for row in found if row.start == 1600)
    return sorted((row for row in found if row.recording_id == first.recording_id), key=lambda row: row.start)


def row_of(run: Run, table: str, segment: str) -> Row:
    return next(row for row in run[1][table] if row.segment_id == segment)  # type: ignore[attr-defined]


def columns_of(lines: list[str]) -> list[str]:
    """The lines between the two empty ones, without the head where there is one."""
    first = lines.index("")
    body = lines[first + 1 : lines.index("", first + 1)]
    return body[1:] if body[0].startswith("time") else body


@pytest.mark.parametrize("width", [30, 44, 75, 100, 120, 300])
def test_all_units_are_shown_in_order_within_the_width(run: Run, width: int) -> None:
    segment = segments_of_the_long_recording(run)[0].segment_id
    lines = list(inspect(run[0], segment, width))
    assert all(columns(line) <= width or " " not in line.strip() for line in lines)
    units = row_of(run, "units", segment)
    assert isinstance(units, Units)
    body = columns_of(lines)
    if width < 90:
        shown = [line for line in body if re.fullmatch(r"    [\d ]+", line)]
    else:
        left = next(line for line in lines if line.startswith("time")).rindex("units")
        shown = [line[len(cut(line, left - 1)) :] if columns(line) >= left else "" for line in body]
    assert [int(number) for line in shown for number in line.split()] == units.units


def test_a_line_holds_a_patch_with_its_word_time_and_score(run: Run) -> None:
    segment = segments_of_the_long_recording(run)[0].segment_id
    lines = columns_of(list(inspect(run[0], segment, 400)))
    patches = row_of(run, "patches", segment)
    assert isinstance(patches, Patches)
    words = [row for row in run[1]["words"] if isinstance(row, Word) and row.segment_id == segment]
    assert len(lines) == len(patches.kind)
    for number, (line, index) in enumerate(zip(lines, patches.word_index, strict=True)):
        start, end = patches.bounds[number], patches.bounds[number + 1]
        assert f" {start}-{end} " in line
        if index < 0:
            assert line.startswith(f"{start * HOP / SAMPLE_RATE:.2f}-{end * HOP / SAMPLE_RATE:.2f} ")
            assert " silence " in line
        else:
            word = words[index]
            assert line.startswith(f"{word.start / SAMPLE_RATE:.2f}-{word.end / SAMPLE_RATE:.2f} ")
            assert f"{word.timing} 0.50" in line
            assert " word " in line
    assert sum("日本語" in line and "star 0.50" in line for line in lines) == 1


def test_a_word_without_frames_is_shown_as_well(run: Run) -> None:
    """Where there are more words than frames some have no patch; they stand in order with `none` for frames."""
    plan = run[0]
    segment = segments_of_the_long_recording(run)[0]
    partition, _ = inspect_segment.find(plan, segment.segment_id)
    item = inspect_segment.gather(plan, partition, segment)
    assert item.patches is not None
    crowded = item.patches.with_updates(bounds=[0, 1, 2], kind=[0, 0], word_index=[1, 4], word_frames=[])
    lines = lines_of(inspect_segment.Inspected(**{**vars(item), "patches": crowded}))
    assert [line.frames for line in lines] == ["none", "0-1", "none", "none", "1-2"] + ["none"] * (len(GIVEN_WORDS) - 5)
    assert [line.time for line in lines] == [inspect_segment.span(word.start, word.end) for word in item.words]


@pytest.mark.parametrize("chosen", [slice(0, 4), slice(0, 2), slice(2, 4)])
def test_a_sample_key_shows_its_segments(run: Run, chosen: slice) -> None:
    """From the first's start to the last's end, whatever lies around them; the last two are a sample of the shards."""
    parts = [row.segment_id for row in segments_of_the_long_recording(run)[chosen]]
    key = f"{parts[0].rsplit('-', 1)[0]}-{parts[-1].rsplit('-', 1)[1]}"
    shown = [line.split()[-1] for line in inspect(run[0], key, 200) if line.startswith("segment ")]
    assert shown == parts


def test_without_a_name_it_is_the_first_segment(run: Run) -> None:
    plan = run[0]
    listed = list(list_segments(plan, 300))
    assert next(iter(inspect(plan, None, 200))) == f"segment    {listed[0].split()[0]}"


def test_a_rejected_segment_says_why(run: Run) -> None:
    second = segments_of_the_long_recording(run)[1].segment_id
    lines = list(inspect(run[0], second, 200))
    assert f"rejected   words: align_failed: {REJECT_DETAIL}" in lines
    assert any(line.startswith(second) and "[align_failed]" in line for line in list_segments(run[0], 200))
    reject = next(row for row in run[1]["rejects"] if isinstance(row, Reject) and row.id == second)
    assert reject.stage == "words"


def test_every_segment_is_listed_within_the_width(run: Run) -> None:
    ids = {row.segment_id for row in run[1]["segments"]}  # type: ignore[attr-defined]
    lines = list(list_segments(run[0], 100))
    assert {line.split()[0] for line in lines} == ids
    assert len(lines) == len(ids)
    assert all(columns(line) <= 100 for line in lines)


def test_no_control_character_of_a_transcript_reaches_the_terminal(run: Run) -> None:
    shown = "".join([*inspect(run[0], None, 200), *list_segments(run[0], 400)])
    assert "[31mred" in shown
    assert SCRIPT in shown
    assert "\x1b" not in shown


def test_an_unknown_name_is_answered_with_the_nearest(run: Run) -> None:
    first = segments_of_the_long_recording(run)[0].segment_id
    wrong = first[:-1] + ("1" if first[-1] == "0" else "0")
    with pytest.raises(ConfigError, match=f"'{wrong}'; the nearest are {first}") as error:
        list(inspect(run[0], wrong, 100))
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="the nearest are "):
        list(inspect(run[0], "nonsense", 100))


def test_the_command(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name and overrides may stand in any order; a run that is not there is one sentence with the command."""
    path = write_spec(tmp_path / "spec.yaml", run[0].spec.model_dump(mode="json"))
    second = segments_of_the_long_recording(run)[1].segment_id

    def command(*arguments: str) -> int:
        return inspect_segment.main(["--config", str(path), *arguments])

    assert command(second, "max_reject_rate=0.5") == 0
    assert f"segment    {second}" in capsys.readouterr().out
    assert command(second, "max_reject_rate=0.5", "--list") == 0
    assert command(f"output={tmp_path / 'none'}") == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert f"run python jobs/tokenize_audio.py --config {path}" in complaint
    assert command(second, second + "x") == 2


@pytest.mark.parametrize("size", [0, 1, 2, 5])
def test_a_text_is_cut_for_any_width_and_at_once(size: int) -> None:
    """Also where there is no room at all, and a million characters in no more time than a few."""
    for text in ("", "ab", "日本語の文", "e\u0301" * 9, "x" * 1_000_000):
        short = cut(text, size)
        assert columns(short) <= size
        assert short == text or size == 0 or (short.endswith("…") and text.startswith(short[:-1]))
