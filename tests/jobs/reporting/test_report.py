"""The report tells what the tables and shards hold, obeys nothing that came from outside, and is only written when needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

import jobs.report as report
from jobs.reporting.facts import ReportFacts, choose_window, gather, on_the_grid, spread
from jobs.reporting.page import render, seconds_text
from jobs.runtime.plan import Plan
from schemas.arrow import Row
from schemas.audio import PATCH_SILENCE, PATCH_WORD, SAMPLE_RATE
from schemas.shards import SampleMeta, SegmentSpan, ShardIndex
from schemas.tables import Patches, Segment, Units
from tests.jobs.small_corpus import write_spec
from tests.jobs.synthetic_run import BROKEN, HOP, NUM_UNITS, ODD_NAME, REJECT_DETAIL, SCRIPT, SECONDS, make_run

VOID = {"meta", "br"}


class Page(HTMLParser):
    """The page as a browser would see it: refuses tags that do not close in order."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.data: list[str] = []
        self.stack: list[str] = []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.data.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.data).split())


Run = tuple[Plan, dict[str, list[Row]]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run, not to be changed."""
    return make_run(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def facts(run: Run) -> ReportFacts:
    return gather(run[0], ShardIndex.model_validate_json(run[0].store.read_bytes("shards/index.json")))


@pytest.fixture(scope="module")
def page(run: Run) -> Page:
    plan = run[0]
    data = plan.store.read_bytes("shards/index.json")
    return Page(report.build(plan.spec, data, report.identity(plan.spec, plan.store, data)).decode("utf-8"))


def command(folder: Path, plan: Plan, *arguments: str) -> int:
    """The command as a user types it."""
    path = write_spec(folder / "spec.yaml", plan.spec.model_dump(mode="json"))
    return report.main(["--config", str(path), *arguments])


# the page ---------------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_but_itself(page: Page) -> None:
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == page.tags["iframe"] == 0
    addresses = [value for _, name, value in page.attributes if name in ("src", "href", "data", "action")]
    assert addresses
    assert all(value.startswith("data:") for value in addresses)
    assert not any(mark in "".join(page.data) for mark in ("http://", "https://", "@import", "url("))


def test_names_text_and_details_from_outside_are_shown_not_obeyed(page: Page) -> None:
    assert page.tags["b"]  # the page's own
    assert f"the text {SCRIPT} cannot be aligned" in page.text
    assert " ".join(ODD_NAME.split()) in page.text
    assert SCRIPT in page.text
    assert not any(name.startswith("on") for _, name, _ in page.attributes)


def test_control_characters_reach_no_page(run: Run) -> None:
    data = run[0].store.read_bytes("shards/index.json")
    text = report.build(run[0].spec, data, {}).decode("utf-8")
    assert "[31mred" in text
    assert {char for char in text if unicodedata.category(char) == "Cc"} == {"\n"}


def test_six_strips_are_drawn_with_words_units_patches_and_sound(page: Page) -> None:
    classes = Counter(value for tag, name, value in page.attributes if tag == "svg" and name == "class")
    assert classes["strip"] == 6
    assert page.tags["audio"] == 6
    shapes = Counter(value for _, name, value in page.attributes if name == "class")
    assert shapes["aligned"] >= 6
    assert shapes["star"] >= 1
    assert shapes["label"] == shapes["aligned"] + shapes["star"]
    assert "NaN" not in "".join(
        value for _, name, value in page.attributes if name in ("d", "x", "y", "width", "points")
    )


def test_the_funnel_is_that_of_the_tables(run: Run, facts: ReportFacts, page: Page) -> None:
    rows = run[1]
    speech = sum(row.end - row.start for row in rows["segments"]) / SAMPLE_RATE  # type: ignore[attr-defined]
    lost = sum(row.seconds for row in rows["rejects"])  # type: ignore[attr-defined]
    assert facts.audio_seconds == pytest.approx(sum(SECONDS), abs=1e-3)
    assert facts.stages["segments"].hours_out * 3600 == pytest.approx(speech)
    assert facts.stages["shards"].hours_out * 3600 == pytest.approx(speech - lost)
    assert facts.rejects.seconds == pytest.approx(lost)
    assert lost > 1
    sentence = f"Nothing vanished: {seconds_text(speech)} of speech, {seconds_text(speech - lost)} in shards"
    assert sentence in page.text


def test_doubtful_words_and_speech_in_no_word_are_told_where_there_are_some(facts: ReportFacts) -> None:
    told = {"doubtful_words": 27, "speech_uncovered": 4.4}
    index = facts.index.model_copy(update={"totals": facts.index.totals | told})
    shown = render(replace(facts, index=index), "t", {}, ["#000"] * NUM_UNITS)
    assert "27 of them doubtful" in shown
    assert "4.4 s of speech are in no word" in shown
    clean = facts.index.model_copy(update={"totals": facts.index.totals | dict.fromkeys(told, 0)})
    assert "of them doubtful" not in render(replace(facts, index=clean), "t", {}, ["#000"] * NUM_UNITS)


def test_rejects_are_told_by_code_with_their_sentences(page: Page) -> None:
    assert "align_failed 1 row of words, 1.5 s" in page.text
    assert REJECT_DETAIL in page.text
    assert f"{BROKEN} it cannot be read" in page.text  # the name once, though the sentence begins with it as well


def test_histograms_count_what_the_tables_hold(run: Run, facts: ReportFacts) -> None:
    rows = run[1]
    kept = {row.segment_id: row for row in rows["patches"] if isinstance(row, Patches)}
    units = [row.units for row in rows["units"] if isinstance(row, Units) and row.segment_id in kept]
    assert facts.statistics.usage.tolist() == np.bincount(np.concatenate(units), minlength=NUM_UNITS).tolist()
    for kind in (PATCH_WORD, PATCH_SILENCE):
        expected = Counter(
            end - start
            for row in kept.values()
            for (start, end), found in zip(pairwise(row.bounds), row.kind, strict=True)
            if found == kind
        )
        assert facts.statistics.lengths[kind] == expected


def test_strips_show_the_shards_own_units_and_sound(run: Run, facts: ReportFacts) -> None:
    """Units are those of the tables, sound is that of the source, both from the place that the strip names."""
    plan, rows = run
    units = {row.segment_id: row.units for row in rows["units"] if isinstance(row, Units)}
    assert len({item.key for item in facts.strips}) == len(facts.strips) == 6
    assert any(item.strip.first_second > 0 and item.strip.joins for item in facts.strips)
    for item in facts.strips:
        track, start, end = item.key.rsplit("-", 2)
        parts = sorted(
            (row for row in rows["segments"] if isinstance(row, Segment) and row.recording_id == track),
            key=lambda row: row.start,
        )
        parts = [row for row in parts if int(start) <= row.start and row.end <= int(end)]
        samples, _ = soundfile.read(Path(plan.spec.source.uri) / item.uri, dtype="float32")
        sound = np.concatenate([samples[row.start : row.start + len(units[row.segment_id]) * HOP] for row in parts])
        place = np.concatenate([row.start + HOP * np.arange(len(units[row.segment_id])) for row in parts])
        frame = round(item.strip.first_second * SAMPLE_RATE) // HOP
        assert item.strip.audio is not None
        assert len(item.strip.audio) == len(item.strip.units) * HOP
        np.testing.assert_allclose(item.strip.audio, sound[frame * HOP :][: len(item.strip.audio)], atol=1e-4)
        known = np.concatenate([units[row.segment_id] for row in parts])
        assert item.strip.units.tolist() == known[frame:][: len(item.strip.units)].tolist()
        assert item.recording_seconds == pytest.approx(place[frame] / SAMPLE_RATE)
        joins = np.cumsum([len(units[row.segment_id]) for row in parts])[:-1] - frame
        assert list(item.strip.joins) == [join for join in joins if 0 < join < len(item.strip.units)]


def test_without_audio_in_the_shards_the_source_is_drawn_but_not_copied(tmp_path: Path) -> None:
    plan, _ = make_run(tmp_path, audio=False)
    index = ShardIndex.model_validate_json(plan.store.read_bytes("shards/index.json"))
    facts = gather(plan, index)
    assert len(facts.strips) == 6
    for item in facts.strips:
        samples, _ = soundfile.read(Path(plan.spec.source.uri) / item.uri, dtype="float32")
        first = round(item.recording_seconds * SAMPLE_RATE)
        until = HOP * min([*item.strip.joins, len(item.strip.units)])
        assert item.strip.audio is not None
        np.testing.assert_allclose(item.strip.audio[:until], samples[first : first + until], atol=1e-6)
        assert not item.playable
    for path in Path(plan.spec.source.uri).iterdir():
        path.write_bytes(b"gone")
    assert all(item.strip.audio is None for item in gather(plan, index).strips)


# when it is written -----------------------------------------------------------------------------------------------------


def test_a_page_is_written_once_per_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, _ = make_run(tmp_path)
    path = tmp_path / "out" / "report.html"

    def written(*arguments: str) -> bool:
        path.write_bytes(path.read_bytes()) if path.exists() else None
        os.utime(path, (1, 1)) if path.exists() else None
        assert command(tmp_path, plan, *arguments) == 0
        assert ("up to date" in capsys.readouterr().out) == (path.stat().st_mtime == 1)
        return path.stat().st_mtime != 1

    assert written()
    content = path.read_bytes()
    assert not written()
    assert written("--force")
    assert path.read_bytes() == content
    commit = next((tmp_path / "out" / "commits" / "units").rglob("*.json"))
    commit.write_text(commit.read_text().replace("0.25", "0.125"))
    assert written()
    index = tmp_path / "out" / "shards" / "index.json"
    index.write_text(index.read_text() + "\n")
    assert written()
    path.write_text("<html>cut off")
    assert written()


def test_nothing_there_yet_is_one_sentence_with_the_command(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path, run[0], f"output={tmp_path / 'none'}") == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert f"run python jobs/tokenize_audio.py --config {tmp_path / 'spec.yaml'}" in complaint


def test_the_folder_of_a_run_says_which_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`lst report OUTPUT` takes the last run's own settings; a folder of something else is a sentence."""
    plan, _ = make_run(tmp_path)
    control = tmp_path / "out" / "control"
    control.mkdir(exist_ok=True)
    (control / "spec.json").write_text(plan.spec.model_dump_json(by_alias=True))
    assert report.main([str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "report.html").exists()
    capsys.readouterr()
    assert report.main([str(tmp_path)]) == 2
    assert "is no output of a run" in capsys.readouterr().err
    assert report.main([str(tmp_path), "--config", str(tmp_path / "spec.yaml")]) == 2
    assert "lst report OUTPUT, or lst report --config SPEC" in capsys.readouterr().err


def test_an_index_of_other_settings_is_refused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path, run[0], "stages.segments.pad_ms=40") == 2
    assert "other settings" in capsys.readouterr().err


def test_the_command_loads_no_model_library() -> None:
    code = (
        "import sys, jobs.report, jobs.reporting.page, jobs.inspect_segment\n"
        "print([name for name in ('torch', 'ray', 'transformers', 'matplotlib', 'faiss') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# parts ---------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 120))
def test_a_window_is_within_the_limit_and_cut_at_bounds_where_it_can_be(lengths: list[int], limit: int) -> None:
    bounds = [0, *np.cumsum(lengths).tolist()]
    start, end = choose_window(bounds, limit)
    assert 0 <= start < end <= bounds[-1]
    assert end - start <= limit
    if max(lengths) * 2 <= limit:
        assert start in bounds
        assert end in bounds


@given(st.integers(0, 500), st.integers(1, 40))
def test_spread_takes_distinct_numbers_evenly(count: int, wanted: int) -> None:
    taken = spread(count, wanted)
    assert len(taken) == min(count, wanted)
    assert all(0 <= number < count for number in taken)
    steps = {after - before for before, after in pairwise(taken)}
    assert not steps or (min(steps) >= 1 and max(steps) - min(steps) <= 1)


def test_audio_is_put_on_the_grid_of_units() -> None:
    """What a segment has beyond its last whole frame must not shift the sound of the segments after it."""
    spans = [(0, 700, 0, 1), (5000, 6500, 1, 3)]
    meta = SampleMeta(
        key="k",
        recording_id="r",
        uri="u",
        language="en",
        text="",
        words=[],
        patch_kind=[],
        num_frames=3,
        hop=640,
        cards={},
        segments=[
            SegmentSpan(segment_id="s", start=start, end=end, frame_start=first, frame_end=last)
            for start, end, first, last in spans
        ],
    )
    samples = np.concatenate([np.arange(0, 700), np.arange(5000, 6500)])
    expected = np.concatenate([np.arange(0, 640), np.arange(5000, 6280)])
    assert on_the_grid(meta, samples).tolist() == expected.tolist()


def test_the_style_sheet_serves_light_and_dark() -> None:
    style = (Path(report.__file__).parent / "reporting" / "report.css").read_text(encoding="utf-8")
    light, dark = style.split("prefers-color-scheme: dark")
    used = set(re.findall(r"var\((--[a-z]+)\)", style))
    assert used
    assert set(re.findall(r"(--[a-z]+):", light)) == used
    assert set(re.findall(r"(--[a-z]+):", dark)) == used
