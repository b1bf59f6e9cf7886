"""What came with a recording: utterances with times and texts, words with times. A column of inventory and recordings."""

from __future__ import annotations

import re
from urllib.parse import quote

from schemas.config import StrictModel

GivenWord = tuple[str, int, int, int]
"""(text, start, end, channel): 16 kHz samples from the recording's start; channel -1 where the source names none."""

ENDS_A_COLUMN = re.compile(r"[\s%]|^;")
"""What a CTM cannot hold in a name, the sign of an encoded one, and what begins a comment."""


class GivenSegment(StrictModel):
    """An utterance of a recording, as its corpus states it: [start, end) in 16 kHz samples."""

    place: str
    """File and line (or row) that says so, such as "data/segments:17"."""
    start: int
    end: int | None
    """None: to the end of the recording."""
    channel: int = -1
    text: str | None = None
    language: str | None = None
    speaker: str | None = None
    id: str | None = None
    """What the corpus calls the utterance."""


class GivenProblem(StrictModel):
    """A row of the corpus that cannot be used: where it stands, and why."""

    place: str
    detail: str
    seconds: float = 0.0
    """How much audio it speaks of, as far as that can be told."""


class Given(StrictModel):
    """Everything with a time that came with one recording."""

    recording: str = ""
    """What the corpus calls the recording, where that is not its path."""
    segments: list[GivenSegment] = []
    """Ordered by channel and start, as the corpus states them: they may overlap, or reach beyond the audio."""
    problems: list[GivenProblem] = []
    whole: bool = False
    """Whether a row speaks of the recording as a whole though there are `problems`: they only say it again."""
    words: list[GivenWord] = []
    """Ordered by channel and start, over the whole recording."""
    words_place: str = ""
    """The file that the words came from."""
    words_problem: str = ""
    """Why that file gave no words."""

    def dump(self) -> str | None:
        """The JSON of the column: only what is not a default, keys sorted, so that equal content gives equal text."""
        text = self.model_dump_json(exclude_defaults=True)
        return None if text == "{}" else text


def channel_of(channel: int, channels: int) -> int:
    """A channel as segments have it: the only one of a recording is the mix, -1."""
    return -1 if channels == 1 and channel <= 0 else channel


def load_given(column: str | None) -> Given:
    """What a `given` column holds; nothing where it is null."""
    return Given() if column is None else Given.model_validate_json(column)


def stem_of(uri: str) -> str:
    """A path without the suffix of its file; a name with dots and no suffix of audio keeps them."""
    head, dot, tail = uri.rpartition(".")
    return head if dot and head and "/" not in tail and 1 <= len(tail) <= 5 and not tail.isdigit() else uri


def ctm_name(name: str) -> str:
    """A name as one column of a CTM: white space percent-encoded, as in a URL (`a b` is `a%20b`), and so the sign `%`."""
    return ENDS_A_COLUMN.sub(lambda sign: quote(sign[0]), name)
