"""The log of a stage: each commit once, whatever was gathered, dropped or killed in between, read a piece at a time."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from jobs.store import commit_folders, commit_log
from jobs.store.commit_folders import folder_of, list_commits, while_it_stands
from jobs.store.commit_log import CommitLog
from jobs.store.store import Store
from schemas.commit import Commit, Output
from schemas.errors import TryAgain

UNITS = [hashlib.sha256(b"%d" % number).hexdigest()[:16] for number in range(60)]


def commit(unit: str) -> Commit:
    number = UNITS.index(unit)
    return Commit(
        stage="words",
        fingerprint="f" * 64,
        partition=unit,
        members={unit: "a"},
        inputs={"segments": "0" * 64},
        outputs={
            "words": Output(path=f"tables/words/{unit}-{'0' * 16}.parquet", sha256="0" * 64, bytes=1, rows=number)
        },
        rows_in=number,
        rows_out=number,
        rows_rejected=0,
        rejects_by_code={},
        samples_in=0,
        samples_out=0,
        samples_rejected=0,
        seconds_busy=1.0,
    )


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(commit_log, "ROW_GROUP", 7)
    monkeypatch.setattr(commit_log, "CHUNK", 5)
    return Store(str(tmp_path))


def opened(store: Store) -> CommitLog:
    folder = folder_of("words", "f" * 64)
    return CommitLog(store, "words", "f" * 64, sorted(store.names(folder)))


def written(store: Store, units: list[str]) -> CommitLog:
    for unit in units:
        store.publish(commit(unit))
    return opened(store)


def names(log: CommitLog) -> list[str]:
    return sorted(entry.partition for entry in log.commits())


def test_what_is_gathered_piece_by_piece_reads_as_what_was_committed(store: Store) -> None:
    for start in range(0, 50, 10):
        written(store, UNITS[start : start + 10]).gather()
    log = written(store, UNITS[50:])
    assert names(log) == sorted(UNITS)
    assert log.units.tolist() == [unit.encode() for unit in sorted(UNITS)]
    order = np.random.default_rng(0).permutation(UNITS)
    assert list(log.commits(order)) == [commit(unit) for unit in order]
    assert log.find(np.asarray(["0" * 16, UNITS[3]], "S16")).tolist()[0] == -1
    rows = log.find(np.asarray(order, "S16"))
    assert [unit for table in log.take(rows, ["rows"]) for unit in table.column("unit").to_pylist()] == order.tolist()
    some = rows[::3]
    told = [unit for table in log.select(some, ["rows"]) for unit in table.column("unit").to_pylist()]
    assert sorted(told) == sorted(order[::3])


def test_a_kill_between_writing_a_part_and_removing_the_files_leaves_each_commit_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(CommitLog, "_remove", lambda self, files: None)
        written(store, UNITS[:20]).gather()
        written(store, UNITS[20:30]).gather()
    log = opened(store)
    assert len(list(log.written(["rows"]))) > 5
    assert len(log) == log.read(["rows"]).num_rows == 30
    assert names(log) == sorted(UNITS[:30])
    log.gather()
    assert names(opened(store)) == sorted(UNITS[:30])


def test_dropping_leaves_the_others_and_the_parts_without_them(store: Store) -> None:
    written(store, UNITS[:20]).gather()
    log = written(store, UNITS[20:23])
    log.gather()  # too few to take the first part in
    (first, second) = sorted(log.parts, key=commit_log.rows_in_part, reverse=True)
    log = written(store, UNITS[23:26])
    log.drop([UNITS[1], UNITS[24]])
    assert second in log.parts
    assert first not in log.parts
    for kept in (log, opened(store)):
        assert names(kept) == sorted(set(UNITS[:26]) - {UNITS[1], UNITS[24]})


def test_a_full_part_is_not_written_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_log, "FULL", 15)
    written(store, UNITS[:20]).gather()
    (full,) = opened(store).parts
    for start in (20, 40):
        written(store, UNITS[start : start + 20]).gather()
    assert full in opened(store).parts
    assert names(opened(store)) == sorted(UNITS)


def test_the_number_of_parts_grows_with_the_logarithm_of_the_commits(store: Store) -> None:
    """Each part holds more than twice what the next smaller one holds, so few must be opened."""
    counts = np.random.default_rng(4).integers(1, 4, 28).cumsum()
    for first, last in zip([0, *counts[:-1]], counts, strict=True):
        written(store, UNITS[first:last]).gather()
        sizes = sorted(commit_log.rows_in_part(name) for name in opened(store).parts)
        assert all(large > commit_log.ABSORB * small for small, large in pairwise(sizes))
        assert len(sizes) <= 1 + np.log2(last)


def test_a_damaged_part_is_named_and_set_aside_and_the_rest_is_read(store: Store) -> None:
    written(store, UNITS[:20]).gather()
    log = written(store, UNITS[20:23])
    (part,) = log.parts
    path = Path(store.path(f"{log.folder}/{part}"))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    log = opened(store)
    assert names(log) == sorted(UNITS[20:23])
    (said,) = log.set_damaged_aside()
    assert part in said
    assert "set aside as damaged/" in said
    assert not path.exists()
    assert names(opened(store)) == sorted(UNITS[20:23])


def test_a_commit_under_the_name_of_another_is_no_commit(store: Store) -> None:
    log = written(store, UNITS[:2])
    store.write_bytes(f"{log.folder}/{UNITS[5]}.json", store.read_bytes(f"{log.folder}/{UNITS[0]}.json"))
    log = opened(store)
    assert names(log) == sorted(UNITS[:2])
    assert "is the commit of something else" in log.damaged[0][1]


def read(store: Store) -> list[str]:
    def open_log(listed: dict[str, list[str]]) -> CommitLog:
        return CommitLog(store, "words", "f" * 64, listed.get(folder_of("words", "f" * 64), []))

    return names(while_it_stands(store, open_log))


@pytest.mark.parametrize("moment", ["before it is read", "while it is listed", "again and again"])
def test_whoever_reads_beside_a_run_misses_nothing_that_it_gathers(
    store: Store, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing is of files that may be in a part by now; and one made meanwhile may show neither the files nor the part."""
    written(store, UNITS[:10]).gather()
    written(store, UNITS[10:20])
    looks = 0

    def listing(store: Store) -> dict[str, list[str]]:
        nonlocal looks
        looks += 1
        listed = list_commits(store)
        if looks == 1 and moment == "while it is listed":
            listed = {folder: [name for name in names if "part" in name] for folder, names in listed.items()}
        if looks == 1 or moment == "again and again":
            written(store, UNITS[20 + looks : 21 + looks]).gather()
        return listed

    monkeypatch.setattr(commit_folders, "list_commits", listing)
    if moment == "again and again":
        with pytest.raises(TryAgain, match="gathered faster"):
            read(store)
    else:
        assert read(store) == sorted([*UNITS[:20], UNITS[21]])
        assert looks == 3


def test_what_is_open_is_read_whoever_gathers_it(store: Store) -> None:
    written(store, UNITS[:10]).gather()
    log = opened(store)
    written(store, UNITS[10:20]).gather()
    assert names(log) == sorted(UNITS[:10])
    assert log.damaged == []
