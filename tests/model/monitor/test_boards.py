"""What boards show: every column in its group, and the same numbers read back from their files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.monitor.boards import GROUPS, TensorBoard, WeightsAndBiases, tags

ROWS = [
    {"step": 1, "loss": 2.5, "source_asr_loss_text": 3.25, "loss_speech": None, "world": 1, "skipped": False},
    {"step": 2, "loss": 2.25, "source_asr_loss_text": 3.0, "mfu": 0.5, "task_spell_T-T": 0.75, "skipped": True},
]
SHOWN = [
    {"loss/loss": 2.5, "sources/asr_loss_text": 3.25, "optimiser/skipped": 0.0},
    {
        "loss/loss": 2.25,
        "sources/asr_loss_text": 3.0,
        "speed/mfu": 0.5,
        "tasks/spell_T-T": 0.75,
        "optimiser/skipped": 1.0,
    },
]


def test_tags_come_in_groups() -> None:
    assert [tags(row) for row in ROWS] == SHOWN
    names = [name for group in GROUPS.values() for name in group]
    assert len(names) == len(set(names))


def test_tensorboard_reads_back_numbers_and_sounds(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path, 0)
    for row in ROWS:
        board.write(row)
    board.sound("said/0", np.zeros(160, np.float32), 2)
    board.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/loss")] == [(1, 2.5), (2, 2.25)]
    assert set(events.Tags()["scalars"]) == set(SHOWN[0]) | set(SHOWN[1])
    assert [event.step for event in events.Audio("said/0")] == [2]


@pytest.mark.parametrize("done", [0, 3])
def test_tensorboard_shows_each_step_of_an_interrupted_run_once(done: int, tmp_path: Path) -> None:
    """Killed at step 5 and gone on with after step 3, which was gone from the board, or before the first checkpoint."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, last in ((0, 5), (done, 6)):
        board = TensorBoard(tmp_path, first)
        for step in range(first + 1, last + 1):
            board.write({"step": step, "loss": float(step)})
        board.close()
        time.sleep(1.1)  # files are read in the order of their names, which have seconds in them
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/loss")] == [1, 2, 3, 4, 5, 6]


def test_the_offline_folder_of_wandb_reads_back(tmp_path: Path) -> None:
    """One run, gone on with after an interruption: one id, every number, the sound, and what was configured."""
    pytest.importorskip("wandb")
    for first, rows in ((0, ROWS[:1]), (1, ROWS[1:])):
        board = WeightsAndBiases(tmp_path, "lst", None, True, {"seed": 3})
        for row in rows:
            board.write(row)
        if first:
            board.sound("said/0", np.zeros(160, np.float32), 2)
        board.close()
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len({file.stem for file in files}) == 1
    assert len(files) == 2
    records = [record for file in files for record in ended_records(file)]
    assert {record.run.project for record in records if record.WhichOneof("record_type") == "run"} == {"lst"}
    history = [history_of(record) for record in records if record.WhichOneof("record_type") == "history"]
    found = [{name: row[name] for name in row if "/" in name and not name.startswith("said")} for row in history]
    assert [row for row in found if row] == SHOWN
    assert [row["step"] for row in history if any(name.startswith("said/0") for name in row)] == [2]
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/audio/said/*.wav"))


def history_of(record: Any) -> dict[str, Any]:
    """One call of `log`."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


def ended_records(file: Path, seconds: float = 60) -> list[Any]:
    """Of a run that has been finished: W&B's own process may write the last of them after `finish` has come back."""
    deadline = time.monotonic() + seconds
    while True:
        records = list(wandb_records(file))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        assert time.monotonic() < deadline, f"{file} does not end"
        time.sleep(0.05)


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a `.wandb` file: a LevelDB log (blocks of 32 KiB; each piece headed by CRC, length and whether the record
    begins or ends there) behind a header of seven bytes, of protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record
