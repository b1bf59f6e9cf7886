"""Features to fit centroids on: of a sample of the corpus, encoded by the workers, a whole file per partition.

kmeans/<identity>/<unit>.npy    float32 [n, D], in the output until the centroids are written; resumed from

The sample is drawn from the inventory, so nothing outside it is read, decoded or segmented.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.cluster.pools import fit_pools
from jobs.cluster.session import quiet_ray_data
from jobs.monitoring.logs import LOG
from jobs.runtime.plan import Plan, make_plan, plan_inventory
from jobs.store.store import Store
from pipeline.encode.base import build_encoder
from pipeline.source.audio import SourceAudio
from pipeline.source.partitions import Inventory
from schemas.cards import fingerprint
from schemas.config import ConfigError
from schemas.spec import PipelineSpec
from schemas.tables import Recording, Segment, Units

FOLDER = "kmeans"

RAY_DATA_CPUS = 0.9
"""Per worker at most: with no CPU left for its own tasks Ray Data waits for ever without a word (ray issue 44687)."""


def plan_sample(spec: PipelineSpec) -> Plan:
    """The plan of the drawn files up to their segments: in the order of a hash of seed and content until `kmeans.max_hours`.

    Its rows are taken over by the run of the whole corpus, and the other way round.
    """
    whole = make_plan(spec, until=Segment.TABLE)
    files = whole.partitions
    order = [draw(spec.kmeans.seed, content) for content in files.ids(0, files.num_files)]
    candidates = [number for number in np.argsort(order, kind="stable").tolist() if not files.is_aside[number]]
    hours = np.cumsum(files.seconds[candidates]) / 3600
    chosen = candidates[: int(np.searchsorted(hours, spec.kmeans.max_hours)) + 1]  # with the file that passes the limit
    if len(chosen) == len(candidates):
        return whole
    table = files.table.take(pa.array(sorted(chosen)))
    sample = plan_inventory(spec, Inventory(table, spec.partitions.minutes, spec.partitions.files), Segment.TABLE)
    sample.is_sample = True
    return sample


def draw(seed: int, content: str) -> str:
    """Where a file stands in the order of drawing."""
    return hashlib.sha256(f"{seed}:{content}".encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class FeatureSample:
    """What of a sample's frames is used, and where it lies."""

    identity: str
    limit: int
    """Frames of a recording, at most."""
    parts: tuple[str, ...]
    """Files of features, in order; each is there once its partition is encoded."""
    tasks: tuple[bytes, ...]
    """Per part, what a worker needs to make it."""
    recordings: int
    frames: int


def measure(plan: Plan) -> FeatureSample:
    """Which frames are used, by the lengths of the segments alone: no more than FAISS is to train on, each recording a stratum.

    Raises:
        ConfigError: there is no speech.
    """
    spec = plan.spec
    encoder = build_encoder(spec.stages.units.encoder)
    lengths: dict[str, int] = {}
    tables = []
    for number in range(len(plan.partitions)):
        outputs = {row.TABLE: plan.commit(row.TABLE, number).outputs[row.TABLE] for row in (Recording, Segment)}
        for segment in plan.store.read_table(Segment, outputs[Segment.TABLE]):
            frames = (segment.end - segment.start) // encoder.hop
            lengths[segment.recording_id] = lengths.get(segment.recording_id, 0) + frames
        tables.append(pickle.dumps(outputs))
    if not lengths:
        raise ConfigError("no frames to fit: no recording has a segment of speech")
    most = spec.kmeans.num_units * spec.kmeans.max_points_per_centroid
    limit = water_level(list(lengths.values()), most, spec.kmeans.max_frames_per_recording)
    identity = fingerprint(
        {
            "encoder": encoder.card().card_id,
            "dtype": getattr(spec.stages.units.encoder, "dtype", "float32"),
            "seed": spec.kmeans.seed,
            "limit": limit,
            "segments": plan.stages[Segment.TABLE].fingerprint,
        }
    )
    units = plan.units_of_work(Segment.TABLE)
    return FeatureSample(
        identity=identity,
        limit=limit,
        parts=tuple(f"{FOLDER}/{identity[:16]}/{unit}.npy" for unit in units),
        tasks=tuple(tables),
        recordings=len(lengths),
        frames=sum(min(length, limit) for length in lengths.values()),
    )


def water_level(lengths: list[int], most: int, ceiling: int) -> int:
    """The largest limit up to `ceiling` at which recordings of these lengths give at most `most` frames (at least 1 each)."""
    low, high = 1, ceiling
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(length, middle) for length in lengths) <= most:
            low = middle
        else:
            high = middle - 1
    return low


class FeatureSampler:
    """Encodes the recordings of a partition and writes a bounded sample of frames of each."""

    def __init__(self, spec: PipelineSpec, limit: int) -> None:
        from jobs.cluster.limits import limit_libraries

        limit_libraries(spec.resource(Units.TABLE).threads)
        self.spec, self.limit = spec, limit
        self.store = Store(spec.output)
        self.encoder = build_encoder(spec.stages.units.encoder)
        self._is_open = False

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make the part that the row names; its frames."""
        if not self._is_open:
            self.encoder.open()
            self._is_open = True
        tables = pickle.loads(row["task"])
        recordings = self.store.read_table(Recording, tables[Recording.TABLE])
        segments: dict[str, list[Segment]] = {}
        for segment in self.store.read_table(Segment, tables[Segment.TABLE]):
            segments.setdefault(segment.recording_id, []).append(segment)
        audio, kept = SourceAudio(self.spec.source.uri), []
        for recording in sorted(recordings, key=lambda item: item.recording_id):
            if mine := segments.get(recording.recording_id):
                kept.append(self._frames(recording, mine, audio))
        features = np.concatenate(kept) if kept else np.zeros((0, 0), np.float32)
        buffer = io.BytesIO()
        np.save(buffer, features)
        self.store.write_bytes(row["part"], buffer.getvalue())
        return {"part": row["part"], "frames": len(features)}

    def _frames(self, recording: Recording, segments: list[Segment], audio: SourceAudio) -> np.ndarray:
        from pipeline.codebook.fit import sample_frames

        pieces = [self.encoder.encode(audio.read(recording, it.channel)[it.start : it.end]) for it in segments]
        return sample_frames(np.concatenate(pieces), recording.recording_id, self.limit, self.spec.kmeans.seed)


def missing(store: Store, sample: FeatureSample) -> list[dict[str, Any]]:
    """Rows for the workers: the parts that no earlier run has left."""
    there = store.names(f"{FOLDER}/{sample.identity[:16]}")
    return [
        {"part": part, "task": task}
        for part, task in zip(sample.parts, sample.tasks, strict=True)
        if part.rpartition("/")[2] not in there
    ]


def encode_on_workers(plan: Plan, sample: FeatureSample) -> None:
    """Make the missing parts on a pool like that of `units`."""
    import ray

    rows = missing(plan.store, sample)
    done = len(sample.parts) - len(rows)
    LOG.info("features of %d partitions to encode, %d are there", len(rows), done)
    if not rows:
        return
    (pool,) = fit_pools(plan.spec, (Units.TABLE,), ray.cluster_resources())
    quiet_ray_data()
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        FeatureSampler,
        fn_constructor_kwargs={"spec": plan.spec, "limit": sample.limit},
        compute=ray.data.ActorPoolStrategy(size=min(pool.least, len(rows))),
        num_cpus=min(pool.cpus, RAY_DATA_CPUS),
        num_gpus=pool.gpus or None,
    )
    for _ in dataset.iter_rows():
        done += 1
        LOG.info("features: %d of %d partitions", done, len(sample.parts))


@contextmanager
def features_on_disk(store: Store, parts: Sequence[str]) -> Iterator[np.ndarray]:
    """All parts as one array [N, D] in a temporary file: read by pages as they are needed, one part in memory at a time.

    Raises:
        ConfigError: there are no frames.
    """
    with TemporaryDirectory(prefix="lst-kmeans-") as folder:
        path, rows, dim = Path(folder) / "features", 0, 0
        with open(path, "wb") as file:
            for part in parts:
                piece = np.load(io.BytesIO(store.read_bytes(part)))
                if len(piece):
                    rows, dim = rows + len(piece), piece.shape[1]
                    file.write(np.ascontiguousarray(piece, np.float32).data)
        if not rows:
            raise ConfigError("no frames to fit: no recording has a segment of speech")
        yield np.memmap(path, np.float32, "r", shape=(rows, dim))
