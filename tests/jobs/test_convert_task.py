"""Public layouts become task files; what does not have the layout is named with its line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import jobs.convert_task as convert
from schemas.tasks import Task, read_task


def run(layout: str, source: Path, out: Path) -> Task:
    assert convert.main([layout, str(source), str(out)]) == 0
    return read_task(out)


def refused(capsys: pytest.CaptureFixture[str], layout: str, source: Path, out: Path) -> str:
    """The sentence that the command ends with."""
    assert convert.main([layout, str(source), str(out)]) == 2
    return capsys.readouterr().err


def test_hellaswag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "ind": 24, "activity_label": "Roof", "ctx_a": "[header] How [title] A man sits.", "ctx_b": "he", "label": 3,
        "endings": ["is [x] up.", "b.", "c.", "d."], "split_type": "zeroshot",
    }  # fmt: skip
    source = tmp_path / "val.jsonl"
    source.write_text(json.dumps(row) + "\n" + json.dumps({**row, "ind": 25, "ctx_b": "", "label": "0"}) + "\n")
    item, wikihow = run("hellaswag", source, tmp_path / "out.jsonl").items
    assert (wikihow.prompt.text, wikihow.answer) == ("How. A man sits.", 0)
    assert (item.id, item.group, item.answer) == ("24", "zeroshot", 3)
    assert item.prompt.text == "How. A man sits. He"
    assert [ending.text for ending in item.endings] == ["is up.", "b.", "c.", "d."]
    source.write_text(json.dumps({**row, "label": ""}) + "\n")
    assert re.search(r"val.jsonl:1: no label", refused(capsys, "hellaswag", source, tmp_path / "out.jsonl"))


@pytest.mark.parametrize(
    "odd, said",
    [
        ({"label": 7}, "val.jsonl:1: answer 7 is no index into 4 endings"),
        ({"label": "\u00b2"}, "val.jsonl:1: no label"),
        ({"endings": ["a", "[x]", "c", "d"]}, "val.jsonl:1: an ending is empty"),
        ({"endings": "['a', 'b']"}, "val.jsonl:1: endings must be a list of texts, found str"),
        ({"endings": ["a", 3, "c", "d"]}, "val.jsonl:1: endings must be a list of texts"),
        ({}, "has 1 ids more than once, such as '1'"),
    ],
)
def test_odd_rows_of_hellaswag_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], odd: dict[str, object], said: str
) -> None:
    """A list that a CSV has made a text of was an item whose endings are letters; the rest ended in tracebacks, or in a file that
    nothing reads."""
    row = {"ind": 1, "ctx_a": "A man", "ctx_b": "he", "endings": ["a", "b", "c", "d"], "label": 1}
    source = tmp_path / "val.jsonl"
    source.write_text(json.dumps({**row, **odd}) + "\n" + json.dumps(row) + "\n")
    assert said in refused(capsys, "hellaswag", source, tmp_path / "out.jsonl")


def test_odd_tables_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,RandomFifthSentenceQuiz1,"
    names += "RandomFifthSentenceQuiz2,AnswerRightEnding\n"
    source = tmp_path / "stories.csv"
    source.write_text(names + "1,a,b,c,d,e, ,1\n")
    assert "stories.csv:2: an ending is empty" in refused(capsys, "storycloze", source, tmp_path / "out.jsonl")
    source.write_text(names + '1,a,"b,c,d,e,f,1\n' + "2,a,b,c,d,e,f,1\n" * 9000)
    assert "is a quote not closed?" in refused(capsys, "storycloze", source, tmp_path / "out.jsonl")
    gold = tmp_path / "gold.csv"
    gold.write_text("id,voice,filename,correct\n1,a,x,1\n")
    assert "gold.csv:2: 'word' is missing" in refused(capsys, "swuggy", tmp_path, tmp_path / "out.jsonl")


@pytest.mark.parametrize("suffix, delimiter", [(".csv", ","), (".tsv", "\t")])
def test_storycloze(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, delimiter: str) -> None:
    names = ["InputStoryid", *(f"InputSentence{i}" for i in range(1, 5)), "RandomFifthSentenceQuiz1",
             "RandomFifthSentenceQuiz2", "AnswerRightEnding"]  # fmt: skip
    source = tmp_path / f"stories{suffix}"
    lines = [names, ["s1", "A.", "B.", "C.", "D.", "yes.", "no.", "2"]]
    source.write_text("".join(delimiter.join(line) + "\n" for line in lines), encoding="utf-8-sig")
    (item,) = run("storycloze", source, tmp_path / "out.jsonl").items
    assert (item.id, item.prompt.text, item.endings[1].text, item.answer) == ("s1", "A. B. C. D.", "no.", 1)
    assert re.search("holds one story", refused(capsys, "topic-storycloze", source, tmp_path / "out.jsonl"))
    more = [[f"s{i}", *"ABCD", f"right {i}.", f"wrong {i}.", "1"] for i in range(9)]
    (tmp_path / f"more{suffix}").write_text("".join(delimiter.join(line) + "\n" for line in [names, *more]))
    topic = run("topic-storycloze", tmp_path / f"more{suffix}", tmp_path / "topic.jsonl").items
    for number, item in enumerate(topic):
        right, wrong = (ending.text for ending in item.endings)
        assert (right, item.answer) == (f"right {number}.", 0)
        assert wrong != right
        assert wrong.startswith("right")
    if suffix == ".tsv":  # a quote is a quote there, and swallows no stories
        quoted = [names, ["s0q", '"A.', "B.", "C.", "D.", "yes.", "no.", "2"], *more]
        (tmp_path / "quoted.tsv").write_text("".join("\t".join(line) + "\n" for line in quoted))
        assert len(run("storycloze", tmp_path / "quoted.tsv", tmp_path / "quoted.jsonl").items) == 10
    source.write_text(source.read_text().replace(f"{delimiter}2\n", f"{delimiter}3\n"))
    assert re.search(
        r":2: AnswerRightEnding must be 1 or 2", refused(capsys, "storycloze", source, tmp_path / "out.jsonl")
    )
    source.write_text("a,b\n1,2\n")
    assert re.search("wants the columns", refused(capsys, "storycloze", source, tmp_path / "out.jsonl"))


def test_spoken_storycloze(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("7_correct.wav", "7_incorrect.wav", "part/8_correct.wav", "part/8_incorrect.wav", "part/8_mutual.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "part" / "8_mutual.txt").write_text("Once.\n")
    whole, split = run("storycloze-audio", tmp_path, tmp_path / "task.jsonl").items
    assert (whole.id, whole.prompt.is_empty, whole.endings[1].audio) == ("7", True, "7_incorrect.wav")
    assert (split.id, split.group, split.prompt.audio, split.prompt.text) == (
        "part/8", "part", "part/8_mutual.wav", "Once.",
    )  # fmt: skip
    assert re.search(
        "or above it", refused(capsys, "storycloze-audio", tmp_path, tmp_path / "part" / "deeper" / "task.jsonl")
    )
    (tmp_path / "7_incorrect.wav").unlink()
    assert re.search(
        r"7_correct.wav has no partner 7_incorrect.wav",
        refused(capsys, "storycloze-audio", tmp_path, tmp_path / "task.jsonl"),
    )


def test_zerospeech(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("aa", "bb", "cc", "dd"):
        (tmp_path / f"{name}.wav").write_bytes(b"")
    gold = tmp_path / "gold.csv"
    gold.write_text(
        "id,filename,voice,frequency,word,phones,length,correct\n"
        "1,aa,A,20,brick,B R,5,1\n1,bb,A,20,blick,B L,5,0\n1,cc,B,0,brick,B R,5,1\n1,dd,B,0,blick,B L,5,0\n"
    )
    items = run("swuggy", tmp_path, tmp_path / "task.jsonl").items
    assert [(item.id, item.group) for item in items] == [("1/A", "21-100"), ("1/B", "oov")]
    assert [ending.audio for ending in items[1].endings] == ["cc.wav", "dd.wav"]
    gold.write_text(
        "id,filename,voice,type,subtype,transcription,correct\n1,aa,A,agreement,x,she runs,1\n1,bb,A,agreement,x,she run,0\n"
    )
    (item,) = run("sblimp", tmp_path, tmp_path / "task.jsonl").items
    assert (item.group, item.endings[1].text, item.answer) == ("agreement", "she run", 0)
    (tmp_path / "bb.wav").unlink()
    assert re.search(
        r"names bb, and .* has no such recording", refused(capsys, "sblimp", tmp_path, tmp_path / "task.jsonl")
    )
    gold.write_text("id,filename,voice,type,subtype,transcription,correct\n1,aa,A,agreement,x,she runs,1\n")
    assert re.search("1 right and 0 wrong", refused(capsys, "sblimp", tmp_path, tmp_path / "task.jsonl"))
