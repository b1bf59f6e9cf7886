"""Object storage for real: the whole line from s3 to s3 against a server process, with its failures."""

from __future__ import annotations

import random
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from jobs.gc import collect
from jobs.runtime.drive import prepare, run_in_process
from jobs.runtime.plan import Plan, make_plan, refresh
from jobs.runtime.published import publish
from jobs.runtime.shard_index import write_index
from jobs.store.store import Store
from jobs.verify_dataset import verify_shards, verify_tables
from model.data.shards import ShardCache, ShardSet
from pipeline.codebook.folder import kmeans_card, load_centroids, write_centroids
from pipeline.source.inventory import survey
from pipeline.source.listing import describe
from schemas import open_output
from schemas.errors import CredentialsError, ExitCode, StorageError
from schemas.shards import ShardIndex
from schemas.spec import STAGES, Source
from schemas.storage import files, retry
from tests.jobs.growth.growing import GrowingSource, make_spec, run, shards_of, use_counting_stages
from tests.s3_server import Server

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto.server")


def corpus(folder: Path, name: str, count: int = 9) -> GrowingSource:
    """A corpus here and under s3://bucket/<name>/audio."""
    source = GrowingSource(folder / "audio", random.Random(1))
    for _ in range(count):
        source.add()
    source.write_manifest()
    s3fs.S3FileSystem().put(f"{source.folder}/", f"bucket/{name}/audio/", recursive=True)
    return source


def finish(plan: Plan) -> None:
    refresh(plan)
    assert plan.is_complete()
    write_index(plan)
    publish(plan)


def remote_shards(root: str) -> dict[str, bytes]:
    store = Store(root)
    index = store.read_bytes("shards/index.json")
    listed = ShardIndex.model_validate_json(index).shards
    return {"index": index, **{entry.path: store.read_bytes(f"shards/{entry.path}") for entry in listed}}


def test_the_whole_line_from_s3_to_s3(calm: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte-equal shards, few requests, nothing of the source read twice, trained on and asked from there."""
    use_counting_stages(monkeypatch)
    source = corpus(tmp_path, "line")
    local = make_spec(str(source.folder), str(tmp_path / "out"), tmp_path / "centroids")
    run(local)
    spec = make_spec("s3://bucket/line/audio", "s3://bucket/line/out", tmp_path / "centroids")
    calm.requests()
    plan = make_plan(spec)
    first = calm.requests()
    fetched = sum(sent for kind, key, _, sent in first if kind == "GET" and "/audio/" in key)
    assert fetched <= 0.1e6 * len(source.files)
    make_plan(spec, recorded=True)
    assert not [key for _, key, *_ in calm.requests() if "/audio/" in key], "a dry run reads the table"
    prepare(plan)
    calm.requests()
    assert run_in_process(plan, STAGES) == []
    of_workers = ("/audio/", "/control/", "/cards/")  # the source, and what a worker asks once
    asked = [(kind, key) for kind, key, *_ in calm.requests() if not any(part in key for part in of_workers)]
    work = len(plan.partitions) * (len(STAGES) - 1)
    assert len(asked) <= 8 * work, Counter((kind, "/".join(key.split("/")[4:6])) for kind, key in asked)
    assert Counter(kind for kind, _ in asked)["LIST"] <= 2, "of the driver, for the markers of the run"
    finish(plan)
    local_shards = shards_of(tmp_path / "out")
    remote = remote_shards(spec.output)
    assert remote["index"].decode() == local_shards["index"]
    assert {name: files.sha256(data) for name, data in remote.items() if name != "index"} == {
        name: digest for name, digest in local_shards.items() if name != "index"
    }
    calm.requests()
    again = make_plan(spec)
    asked = [kind for kind, key, *_ in calm.requests()]
    assert again.is_complete()
    assert "GET" not in {kind for kind, key, *_ in calm.requests() if key.endswith(".wav")}
    assert list(verify_tables(again)) == []
    assert verify_shards(again) == []
    assert open_output(spec.output).words.count_rows() == open_output(local.output).words.count_rows() > 0
    shards = ShardSet(f"{spec.output}/shards/index.json", ShardCache(tmp_path / "cache", 10**9))
    assert shards.read(0, 0).meta.num_frames > 0


def test_one_object_that_fails_costs_its_partition_and_not_the_run(
    calm: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_counting_stages(monkeypatch)
    monkeypatch.setattr(retry, "RETRY_SECONDS", 3.0)
    corpus(tmp_path, "fail")
    spec = make_spec("s3://bucket/fail/audio", "s3://bucket/fail/out", tmp_path / "centroids")
    plan = make_plan(spec)
    prepare(plan)
    run_in_process(plan, ["recordings"])
    path = plan.commit("recordings", 1).outputs["recordings"].path
    calm.fail({"method": "GET", "contains": path, "status": 500, "code": "InternalError"})
    (said,) = run_in_process(plan, STAGES)
    assert path in said
    assert "could not be reached" in said
    refresh(plan)
    assert [int(plan.done["units"].sum()), plan.pending("units")] == [len(plan.partitions) - 1, [1]]
    calm.fail()
    prepare(plan)
    assert run_in_process(plan, STAGES) == []
    finish(plan)


def test_audio_that_cannot_be_read_is_no_reject(calm: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a file of the source answers 503 its partition waits; listed anew meanwhile, it is not called missing."""
    use_counting_stages(monkeypatch)
    monkeypatch.setattr(retry, "RETRY_SECONDS", 3.0)
    source = corpus(tmp_path, "audio503")
    local = make_spec(str(source.folder), str(tmp_path / "out"), tmp_path / "centroids")
    run(local)
    spec = make_spec("s3://bucket/audio503/audio", "s3://bucket/audio503/out", tmp_path / "centroids")
    plan = make_plan(spec)
    prepare(plan)
    item = next(item for item in plan.partitions[1].items if item.seconds and not item.duplicate_of)
    away = {"method": "GET", "contains": f"/audio/{item.uri}", "status": 503, "code": "ServiceUnavailable"}
    calm.fail(away)
    (said,) = run_in_process(plan, STAGES)
    assert item.uri in said
    refresh(plan)
    assert plan.pending("recordings") == [1]
    source.add()
    source.write_manifest()
    s3fs.S3FileSystem().put(f"{source.folder}/", "bucket/audio503/second/audio/", recursive=True)
    calm.fail(away | {"contains": f"/second/audio/{item.uri}"})
    second = make_spec("s3://bucket/audio503/second/audio", "s3://bucket/audio503/second/out", tmp_path / "centroids")
    with pytest.raises(StorageError, match=re.escape(item.uri)):
        make_plan(second)
    calm.fail()
    prepare(plan)
    assert run_in_process(plan, STAGES) == []
    finish(plan)
    assert remote_shards(spec.output)["index"].decode() == shards_of(tmp_path / "out")["index"]


@pytest.mark.parametrize("status, code", [(500, "InternalError"), (503, "ServiceUnavailable")])
def test_a_storage_that_is_away_for_a_while_is_asked_again(
    calm: Server, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    store = Store(f"s3://bucket/away{status}")
    store.write_bytes("x", b"data")
    pauses = []

    def wait(seconds: float) -> None:
        pauses.append(seconds)
        calm.fail()

    monkeypatch.setattr(retry.time, "sleep", wait)
    calm.fail({"method": "GET", "contains": "/x", "status": status, "code": code})
    assert store.read_bytes("x") == b"data"
    assert pauses


def test_the_first_commit_wins_however_the_storage_says_so(calm: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("s3://bucket/first")
    assert store.create_exclusively("a", b"1")
    assert not store.create_exclusively("a", b"2")
    calm.fail(
        {"method": "PUT", "contains": "/a", "status": 412, "code": "PreconditionFailed"}
    )  # no <Condition>, as MinIO
    assert not store.create_exclusively("a", b"3")
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: calm.fail())
    calm.fail({"method": "PUT", "contains": "/b", "status": 409, "code": "ConditionalRequestConflict"})
    assert store.create_exclusively("b", b"1"), "two at once: asked again"
    assert store.read_bytes("a") == b"1"


def test_an_expired_token_is_a_sentence(calm: Server) -> None:
    store = Store("s3://bucket/expired")
    calm.fail({"method": "PUT", "contains": "expired", "status": 400, "code": "ExpiredToken"})
    with pytest.raises(CredentialsError, match=r"credentials for s3://bucket/expired/x have expired .*renew them"):
        store.write_bytes("x", b"")


def test_an_expired_token_is_not_taken_for_damage_or_for_nothing(calm: Server, tmp_path: Path) -> None:
    """Of the log, of an inventory and of a text beside the audio: it says that nothing was read."""
    source = corpus(tmp_path, "token", count=2)
    (tmp_path / "x.trans.txt").write_text("file000 words\n")
    s3fs.S3FileSystem().put(str(tmp_path / "x.trans.txt"), "bucket/token/audio/x.trans.txt")
    spec = make_spec("s3://bucket/token/audio", "s3://bucket/token/out", tmp_path / "centroids")
    spec = spec.with_updates(source=spec.source.with_updates(manifest=None, transcripts="sidecar").model_dump())
    plan = make_plan(spec)
    assert len(plan.partitions.table) == len(source.files)
    plan.store.write_bytes("commits/words/x/part-1-0123456789abcdef.parquet", b"")
    for place in (".trans.txt", "inventory/", "commits/words/"):
        calm.fail({"method": "GET", "contains": place, "status": 400, "code": "ExpiredToken"})
        with pytest.raises(CredentialsError, match="have expired"):
            make_plan(spec) if place == ".trans.txt" else collect(make_plan(spec, recorded=True), stale=False)


def test_what_this_process_has_listed_before_may_have_grown(calm: Server, tmp_path: Path) -> None:
    """Of a process that lists a source twice, the second listing is one: a notebook sees the files that have come."""
    source = corpus(tmp_path, "grown", count=2)
    spec = make_spec("s3://bucket/grown/audio", "s3://bucket/grown/out", tmp_path / "centroids")
    spec = spec.with_updates(source=spec.source.with_updates(manifest=None, transcripts="sidecar").model_dump())
    assert len(make_plan(spec).partitions.table) == 2
    name = sorted(source.files)[0]
    other = s3fs.S3FileSystem(skip_instance_cache=True)
    other.put(str(source.folder / name), "bucket/grown/audio/at-the-top.wav")
    other.put(str(source.folder / name), "bucket/grown/audio/new-folder/a.wav")
    assert len(make_plan(spec).partitions.table) == 4


def test_a_key_with_two_slashes_does_not_list_the_source_twice(calm: Server, tmp_path: Path) -> None:
    """A storage that is asked for the folder without a name lists the root: every file was a copy of itself."""
    source = corpus(tmp_path, "slashes", count=3)
    storage = s3fs.S3FileSystem()
    for key in ("/etc/nameless.wav", "odd://elsewhere.wav", "d//inside.wav"):
        storage.pipe_file(f"bucket/slashes/audio/{key}", (source.folder / min(source.files)).read_bytes()[:9000])
    listing = survey(Source(uri="s3://bucket/slashes/audio", pattern="**"))
    items = {item.uri: item for item in listing.items}
    assert sorted(items) == sorted([*source.files, "d//inside.wav", "odd://elsewhere.wav"])
    assert len(items) == len(listing.items)
    assert not any(items[name].duplicate_of == name for name in items)
    assert items["odd://elsewhere.wav"].refused == "missing"
    assert "1 folders without a name" in describe(listing.not_listed)


@pytest.mark.parametrize(
    "code, status, exit_code, remedy",
    [
        ("ExpiredToken", 400, ExitCode.STORAGE, "renew them and run the same command again"),
        ("InternalError", 500, ExitCode.TRY_AGAIN, "could not be reached for 0 s"),
    ],
)
def test_a_command_that_cannot_list_its_source_says_why(
    calm: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: str,
    status: int,
    exit_code: ExitCode,
    remedy: str,
) -> None:
    """One sentence, and the exit code that tells a scheduler whether to try again."""
    from jobs.tokenize_audio import main

    corpus(tmp_path, code, count=2)
    spec = make_spec(f"s3://bucket/{code}/audio", f"s3://bucket/{code}/out", tmp_path / "centroids")
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec.model_dump(mode="json")))
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.0)
    s3fs.S3FileSystem.clear_instance_cache()  # what was put there is remembered, and not asked for
    calm.fail({"method": "LIST", "contains": "", "status": status, "code": code})
    assert main(["--config", str(tmp_path / "spec.yaml"), "--dry-run"]) == exit_code
    said = capsys.readouterr().err
    assert remedy in said
    assert said.count("\n") == 1


def test_centroids_go_to_s3(calm: Server, tmp_path: Path) -> None:
    import numpy as np

    centroids = np.eye(4, dtype=np.float32)
    card = kmeans_card("test", centroids, {})
    write_centroids("s3://bucket/centroids/x", centroids, card)
    assert np.array_equal(load_centroids("s3://bucket/centroids/x")[0], centroids)
    assert not Path("s3:").exists()


def test_readers_of_a_node_fetch_a_shard_once(calm: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_counting_stages(monkeypatch)
    corpus(tmp_path, "herd", count=3)
    spec = make_spec("s3://bucket/herd/audio", "s3://bucket/herd/out", tmp_path / "centroids")
    run(spec)
    index = ShardIndex.model_validate_json(Store(spec.output).read_bytes("shards/index.json"))
    entry = index.shards[0]
    caches = [ShardCache(tmp_path / "cache", 10**9) for _ in range(16)]
    calm.requests()
    with ThreadPoolExecutor(16) as pool:
        paths = set(pool.map(lambda cache: cache.fetch(f"{spec.output}/shards/{entry.path}", entry), caches))
    assert len(paths) == 1
    assert len([key for kind, key, *_ in calm.requests() if kind == "GET" and entry.path in key]) == 1
