"""What a shard's commit counts, and what becomes of what cannot be written."""

from collections import defaultdict
from pathlib import Path

import pytest

from jobs.runtime import shard_writer
from jobs.runtime.drive import prepare, run_in_process
from jobs.runtime.plan import make_plan
from jobs.runtime.rejects import read_rejects
from jobs.runtime.shard_index import Shares
from jobs.runtime.shard_writer import Build, Sample, _add, _build
from jobs.verify_dataset import verify_shards, verify_tables
from pipeline.shards import Passage
from schemas.spec import STAGES
from schemas.tables import Reject
from tests.jobs.runtime.test_plan import run_here
from tests.jobs.small_corpus import make_spec
from tests.pipeline.test_shards import HOP, make_record, make_recording


def test_doubtful_words_and_uncovered_speech_are_counted() -> None:
    record = make_record("a", 0, 200, ["one", "two", "three"])
    words = [
        word.model_copy(update={"timing": timing, "uncovered": spans})
        for word, timing, spans in zip(
            record.words,
            ("aligned", "doubtful", "doubtful"),
            ([], [100, 8_100], [20_000, 24_000, 30_000, 34_000]),
            strict=True,
        )
    ]
    part = type(record)(**{**vars(record), "words": words})
    sums: dict[str, int] = defaultdict(int)
    _add(sums, Passage(recording=make_recording("a"), parts=[part]))
    shares = Shares()
    shares.add(sums)
    shares.add(sums)
    assert shares.belief() == {"doubtful_words": 4, "speech_uncovered": 2.0}


def passage_of(*names: str) -> Passage:
    parts = [make_record("a", 40 * HOP * number, 30, [name]) for number, name in enumerate(names)]
    return Passage(recording=make_recording("a"), parts=tuple(parts))


def build_unless(*bad: str, limit: int = 99) -> Build:
    """Makes a sample of the passage's words; raises at the bad ones, and where there are more than `limit`."""

    def build(passage: Passage) -> Sample:
        said = [part.words[0].text for part in passage.parts]
        if set(bad) & set(said) or len(said) > limit:
            raise ValueError(f"cannot write {said}")
        return {"json": " ".join(said)}

    return build


@pytest.mark.parametrize(
    "build, made, lost",
    [
        (build_unless(), ["one two three four"], []),
        (build_unless("two"), ["one", "three four"], ["two"]),
        (build_unless("one", "four"), ["two three"], ["one", "four"]),
        (build_unless("one", "two", "three", "four"), [], ["one", "two", "three", "four"]),
        (build_unless(limit=2), [], ["one", "two", "three", "four"]),
    ],
)
def test_what_cannot_be_written_is_rejected_and_what_stands_beside_it_is_in_the_shard(
    build: Build, made: list[str], lost: list[str]
) -> None:
    passage = passage_of("one", "two", "three", "four")
    rejects: list[Reject] = []
    samples = [sample["json"] for _, sample in _build(passage, build, rejects)]
    assert samples == made
    by_id = {part.segment.segment_id: part.words[0].text for part in passage.parts}
    assert [by_id[reject.id] for reject in rejects] == lost
    for reject in rejects:
        assert (reject.stage, reject.code, reject.seconds) == ("shards", "stage_error", 30 * HOP / 16_000)
        assert reject.traceback is not None
        assert "cannot write" in reject.traceback


def test_a_run_goes_on_past_a_segment_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reject is in the tables, the shards hold the others, the sums agree, and `make verify` says so."""
    spec = make_spec(tmp_path, max_reject_rate=1.0)
    honest = shard_writer.build_sample
    victim: list[str] = []

    def failing(passage: Passage, *more: object) -> Sample:
        victim[:] = victim or [passage.parts[0].segment.segment_id]
        if victim[0] in {part.segment.segment_id for part in passage.parts}:
            raise RuntimeError("no sample of this")
        return honest(passage, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(shard_writer, "build_sample", failing)
    plan, _ = run_here(spec)
    assert plan.is_complete()
    commits = list(plan.commits("shards"))
    assert sum(commit.rows_rejected for commit in commits) == 1
    assert all(commit.samples_in == commit.samples_out + commit.samples_rejected for commit in commits)
    assert [(reject.stage, reject.id) for reject in read_rejects(plan)] == [("shards", victim[0])]
    assert list(verify_tables(plan)) == []
    assert verify_shards(plan) == []


def test_a_shard_that_cannot_be_written_at_all_is_set_aside_and_the_others_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path)
    plan = make_plan(spec)
    prepare(plan)
    honest, calls = shard_writer.write_shard, list[int]()

    def failing(samples: list[Sample]) -> bytes:
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError
        return honest(samples)

    monkeypatch.setattr(shard_writer, "write_shard", failing)
    (failed,) = run_in_process(plan, STAGES)
    assert "could not be written: MemoryError" in failed
    assert int((~plan.done["shards"]).sum()) == 1
