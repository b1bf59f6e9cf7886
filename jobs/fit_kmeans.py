"""Fit the centroids that turn features into units, on a sample of the corpus, and write them with their card.

Runs the pipeline up to the segments first where that is not done. Does nothing when the centroids are there already.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs.cluster.places import local_or_url
from jobs.cluster.session import ray_session
from jobs.runtime.cli import load_spec, spec_parser
from jobs.runtime.plan import Plan, make_plan
from jobs.runtime.run import cpu_shares, run_plan, stages_until
from jobs.store.lease import owned
from jobs.store.store import Store
from pipeline.codebook.folder import has_centroids, kmeans_card, load_card, write_centroids
from pipeline.encode.base import build_encoder
from pipeline.source.audio import SourceAudio
from schemas.audio import SAMPLE_RATE
from schemas.commands.cli import command
from schemas.config import ConfigError
from schemas.spec import KMeansSpec, PipelineSpec
from schemas.tables import Recording, Segment

if TYPE_CHECKING:
    from pipeline.codebook.fit import FitResult

EXAMPLES = """  python jobs/fit_kmeans.py --config configs/demo.yaml
  python jobs/fit_kmeans.py --config configs/demo.yaml kmeans.num_units=200 --force
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = spec_parser(__doc__, EXAMPLES)
    parser.add_argument("--force", action="store_true", help="fit again where centroids exist with other settings")
    given = parser.parse_args(arguments)
    spec = load_spec(given)
    folder = spec.stages.units.centroids
    encoder = build_encoder(spec.stages.units.encoder).card()
    if has_centroids(folder) and not given.force:
        check_same_fit(spec, folder, encoder.card_id)
        print(f"{local_or_url(folder)}: centroids are there")
        return 0
    with ray_session():
        store = Store(spec.output)
        with owned(store, f"fit_kmeans --config {given.config}") as lease:
            plan = make_plan(spec, until="segments")
            run_plan(plan, stages_until("segments"), lease)
        features, recordings = sample_features(plan)
    print(f"fitting {spec.kmeans.num_units} centroids to {len(features)} frames of {recordings} recordings")
    from pipeline.codebook.fit import fit_kmeans  # here, since numba and faiss take a second to load

    result = fit_kmeans(features, spec.kmeans)
    name = f"{spec.source.name}-{encoder.name}-{spec.kmeans.num_units}"
    card = kmeans_card(name, result.centroids, fit_notes(spec, result, encoder.card_id, len(features), recordings))
    write_centroids(folder, result.centroids, card)
    print(
        f"{local_or_url(folder)}: objective {result.objective[0]:.4g} -> {result.objective[-1]:.4g} in "
        f"{len(result.objective)} iterations, {len(result.dead)} dead and {len(result.near_dead)} near-dead centroids"
    )
    return 0


def check_same_fit(spec: PipelineSpec, folder: str, encoder_id: str) -> None:
    """Raises ConfigError if the centroids that are there were fitted otherwise than the spec says."""
    notes = load_card(folder).notes
    if notes.get("encoder") not in (None, encoder_id):
        raise ConfigError(
            f"{folder} was fitted on features of {notes['encoder']}, the spec has {encoder_id}: use --force"
        )
    if "spec" in notes and notes["spec"] != spec.kmeans.model_dump(mode="json"):
        raise ConfigError(
            f"{folder} was fitted with other `kmeans` settings: use --force to fit again, or another folder"
        )


def sample_features(plan: Plan) -> tuple[np.ndarray, int]:
    """Frames of the drawn recordings, [N, D] in an order that depends on the corpus and the spec alone; their number."""
    import ray

    kmeans = plan.spec.kmeans
    chosen = draw_recordings(plan, kmeans)
    limit = min(kmeans.max_frames_per_recording, kmeans.num_units * kmeans.max_points_per_centroid)
    rows = []
    for partition, ids in sorted(chosen.items()):
        tables = {row.TABLE: plan.commit(row.TABLE, partition).outputs[row.TABLE] for row in (Recording, Segment)}
        rows.append({"partition": partition, "recordings": sorted(ids), "tables": pickle.dumps(tables)})
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        FeatureSampler,
        fn_constructor_kwargs={"spec": plan.spec, "limit": limit},
        compute=ray.data.ActorPoolStrategy(size=plan.spec.resource("units").workers),
        num_cpus=cpu_shares(plan, ("units",), float(ray.cluster_resources().get("CPU", 0)))["units"],
        num_gpus=plan.spec.resource("units").gpus or None,
    )
    found: list[dict[str, Any]] = sorted(dataset.iter_rows(), key=lambda row: int(row["partition"]))
    features = [np.frombuffer(row["features"], np.float32).reshape(-1, int(row["dim"])) for row in found if row["dim"]]
    if not features:
        raise ConfigError("no frames to fit: no recording has a segment of speech")
    return np.concatenate(features), sum(len(ids) for ids in chosen.values())


def draw_recordings(plan: Plan, kmeans: KMeansSpec) -> dict[int, list[str]]:
    """Partition -> recordings to sample: in the order of a hash of seed and id, until `max_hours` are reached."""
    candidates: list[tuple[str, int, str, int]] = []
    for number, commit in enumerate(plan.commits("recordings")):
        for row in plan.store.read_table(Recording, commit.outputs["recordings"]):
            order = hashlib.sha256(f"{kmeans.seed}:{row.recording_id}".encode()).hexdigest()
            candidates.append((order, number, row.recording_id, row.num_samples_16k))
    chosen: dict[int, list[str]] = {}
    budget = kmeans.max_hours * 3600 * SAMPLE_RATE
    for _, partition, recording, samples in sorted(candidates):
        if budget <= 0:
            break
        chosen.setdefault(partition, []).append(recording)
        budget -= samples
    return chosen


class FeatureSampler:
    """Encodes the drawn recordings of a partition and keeps a bounded sample of frames of each."""

    def __init__(self, spec: PipelineSpec, limit: int):
        from jobs.cluster.limits import limit_threads

        limit_threads(spec.resource("units").threads)
        self.spec, self.limit = spec, limit
        self.encoder = build_encoder(spec.stages.units.encoder)
        self.encoder.open()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Features as bytes of float32 [n, dim]."""
        from pipeline.codebook.fit import sample_frames

        store, tables = Store(self.spec.output), pickle.loads(row["tables"])
        recordings = {item.recording_id: item for item in store.read_table(Recording, tables["recordings"])}
        segments = store.read_table(Segment, tables["segments"])
        audio = SourceAudio(self.spec.source.uri)
        kept = []
        for recording in row["recordings"]:
            mine = [segment for segment in segments if segment.recording_id == recording]
            if mine:
                pieces = [
                    self.encoder.encode(audio.read(recordings[recording], item.channel)[item.start : item.end])
                    for item in mine
                ]
                kept.append(sample_frames(np.concatenate(pieces), recording, self.limit, self.spec.kmeans.seed))
        features = np.concatenate(kept) if kept else np.zeros((0, 0), np.float32)
        return {"partition": row["partition"], "features": features.tobytes(), "dim": features.shape[1]}


def fit_notes(spec: PipelineSpec, result: FitResult, encoder: str, frames: int, recordings: int) -> dict[str, Any]:
    """What the card says of the fit beyond the centroids themselves."""
    return {
        "encoder": encoder,
        "spec": spec.kmeans.model_dump(mode="json"),
        "faiss": result.parameters,
        "frames": frames,
        "recordings": recordings,
        "objective": [round(value, 3) for value in result.objective],
        "dead": result.dead,
        "near_dead": result.near_dead,
        "counts": [int(count) for count in result.counts],
    }


if __name__ == "__main__":
    sys.exit(main())
