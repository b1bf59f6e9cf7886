"""Fit the centroids that turn features into units, on a sample of the corpus, and write them with their card.

Draws recordings up to `kmeans.max_hours`, finds their segments and encodes them on the workers, and reads nothing else. Goes on
where a run was ended. Does nothing when the centroids are there already.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs.cluster.places import local_or_url
from jobs.cluster.session import ray_session
from jobs.engine.run import run_plan
from jobs.monitoring.logs import LOG, log_to_console
from jobs.runtime.cli import load_spec, spec_parser
from jobs.runtime.plan import stages_until
from jobs.store.lease import owned
from jobs.store.store import Store
from jobs.units.features import encode_on_workers, features_on_disk, measure, plan_sample
from pipeline.codebook.folder import has_centroids, kmeans_card, load_card, write_centroids
from pipeline.encode.base import build_encoder
from schemas.cards import OWN
from schemas.commands.cli import command
from schemas.config import ConfigError
from schemas.errors import ExitCode
from schemas.spec import PipelineSpec
from schemas.tables import Segment

if TYPE_CHECKING:
    from pipeline.codebook.fit import FitResult

FIT_CORES = 16
"""More do not make FAISS faster on a few hundred centroids."""
EXAMPLES = """  python jobs/fit_kmeans.py --config configs/demo.yaml
  python jobs/fit_kmeans.py --config configs/demo.yaml kmeans.num_units=200 --force
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Fit centroids unless they are there with the same settings."""
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
    log_to_console()
    LOG.info("%s: drawing %g hours of %s", given.config, spec.kmeans.max_hours, local_or_url(spec.source.uri))
    store = Store(spec.output)
    with ray_session(), owned(store, f"fit_kmeans --config {given.config}") as lease:
        plan = plan_sample(spec)
        outcome = run_plan(plan, stages_until(spec, Segment.TABLE), lease)
        if plan.pending(Segment.TABLE):
            why = "; ".join(outcome.failed) or "the run of its segments was ended"
            print(f"the sample is not there yet ({why}): run the same command again to go on", file=sys.stderr)
            return ExitCode.TRY_AGAIN
        sample = measure(plan)
        encode_on_workers(plan, sample)
        LOG.info("fitting %d centroids to %d frames", spec.kmeans.num_units, sample.frames)
        result = fit_on_worker(spec, sample.parts)
        name = f"{spec.source.name}-{encoder.name}-{spec.kmeans.num_units}"
        notes = fit_notes(spec, result, encoder.card_id, sample.frames, sample.recordings)
        write_centroids(folder, result.centroids, kmeans_card(name, result.centroids, notes))
        store.remove_all(sample.parts)  # last: where the folder cannot be written, the next run fits again from them
    print(f"fitted {spec.kmeans.num_units} centroids to {sample.frames} frames of {sample.recordings} recordings")
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


def fit_on_worker(spec: PipelineSpec, parts: Sequence[str]) -> FitResult:
    """Fit where Ray finds room, not on the head: the parts are read from the output."""
    import ray

    cores = max(float(node["Resources"].get("CPU", 0)) for node in ray.nodes())
    task = ray.remote(num_cpus=max(1, min(FIT_CORES, int(cores))))(fit_parts)
    result: FitResult = ray.get(task.remote(spec, tuple(parts)))
    return result


def fit_parts(spec: PipelineSpec, parts: Sequence[str]) -> FitResult:
    """Stream the parts to a local file and fit: memory holds one part and FAISS's own few bytes per frame."""
    from pipeline.codebook.fit import fit_kmeans

    with features_on_disk(Store(spec.output), parts) as features:
        return fit_kmeans(features, spec.kmeans)


def fit_notes(spec: PipelineSpec, result: FitResult, encoder: str, frames: int, recordings: int) -> dict[str, Any]:
    """What the card says of the fit beyond the centroids themselves."""
    return {
        "encoder": encoder,
        "license": OWN,
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
