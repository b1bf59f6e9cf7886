"""One segment's words, units and patches side by side, from the committed tables.

Name a segment or the key of a shard sample (all its segments are shown); without a name it is the first segment.
"""

from __future__ import annotations

import difflib
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs.reporting.terminal import columns, cut, fold, pad, printable
from jobs.runtime.cli import load_spec, spec_parser
from jobs.runtime.plan import Plan, make_plan
from jobs.runtime.stages import unit_tokenizer_of
from jobs.store.records import has_inventory
from jobs.store.store import Store
from schemas.arrow import RowType
from schemas.audio import PATCH_FILLER, PATCH_SILENCE, PATCH_WORD, SAMPLE_RATE
from schemas.commands.cli import command, on_one_line
from schemas.commit import SHARDS
from schemas.config import ConfigError
from schemas.tables import Patches, Recording, Reject, Segment, Transcript, Units, Word

EXAMPLES = """  python jobs/inspect_segment.py --config configs/demo.yaml
  python jobs/inspect_segment.py --config configs/demo.yaml --list
  python jobs/inspect_segment.py --config configs/demo.yaml 1f728a8b2e23eae1-0000003200-0000176000
"""
KINDS = {PATCH_WORD: "word", PATCH_SILENCE: "silence", PATCH_FILLER: "filler"}
CUTS = {
    "silence": "up to a pause",
    "max_length": "cut at the length limit",
    "end": "up to the last speech",
    "whole": "all speech of the recording",
    "given": "as its corpus gives it",
}
HEADS = ("time (s)", "frames", "word", "timing", "patch")
WIDEST_CELL = 24
LEAST_UNITS = 18
"""With fewer terminal columns left for them the units go below their patch instead of beside it."""
KEY = re.compile(r"(?P<track>.+)-(?P<start>\d{10})-(?P<end>\d{10})")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Print a segment's strips, or the list of segments."""
    parser = spec_parser(__doc__, EXAMPLES)
    parser.usage = "%(prog)s [--config CONFIG] [SEGMENT or SAMPLE KEY] [--list] [key=value ...]"
    parser.add_argument("--list", action="store_true", help="list the segments and what is said in them")
    given = parser.parse_args(arguments)
    names = [word for word in given.overrides if "=" not in word]
    given.overrides = [word for word in given.overrides if "=" in word]
    if len(names) > 1:
        raise ConfigError(f"name one segment, not {len(names)}: {', '.join(names)}")
    spec = load_spec(given)
    plan = make_plan(spec, recorded=True) if has_inventory(Store(spec.output), spec.source) else None
    if plan is None or not plan.done["segments"].any():
        raise ConfigError(
            f"there are no segments in {spec.output} yet: run python jobs/tokenize_audio.py --config {given.config}"
        )
    width = shutil.get_terminal_size((120, 24)).columns
    try:
        for line in list_segments(plan, width) if given.list else inspect(plan, names[0] if names else None, width):
            print(line)
    except BrokenPipeError:  # `| head` has seen enough
        return 0
    return 0


def read(plan: Plan, row: type[RowType], partition: int) -> list[RowType]:
    """A committed table of one partition; empty where it is not committed."""
    if not plan.done[row.TABLE][partition]:
        return []
    return plan.store.read_table(row, plan.commit(row.TABLE, partition).outputs[row.TABLE])


def read_rejects(plan: Plan, partition: int) -> dict[str, Reject]:
    """Segment -> why it went no further: the first stage that rejected it."""
    rejects: dict[str, Reject] = {}
    for stage in plan.stages:
        if stage == SHARDS or not plan.done[stage][partition]:
            continue
        commit = plan.commit(stage, partition)
        for reject in plan.store.read_table(Reject, commit.outputs["rejects"]) if "rejects" in commit.outputs else []:
            rejects.setdefault(reject.id, reject)
    return rejects


def list_segments(plan: Plan, width: int) -> Iterator[str]:
    """One line per segment: id, place in its recording, text (or why there is none)."""
    for partition in range(len(plan.partitions)):
        texts = {row.segment_id: row.text for row in read(plan, Transcript, partition)}
        rejects = read_rejects(plan, partition)
        uris = {row.recording_id: row.uri for row in read(plan, Recording, partition)}
        for segment in read(plan, Segment, partition):
            text = texts.get(segment.segment_id, "(no transcript yet)")
            if reject := rejects.get(segment.segment_id):
                text = f"[{reject.code}] {texts.get(segment.segment_id, '')}"
            uri = on_one_line(uris[segment.recording_id])
            line = f"{segment.segment_id}  {span(segment.start, segment.end)}  {uri}  {printable(text)}"
            yield cut(line, width)


def inspect(plan: Plan, name: str | None, width: int) -> Iterator[str]:
    """The lines that show the segments that `name` stands for.

    Raises:
        ConfigError: there is no such segment or sample, or there are no segments at all.
    """
    partition, segments = find(plan, name)
    for number, segment in enumerate(segments):
        if number:
            yield ""
        yield from show(gather(plan, partition, segment), width)


def find(plan: Plan, name: str | None) -> tuple[int, list[Segment]]:
    """The partition and segments that a segment id or sample key stands for; the first segment for None.

    Raises:
        ConfigError: none; the sentence names the nearest ids.
    """
    known: list[str] = []
    key = KEY.fullmatch(name or "")
    for partition in range(len(plan.partitions)):
        segments = read(plan, Segment, partition)
        if name is None and segments:
            return partition, segments[:1]
        exact = [segment for segment in segments if segment.segment_id == name]
        if exact:
            return partition, exact
        if key and (inside := segments_inside(segments, key)):
            return partition, inside
        known += [segment.segment_id for segment in segments]
    if name is None:
        raise ConfigError(f"no speech was found in {plan.spec.source.uri}: there is no segment to show")
    track = name.rpartition("-")[0].rpartition("-")[0]
    same = [item for item in known if track and item.startswith(track)]
    near = difflib.get_close_matches(name, same or known, n=3, cutoff=0.0)
    raise ConfigError(f"there is no segment or sample {name!r}; the nearest are {', '.join(near)} (--list shows all)")


def segments_inside(segments: Sequence[Segment], key: re.Match[str]) -> list[Segment]:
    """The segments of a sample: of its recording and channel, from the first's start to the last's end."""
    start, end = int(key["start"]), int(key["end"])
    inside = [
        segment
        for segment in segments
        if segment.segment_id.startswith(f"{key['track']}-{segment.start:010d}-")
        and start <= segment.start
        and segment.end <= end
    ]
    inside.sort(key=lambda segment: segment.start)
    return inside if inside and (inside[0].start, inside[-1].end) == (start, end) else []


# one segment ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """All that the tables say of a segment; None where a stage has not come that far or rejected it."""

    segment: Segment
    recording: Recording
    transcript: Transcript | None
    words: Sequence[Word]
    units: Units | None
    patches: Patches | None
    reject: Reject | None
    hop: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the columns: a patch, or a word that has none of its own."""

    time: str
    frames: str
    word: str
    timing: str
    kind: str
    units: Sequence[int]


def gather(plan: Plan, partition: int, segment: Segment) -> Inspected:
    """Read a segment's rows."""

    def mine(row: type[RowType]) -> list[RowType]:
        return [item for item in read(plan, row, partition) if getattr(item, "segment_id") == segment.segment_id]  # noqa: B009

    recordings = {item.recording_id: item for item in read(plan, Recording, partition)}
    return Inspected(
        segment=segment,
        recording=recordings[segment.recording_id],
        transcript=next(iter(mine(Transcript)), None),
        words=sorted(mine(Word), key=lambda word: word.word_index),
        units=next(iter(mine(Units)), None),
        patches=next(iter(mine(Patches)), None),
        reject=read_rejects(plan, partition).get(segment.segment_id),
        hop=unit_tokenizer_of(plan.stages["units"].cards)["hop"],
    )


def show(item: Inspected, width: int) -> Iterator[str]:
    """The head and the columns."""
    segment = item.segment
    yield from wrap(f"segment    {segment.segment_id}", width)
    channel = "" if segment.channel < 0 else f", channel {segment.channel}"
    place = f"{span(segment.start, segment.end)} s{channel}, {CUTS[segment.cut_reason]}"
    yield from wrap(f"recording  {printable(item.recording.uri)}  {place}", width)
    if item.transcript is not None:
        yield from wrap(f"text       {printable(item.transcript.text)}  ({item.transcript.language})", width)
    if item.reject is not None:
        yield from wrap(f"rejected   {item.reject.stage}: {item.reject.code}: {printable(item.reject.detail)}", width)
    lines = lines_of(item)
    if lines:
        yield ""
        yield from in_columns(lines, width) or in_paragraphs(lines, width)
    if item.units is not None and item.patches is not None:
        kinds = [KINDS[kind] for kind in item.patches.kind]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        yield ""
        yield from wrap(f"{item.units.num_frames} units in {len(kinds)} patches ({counts})", width)


def lines_of(item: Inspected) -> list[Line]:
    """A line per patch; words that have no patch of their own stand before the patch that covers their time."""
    units = item.units.units if item.units is not None else []
    if item.patches is None:
        whole = [Line(time="", frames=f"0-{len(units)}", word="", timing="", kind="", units=units)] if units else []
        return [word_line(word, "", "", ()) for word in item.words] + whole
    bounds = item.patches.bounds
    lines, shown = [], 0
    for start, end, kind, index in zip(bounds, bounds[1:], item.patches.kind, item.patches.word_index, strict=False):
        frames = f"{start}-{end}"
        if index < 0:
            time = span(start * item.hop, end * item.hop)
            lines.append(Line(time=time, frames=frames, word="", timing="", kind=KINDS[kind], units=units[start:end]))
            continue
        lines += [word_line(word, "none", "", ()) for word in item.words[shown:index]]
        lines.append(word_line(item.words[index], frames, KINDS[kind], units[start:end]))
        shown = index + 1
    return lines + [word_line(word, "none", "", ()) for word in item.words[shown:]]


def word_line(word: Word, frames: str, kind: str, units: Sequence[int]) -> Line:
    """A word with the patch it has, if any."""
    timing = f"{word.timing} {word.score:.2f}"
    text = printable(word.text)
    return Line(time=span(word.start, word.end), frames=frames, word=text, timing=timing, kind=kind, units=units)


def in_columns(lines: Sequence[Line], width: int) -> list[str]:
    """Columns, the units folded inside theirs; nothing where the terminal is too narrow for that."""
    rows = [HEADS, *((line.time, line.frames, line.word, line.timing, line.kind) for line in lines)]
    sizes = [min(max(columns(cell) for cell in column), WIDEST_CELL) for column in zip(*rows, strict=True)]
    left = sum(sizes) + 2 * len(sizes)
    if width - left < LEAST_UNITS:
        return []
    found = []
    for row, units in zip(rows, ["units", *(" ".join(map(str, line.units)) for line in lines)], strict=True):
        folded = fold(units, width - left, "", "")
        found.append(
            ("  ".join(pad(cell, size) for cell, size in zip(row, sizes, strict=True)) + f"  {folded[0]}").rstrip()
        )
        found += [" " * left + rest for rest in folded[1:]]
    return found


def in_paragraphs(lines: Sequence[Line], width: int) -> Iterator[str]:
    """A patch per paragraph, for terminals too narrow for columns."""
    for line in lines:
        facts = [line.word or f"({line.kind})", line.timing, line.frames and f"frames {line.frames}"]
        yield from wrap(f"{line.time}  " + "  ".join(fact for fact in facts if fact), width)
        if line.units:
            yield from fold(" ".join(map(str, line.units)), width, "    ", "    ")


def span(start: int, end: int) -> str:
    """A stretch of 16 kHz samples in seconds."""
    return f"{start / SAMPLE_RATE:.2f}-{end / SAMPLE_RATE:.2f}"


def wrap(text: str, width: int) -> list[str]:
    """A line of the head folded under itself."""
    return fold(text, width, "", "           " if width >= 60 else "  ")


if __name__ == "__main__":
    sys.exit(main())
