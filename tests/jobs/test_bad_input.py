"""Whatever comes in ends in the shards or in the rejects, with the right code and a sentence; nothing else is disturbed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from jobs.reporting.summary import too_many_rejects
from jobs.store.store import Store
from jobs.verify_dataset import read_stage, verify_shards, verify_tables
from schemas.config import parse_config
from schemas.reading.shard_reader import samples_of
from schemas.shards import SampleMeta, ShardIndex
from schemas.spec import PipelineSpec
from schemas.tables import Recording, recording_id
from tests.jobs.runtime.test_plan import run_here
from tests.jobs.small_corpus import ROOT, document, make_centroids
from tests.pipeline.source.bad_audio import write_bad_inputs

WHISPER = ROOT / "models" / "whisper-tiny.en"


@pytest.mark.models
@pytest.mark.skipif(not WHISPER.is_dir(), reason="needs `make models`")
def test_every_bad_input_ends_where_it_should(tmp_path: Path) -> None:
    expected = write_bad_inputs(tmp_path / "audio")
    content = document(tmp_path / "audio", tmp_path / "out", make_centroids(tmp_path / "centroids"))
    content["source"] = {"uri": str(tmp_path / "audio"), "name": "bad"}
    content["partitions"] = {"minutes": 60}
    content["stages"]["transcripts"] = {
        "backend": "whisperx",
        "model": str(WHISPER),
        "language": "en",
        "beam_size": 1,
        "compute_type": "int8",
    }
    spec = parse_config(PipelineSpec, content, origin="test")
    plan, _ = run_here(spec)
    assert plan.is_complete()
    assert list(verify_tables(plan)) == []
    assert verify_shards(plan) == []

    codes, sentences = {}, {}
    names = {}
    for partition in plan.partitions:
        for stage in ("recordings", "segments", "transcripts", "words", "units", "patches"):
            rows, rejects = read_stage(plan, stage, partition.number)
            names |= {row.recording_id: row.uri for row in rows if isinstance(row, Recording)}
            for reject in rejects:
                uri = names.get(reject.id[: len(recording_id("0" * 64))], reject.id)
                codes[uri], sentences[uri] = reject.code, reject.detail
    assert codes == {name: code for name, code in expected.items() if code is not None}
    assert all(len(sentence.split()) >= 4 for sentence in sentences.values()), sentences
    assert shard_uris(spec) == {name for name, code in expected.items() if code is None}
    complaint = too_many_rejects(plan)
    assert complaint is not None
    assert complaint.startswith("recordings rejected")


def shard_uris(spec: PipelineSpec) -> set[str]:
    """The files that are in the shards."""
    store = Store(spec.output)
    index = ShardIndex.model_validate_json(store.read_bytes("shards/index.json"))
    return {
        SampleMeta.model_validate_json(sample.read("json")).uri
        for entry in index.shards
        for sample in samples_of(io.BytesIO(store.read_bytes(f"shards/{entry.path}")))
    }
