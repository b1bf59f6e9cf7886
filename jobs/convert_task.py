"""Task files from the public layouts of HellaSwag, StoryCloze, TopicStoryCloze, sWUGGY and sBLIMP.

  hellaswag         SOURCE is its JSONL (ctx_a, ctx_b, endings, label)
  storycloze        SOURCE is the .csv or .tsv with InputSentence1 ... AnswerRightEnding, as sent out by its authors
  topic-storycloze  the same SOURCE; the wrong ending is another story's right one (TWIST's own draw is not published as text)
  storycloze-audio  SOURCE is a folder of N_correct.wav and N_incorrect.wav, each a whole story, or the ending alone where there
                    is a N_mutual.wav with its beginning; texts in .txt files beside them are taken along
  swuggy, sblimp    SOURCE is lexical/dev or syntactic/dev of ZeroSpeech 2021: gold.csv and the recordings it names

The task file must lie in SOURCE's folder or above it where there is audio; then run jobs/prepare_task.py on it.
"""

from __future__ import annotations

import csv
import hashlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from schemas.commands.cli import Parser, command, out_file
from schemas.config import ConfigError, parse_config
from schemas.tasks import TaskError, TaskHeader, TaskItem, TaskSegment, json_lines, write_task

EXAMPLES = """  python jobs/convert_task.py hellaswag hellaswag_val.jsonl hellaswag.jsonl
  python jobs/convert_task.py storycloze spring2016.val.csv storycloze.jsonl
  python jobs/convert_task.py storycloze-audio tSC tSC/task.jsonl
  python jobs/convert_task.py swuggy zerospeech2021/lexical/dev zerospeech2021/lexical/dev/task.jsonl
"""
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
BANDS = ((1, "oov"), (5, "1-5"), (20, "6-20"), (100, "21-100"))
"""sWUGGY's frequency bands as ZeroSpeech's evaluation cuts them: below 1, below 5, below 20, below 100, the rest."""
STORY_COLUMNS = (
    ("InputStoryid", "InputSentence{}", "RandomFifthSentenceQuiz{}", "AnswerRightEnding"),
    ("story_id", "input_sentence_{}", "sentence_quiz{}", "answer_right_ending"),
)
"""The authors' names of the columns, and those of the Hugging Face copy."""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Read public files in their layout and write one task file."""
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument("layout", choices=list(CONVERTERS), help="of SOURCE; see above")
    parser.add_argument("source", type=Path, help="the public files")
    parser.add_argument("out", type=out_file, help="the task file to write")
    parser.add_argument("--task", help="the task's name in tables (default: the layout)")
    given = parser.parse_args(arguments)
    items = list(CONVERTERS[given.layout](given.source, given.out.parent))
    if not items:
        raise TaskError(f"{given.source} holds no item of layout {given.layout}")
    if twice := [name for name, times in Counter(item.id for item in items).items() if times > 1]:
        raise TaskError(
            f"{given.source} has {len(twice)} ids more than once, such as {twice[0]!r}: take the copies out"
        )
    notes = {"source": given.source.name, "layout": given.layout}
    count = write_task(given.out, TaskHeader(task=given.task or given.layout, notes=notes), items)
    audio = sum(segment.audio is not None for item in items for segment in item.segments)
    groups = ", ".join(sorted({item.group for item in items}))
    print(f"{given.out}: {count} items, {audio} audio segments; groups: {groups}")
    return 0


def hellaswag(source: Path, folder: Path) -> Iterator[TaskItem]:
    """Four endings; brackets that WikiHow's pages left in the text are taken out, as lm-eval does. The activity is no part of the
    prompt: nobody says it."""
    del folder
    for number, row in json_lines(source):
        where = f"{source}:{number}"
        label, endings = str(row.get("label", "")), _get(row, "endings", where)
        if not label.isdecimal():
            raise TaskError(f"{where}: no label; the test set is published without answers, use the validation set")
        if not isinstance(endings, list) or not all(isinstance(ending, str) for ending in endings):
            raise TaskError(f"{where}: endings must be a list of texts, found {type(endings).__name__}")
        context = f"{_get(row, 'ctx_a', where)} {str(row.get('ctx_b') or '').capitalize()}"
        yield _item(
            where,
            id=str(row.get("ind", number)),
            group=str(row.get("split_type") or "all"),
            prompt=TaskSegment(text=clean(context)),
            endings=[TaskSegment(text=clean(ending)) for ending in endings],
            answer=int(label),
        )


def clean(text: str) -> str:
    """HellaSwag's text without its brackets."""
    return " ".join(re.sub(r"\[.*?\]", "", text.replace(" [title]", ". ")).split())


def storycloze(source: Path, folder: Path) -> Iterator[TaskItem]:
    """Four sentences and two endings."""
    del folder
    for number, row in _csv_rows(source):
        where = f"{source}:{number}"
        columns = next((names for names in STORY_COLUMNS if names[0] in row), None)
        if columns is None:
            raise TaskError(f"{where}: wants the columns {', '.join(STORY_COLUMNS[0])}; found {', '.join(row)}")
        story, sentence, ending, answer = columns
        right = _get(row, answer, where)
        if right not in ("1", "2"):
            raise TaskError(f"{where}: {answer} must be 1 or 2, found {right!r}: the 2018 test set has no answers")
        yield _item(
            where,
            id=row[story],
            group="all",
            prompt=TaskSegment(text=" ".join(_get(row, sentence.format(i), where).strip() for i in range(1, 5))),
            endings=[TaskSegment(text=_get(row, ending.format(i), where).strip()) for i in (1, 2)],
            answer=int(right) - 1,
        )


def topic_storycloze(source: Path, folder: Path) -> Iterator[TaskItem]:
    """Each story with its right ending and that of another story, picked by the hash of its id: the same file gives the same
    task."""
    stories = list(storycloze(source, folder))
    if len(stories) < 2:
        raise TaskError(f"{source} holds one story, and a wrong ending comes from another")
    for place, story in enumerate(stories):
        step = 1 + int(hashlib.sha256(story.id.encode("utf-8")).hexdigest(), 16) % (len(stories) - 1)
        other = stories[(place + step) % len(stories)]
        yield story.with_updates(endings=[story.endings[story.answer], other.endings[other.answer]], answer=0)


def storycloze_audio(source: Path, folder: Path) -> Iterator[TaskItem]:
    """Pairs of recordings; the first ending is the right one."""
    if not source.is_dir():
        raise TaskError(f"{source} is not a folder of N_correct.wav and N_incorrect.wav")
    found = sorted(path for path in source.rglob("*_correct.*") if path.suffix.lower() in SUFFIXES)
    for right in found:
        stem = right.name[: -len(f"_correct{right.suffix}")]
        wrong, beginning = (right.with_name(f"{stem}_{kind}{right.suffix}") for kind in ("incorrect", "mutual"))
        if not wrong.is_file():
            raise TaskError(f"{right} has no partner {wrong.name}")
        place = right.parent.relative_to(source)
        yield TaskItem(
            id=(place / stem).as_posix(),
            group=place.as_posix() if place.parts else "all",
            prompt=_spoken(beginning, folder) if beginning.is_file() else TaskSegment(text=""),
            endings=[_spoken(right, folder), _spoken(wrong, folder)],
            answer=0,
        )


def swuggy(source: Path, folder: Path) -> Iterator[TaskItem]:
    """A word and a non-word by the same voice, without a prompt; groups are the word's frequency bands."""
    for key, right, wrong in _gold_pairs(source, ("id", "voice"), "word"):
        try:
            frequency = float(right.get("frequency") or 0)
        except ValueError as error:
            raise TaskError(
                f"{source / 'gold.csv'}: the frequency of {key} is no number: {right['frequency']!r}"
            ) from error
        band = next((name for limit, name in BANDS if frequency < limit), ">100")
        yield _pair(key, band, source, folder, (right, right["word"]), (wrong, wrong["word"]))


def sblimp(source: Path, folder: Path) -> Iterator[TaskItem]:
    """A grammatical and an ungrammatical sentence by the same voice, without a prompt; groups are BLiMP's types."""
    for key, right, wrong in _gold_pairs(source, ("type", "subtype", "id", "voice"), "transcription"):
        yield _pair(
            key, right["type"], source, folder, (right, right["transcription"]), (wrong, wrong["transcription"])
        )


CONVERTERS: dict[str, Callable[[Path, Path], Iterator[TaskItem]]] = {
    "hellaswag": hellaswag,
    "storycloze": storycloze,
    "topic-storycloze": topic_storycloze,
    "storycloze-audio": storycloze_audio,
    "swuggy": swuggy,
    "sblimp": sblimp,
}


def _item(where: str, **fields: Any) -> TaskItem:
    """An item, or a TaskError that says where it is not one."""
    try:
        return parse_config(TaskItem, fields, where)
    except ConfigError as error:
        raise TaskError(str(error)) from error


def _gold_pairs(source: Path, key: tuple[str, ...], text: str) -> Iterator[tuple[str, dict[str, str], dict[str, str]]]:
    """(id, right row, wrong row) of gold.csv: the k-th right one of a key with its k-th wrong one; each has `text`."""
    rows: dict[tuple[str, ...], tuple[list[dict[str, str]], list[dict[str, str]]]] = {}
    for number, row in _csv_rows(source / "gold.csv"):
        where = f"{source / 'gold.csv'}:{number}"
        known, *_ = [tuple(_get(row, name, where) for name in names) for names in (key, ("filename", text))]
        correct = _get(row, "correct", where)
        if correct not in ("0", "1"):
            raise TaskError(f"{where}: correct must be 0 or 1, found {correct!r}")
        rows.setdefault(known, ([], []))[correct == "0"].append(row)
    for values, (right, wrong) in rows.items():
        if len(right) != len(wrong):
            raise TaskError(f"{source / 'gold.csv'}: {len(right)} right and {len(wrong)} wrong rows for {values}")
        for number, pair in enumerate(zip(right, wrong, strict=True)):
            yield "/".join((*values, *([str(number)] if number else []))), *pair


def _pair(
    key: str,
    group: str,
    source: Path,
    folder: Path,
    right: tuple[dict[str, str], str],
    wrong: tuple[dict[str, str], str],
) -> TaskItem:
    return TaskItem(
        id=key,
        group=group,
        prompt=TaskSegment(text=""),
        endings=[_spoken(_recording(source, row["filename"]), folder, text) for row, text in (right, wrong)],
        answer=0,
    )


def _recording(source: Path, name: str) -> Path:
    """`filename` of gold.csv is given without its suffix."""
    found = [path for suffix in ("", *SUFFIXES) if (path := source / f"{name}{suffix}").is_file()]
    if not found:
        raise TaskError(f"{source / 'gold.csv'} names {name}, and {source} has no such recording")
    return found[0]


def _spoken(path: Path, folder: Path, text: str | None = None) -> TaskSegment:
    """A recording, with its text where that is known."""
    try:
        audio = path.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError as error:
        raise TaskError(
            f"write the task file into {path.parent} or above it: audio paths stay inside its folder"
        ) from error
    beside = path.with_suffix(".txt")
    if text is None:
        text = beside.read_text(encoding="utf-8").strip() if beside.is_file() else ""
    return TaskSegment(text=text, audio=audio)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row)."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".tsv":  # where a quote is a quote: one that is not closed would swallow stories
                reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            else:
                reader = csv.DictReader(file)
            for row in reader:
                yield reader.line_num, {key: value or "" for key, value in row.items() if key is not None}
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8: {error}") from error
    except csv.Error as error:  # a cell of more than 128 KiB: a quote that is never closed
        raise TaskError(f"{path} is no table: {error}; is a quote not closed?") from error


def _get(row: dict[str, Any], name: str, where: str) -> Any:
    if row.get(name) in (None, ""):
        raise TaskError(f"{where}: {name!r} is missing; found {', '.join(row)}")
    return row[name]


if __name__ == "__main__":
    sys.exit(main())
