"""The configuration of a training run: everything that `configs/train/*.yaml` may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from model.data.packing import PackingConfig
from model.data.patching import CurriculumConfig, PatchPolicyConfig
from model.data.sources import DataConfig
from model.monitor.spikes import SpikeConfig
from model.network.config import ModelConfig
from model.training.optimisation.config import OptimiserConfig
from model.training.optimisation.schedule import Schedule
from model.training.storage.paths import with_home
from model.training.storage.place import RunPlace
from schemas.config import BY_CONTENT, NO_EFFECT, ConfigError, StrictModel, essential, load_config


class BudgetConfig(StrictModel):
    """When training ends: at whichever limit is met first. All but `seconds` also drive the schedule.

    The paper's compute-controlled runs share `flops`, its data-controlled ones `elements`.
    """

    steps: int | None = Field(None, ge=1)
    """Optimiser steps."""
    elements: float | None = Field(None, gt=0)
    """Text tokens, units and marks, padding left out."""
    latents: float | None = Field(None, gt=0)
    """Text tokens and patches, padding left out."""
    flops: float | None = Field(None, gt=0)
    """Of forward and backward passes, counted from the modules; padding and recomputation left out."""
    seconds: float | None = Field(None, gt=0)
    """Wall clock of training, over all restarts."""

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if not self.limits():
            raise ValueError("give at least one of steps, elements, latents, flops: the learning rate follows it")
        return self

    def limits(self) -> dict[str, float]:
        """The limits that are set, wall clock apart."""
        named = {"steps": self.steps, "elements": self.elements, "latents": self.latents, "flops": self.flops}
        return {name: float(limit) for name, limit in named.items() if limit is not None}

    def progress(self, consumed: dict[str, float]) -> float:
        """Share of the budget that is used up, wall clock apart: at 1 the run is over."""
        return max(consumed[name] / limit for name, limit in self.limits().items())


class CheckpointConfig(StrictModel):
    """When checkpoints are written, and which are kept. SIGINT, SIGTERM and SIGUSR1 write one too, and the end of the run."""

    every_steps: int | None = Field(None, ge=1)
    """A checkpoint after so many steps."""
    every_seconds: float | None = Field(None, gt=0)
    """A checkpoint after so long, by the main rank's clock."""
    keep: int = Field(2, ge=1)
    """The newest so many stay."""
    keep_every_steps: int | None = Field(None, ge=1)
    """Those at multiples of this stay for ever."""
    beside: bool = False
    """Write beside training: a step waits while weights and optimiser state are copied to the host's memory, no longer."""
    resume: bool = True
    """Go on from `latest` where there is one. False: refuse to start over it."""


class ValidationConfig(StrictModel):
    """Loss on a fixed set of micro-batches, made from the held-out samples (or from the first of all, with held_out 0)."""

    every_steps: int = Field(ge=1)
    """Also at the first and the last step."""
    batches: int = Field(ge=1)
    """Micro-batches of the validation set."""


class VoiceConfig(StrictModel):
    """Who speaks the samples of an evaluation: recordings of the training data, joined, unless another voice is named."""

    voice_shards: Annotated[str | None, BY_CONTENT] = None
    """The `index.json` of speech shards whose recordings are joined; null: the first speech source."""
    audio_root: Annotated[str | None, NO_EFFECT] = None
    """Where the recordings lie, if the shards carry no audio."""
    voice: str = ""
    """Only recordings with this in their path."""
    voice_hours: float = Field(5.0, gt=0)
    """Of recordings, at most: the first in the shards. An hour takes 1.1 GB of memory."""
    mean_spectrum: bool = False
    """Speak with mean spectra instead of joined pieces."""
    vocoder: Annotated[str | None, BY_CONTENT] = None
    """A unit HiFi-GAN instead: a folder with config.json and weights, or the hub name of one that was fetched."""
    speaker: int = 0
    """Of a vocoder with several."""


class EvaluationConfig(StrictModel):
    """Scores and samples while training, by the main rank; the others wait. Training is the same with and without to the bit."""

    every_steps: int = Field(ge=1)
    """Also at the last step."""
    tasks: list[str] = []
    """Task files that `jobs/prepare_task.py` has prepared (docs/scoring.md)."""
    directions: list[Literal["S->S", "T->T", "S->T", "T->S"]] = ["S->S", "T->T", "S->T", "T->S"]
    """Of prompt and ending; an item that lacks a form is left out."""
    normalisation: Literal["sum", "token", "length", "whole"] = "sum"
    """What endings are compared by in the curves; the record has all four."""
    items: int | None = Field(None, ge=1)
    """Of each task, the first so many; null: all."""
    samples: int = Field(3, ge=0)
    """Speech prompts that are continued: the beginnings of the first samples, held out ones where some are."""
    prompt_seconds: float = Field(3.0, gt=0)
    """Of each."""
    texts: list[str] = []
    """Text prompts that are continued too."""
    seconds: float = Field(5.0, gt=0)
    """Of new speech, at most."""
    tokens: int = Field(60, ge=1)
    """Of new text, at most."""
    temperature: float = Field(0.8, ge=0)
    """0: always the likeliest element."""
    top_p: float | None = Field(0.95, gt=0, le=1)
    """Only the smallest set of likeliest elements that holds this much probability; null: all."""
    voice: VoiceConfig = VoiceConfig()
    """Who speaks."""


class WandbConfig(StrictModel):
    """A run of Weights & Biases (extra `wandb`)."""

    project: str
    """Where the run is listed."""
    name: str | None = None
    """Of the run; null: the name of its folder."""
    offline: bool = False
    """Write to `wandb/` in the run's folder and send nothing; `wandb sync` sends it later."""


class ProfileConfig(StrictModel):
    """Steps that torch's profiler looks at; its files go to `profile/` in the run's folder."""

    first: int = Field(ge=1)
    """The first of them, counted from 1. Take one after the first few: those load and compile."""
    steps: int = Field(3, ge=1)
    """How many."""
    memory: bool = False
    """Also what is allocated; on CUDA as a snapshot for the memory viewer."""
    all_ranks: bool = False
    """Files of every rank instead of the main one's."""


class LogConfig(StrictModel):
    """What is shown and written."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Of what goes to stderr."""
    progress: bool = True
    """A progress bar on a terminal, a line now and then elsewhere."""
    tensorboard: bool = True
    """Also write event files for TensorBoard."""
    wandb: WandbConfig | None = None
    """Also show it at Weights & Biases; null: not."""
    profile: ProfileConfig | None = None
    """Profile some steps; null: none."""


class ShardingConfig(StrictModel):
    """How weights, gradients and optimiser state lie over several ranks (FSDP2)."""

    group: int | None = Field(None, ge=1)
    """Ranks that hold one copy between them; null: all. Fewer (the GPUs of a node) keep a copy per group (HSDP)."""
    after_forward: Literal["free", "keep"] = "free"
    """A layer's gathered weights after its forward pass. `free` gathers them again for the backward pass (ZeRO-3)."""
    gather: Literal["fp32", "bf16"] = "fp32"
    """The type in which the weights of layers travel. `bf16` halves the traffic and rounds norm gains to bf16 in the
    computation. Gradients travel in fp32 either way."""
    reduce: Literal["step", "micro_batch"] = "step"
    """When gradients are summed over ranks and dealt out: once a `step`, so that a rank holds whole ones while it accumulates
    micro-batches (least traffic), or after each `micro_batch`, so that it holds its share alone."""


class TimeoutConfig(StrictModel):
    """How long ranks wait for each other before the run ends, and for a batch."""

    start: float = Field(1800, gt=0)
    """Until the first step is done: loading, compiling. At any time: until the loader's processes give a batch, an evaluation or
    a checkpoint is done."""
    step: float = Field(600, gt=0)
    """From then on."""


class TrainConfig(StrictModel):
    """Everything that a training run is told: a file of configs/train/."""

    output_dir: Annotated[str, NO_EFFECT]
    """Receives metrics.jsonl, tensorboard/, checkpoints/ and config.yaml: a folder, or a URL such as s3://bucket/run, which gets
    them with each checkpoint and at the end. Until then they are under LST_CACHE (default: ~/.cache/lst) of the main rank."""
    seed: int
    """Of weights, order and every draw."""
    model: str | ModelConfig
    """A file of configs/model/, or the mapping itself."""
    init_from: Annotated[str | None, BY_CONTENT] = None
    """Start from these weights: a run, a checkpoint or an exported folder of the same shape (fine-tuning), or the directory of a
    text model of the Llama architecture (see `model.exchange.hf.init_from`); a URL, or the name of one that was fetched from a
    hub, will do too. Optimiser, schedule and data begin anew. A run that resumes does not read it."""
    data: DataConfig
    """What the run reads."""
    patches: PatchPolicyConfig
    """Which elements share a latent."""
    curriculum_steps: int | None = Field(None, ge=1)
    """Policy `curriculum`: its shares are of this many steps."""
    packing: PackingConfig
    """How documents fill batches of fixed size."""
    global_microbatches: int = Field(ge=1)
    """Micro-batches of an optimiser step, over all ranks: a rank accumulates global_microbatches / world size of them."""
    optimiser: OptimiserConfig
    """AdamW, or Muon with AdamW."""
    schedule: Schedule
    """The learning rate over the run."""
    clip_norm: float = Field(1.0, gt=0)
    """The gradient's norm is cut to this."""
    z_loss: float = Field(0.0, ge=0)
    """Adds this times the mean squared log partition function of the heads to what is minimised (PaLM: 1e-4). Reported losses are
    without it."""
    spikes: SpikeConfig | None = None
    """Leave out steps that jump; null: none. On CUDA the host then waits for each step's gradient."""
    budget: Annotated[BudgetConfig, NO_EFFECT]
    """When training ends."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16 by autocast; weights, optimiser and loss stay fp32. `--dry-run` measures the gain."""
    compile: Annotated[bool, NO_EFFECT] = False
    """torch.compile: of whole blocks on CUDA, of the feed-forward layers on CPU, where it needs a C++ compiler."""
    recompute: Annotated[bool | Literal["selective"], NO_EFFECT] = False
    """Activation checkpointing of every transformer block: less memory for about a third more time. `selective` keeps products
    with weights, on CUDA attention too, and computes the cheap rest again; where blocks are compiled on CUDA, what the compiler
    chooses to, down to half of what it would keep."""
    sharding: Annotated[ShardingConfig, NO_EFFECT] = ShardingConfig()
    """How weights lie over several ranks."""
    timeouts: Annotated[TimeoutConfig, NO_EFFECT] = TimeoutConfig()
    """How long ranks wait for each other."""
    non_finite: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is not finite: stop with the batch's sample ids saved, or leave the step out and count it."""
    deterministic: Annotated[bool, NO_EFFECT] = False
    """torch's deterministic algorithms alone, which on CUDA are slower: two runs are then equal to the bit there too. On CPU they
    always are. An operation that has none ends the run."""
    threads: Annotated[int | None, NO_EFFECT] = Field(None, ge=1)
    """CPU threads per rank; None leaves torch's choice. Bitwise equality holds at equal threads."""
    checkpoint: Annotated[CheckpointConfig, NO_EFFECT]
    """When checkpoints are written, and which are kept."""
    validation: Annotated[ValidationConfig | None, NO_EFFECT] = None
    """Loss on held-out samples; null: none."""
    evaluation: Annotated[EvaluationConfig | None, NO_EFFECT] = None
    """Tasks and samples while training; null: none."""
    log: Annotated[LogConfig, NO_EFFECT] = LogConfig()
    """What is shown and written."""

    @property
    def network(self) -> ModelConfig:
        """The model's own configuration, once `load_train_config` has read the file that `model` may name.

        Raises:
            ValueError: it has not been read.
        """
        if isinstance(self.model, str):
            raise ValueError(
                f"the model is still a file's name ({self.model}): read the configuration with load_train_config"
            )
        return self.model

    @model_validator(mode="after")
    def _curriculum_has_a_length(self) -> Self:
        if isinstance(self.patches, CurriculumConfig) and self.curriculum_steps is None:
            raise ValueError("patches.policy 'curriculum' needs curriculum_steps, the steps that its shares refer to")
        return self


def load_train_config(path: str | Path, overrides: list[str]) -> TrainConfig:
    """Read a run's YAML; a `model` that names a file is replaced by what the file says. A run's folder stands for the config.yaml
    in it, with the folder as `output_dir`: so it goes on wherever it was moved to. A path may begin with `~/`.

    Raises:
        ConfigError: see `load_config`.
    """
    if "://" in str(path):
        place = RunPlace(str(path))
        place.fetch()
        if not (place.folder / "config.yaml").is_file():
            raise ConfigError(f"there is no run at {path}: it has no config.yaml")
        path, overrides = place.folder / "config.yaml", [f"output_dir={json.dumps(str(place))}", *overrides]
    elif (Path(path) / "config.yaml").is_file():
        path, overrides = Path(path) / "config.yaml", [f"output_dir={json.dumps(str(path))}", *overrides]
    config = with_home(load_config(TrainConfig, path, overrides))
    if isinstance(config.model, ModelConfig):
        return config
    return config.with_updates(model=load_config(ModelConfig, config.model).model_dump())


def on_shards(config: TrainConfig, index: str) -> TrainConfig:
    """The same run on other speech: `index` in place of the one set of shards that its sources name. A tokenizer that the run may
    train is trained on that, in `output_dir`.

    Raises:
        ConfigError: the sources name no set of shards, or several.
    """
    data = config.data
    named = sorted({source.data for source in data.sources if source.data.endswith(".json")})
    if len(named) != 1:
        raise ConfigError(
            f"--shards replaces one set of shards, and the configuration names {', '.join(named) or 'none'}",
            "set data.sources",
        )
    sources = [
        source.model_copy(update={"data": index}) if source.data == named[0] else source for source in data.sources
    ]
    own = data.tokenizer.train_size is not None and "://" not in config.output_dir
    tokenizer = data.tokenizer.model_copy(update={"path": f"{config.output_dir}/tokenizer.json"} if own else {})
    return config.with_updates(data=data.model_copy(update={"sources": sources, "tokenizer": tokenizer}).model_dump())


def identity(config: TrainConfig) -> dict[str, Any]:
    """The part of a configuration that decides results, flattened to `a.b.c` -> value. The rest may differ when a run is resumed:
    a changed budget only moves the schedule. Data and tokenizers are compared by content (`Corpus.fingerprint`)."""
    return flatten(essential(config))


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping with dotted keys."""
    items: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return {prefix: value}
    return {k: v for name, item in items for k, v in flatten(item, f"{prefix}.{name}" if prefix else str(name)).items()}


def differences(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """One phrase per key whose value is not what it was."""
    keys = sorted({*saved, *current})
    missing = "absent"
    return [
        f"{key} was {saved.get(key, missing)!r} and is now {current.get(key, missing)!r}"
        for key in keys
        if saved.get(key, missing) != current.get(key, missing)
    ]
