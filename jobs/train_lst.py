"""Train on a Ray cluster: the same run as `torchrun -m model.train`, started by Ray Train, so that one cluster does both halves.

    python jobs/train_lst.py --workers 2 configs/train/tiny.yaml budget.steps=20
    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \\
        python jobs/train_lst.py --workers 8 --gpu configs/train/1b.yaml

Paths in the configuration must be reachable from every node; relative ones start as docs/cluster.md says. The run resumes from
its last checkpoint, as it does without Ray: when a worker dies, all are started again (`--retries`) from there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs.cluster.places import base_folder, resolve, resolve_model
from jobs.cluster.session import check_address, keep_strangers_out
from jobs.cluster.starting import embedded, signals_stay_ours, this_checkout
from schemas.commands.cli import Parser, command, count, natural, positive
from schemas.errors import ConfigError, ExitCode, TryAgain

if TYPE_CHECKING:
    from model.training.config import TrainConfig


def train_worker(settings: dict[str, Any]) -> None:
    """What each Ray Train worker does: the trainer, in the process group that Ray has made."""
    from model.evaluation.evaluator import make_evaluator
    from model.training.config import TrainConfig
    from model.training.loop import train

    if train(TrainConfig.model_validate(settings), make_evaluator) == ExitCode.TRY_AGAIN:
        raise TryAgain("the run was signalled to stop before its end", "submit it again to go on")


def absolute(config: TrainConfig, base: Path) -> TrainConfig:
    """The configuration with every path absolute, so that workers in other folders read the same files. What names no file there
    and may be a hub name is left alone."""
    from model.training.storage.paths import with_paths

    return with_paths(config, lambda path: resolve(path, base), lambda name: resolve_model(name, base))


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Train under Ray Train, one worker a rank."""
    parser = Parser(__doc__)
    parser.add_argument("config", help="a file of configs/train/")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="fields to set, read as YAML")
    parser.add_argument("--workers", type=count, required=True, help="ranks")
    parser.add_argument("--gpu", action="store_true", help="one GPU per rank")
    parser.add_argument("--cpus", type=positive, default=1, help="CPUs per rank")
    parser.add_argument("--retries", type=natural, default=3, help="restarts after a worker has died")
    given = parser.parse_args(arguments)
    from model.training.config import load_train_config
    from model.training.storage.place import RAY

    config = absolute(load_train_config(given.config, given.overrides), base_folder())
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    keep_strangers_out()
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    with ray_for(given.workers * given.cpus + 1):
        needed = given.workers * (1 if given.gpu else given.cpus)
        kind = "GPU" if given.gpu else "CPU"
        there = ray.cluster_resources().get(kind, 0)
        if there < needed:
            raise ConfigError(f"{given.workers} workers need {needed:g} {kind}s, the cluster has {there:g}")
        resources = {"CPU": given.cpus, **({"GPU": 1} if given.gpu else {})}
        scaling = ScalingConfig(num_workers=given.workers, use_gpu=given.gpu, resources_per_worker=resources)
        trainer = TorchTrainer(
            train_worker,
            train_loop_config=config.model_dump(mode="json"),
            scaling_config=scaling,
            run_config=RunConfig(
                name=RAY, storage_path=config.output_dir, failure_config=FailureConfig(max_failures=given.retries)
            ),
        )
        trainer.fit()
    return 0


@contextmanager
def ray_for(num_cpus: float) -> Iterator[None]:
    """The cluster that `ray job submit` names; without one an embedded Ray with so many CPUs, what the ranks ask for."""
    import ray

    if ray.is_initialized():
        yield
    elif "RAY_ADDRESS" in os.environ:
        check_address(os.environ["RAY_ADDRESS"])
        with signals_stay_ours():
            ray.init(**this_checkout())
        yield
    else:
        with embedded(num_cpus=num_cpus):
            yield


if __name__ == "__main__":
    sys.exit(main())
