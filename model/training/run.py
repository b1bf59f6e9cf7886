"""A training run: everything it holds, and the four things it can do (step, validate, save, resume)."""

from __future__ import annotations

import json
import logging
import math
import time
from functools import partial
from typing import Any

import torch

from model.data.lanes import LaneState, Stream, fixed_batches
from model.data.loader import Loader, Placement
from model.data.sources import TrainingData
from model.monitor.counting import BatchCounter, Counts
from model.monitor.metrics import gemm_flops, published_peak
from model.monitor.rows import LogRow, fill, host_memory_peak, losses, speed
from model.monitor.spikes import SpikeGuard
from model.network.batch import Batch
from model.network.init import init_weights
from model.network.lst import build_model
from model.training.checkpoint import versions
from model.training.config import TrainConfig, identity
from model.training.distributed import Ranks, reshard
from model.training.feed import Feed, StepBatches, finisher, place
from model.training.first_weights import set_weights
from model.training.module import make_module
from model.training.optimisation.optim import Optimisers
from model.training.optimisation.step import Pending, accumulate, gradient_norm, update
from model.training.restore import restore
from model.training.storage.place import RunPlace
from model.training.storage.stores import checkpoints_of
from model.training.stream import make_stream
from model.training.writer import Writer
from schemas.errors import ExitCode, UserError

log = logging.getLogger(__name__)

COUNTS = ("elements", "latents", "flops", "speech_seconds")


class NonFiniteError(UserError):
    """The loss or the gradient is not finite; the message names the file with the batch's sample ids."""

    code = ExitCode.NOT_ACCEPTED


class Run:
    """What a run consists of on one rank: model, optimisers, loader, counts, and where its checkpoints lie."""

    def __init__(self, config: TrainConfig, corpus: TrainingData, ranks: Ranks) -> None:
        self.ranks, self.corpus = ranks, corpus
        self.model_config = config.network.with_vocabulary(corpus.vocabulary)
        self.config = config.with_updates(model=self.model_config.model_dump())
        self.place = RunPlace(config.output_dir)
        self.folder = self.place.folder
        self._checkpoints = checkpoints_of(self.place)
        self.module = make_module(self.config, self.model_config, ranks)
        with torch.device("meta"):
            self._shape = build_model(self.model_config, config.seed)  # for counting operations on whole matrices
        self.optimisers = Optimisers(config.optimiser, self.module)
        self.consumed: dict[str, float] = {"steps": 0, **dict.fromkeys(COUNTS, 0.0), "seconds": 0.0, "skipped": 0}
        self._spikes = SpikeGuard(config.spikes) if config.spikes else None
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self._peak = sum(
            ranks.gather(gemm_flops(ranks.device, dtype, size=8192 if ranks.device.type == "cuda" else 1024))
        )
        self._validation: list[Batch] | None = None
        self._held_out: Stream | None = None
        self._loader: Loader | None = None
        self._saved_at = self._updates_before = 0
        self._feed: Feed | None = None
        self._before: Pending | None = None
        self._writer = Writer(self._checkpoints, config.checkpoint, ranks)

    # -- what a step is ---------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        return int(self.consumed["steps"])

    @property
    def progress(self) -> float:
        """Share of the budget that is used up."""
        return self.config.budget.progress(self.consumed)

    @property
    def finished(self) -> bool:
        """Whether a limit is met."""
        limit = self.config.budget.seconds
        return self.progress >= 1 or (limit is not None and self.consumed["seconds"] >= limit)

    @property
    def _updates(self) -> int:
        """Updates of the weights that have been counted as steps."""
        return int(self.consumed["steps"] - self.consumed["skipped"])

    @property
    def waits_for_data(self) -> bool:
        """Whether nothing is under way but that: to break it off leaves the run as it was after its last step."""
        return self._loader is not None and self._loader.waiting and self._is_whole

    @property
    def worth_saving(self) -> bool:
        """Whether there are steps since the last checkpoint and weights, counts and loader are of the same step."""
        return self.steps > self._saved_at and self._is_whole

    @property
    def _is_whole(self) -> bool:
        return self.optimisers.updates == self._updates - self._updates_before

    def step(self) -> LogRow:
        """One optimiser step over the next global batch, done. See `launch`."""
        return self.launch().row()

    def launch(self) -> Pending:
        """Start an optimiser step over the next global batch. The host waits for nothing but the step before; with
        `non_finite: skip` or a spike guard also for this step's gradient, once.

        Raises:
            ShardError: the data cannot be read.
            NonFiniteError: with non_finite: stop; on CUDA when the step's row is asked for.
        """
        begun = time.perf_counter()
        taken = self._open_feed.step()
        targets = self.ranks.sum([taken.counts.targets])[0]
        bf16 = self.config.precision == "bf16"
        totals = self.ranks.sum_tensor(
            accumulate(self.module, taken.batches, targets, bf16, self.config.z_loss, self.config.sharding.reduce)
        )
        norm = gradient_norm(self.module)
        numbers = torch.cat([totals, norm.double()[None]])
        factor = self.config.schedule.factor(self.steps, self.progress)
        use = True
        if self.ranks.device.type != "cuda" or self.config.non_finite == "skip" or self._spikes is not None:
            use = self._is_usable(numbers.tolist(), taken.sample_ids)
        if use:
            update(self.module, self.optimisers, self.config.clip_norm, norm, factor)
        else:
            self.optimisers.zero_grad()
        if self._before is not None:
            self._before.wait()
        used, facts = self._count(taken, begun, skipped=not use)
        self._before = Pending(numbers, partial(self._describe, used, facts | {"lr_factor": factor}, taken.sample_ids))
        return self._before

    @property
    def _open_feed(self) -> Feed:
        """The loader's batches.

        Raises:
            RuntimeError: `resume` has not been called, which decides where they begin.
        """
        if self._feed is None:
            raise RuntimeError("resume() opens the loader")
        return self._feed

    def prefetch(self) -> None:
        """Fetch the next step's batches while the device computes this one's."""
        if not self.finished:
            self._open_feed.prefetch()

    def _is_usable(self, numbers: list[float], sample_ids: list[list[str]]) -> bool:
        """Whether the next step is to be taken: its numbers are finite and, under a spike guard, not far from the usual."""
        step = self.steps + 1
        if not self._is_finite(step, numbers, sample_ids):
            return False
        if self._spikes is None:
            return True
        loss = (numbers[0] + numbers[1]) / max(1.0, numbers[2] + numbers[3])
        spike = self._spikes.refuses(loss, numbers[-1])
        if spike is not None:
            log.warning("step %d left out: its %s", step, spike)
        return spike is None

    def _is_finite(self, step: int, numbers: list[float], sample_ids: list[list[str]]) -> bool:
        """Whether loss and gradient of a step are; with non_finite: stop it raises where they are not."""
        nll_text, nll_unit, norm = numbers[0], numbers[1], numbers[-1]
        if math.isfinite(nll_text + nll_unit) and math.isfinite(norm):
            return True
        names = self.ranks.gather(sample_ids)
        if self.config.non_finite == "skip":
            log.warning("step %d left out: its loss or gradient is not finite", step)
            return False
        file = self.folder / f"non-finite-step-{step:08d}.json"
        if self.ranks.is_main:
            facts = {"step": step, "nll_text": nll_text, "nll_unit": nll_unit, "gradient_norm": norm}
            file.write_text(json.dumps({**facts, "microbatches_by_rank": names}, indent=1), encoding="utf-8")
        raise NonFiniteError(
            f"step {step}: the loss or the gradient is not finite; the samples of its batch are in {file}. "
            "Set non_finite: skip to leave such steps out"
        )

    def _count(self, taken: StepBatches, begun: float, *, skipped: bool) -> tuple[Counts, LogRow]:
        """Add the step to what has been consumed; how much it was over all ranks, and what is to be said of it."""
        seconds = time.perf_counter() - begun + taken.ahead
        mains = [x if self.ranks.is_main else 0.0 for x in (seconds, taken.waited)]
        seconds, waited, *counts = self.ranks.sum([*mains, *taken.counts.numbers()])
        used = Counts.of(counts)
        self.consumed["steps"] += 1
        self.consumed["seconds"] += seconds
        self.consumed["skipped"] += skipped
        for name in COUNTS:
            self.consumed[name] += getattr(used, name)
        self._open_feed.done(taken)
        rate = used.flops / seconds
        row: LogRow = {
            "step": self.steps,
            "skipped": skipped,
            "world": self.ranks.world,
            **{name: self.consumed[name] for name in (*COUNTS, "seconds")},
            **fill(used, self.config.packing, self.config.global_microbatches),
            **speed(used, seconds, waited, self.ranks.world),
            "share_of_peak": rate / self._peak,
            "host_memory_peak_gib": host_memory_peak(),
        }
        if self.ranks.device.type == "cuda":
            peak = published_peak(self.ranks.device)
            row["mfu"] = None if peak is None else rate / (peak * self.ranks.world)
            row["memory_peak_gib"] = torch.cuda.max_memory_allocated(self.ranks.device) / 2**30
        return used, row

    def _describe(self, used: Counts, facts: LogRow, sample_ids: list[list[str]], numbers: list[float]) -> LogRow:
        """The row of a step whose numbers have come."""
        if not facts["skipped"]:
            self._is_finite(facts["step"], numbers, sample_ids)
        found = losses(numbers[:4], numbers[4:-1], used, self.corpus.names)
        return {"step": facts["step"], **found, "grad_norm": numbers[-1]} | facts

    # -- validation -------------------------------------------------------------------------------------------------

    def validate(self) -> LogRow:
        """Losses on the fixed validation batches, patched as at the end of training."""
        assert self.config.validation is not None
        count, world = self.config.validation.batches, self.ranks.world
        if self._validation is None:
            assert self._held_out is not None, "resume() opens the data"
            last = self.config.curriculum_steps or 0
            batches = fixed_batches(self._held_out, count, last) if count else []
            mine = batches[self.ranks.rank :: world] or batches[:1]  # a rank without one goes along, uncounted
            self._validation = [place(batch, self.ranks.device) for batch in mine]
        totals = torch.zeros(4, dtype=torch.float64, device=self.ranks.device)
        self.module.eval()
        # compiled blocks run the graphs of training, which are made with gradients, instead of a second set
        one_graph = self.config.compile and self.ranks.device.type == "cuda"
        for number in range(
            -(-count // world)
        ):  # every rank makes as many passes: sharded weights are gathered together
            extra = number * world + self.ranks.rank >= count
            batch = self._validation[0 if extra else number]
            autocast = torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")
            with torch.set_grad_enabled(one_graph), autocast:
                sums = self.module(batch)
            if not extra:
                totals += torch.stack(
                    [x.detach().double() for x in (sums.nll_text, sums.nll_unit, sums.num_text, sums.num_unit)]
                )
        self.module.train()
        # After a forward pass without a backward one FSDP leaves the root's weights gathered, and saving them fails.
        reshard(self.module)
        nll_text, nll_unit, num_text, num_unit = self.ranks.sum_tensor(totals).tolist()
        return {
            "validation_loss_text": nll_text / num_text if num_text else None,
            "validation_loss_speech": nll_unit / num_unit if num_unit else None,
        }

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write and publish a checkpoint of this moment, then let go of old ones; beside training where it is configured so.

        Raises:
            CheckpointError: see `model.training.writer.Writer`.
        """
        lanes: dict[int, Any] = {}
        for part in self.ranks.gather(self._open_feed.states):
            lanes.update(part)
        units = self.corpus.unit_facts()
        facts = {
            "step": self.steps,
            "config": self.config.model_dump(mode="json"),
            "identity": identity(self.config),
            "data": self.corpus.fingerprint(),
            "units": None if units is None else units.model_dump(mode="json"),
            "versions": versions(),
            "world": self.ranks.world,
            "consumed": dict(self.consumed),
            "spikes": None if self._spikes is None else self._spikes.state(),
            "lanes": [lanes[number] for number in range(self.config.data.lanes)],
        }
        self._writer.write(self.steps, self._tensors(), facts)
        self._saved_at = self.steps

    def resume(self) -> None:
        """Go on from the latest checkpoint, or begin; opens the loader.

        Raises:
            ConfigError: the run's data, model or settings are not what they were, or it must not be resumed.
        """
        if self.config.validation is not None:  # what cannot be held out is said before a step is made
            self._held_out = make_stream(self.config, self.corpus, "validation")
        facts = restore(self._checkpoints, self.config, self.corpus.fingerprint(), self._tensors(), self.ranks)
        states = None
        if facts is not None:
            self.consumed = facts["consumed"]
            states = [LaneState.from_json(state) for state in facts["lanes"]]
            if self._spikes is not None:
                self._spikes.load(facts.get("spikes") or {})
            self._saved_at, self._updates_before = self.steps, self._updates
        else:
            init_weights(self.module, self.config.seed)
            if self.config.init_from:
                started = set_weights(self.module, self.config.init_from, self.corpus, self.ranks)
                log.info("started from %s", started)
        data = self.config.data
        placement = Placement(
            self.ranks.rank, self.ranks.world, self.config.global_microbatches, data.lanes, data.workers
        )
        finish = finisher(BatchCounter(self._shape, self.corpus, self.config.packing), self.ranks.device)
        stream, patience = make_stream(self.config, self.corpus, "train"), self.config.timeouts.start
        self._loader = Loader(stream, placement, self.steps, states, finish, patience)
        self._feed = Feed(self._loader, self.ranks.device)

    def _tensors(self) -> dict[str, torch.Tensor]:
        weights = {f"model.{name}": parameter for name, parameter in self.module.named_parameters()}
        state = {f"optimiser.{name}": tensor for name, tensor in self.optimisers.tensors(self.module).items()}
        return {**weights, **state}

    def close(self) -> None:
        """End the loader's workers, wait for a checkpoint that is being written, and send what is not yet where the run lies.

        Raises:
            CheckpointError: it could not be.
            StorageError, CredentialsError: see `RunPlace.push`.
        """
        if self._loader is not None:
            self._loader.close()
        self._writer.wait()
        if self.ranks.is_main:
            self.place.push()
