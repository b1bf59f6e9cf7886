"""Centroids are fitted on a sample: nothing else is read, a kill costs a partition, memory does not grow with the frames."""

import random
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jobs import fit_kmeans
from jobs.fit_kmeans import fit_parts
from jobs.runtime.drive import prepare, run_in_process
from jobs.runtime.plan import Plan, make_plan, refresh
from jobs.units.features import FeatureSampler, features_on_disk, measure, missing, plan_sample, water_level
from pipeline.codebook.folder import load_centroids
from pipeline.source import audio as audio_module
from schemas.spec import HubertSpec, PipelineSpec
from schemas.storage.files import Files
from tests.jobs.growth import growing
from tests.jobs.small_corpus import write_spec
from tests.s3_server import Server

ROOT = Path(__file__).resolve().parents[2]
FIRST = ["recordings", "segments"]


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineSpec:
    """Thirty files of about a second, of which five seconds are to be drawn."""
    growing.use_counting_stages(monkeypatch)
    source = growing.GrowingSource(tmp_path / "audio", random.Random(2))
    for _ in range(30):
        source.add()
    source.write_manifest()
    spec = growing.make_spec(str(tmp_path / "audio"), str(tmp_path / "out"), tmp_path / "centroids")
    kmeans = spec.kmeans.with_updates(max_hours=5 / 3600, num_units=4, iterations=3)
    return spec.with_updates(kmeans=kmeans.model_dump())


def segment(spec: PipelineSpec) -> Plan:
    """The sample with its segments, as the command makes them."""
    plan = plan_sample(spec)
    prepare(plan)
    run_in_process(plan, FIRST)
    refresh(plan)
    return plan


def encode(plan: Plan, at_most: int = 99) -> int:
    """Make missing parts, so many at most; how many."""
    sample = measure(plan)
    rows = missing(plan.store, sample)[:at_most]
    sampler = FeatureSampler(plan.spec, sample.limit)
    for row in rows:
        sampler(row)
    return len(rows)


def test_only_what_is_drawn_is_read_decoded_and_segmented(spec: PipelineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()
    honest = audio_module.SourceAudio.read

    def counting(self: object, recording: object, channel: int = -1) -> np.ndarray:
        read.add(recording.uri)  # type: ignore[attr-defined]
        samples: np.ndarray = honest(self, recording, channel)  # type: ignore[arg-type]
        return samples

    monkeypatch.setattr(audio_module.SourceAudio, "read", counting)
    plan = segment(spec)
    encode(plan)
    drawn = set(plan.partitions.table.column("uri").to_pylist())
    seconds = float(plan.partitions.seconds.sum())
    assert 5 <= seconds < 7, "the file that passes the limit is the last"
    assert read <= drawn
    segmented = {recording for stage, recording, _ in growing.calls if stage == "segments"}
    assert 0 < len(segmented) <= len(drawn) < 15
    assert not list((Path(spec.output) / "specs").glob("*")), "a sample is not what the output is of"


def test_the_run_of_the_whole_takes_over_what_the_sample_did(spec: PipelineSpec) -> None:
    segment(spec)
    growing.run(spec)
    again = [key for key, count in growing.calls.items() if count > 1]
    assert not again


def test_a_sample_of_everything_is_the_plan_of_the_whole(spec: PipelineSpec) -> None:
    everything = spec.with_updates(kmeans={**spec.kmeans.model_dump(), "max_hours": 1.0})
    plan, whole = plan_sample(everything), make_plan(everything, until="segments")
    assert plan.units_of_work("segments") == whole.units_of_work("segments")
    assert not plan.is_sample


def test_a_fit_that_was_ended_encodes_what_is_missing_and_gives_the_same(spec: PipelineSpec, tmp_path: Path) -> None:
    plan = segment(spec)
    count = len(measure(plan).parts)
    assert count > 1
    assert encode(plan, at_most=1) == 1
    assert encode(plan_refreshed(plan)) == count - 1
    assert encode(plan) == 0
    interrupted = fit_parts(spec, measure(plan).parts).centroids
    other = spec.with_updates(output=str(tmp_path / "other"))
    fresh = segment(other)
    encode(fresh)
    np.testing.assert_array_equal(interrupted, fit_parts(other, measure(fresh).parts).centroids)


def plan_refreshed(plan: Plan) -> Plan:
    """As another process sees it."""
    found = plan_sample(plan.spec)
    refresh(found)
    return found


def test_another_seed_or_limit_starts_anew(spec: PipelineSpec) -> None:
    plan = segment(spec)
    few = plan.spec.with_updates(kmeans={**spec.kmeans.model_dump(), "max_points_per_centroid": 8})
    whole = measure(plan)
    plan.spec = few
    assert measure(plan).frames <= 4 * 8 < whole.frames
    assert measure(plan).identity != whole.identity


def test_features_of_another_precision_start_anew(spec: PipelineSpec) -> None:
    plan = segment(spec)
    identities = set()
    for dtype in ("float32", "bfloat16"):
        encoder = HubertSpec(backend="hubert", model=str(ROOT / "assets/tiny-hubert"), layer=4, hop=640, dtype=dtype)
        units = plan.spec.stages.units.model_copy(update={"encoder": encoder})
        plan.spec = plan.spec.model_copy(update={"stages": plan.spec.stages.model_copy(update={"units": units})})
        identities.add(measure(plan).identity)
    assert len(identities) == 2


@pytest.mark.parametrize(("most", "limit"), [(1000, 50), (110, 50), (109, 49), (40, 15), (6, 2), (2, 1)])
def test_the_limit_per_recording_is_the_largest_that_fits(most: int, limit: int) -> None:
    """Three recordings of which one is short; no recording gives more than fifty frames."""
    assert water_level([10, 200, 300], most, 50) == limit


class InProcess:
    """As much of Ray as the command calls, in this process."""

    def __init__(self) -> None:
        self.asked: dict[str, float] = {}

    def is_initialized(self) -> bool:
        return False

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Resources": {"CPU": 2.0}}, {"Resources": {"CPU": 64.0}}]

    def remote(self, **options: float) -> Any:
        self.asked = options
        return lambda task: SimpleNamespace(remote=task)

    def get(self, result: Any) -> Any:
        return result


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """The command without Ray's processes."""
    ray = InProcess()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(fit_kmeans, "ray_session", nullcontext)
    monkeypatch.setattr(fit_kmeans, "encode_on_workers", lambda plan, sample: encode(plan))

    def run_plan(plan: Plan, stages: list[str], lease: object) -> SimpleNamespace:
        prepare(plan)
        failed = run_in_process(plan, stages)
        refresh(plan)
        return SimpleNamespace(failed=failed)

    monkeypatch.setattr(fit_kmeans, "run_plan", run_plan)
    return ray


def write_fit_spec(spec: PipelineSpec, path: Path, centroids: str) -> Path:
    """The spec as a file, with another folder for the centroids."""
    document = spec.model_dump(mode="json")
    document["stages"]["units"]["centroids"] = centroids
    return write_spec(path, document)


def test_the_command_fits_where_ray_finds_room_and_clears_its_features(
    spec: PipelineSpec, tmp_path: Path, ray: InProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_fit_spec(spec, tmp_path / "spec.yaml", str(tmp_path / "new"))
    assert fit_kmeans.main(["--config", str(config)]) == 0
    assert "fitted 4 centroids" in capsys.readouterr().out
    assert ray.asked == {"num_cpus": fit_kmeans.FIT_CORES}
    assert np.load(tmp_path / "new" / "centroids.npy").shape == (4, 39)
    assert not list((tmp_path / "out" / "kmeans").rglob("*.npy"))
    assert fit_kmeans.main(["--config", str(config)]) == 0
    assert "centroids are there" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_costs_no_encoding(
    spec: PipelineSpec, tmp_path: Path, ray: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features stay until the centroids are there, and the next run fits from them."""
    config = write_fit_spec(spec, tmp_path / "spec.yaml", str(tmp_path / "new"))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "new/centroids.npy")

    with monkeypatch.context() as patch:
        patch.setattr(fit_kmeans, "write_centroids", refuse)
        assert fit_kmeans.main(["--config", str(config)]) == 3
    encoded: list[int] = []
    monkeypatch.setattr(fit_kmeans, "encode_on_workers", lambda plan, sample: encoded.append(encode(plan)))
    assert fit_kmeans.main(["--config", str(config)]) == 0
    assert encoded == [0]
    assert not list((tmp_path / "out" / "kmeans").rglob("*.npy"))


def test_from_s3_to_s3_the_same_bytes(
    spec: PipelineSpec, server: Server, tmp_path: Path, ray: InProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    """Audio, output and centroids on object storage: the centroids and their card are those of a local run, and usable there."""
    import s3fs

    local = write_fit_spec(spec, tmp_path / "local.yaml", str(tmp_path / "new"))
    assert fit_kmeans.main(["--config", str(local)]) == 0
    s3fs.S3FileSystem().put(f"{tmp_path}/audio/", "bucket/fit/audio/", recursive=True)
    source = spec.source.with_updates(uri="s3://bucket/fit/audio").model_dump()
    there = spec.with_updates(source=source, output="s3://bucket/fit/out")
    remote = write_fit_spec(there, tmp_path / "remote.yaml", "s3://bucket/fit/new")
    assert fit_kmeans.main(["--config", str(remote)]) == 0
    for name in ("centroids.npy", "card.json"):
        assert Files("s3://bucket/fit/new").read_bytes(name) == (tmp_path / "new" / name).read_bytes()
    assert Files("s3://bucket/fit/out").find("kmeans") == []
    assert np.array_equal(load_centroids("s3://bucket/fit/new")[0], np.load(tmp_path / "new" / "centroids.npy"))
    capsys.readouterr()
    assert fit_kmeans.main(["--config", str(remote)]) == 0
    assert capsys.readouterr().out == "s3://bucket/fit/new: centroids are there\n"
    assert not Path("s3:").exists()


MEMORY = """
import resource, sys
import numpy as np
import faiss, numba
from jobs.units.features import features_on_disk
from jobs.store.store import Store
from pipeline.codebook.fit import fit_kmeans
from schemas.spec import KMeansSpec
spec = KMeansSpec(num_units=8, seed=0, iterations=2, max_points_per_centroid=10**9)
fit_kmeans(np.random.default_rng(0).normal(size=(5000, 64)).astype(np.float32), spec)
with open("/proc/self/status") as file:
    used = 1024 * int(next(line for line in file if line.startswith("VmData")).split()[1])
resource.setrlimit(resource.RLIMIT_DATA, (used + 60_000_000, -1))
with features_on_disk(Store(sys.argv[1]), [f"{n}.npy" for n in range(32)]) as features:
    assert features.nbytes > 200_000_000, features.nbytes
    print(len(fit_kmeans(features, spec).centroids))
"""


def test_memory_does_not_hold_the_frames(tmp_path: Path) -> None:
    """200 MB of features are fitted by a process that may take 60 MB more than it has."""
    dice = np.random.default_rng(0)
    for number in range(32):
        np.save(tmp_path / f"{number}.npy", dice.normal(size=(25_000, 64)).astype(np.float32))
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "8", result.stderr[-2000:]


def test_parts_in_order_are_the_array(tmp_path: Path) -> None:
    from jobs.store.store import Store

    pieces = [np.full((count, 3), count, np.float32) for count in (2, 0, 5)]
    for number, piece in enumerate(pieces):
        np.save(tmp_path / f"{number}.npy", piece if len(piece) else np.zeros((0, 0), np.float32))
    with features_on_disk(Store(str(tmp_path)), [f"{number}.npy" for number in range(3)]) as features:
        np.testing.assert_array_equal(features, np.concatenate(pieces))
