"""What a shard's commit counts."""

from collections import defaultdict
from types import SimpleNamespace

from jobs.runtime.shard_writer import _add, belief
from pipeline.shards import Passage
from tests.pipeline.test_shards import make_record, make_recording


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
    commit = SimpleNamespace(sums=sums)
    assert belief([commit, commit]) == {"doubtful_words": 4, "speech_uncovered": 2.0}  # type: ignore[list-item]
