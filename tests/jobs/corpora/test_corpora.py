"""Corpora through the whole line: a long recording with given utterances becomes patches at the very times that were given."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from jobs.exports.export import main
from jobs.exports.spoken import seconds
from jobs.prepare_task import run_here
from jobs.runtime.accounting import totals
from jobs.runtime.plan import Plan, make_plan
from schemas.arrow import RowType
from schemas.config import parse_config
from schemas.spec import PipelineSpec
from schemas.tables import TABLES, Patches, Segment, Transcript, Units, Word
from tests.jobs.runtime.test_plan import run_here as run_all
from tests.jobs.small_corpus import DEMO, document, make_centroids
from tests.pipeline.corpora.fixtures import write_tar

SPOKEN = {
    line.split("\t")[0]: line.split("\t")[-1]
    for line in (DEMO / "manifest.tsv").read_text(encoding="utf-8").splitlines()
    if line.startswith("sense")
}


def rows_of(plan: Plan, row: type[RowType]) -> list[RowType]:
    return [
        item for commit in plan.commits(row.TABLE) for item in plan.store.read_table(row, commit.outputs[row.TABLE])
    ]


def run(folder: Path, layout: str, **stages: object) -> Plan:
    """The corpus in folder/corpus through all stages up to the patches, in this process."""
    make_centroids(folder / "centroids")
    raw = document(folder / "corpus", folder / "out", folder / "centroids")
    raw["source"] = {"uri": str(folder / "corpus"), "layout": layout}
    raw["stages"] |= {"segments": {"backend": "given"}, **stages}
    plan = make_plan(parse_config(PipelineSpec, raw, origin="test"), until="patches")
    run_here(plan)
    return plan


@pytest.fixture(scope="module")
def long_kaldi(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, dict[str, tuple[int, int]]]:
    """Five utterances in one recording of 60 s, with pauses; two rows of `segments` are wrong."""
    folder = tmp_path_factory.mktemp("kaldi")
    (folder / "corpus").mkdir()
    pieces: list[np.ndarray] = []
    times: dict[str, tuple[int, int]] = {}
    for name in SPOKEN:
        pieces.append(np.zeros(100_000 + 7 * len(times), dtype=np.float32))
        begin = sum(map(len, pieces))
        pieces.append(soundfile.read(DEMO / name, dtype="float32")[0])
        times[name.removesuffix(".flac")] = (begin, begin + len(pieces[-1]))
    soundfile.write(folder / "corpus/long.flac", np.concatenate(pieces), 16_000)
    table = "".join(f"{key} long {start / 16_000:.6f} {end / 16_000:.6f}\n" for key, (start, end) in times.items())
    (folder / "corpus/wav.scp").write_text("long long.flac\n")
    (folder / "corpus/segments").write_text(table + "wrong-1 long 5 4\nwrong-2 long 50 600\n")
    (folder / "corpus/text").write_text("".join(f"{key} {SPOKEN[key + '.flac']}\n" for key in times))
    return run(folder, "kaldi"), times


def test_utterances_keep_their_times_and_texts_to_the_sample(
    long_kaldi: tuple[Plan, dict[str, tuple[int, int]]],
) -> None:
    plan, times = long_kaldi
    segments: Sequence[Segment] = sorted(rows_of(plan, Segment), key=lambda row: row.start)
    assert [(row.start, row.end) for row in segments] == list(times.values())
    texts = {row.segment_id: row.text for row in rows_of(plan, Transcript)}
    assert [texts[row.segment_id] for row in segments] == [SPOKEN[f"{key}.flac"] for key in times]
    frames = {row.segment_id: row.num_frames for row in rows_of(plan, Units)}
    assert frames == {row.segment_id: (row.end - row.start) // 640 for row in segments}
    assert {row.segment_id for row in rows_of(plan, Patches)} == frames.keys()
    words = rows_of(plan, Word)
    assert len(words) == sum(len(text.split()) for text in texts.values())


def test_rows_that_cannot_be_used_are_rejects_beside_the_segments(
    long_kaldi: tuple[Plan, dict[str, tuple[int, int]]],
) -> None:
    plan, _ = long_kaldi
    (commit,) = plan.commits("segments")
    rejects = plan.store.read_table(TABLES["rejects"], commit.outputs["rejects"])
    assert [(row.part, row.code) for row in rejects] == [("segments:6", "bad_row"), ("segments:7", "bad_row")]  # type: ignore[attr-defined]
    assert (commit.rows_in, commit.rows_out, commit.rows_rejected) == (1, 1, 0)
    assert totals(plan, "segments").rejects == {"bad_row": 2}


def shards_of(folder: Path, corpus: Path, **source: object) -> dict[str, bytes]:
    """The members of the shards of a corpus whose words are given, by name."""
    if not (folder.parent / "centroids").exists():
        make_centroids(folder.parent / "centroids")
    raw = document(corpus, folder, folder.parent / "centroids")
    raw["source"] = {"uri": str(corpus), **source}
    raw["stages"] |= {"segments": {"backend": "given"}, "words": {"backend": "given"}}
    plan, _ = run_all(parse_config(PipelineSpec, raw, origin="test"))
    assert plan.is_complete()
    return {
        member.name: tar.extractfile(member).read()  # type: ignore[union-attr]
        for path in sorted((folder / "shards").glob("*.tar"))
        for tar in [tarfile.open(path)]
        for member in tar.getmembers()
    }


def with_words(tmp_path: Path) -> tuple[Path, str]:
    """One recording and a CTM of its words; the folder, and the name of the recording."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    name = "sense_and_sensibility_0870.flac"
    shutil.copy(DEMO / name, corpus / name)
    words = SPOKEN[name].split()
    edges = np.linspace(2_000, 110_000, 2 * len(words)).astype(int)
    rows = [
        f"{name[:-5]} 1 {seconds(int(a))} {seconds(int(b - a))} {word}\n"
        for word, a, b in zip(words, edges[::2], edges[1::2], strict=True)
    ]
    (corpus / "first.ctm").write_text("".join(rows))
    return corpus, name


@pytest.mark.parametrize(
    "form, pattern",
    [("textgrid", "*.TextGrid"), ("ctm", "*.ctm"), ("lst-jsonl", "*.on_the_fly"), ("slamkit", "*.jsonl")],
)
def test_exported_words_come_back_as_they_went(form: str, pattern: str, tmp_path: Path) -> None:
    """Words -> shards -> an export -> `words: given` -> shards: equal units, bounds and words, to the frame."""
    corpus, _ = with_words(tmp_path)
    first = shards_of(tmp_path / "one", corpus, words=["first.ctm"])
    (corpus / "first.ctm").unlink()
    assert main([str(tmp_path / "one/shards/index.json"), "--format", form, "--out", str(tmp_path / "export")]) == 0
    shutil.copytree(tmp_path / "export", corpus / "export")
    second = shards_of(tmp_path / "two", corpus, words=[f"export/{pattern}"])
    assert first.keys() == second.keys()
    for member in first:
        if member.endswith(".json"):
            one, other = json.loads(first[member]), json.loads(second[member])
            assert one == other
        else:
            assert first[member] == second[member], member


def test_shards_come_back_from_lhotse(tmp_path: Path) -> None:
    """Shards -> cuts with alignments, written by lhotse -> shards: the same bytes, for the cuts point into the same audio."""
    corpus, _ = with_words(tmp_path)
    first = shards_of(tmp_path / "one", corpus, words=["first.ctm"])
    index = str(tmp_path / "one/shards/index.json")
    card = (tmp_path / "one/shards/README.md").read_text(encoding="utf-8")
    made = [
        line.split("|") for line in card.splitlines() if line.startswith(("| aligner", "| asr", "| vad", "| encoder"))
    ]
    licences = {columns[1].strip(): columns[4].strip() for columns in made}
    own = "no model: the corpus's own"
    assert licences == {"aligner": own, "asr": own, "encoder": "no weights", "vad": own}
    assert main([index, "--format", "lhotse", "--audio", str(corpus), "--out", str(tmp_path / "export")]) == 0
    shutil.copy(tmp_path / "export/cuts.jsonl.gz", corpus / "cuts.jsonl.gz")
    assert shards_of(tmp_path / "two", corpus, layout="lhotse") == first


def test_speakers_reach_shards_exports_and_the_card(tmp_path: Path) -> None:
    """Two speakers of one recording, by a manifest: in the segments of its sample, in lhotse's cuts, and back from there."""
    corpus, name = with_words(tmp_path)
    rows = [line.split() for line in (corpus / "first.ctm").read_text().splitlines()]
    half = len(rows) // 2
    cut = seconds(round((float(rows[half - 1][2]) + float(rows[half - 1][3]) + float(rows[half][2])) * 8_000))
    said = [" ".join(row[4] for row in part) for part in (rows[:half], rows[half:])]
    (corpus / "m.csv").write_text(
        f'file,start,end,transcript,speaker\n{name},0,{cut},"{said[0]}",ann\n{name},{cut},7,"{said[1]}",ben\n'
    )
    first = shards_of(tmp_path / "one", corpus, layout="manifest", manifest="m.csv", words=["first.ctm"])
    (meta,) = (json.loads(content) for member, content in first.items() if member.endswith(".json"))
    assert [span["speaker"] for span in meta["segments"]] == ["ann", "ben"]
    index = tmp_path / "one/shards/index.json"
    assert main([str(index), "--format", "lhotse", "--audio", str(corpus), "--out", str(tmp_path / "export")]) == 0
    assert "| speakers | named in 0.00 h, segment by segment |" in (tmp_path / "export/README.md").read_text()
    for path in (corpus / "m.csv", corpus / "first.ctm"):
        path.unlink()
    shutil.copy(tmp_path / "export/cuts.jsonl.gz", corpus / "cuts.jsonl.gz")
    assert shards_of(tmp_path / "two", corpus, layout="lhotse") == first


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
def test_recordings_in_containers_give_the_shards_of_the_same_files(layout: str, tmp_path: Path) -> None:
    """Through every stage: what lies in a tar or a Parquet file gives the units, words and patches of the file itself."""
    corpus, name = with_words(tmp_path)
    one = shards_of(tmp_path / "one", corpus, words=["first.ctm"])
    inside = tmp_path / "inside"
    inside.mkdir()
    words = (corpus / "first.ctm").read_text()
    content = (corpus / name).read_bytes()
    if layout == "webdataset":
        write_tar(inside / "a.tar", [(f"deep/{name}", content), ("other.txt", b"nothing")])
    else:
        pq.write_table(pa.table({"audio": [{"bytes": content, "path": name}]}), inside / "a.parquet")
        words = words.replace(name[:-5], "a.parquet#00000000")
    (inside / "first.ctm").write_text(words)
    other = shards_of(tmp_path / "two", inside, layout=layout, words=["first.ctm"])
    assert one.keys() == other.keys()
    for member in one:
        if member.endswith(".json"):
            assert json.loads(one[member]) | {"uri": ""} == json.loads(other[member]) | {"uri": ""}
            assert json.loads(other[member])["uri"].startswith("a.")
        else:
            assert one[member] == other[member]
