"""A training run: everything it holds, and the four things it can do (step, validate, save, resume)."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from model.cost.flops import count_batch, training_flops
from model.data.loader import LaneState, Loader, Placement, fixed_batches
from model.data.sources import Corpus
from model.network.batch import Batch
from model.network.config import ModelConfig
from model.network.init import init_weights
from model.network.lst import build_model
from model.training.checkpoint import check_same_run, latest, load, read_facts, retain, save, versions
from model.training.compiling import compile_blocks, compile_feed_forward
from model.training.config import TrainConfig, identity
from model.training.distributed import Ranks, reshard, shard
from model.training.first_weights import set_weights
from model.training.metrics import Row, bits_per_second, gemm_flops
from model.training.optim import Optimisers
from model.training.stream import make_stream
from schemas.config import ConfigError
from schemas.errors import ExitCode, UserError

log = logging.getLogger(__name__)

COUNTS = ("elements", "latents", "flops", "speech_seconds")


class NonFiniteError(UserError):
    """The loss or the gradient is not finite; the message names the file with the batch's sample ids."""

    code = ExitCode.NOT_ACCEPTED


def make_module(config: TrainConfig, model: ModelConfig, ranks: Ranks) -> nn.Module:
    """The model on this rank's device, sharded where there are several ranks. Its weights depend on the seed alone."""
    with torch.device("meta"):
        module: nn.Module = build_model(model, config.seed)
    layers = [layer for stack in module.modules() if isinstance(stack, nn.ModuleList) for layer in stack]
    if config.recompute:
        from torch.distributed._composable.checkpoint_activation import checkpoint

        for layer in layers:
            checkpoint(layer)
    if config.compile:
        compile_blocks(module) if ranks.device.type == "cuda" else compile_feed_forward(module)
    if ranks.world > 1:
        shard(module, layers, ranks)
    module.to_empty(device=ranks.device)
    init_weights(module, config.seed)
    return module


class Run:
    """One run on this rank."""

    def __init__(self, config: TrainConfig, corpus: Corpus, ranks: Ranks) -> None:
        assert isinstance(config.model, ModelConfig)
        self.ranks, self.corpus = ranks, corpus
        self.model_config = config.model.with_vocabulary(corpus.vocabulary)
        self.config = config.with_updates(model=self.model_config.model_dump())
        self.folder = Path(config.output_dir)
        self.module = make_module(self.config, self.model_config, ranks)
        with torch.device("meta"):
            self._shape = build_model(self.model_config, config.seed)  # for counting operations on whole matrices
        self.optimisers = Optimisers(config.optimiser, self.module)
        self.consumed: dict[str, float] = {"steps": 0, **dict.fromkeys(COUNTS, 0.0), "seconds": 0.0, "skipped": 0}
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self._peak = sum(ranks.gather(gemm_flops(ranks.device, dtype)))
        self._validation: list[Batch] | None = None
        self._loader: Loader | None = None
        self._saved_at = self._updates_before = 0

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

    def step(self) -> Row:
        """One optimiser step over the next global batch.

        Raises:
            ShardError: the data cannot be read.
            NonFiniteError: with non_finite: stop.
        """
        assert self._loader is not None, "resume() opens the loader"
        start = time.perf_counter()
        batches = self._loader.step()
        waited = time.perf_counter() - start
        targets = self.ranks.sum([float(sum(int(batch.loss_mask_N.sum()) for batch in batches))])[0]
        sums = self._accumulate(batches, targets)
        norm = self._gradient_norm()
        factor = self.config.schedule.factor(self.steps, self.progress)
        finite = math.isfinite(sum(sums[:2])) and math.isfinite(norm)
        if finite:
            self._clip(norm)
            self.optimisers.step(factor)
        else:
            self._not_finite(batches, sums, norm)
        return self._count(batches, sums, factor=factor, norm=norm, times=(start, waited), skipped=not finite)

    def _accumulate(self, batches: list[Batch], targets: float) -> list[float]:
        """Gradients of the mean loss over the global batch. Returns nll_text, nll_unit, num_text, num_unit of all of it."""
        totals = torch.zeros(4, dtype=torch.float64, device=self.ranks.device)
        for number, batch in enumerate(batches, start=1):
            if isinstance(self.module, FSDPModule):
                self.module.set_requires_gradient_sync(number == len(batches))
            with self._autocast():
                sums = self.module(batch.to(self.ranks.device))
            ((sums.nll_text + sums.nll_unit) / targets).backward()
            parts = (sums.nll_text, sums.nll_unit, sums.num_text, sums.num_unit)
            totals += torch.stack([part.detach().double() for part in parts])
        return self.ranks.sum(totals.tolist())

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _gradient_norm(self) -> float:
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _clip(self, norm: float) -> None:
        torch.nn.utils.clip_grads_with_norm_(self.module.parameters(), self.config.clip_norm, torch.tensor(norm))

    def _not_finite(self, batches: list[Batch], sums: list[float], norm: float) -> None:
        names = self.ranks.gather([list(batch.sample_ids) for batch in batches])
        if self.config.non_finite == "skip":
            self.optimisers.zero_grad()
            log.warning("step %d left out: its loss or gradient is not finite", self.steps + 1)
            return
        file = self.folder / f"non-finite-step-{self.steps + 1:08d}.json"
        if self.ranks.is_main:
            facts = {"step": self.steps + 1, "nll_text": sums[0], "nll_unit": sums[1], "gradient_norm": norm}
            file.write_text(json.dumps({**facts, "microbatches_by_rank": names}, indent=1), encoding="utf-8")
        raise NonFiniteError(
            f"step {self.steps + 1}: the loss or the gradient is not finite; the samples of its batch are in {file}. "
            "Set non_finite: skip to leave such steps out"
        )

    def _count(
        self,
        batches: list[Batch],
        sums: list[float],
        *,
        factor: float,
        norm: float,
        times: tuple[float, float],
        skipped: bool,
    ) -> Row:
        """Add the step to what has been consumed, and describe it."""
        packing = self.config.packing
        sizes = [_size(batch) for batch in batches]
        used = [
            float(sum(elements for elements, _ in sizes)),
            float(sum(latents for _, latents in sizes)),
            sum(training_flops(self._shape, count_batch(batch, self.model_config)) for batch in batches),
            sum(self.corpus.speech_seconds(batch) for batch in batches),
            float(sum(int(batch.is_unit_N.sum()) for batch in batches)),
            sum(max(elements / packing.elements, latents / packing.latents) for elements, latents in sizes),
        ]
        begun, waited = times
        seconds = time.perf_counter() - begun
        *used, seconds, waited = self.ranks.sum([*used, *(x if self.ranks.is_main else 0.0 for x in (seconds, waited))])
        self.consumed["steps"] += 1
        self.consumed["seconds"] += seconds
        self.consumed["skipped"] += skipped
        for name, amount in zip(COUNTS, used, strict=False):
            self.consumed[name] += amount
        nll_text, nll_unit, num_text, num_unit = sums
        micro = self.config.global_microbatches
        seconds_per_unit = used[3] / max(1.0, used[4])  # a token of a unit BPE lasts as long as its units
        speech = nll_unit / num_unit if num_unit else None
        return {
            "step": self.steps,
            "loss": (nll_text + nll_unit) / max(1.0, num_text + num_unit),
            "loss_text": nll_text / num_text if num_text else None,
            "loss_speech": speech,
            "bits_per_second_of_speech": None if speech is None else bits_per_second(speech, seconds_per_unit),
            "num_text": int(num_text),
            "num_units": int(num_unit),
            "lr_factor": factor,
            "grad_norm": norm,
            "skipped": skipped,
            "world": self.ranks.world,
            **{name: self.consumed[name] for name in (*COUNTS, "seconds")},
            "fill_elements": used[0] / (packing.elements * micro),
            "fill_latents": used[1] / (packing.latents * micro),
            "fill_binding": used[5] / micro,
            "elements_per_second": used[0] / seconds,
            "latents_per_second": used[1] / seconds,
            "speech_seconds_per_second": used[3] / seconds,
            "share_of_peak": used[2] / seconds / self._peak,
            "data_wait_share": waited / seconds,
        }

    # -- validation -------------------------------------------------------------------------------------------------

    def validate(self) -> Row:
        """Losses on the fixed validation batches, patched as at the end of training."""
        assert self.config.validation is not None
        count, world = self.config.validation.batches, self.ranks.world
        if self._validation is None:
            stream = make_stream(self.config, self.corpus, "validation")
            last = self.config.curriculum_steps or 0
            batches = fixed_batches(stream, count, last) if count else []
            self._validation = batches[self.ranks.rank :: world] or batches[:1]  # a rank without one goes along
        totals = torch.zeros(4, dtype=torch.float64, device=self.ranks.device)
        self.module.eval()
        for number in range(
            -(-count // world)
        ):  # every rank makes as many passes: sharded weights are gathered together
            extra = number * world + self.ranks.rank >= count
            batch = self._validation[0 if extra else number]
            with torch.no_grad(), self._autocast():
                sums = self.module(batch.to(self.ranks.device))
            if not extra:
                totals += torch.stack(
                    [x.double() for x in (sums.nll_text, sums.nll_unit, sums.num_text, sums.num_unit)]
                )
        self.module.train()
        reshard(self.module)
        nll_text, nll_unit, num_text, num_unit = self.ranks.sum(totals.tolist())
        return {
            "validation_loss_text": nll_text / num_text if num_text else None,
            "validation_loss_speech": nll_unit / num_unit if num_unit else None,
        }

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def save(self) -> Path:
        """Write and publish a checkpoint of this moment, then let go of old ones.

        Raises:
            CheckpointError: see `model.training.checkpoint.save`.
        """
        assert self._loader is not None
        lanes: dict[int, Any] = {}
        for part in self.ranks.gather(self._loader.states()):
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
            "consumed": self.consumed,
            "lanes": [lanes[number] for number in range(self.config.data.lanes)],
        }
        folder = self.folder / "checkpoints"
        path = save(folder, self.steps, self._tensors(), facts, self.ranks)
        self._saved_at = self.steps
        if self.ranks.is_main:
            retain(folder, self.config.checkpoint)
        return path

    def resume(self) -> None:
        """Go on from the latest checkpoint, or begin; opens the loader.

        Raises:
            ConfigError: the run's data, model or settings are not what they were, or it must not be resumed.
        """
        newest = latest(self.folder / "checkpoints")
        states = None
        if newest is not None:
            if not self.config.checkpoint.resume:
                raise ConfigError(
                    f"{self.folder} has checkpoints up to {newest.name} and checkpoint.resume is false; "
                    "choose another output_dir or remove them"
                )
            facts = read_facts(newest)
            check_same_run(newest, facts, self.config, self.corpus.fingerprint())
            load(newest, self._tensors(), self.ranks)
            self.consumed = facts["consumed"]
            states = [LaneState.from_json(state) for state in facts["lanes"]]
            self._saved_at, self._updates_before = self.steps, self._updates
            log.info("resumed from %s", newest)
        elif self.config.init_from:
            set_weights(self.module, self.config.init_from, self.corpus, self.ranks)
        data = self.config.data
        place = Placement(self.ranks.rank, self.ranks.world, self.config.global_microbatches, data.lanes, data.workers)
        self._loader = Loader(make_stream(self.config, self.corpus, "train"), place, self.steps, states)

    def _tensors(self) -> dict[str, torch.Tensor]:
        weights = {f"model.{name}": parameter for name, parameter in self.module.named_parameters()}
        state = {f"optimiser.{name}": tensor for name, tensor in self.optimisers.tensors(self.module).items()}
        return {**weights, **state}

    def close(self) -> None:
        """End the loader's workers."""
        if self._loader is not None:
            self._loader.close()


def _size(batch: Batch) -> tuple[int, int]:
    """Elements and latents in use."""
    elements = int((batch.doc_id_N >= 0).sum())
    return elements, int(batch.latent_id_N[elements - 1]) + 1
