"""Task files come back as they were written, and every mistake is named with its line."""

import json
from pathlib import Path

import pytest

from schemas.cards import Card
from schemas.tasks import Task, TaskError, TaskHeader, TaskItem, TaskSegment, read_task, write_task

CARD = Card(kind="unit_tokenizer", name="u", facts={"num_units": 9, "hop": 640})
HEADER = {"format": 1, "task": "cloze", "cards": None}
ITEM = {"id": "a", "group": "g", "prompt": {"text": ""}, "endings": [{"text": "x"}, {"text": "y"}], "answer": 1}


def _write(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_a_task_comes_back_and_equal_tasks_are_equal_bytes(tmp_path: Path) -> None:
    header = TaskHeader(task="cloze", cards={CARD.card_id: CARD}, num_units=9, hop=640)
    spoken = TaskSegment(text="Füße oh", audio="a/b.flac", units=[1, 8, 8], words=[("Füße", 0, 1), ("oh", 1, 3)])
    item = TaskItem(id="a", group="g", prompt=TaskSegment(text=""), endings=[spoken, TaskSegment(text="no")], answer=0)
    assert write_task(tmp_path / "one.jsonl", header, [item]) == 1
    task = read_task(tmp_path / "one.jsonl")
    assert (task.header, task.items) == (header, [item])
    write_task(tmp_path / "two.jsonl", task.header, task.items)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.jsonl", "two.jsonl"]


def test_a_byte_order_mark_is_welcome(tmp_path: Path) -> None:
    path = _write(tmp_path / "t.jsonl", HEADER, ITEM)
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert [item.id for item in read_task(path).items] == ["a"]


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "is empty"),
        ([ITEM], r":1: the first line must be a header"),
        ([HEADER], "no items"),
        ([{**HEADER, "format": 2}, ITEM], r":1: format"),
        ([HEADER, ITEM, "{nonsense"], r":3: it is not JSON"),
        ([HEADER, ITEM, '{"a": NaN}'], r":3: it is not JSON: NaN"),
        ([HEADER, ITEM, r'{"id": "half \ud83d"}'], r":3: it holds half of a surrogate pair"),
        ([HEADER, ITEM, "[1]"], r":3: a JSON object"),
        ([HEADER, ITEM, ITEM], r":3: id 'a' was given to line 2"),
        ([HEADER, {**ITEM, "anwser": 0}], r":2: .*did you mean 'answer'"),
        ([HEADER, {**ITEM, "answer": 2}], r":2: .*answer 2 is no index"),
        ([HEADER, {**ITEM, "endings": [{"text": "x"}]}], r":2: endings"),
        ([HEADER, {**ITEM, "endings": [{"text": "x"}, {"text": ""}]}], r":2: .*an ending is empty"),
        ([HEADER, {**ITEM, "prompt": {"text": "", "audio": "../x.wav"}}], r":2: prompt.audio: .*inside"),
        ([HEADER, {**ITEM, "prompt": {"text": "", "audio": "/x.wav"}}], r":2: prompt.audio: .*inside"),
        ([HEADER, {**ITEM, "prompt": {"text": "", "units": [1]}}], r":2: .*no cards that made them"),
        (
            [{**HEADER, "cards": {}, "num_units": 5, "hop": 640}, {**ITEM, "prompt": {"text": "", "units": [5]}}],
            r":2: .*outside \[0, 5\)",
        ),
        ([{**HEADER, "cards": {}}, ITEM], r":1: .*given together"),
        (
            [HEADER, {**ITEM, "prompt": {"text": "a", "units": [1, 1], "words": [["a", 1, 3]]}}],
            r":2: .*leave the 2 units",
        ),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, rows: list[object], message: str) -> None:
    path = _write(tmp_path / "task.jsonl", *rows)
    with pytest.raises(TaskError, match=message) as raised:
        read_task(path)
    assert str(path) in str(raised.value)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    (tmp_path / "secret.wav").write_bytes(b"")
    (folder / "x.wav").symlink_to(tmp_path / "secret.wav")
    path = _write(folder / "task.jsonl", HEADER, {**ITEM, "prompt": {"text": "", "audio": "x.wav"}})
    task: Task = read_task(path)
    with pytest.raises(TaskError, match="leads out"):
        task.audio_path(task.items[0].prompt)


@pytest.mark.parametrize("path", ["s3://bucket/tasks/a.jsonl", Path("s3://bucket/tasks/a.jsonl")])
def test_a_task_on_another_storage_is_named_as_it_was_given(path: str | Path) -> None:
    with pytest.raises(TaskError, match=r"^s3://bucket/tasks/a.jsonl is not on this machine.*copy it here$"):
        read_task(path)
