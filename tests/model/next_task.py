"""A task out of speech shards: which of two segments comes next? For tests that score a run on its own data."""

from __future__ import annotations

from pathlib import Path

from model.data.compose import Utterance, segments_of
from model.data.shards import ShardSet
from schemas.tasks import TaskHeader, TaskItem, TaskSegment, write_task


def write_next_task(index: Path, path: Path) -> None:
    """An item per passage of more than one segment, the wrong ending from another passage, and one item of text alone."""
    shards = ShardSet(str(index))
    passages = [segments_of(shards.read(shard, n)) for shard, count in enumerate(shards.counts) for n in range(count)]
    spoken = [[_segment(u) for u in passage] for passage in passages if len(passage) > 1]
    items = [
        TaskItem(id=str(n), group="odd" if n % 2 else "even", prompt=first, endings=[second, other], answer=0)
        for n, ((first, second, *_), (_, other, *_)) in enumerate(zip(spoken, spoken[1:] + spoken[:1], strict=True))
    ]
    letters = [TaskSegment(text="a"), TaskSegment(text="b")]
    text = TaskItem(id="text", group="even", prompt=TaskSegment(text=""), endings=letters, answer=1)
    header = TaskHeader(task="next", cards=shards.index.cards, num_units=shards.index.num_units, hop=shards.index.hop)
    write_task(path, header, [*items, text])


def _segment(utterance: Utterance) -> TaskSegment:
    spans = zip(utterance.char_spans, utterance.words.tolist(), strict=True)
    words = [(utterance.text[a:b], start, end) for (a, b), (start, end) in spans]
    return TaskSegment(text=utterance.text, units=utterance.units.tolist(), words=words)
