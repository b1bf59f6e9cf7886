"""Real training processes for tests: a very small run on any number of ranks, killed or signalled when a test says so."""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from model.monitor.metrics import read_rows
from model.training.config import TrainConfig, load_train_config
from model.training.storage.stores import LocalCheckpoints
from tests.ports import free_ports
from tests.synthetic_shards import write_speech_shards, write_text_shards

STACK = {"num_heads": 2, "rope_theta": 5.0e5}
LOCAL = {**STACK, "num_layers": 1, "dim": 16, "window": 16, "cross_heads": 2}
MODEL = {
    "kind": "lst",
    "patch_encoder": {**LOCAL, "cross_window": 1, "cross_layers": "last"},
    "global_transformer": {**STACK, "num_layers": 2, "dim": 32},
    "patch_decoder": {**LOCAL, "cross_window": 4},
    "vectors_per_patch": 2,
    "conditioning": "causal",
    "text_path": "local",
    "head": "joint",
}

TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    *("-m", "model.train"),
)
"""Two ranks as a user starts them; the configuration follows."""


def write_data(folder: Path) -> None:
    """Speech and text shards for `run_document`."""
    write_speech_shards(folder / "speech", [5, 0, 7, 4], words=(6, 40), num_units=40)
    write_text_shards(folder / "text", [12, 9])


def run_document(data: Path, output: Path) -> dict[str, Any]:
    """A run of seconds: mixed sources, split documents, curriculum patches, four lanes."""
    speech, text = str(data / "speech" / "index.json"), str(data / "text" / "index.json")
    aligned = {"policy": "aligned", "silence": "separate", "max_size": 20}
    return {
        "output_dir": str(output),
        "seed": 3,
        "model": copy.deepcopy(MODEL),
        "data": {
            "sources": [
                {"kind": "interleaved", "data": speech, "weight": 1.0, "spans": {"rule": "paper"}},
                {"kind": "speech", "data": speech, "weight": 0.5, "unit": "segment"},
                {"kind": "text", "data": text, "weight": 1.0},
            ],
            "tokenizer": {"path": str(data / "tokenizer.json"), "train_size": 300},
            "lanes": 8,
            "workers": 0,
        },
        "patches": {
            "policy": "curriculum",
            "aligned": aligned,
            "otherwise": {"policy": "static", "size": 4},
            "tau1": 0.2,
            "tau2": 0.8,
        },
        "curriculum_steps": 20,
        "packing": {"elements": 192, "latents": 128},
        "global_microbatches": 4,
        "optimiser": {"kind": "adamw", "lr": 3.0e-3},
        "schedule": {"kind": "cosine", "warmup_steps": 4, "min_ratio": 0.1},
        "budget": {"steps": 20},
        "threads": 1,
        "checkpoint": {"every_steps": 2, "keep": 2},
        "log": {"level": "warning", "progress": False, "tensorboard": False},
    }  # fmt: skip


def write_run(document: dict[str, Any], path: Path) -> Path:
    """The configuration as a file."""
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def run_here(document: dict[str, Any], folder: Path, *arguments: str) -> int:
    """The run in this process; its exit code."""
    from model.train import main

    folder.mkdir(parents=True, exist_ok=True)
    return main([str(write_run(document, folder / "run.yaml")), *arguments])


def parsed(document: dict[str, Any], path: Path) -> TrainConfig:
    """The configuration as the trainer reads it."""
    return load_train_config(write_run(document, path), [])


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["torch._dynamo", "torch.onnx", "model.training.loop", "tests.model.training.training_runs"]
)


def start_process(target: Callable[..., None], *arguments: Any) -> multiprocessing.process.BaseProcess:
    """A process that runs `target(*arguments)`, with torch and the trainer imported already."""
    process = _context.Process(target=target, args=arguments)
    process.start()
    return process


def _rank(rank: int, world: int, port: int, arguments: list[str], output: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)  # the server that forks knows that of the first test alone
    if world > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
        )
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with open(output, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from model.train import main

    sys.exit(main(arguments))


class Ranks:
    """The processes of one start of a run."""

    def __init__(self, config: Path, world: int = 1, overrides: Sequence[str] = ()) -> None:
        self.log = config.with_suffix(".log")
        (port,) = free_ports(1)
        shared = (world, port, [str(config), *overrides], str(self.log), dict(os.environ))
        self.processes = [_context.Process(target=_rank, args=(rank, *shared)) for rank in range(world)]
        for process in self.processes:
            process.start()

    def wait(self, seconds: float = 400) -> list[int]:
        """The exit codes."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.1, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        if None in codes:
            self.kill()
            raise TimeoutError(f"ranks still running after {seconds} s: {codes}; {self.output()}")
        return [int(code) for code in codes if code is not None]

    def kill(self) -> None:
        """SIGKILL to every rank."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for process in self.processes:
            process.join()

    def output(self) -> str:
        """What the ranks have printed."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""


@contextlib.contextmanager
def started(config: Path, world: int = 1, overrides: Sequence[str] = ()) -> Iterator[Ranks]:
    """A start that leaves nothing behind, whatever the test does."""
    ranks = Ranks(config, world, overrides)
    try:
        yield ranks
    finally:
        ranks.kill()


def run(config: Path, world: int = 1, overrides: Sequence[str] = (), expect: int = 0) -> str:
    """Run to the end and check every rank's exit code. Returns what was printed."""
    with started(config, world, overrides) as ranks:
        codes = ranks.wait()
        assert codes == [expect] * world, (codes, ranks.output())
        return ranks.output()


def wait_until(condition: Callable[[], bool], seconds: float = 300) -> bool:
    """Poll until `condition` holds; False where it does not in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.002)
    return False


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, directory) of each complete checkpoint, oldest first."""
    return [(int(name.removeprefix("step-")), folder / name) for name in LocalCheckpoints(folder).names()]


def trajectory(output: Path) -> list[dict[str, Any]]:
    """Everything in the rows that two equal runs share to the last bit: all but clocks and rates."""
    timed = ("seconds", "share_of_peak", "data_wait_share", "world", "host_memory_peak_gib")
    return [
        {
            name: value
            for name, value in row.items()
            if name not in timed and not name.endswith(("_per_second", "_per_rank"))
        }
        for row in read_rows(output / "metrics.jsonl")
    ]


def losses(output: Path) -> list[tuple[int, float, float | None, float | None]]:
    """(step, loss, loss_text, loss_speech) of each row: what two equal runs share to the last bit."""
    return [
        (row["step"], row["loss"], row["loss_text"], row["loss_speech"]) for row in read_rows(output / "metrics.jsonl")
    ]
