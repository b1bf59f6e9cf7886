"""Give a task file units: its audio goes through the very stages that make training data, and the cards are written beside.

The stages are those of jobs/tokenize_audio.py, with the same code, commits and rejects; they run in this process, one partition
after the other, because a task is small. Run the same command again to go on after an interruption: what is committed is not
done again, and the result is the same byte for byte. Audio that cannot be used leaves its segment without units and is listed
in OUT.rejects.jsonl; no item is dropped.
Exit codes: 0 done, 4 more rejects than max_reject_rate, 2 a mistake in the task or the spec.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tqdm import tqdm

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs.cluster.limits import cuda_stages
from jobs.runtime.cli import load_spec
from jobs.runtime.drive import prepare, run_in_process
from jobs.runtime.plan import Plan, plan_items, refresh
from jobs.runtime.stages import unit_tokenizer_of
from jobs.store.lease import owned
from pipeline.networks.model_files import torch_device
from pipeline.source.inventory import list_files
from schemas.arrow import RowType
from schemas.commands.cli import Parser, command, out_file
from schemas.errors import ExitCode
from schemas.spec import PipelineSpec
from schemas.tables import Patches, Recording, Reject, Segment, Units, Word
from schemas.tasks import Task, TaskError, TaskHeader, TaskItem, TaskSegment, read_task, write_task

EXAMPLES = """  python jobs/prepare_task.py --config configs/demo.yaml tasks/cloze/task.jsonl tasks/cloze/units.jsonl
  python jobs/prepare_task.py --config configs/demo.yaml task.jsonl out.jsonl 'stages.transcripts={backend: transcript}'
"""
LAST = Patches.TABLE


@dataclass(frozen=True, kw_only=True)
class PreparedSpeech:
    """What the stages made of one audio file: the segments' units one after the other, as in a passage of a shard."""

    units: list[int]
    words: list[tuple[str, int, int]] | None
    """None: some segment could not be transcribed or aligned."""


@dataclass(frozen=True, kw_only=True)
class WithoutUnits:
    """Why a file has no units, or no words."""

    audio: str
    stage: str
    code: str
    detail: str
    units_lost: bool


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pipeline's stages over a task's audio and write the task with units."""
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument("--config", required=True, help="the pipeline spec that the training data was made with")
    parser.add_argument("task", type=Path, help="a task file with audio")
    parser.add_argument("out", type=out_file, help="the task file to write")
    parser.add_argument("--work", type=Path, help="where tables and commits are kept (default: OUT.work)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a field of the spec")
    given = parser.parse_args(arguments)
    task = read_task(given.task)
    if not given.task.resolve().is_relative_to(given.out.resolve().parent):
        raise TaskError(
            f"write the result beside {given.task}, or above it: its audio paths must stay inside its folder"
        )
    work = given.work or given.out.with_name(f"{given.out.name}.work")
    spec = spec_for(load_spec(given), task, work)
    plan = make_task_plan(spec, task)
    run_here(plan)
    spoken, refused = collect(plan)
    header, items = fill(task, plan, spoken, given.out)
    write_task(given.out, header, items)
    rejects = write_rejects(given.out, task, refused)
    return report(given.out, items, refused, rejects, spec.max_reject_rate)


def spec_for(spec: PipelineSpec, task: Task, work: Path) -> PipelineSpec:
    """The training spec with the task's folder as its source: everything that decides units and words stays."""
    assert task.path is not None
    document = spec.model_dump(mode="json")
    document["source"] |= {"uri": str(task.path.parent.resolve()), "transcripts": "none", "manifest": None}
    document["output"] = str(work.resolve())
    document["partitions"] = {"minutes": min(spec.partitions.minutes, 5.0), "files": min(spec.partitions.files, 200)}
    return PipelineSpec.model_validate(document)


def make_task_plan(spec: PipelineSpec, task: Task) -> Plan:
    """The plan for the task's audio, each file with its text.

    Raises:
        TaskError: there is no audio, a file is missing, or one file is given two texts.
        ConfigError: a model or the centroids are missing.
    """
    texts: dict[str, tuple[str, str]] = {}
    missing: list[str] = []
    for item in task.items:
        for segment in item.segments:
            if segment.audio is None:
                continue
            if segment.audio not in texts and not task.audio_path(segment).is_file():
                missing.append(f"{segment.audio} (item {item.id})")
            text, other = texts.setdefault(segment.audio, (segment.text, item.id))
            if text != segment.text:
                raise TaskError(
                    f"{task.path}: {segment.audio} is given two texts, in items {other} and {item.id}: {text!r} and "
                    f"{segment.text!r}"
                )
    if missing:
        raise TaskError(f"{task.path}: {len(missing)} audio files are missing: {', '.join(missing[:3])}")
    if not texts:
        raise TaskError(f"{task.path} names no audio: a task of text alone is scored as it is")
    return plan_items(spec, list_files(spec.source, {name: text for name, (text, _) in texts.items()}), LAST)


def run_here(plan: Plan) -> None:
    """Bring every stage to completion in this process, partition by partition; each is committed as it ends."""
    for _ in cuda_stages(plan.spec):
        torch_device("cuda")  # known now, and not after the stages before it
    with owned(plan.store, "prepare_task"):
        for sentence in prepare(plan):
            print(sentence, file=sys.stderr)
        names = tuple(plan.stages)
        total = sum(float(plan.unit_hours(name)[~plan.done[name]].sum()) for name in names) or 1.0
        form = "{desc:12} {percentage:3.0f}% |{bar:20}| {elapsed} gone, {remaining} left"
        with tqdm(total=total, bar_format=form, disable=not sys.stderr.isatty(), file=sys.stderr) as bar:

            def tell(name: str, number: int) -> None:
                bar.set_description_str(name)
                bar.update(min(float(plan.unit_hours(name)[number]), total - bar.n))

            if failed := run_in_process(plan, names, tell):
                raise TaskError(f"{len(failed)} partitions could not be worked on: {failed[0]}")
    refresh(plan)
    assert plan.is_complete()


def collect(plan: Plan) -> tuple[dict[str, PreparedSpeech], list[WithoutUnits]]:
    """What each file became, by uri, and what was refused."""
    recordings = {row.recording_id: row for row in _rows(plan, Recording)}
    words: dict[str, list[Word]] = {}
    for word in _rows(plan, Word):
        words.setdefault(word.segment_id, []).append(word)
    units = {row.segment_id: row for row in _rows(plan, Units)}
    patches = {row.segment_id: row for row in _rows(plan, Patches)}
    segments: dict[str, list[Segment]] = {}
    for segment in _rows(plan, Segment):
        segments.setdefault(segment.recording_id, []).append(segment)
    spoken: dict[str, PreparedSpeech] = {}
    for recording_id, members in segments.items():
        members.sort(key=lambda segment: (segment.channel, segment.start))
        if all(segment.segment_id in units for segment in members):
            spoken[recordings[recording_id].uri] = _join(members, units, words, patches)
    items = {item.uri: item for part in plan.partitions for item in part.items}
    copies = {uri: item.duplicate_of for uri, item in items.items() if item.duplicate_of is not None}
    spoken |= {uri: spoken[original] for uri, original in copies.items() if original in spoken}
    uri_of = {segment.segment_id: recordings[key].uri for key, members in segments.items() for segment in members}
    uri_of |= {key: recording.uri for key, recording in recordings.items()}
    refused = []
    for reject in _rows(plan, Reject):
        uri = uri_of.get(reject.id, reject.id)
        if reject.code != "duplicate":
            refused.append(
                WithoutUnits(
                    audio=uri, stage=reject.stage, code=reject.code, detail=reject.detail, units_lost=uri not in spoken
                )
            )
    refused += [
        WithoutUnits(**{**asdict(entry), "audio": uri})
        for uri, original in copies.items()
        for entry in refused
        if entry.audio == original
    ]
    if plan.spec.stages.transcripts.backend == "transcript":
        for uri, original in copies.items():
            if original in spoken and items[uri].transcript != items[original].transcript:
                spoken[uri] = replace(spoken[original], words=None)
                detail = f"its bytes equal those of {original}, whose text is another: it has units, and no words"
                refused.append(
                    WithoutUnits(audio=uri, stage=Word.TABLE, code="duplicate", detail=detail, units_lost=False)
                )
    return spoken, refused


def _join(
    members: Sequence[Segment], units: dict[str, Units], words: dict[str, list[Word]], patches: dict[str, Patches]
) -> PreparedSpeech:
    joined: list[int] = []
    found: list[tuple[str, int, int]] = []
    complete = True
    for segment in members:
        key, offset = segment.segment_id, len(joined)
        joined += units[key].units
        if key not in patches:
            complete = False
            continue
        frames = patches[key].word_frames
        ordered = sorted(words[key], key=lambda word: word.word_index)
        for word, start, end in zip(ordered, frames[::2], frames[1::2], strict=True):
            found.append((word.text, offset + start, offset + end))
    return PreparedSpeech(units=joined, words=found if complete else None)


def _rows(plan: Plan, row: type[RowType]) -> Iterator[RowType]:
    """All rows of a table, through the commits; rejects are spread over the stages."""
    for stage in plan.stages if row is Reject else [row.TABLE]:
        for commit in plan.commits(stage):
            if row.TABLE in commit.outputs:
                yield from plan.store.read_table(row, commit.outputs[row.TABLE])


def fill(task: Task, plan: Plan, spoken: dict[str, PreparedSpeech], out: Path) -> tuple[TaskHeader, list[TaskItem]]:
    """The header with its cards, and the items with units and words."""
    cards = {card.card_id: card for stage in plan.stages.values() for card in stage.cards}
    facts = unit_tokenizer_of(cards.values())
    header = task.header.with_updates(cards={name: card.model_dump() for name, card in cards.items()}, **facts)
    return header, [
        item.with_updates(
            prompt=_filled(item.prompt, task, spoken, out),
            endings=[_filled(segment, task, spoken, out) for segment in item.endings],
        )
        for item in task.items
    ]


def _filled(segment: TaskSegment, task: Task, spoken: dict[str, PreparedSpeech], out: Path) -> dict[str, object]:
    document = segment.model_dump() | {"units": None, "words": None}
    if segment.audio is not None:
        assert task.path is not None
        if found := spoken.get(segment.audio):
            document |= {"units": found.units, "words": found.words}
        place = (task.path.parent.resolve() / segment.audio).relative_to(out.parent.resolve())
        document["audio"] = place.as_posix()
    return document


def write_rejects(out: Path, task: Task, refused: Sequence[WithoutUnits]) -> Path:
    """OUT.rejects.jsonl: a line per refused file, with the items that use it. Without any, there is no such file."""
    path = out.with_name(f"{out.name}.rejects.jsonl")
    users: dict[str, list[str]] = {}
    for item in task.items:
        for segment in item.segments:
            if segment.audio is not None:
                users.setdefault(segment.audio, []).append(item.id)
    path.unlink(missing_ok=True)
    if refused:
        rows = [asdict(entry) | {"items": users[entry.audio]} for entry in sorted(refused, key=lambda e: e.audio)]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def report(
    out: Path, items: Sequence[TaskItem], refused: Sequence[WithoutUnits], rejects: Path, limit: float
) -> ExitCode:
    """Say what came of it; NOT_ACCEPTED where too much was lost."""
    ready = sum(all(segment.audio is None or segment.units is not None for segment in item.segments) for item in items)
    print(f"{out}: {ready} of {len(items)} items have all their speech in units")
    if refused:
        lost = sorted({entry.audio for entry in refused if entry.units_lost})
        wordless = len({entry.audio for entry in refused} - set(lost))
        print(f"{rejects}: {len(lost)} files without units, {wordless} with units and without words")
        for entry in [entry for entry in refused if entry.units_lost][:5]:
            print(f"  {entry.audio}: {entry.stage}: {entry.detail}")
    if ready < len(items) * (1 - limit):
        print(f"error: {len(items) - ready} items are incomplete, more than max_reject_rate {limit:g}", file=sys.stderr)
        return ExitCode.NOT_ACCEPTED
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
