"""Corpora by their own tools through `lst init` and the whole line: counts, times, texts and words equal what went in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.corpora.init import main as init
from jobs.prepare_task import run_here
from jobs.runtime.plan import Plan, make_plan
from schemas.arrow import RowType
from schemas.config import parse_config
from schemas.spec import PipelineSpec
from schemas.tables import Patches, Recording, Reject, Segment, Transcript, Units, Word
from tests.jobs.corpora.own_tools import MAKERS
from tests.jobs.small_corpus import make_centroids


def rows_of(plan: Plan, row: type[RowType]) -> list[RowType]:
    return [
        item
        for stage in ("recordings", "segments", "transcripts", "words", "units", "patches")
        for commit in plan.commits(stage, with_rejects=row is Reject)
        if row.TABLE in commit.outputs
        for item in plan.store.read_table(row, commit.outputs[row.TABLE])
    ]


def spec_by_init(folder: Path, corpus: Path, **source: object) -> dict[str, Any]:
    """The spec that `lst init` writes, with units and an aligner that need no model to be fetched."""
    assert init([str(corpus), "--out", str(folder / "spec.yaml"), "--name", "test"]) == 0
    raw: dict[str, Any] = yaml.safe_load((folder / "spec.yaml").read_text(encoding="utf-8"))
    raw["source"] |= source
    raw["output"] = str(folder / "out")
    make_centroids(folder / "centroids")
    raw["stages"]["units"] = {"encoder": {"backend": "mfcc"}, "centroids": str(folder / "centroids")}
    raw["kmeans"] = {"num_units": 16, "seed": 0}
    if raw["stages"]["words"]["backend"] != "given":
        raw["stages"]["words"] = {"backend": "soundswallower"}
    raw["max_reject_rate"] = 0.5
    return raw


@pytest.mark.parametrize("name", MAKERS)
def test_a_corpus_goes_through_the_whole_line(name: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    expected = MAKERS[name](corpus)
    raw = spec_by_init(tmp_path, corpus, **(expected.source or {}))
    assert raw["source"]["layout"] == name.partition("-")[0]
    plan = make_plan(parse_config(PipelineSpec, raw, origin="test"), until="patches")
    run_here(plan)
    uris = {row.recording_id: row.uri for row in rows_of(plan, Recording)}
    segments = rows_of(plan, Segment)
    texts = {row.segment_id: row.text for row in rows_of(plan, Transcript)}
    rejects = rows_of(plan, Reject)
    found = {(uris[row.recording_id], row.start, row.end, texts[row.segment_id]) for row in segments}
    assert found == expected.rows, rejects
    assert len(rejects) == expected.rejects
    words: dict[str, list[Word]] = {}
    for word in rows_of(plan, Word):
        words.setdefault(word.segment_id, []).append(word)
    frames = {row.segment_id: row.num_frames for row in rows_of(plan, Units)}
    patches = {row.segment_id for row in rows_of(plan, Patches)}
    for segment in segments:
        assert len(words[segment.segment_id]) == len(texts[segment.segment_id].split())
        assert frames[segment.segment_id] == (segment.end - segment.start) // 640
        assert segment.segment_id in patches
