"""Of many tables of rejects the report reads some: it counts rows exactly, and says that seconds are in proportion."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.engine.run import Outcome
from jobs.report import build, identity
from jobs.reporting import facts
from jobs.reporting.summary import format_summary
from jobs.runtime.accounting import totals
from tests.jobs.synthetic_run import make_run


def test_rows_are_counted_and_seconds_are_in_proportion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, _ = make_run(tmp_path, audio=False)
    whole = facts.gather_rejects(plan)
    assert (whole.tables_read, whole.are_estimated) == (whole.tables, False)
    assert whole.tables == 2
    counts = {(group.stage, group.code): group.count for group in whole.groups}
    monkeypatch.setattr(facts, "MAX_REJECT_TABLES", 1)
    some = facts.gather_rejects(plan)
    assert (some.tables_read, some.tables) == (1, 2)
    assert {(group.stage, group.code): group.count for group in some.groups} == counts
    (read,) = [group for group in some.groups if group.examples]
    (guessed,) = [group for group in some.groups if not group.examples]
    assert guessed.seconds == pytest.approx(guessed.count * read.seconds / read.count)
    assert some.seconds == pytest.approx(read.seconds + guessed.seconds)
    assert sum(counts.values()) == sum(totals(plan, stage).rejects.total() for stage in plan.stages)
    data = plan.store.read_bytes("shards/index.json")
    page = build(plan.spec, data, identity(plan.spec, plan.store, data)).decode()
    assert "Seconds and examples are of 1 of 2 tables of rejects" in page
    assert "Nothing vanished" not in page


def test_a_run_without_shards_does_not_say_that_no_word_is_doubtful(tmp_path: Path) -> None:
    """Doubtful words are counted in shards: of a run that its rejects ended, nothing is known of them."""
    plan, _ = make_run(tmp_path)
    outcome = Outcome(plan=plan, worked_on={}, seconds=1.0, start_up_seconds=0.5, stopped=False)
    assert "doubtful words" in format_summary(outcome)
    plan.done["shards"][:] = False
    assert "doubtful words" not in format_summary(outcome)
