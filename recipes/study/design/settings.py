"""What a study is made of: `configs/experiments/*.yaml`, read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from model.data.interleave import InterleaveRule
from model.data.patching import PatchPolicyConfig
from model.network.config import ModelConfig
from model.training.optimisation.config import OptimiserConfig
from schemas.config import ConfigError, StrictModel, load_config

Control = Literal["compute", "data", "clock"]


class Weights(StrictModel):
    """Shares of the training elements, counted in units before any BPE."""

    interleaved: float = Field(gt=0)
    speech: float = Field(gt=0)
    text: float = Field(gt=0)


class StudyData(StrictModel):
    """The data, the same for all arms."""

    speech: str
    """Index of speech shards."""
    text: str
    """Index of text shards, or a .txt file of stories with blank lines between them."""
    held_out: float = Field(gt=0, lt=1)
    """Share of the samples of each that no run trains on: losses are measured on them."""
    weights: Weights
    spans: InterleaveRule
    text_tokens: int = Field(gt=0)
    """Size of the text tokenizer, trained on the training text."""
    unit_tokens: int = Field(gt=0)
    """Size of the unit BPE of the arms that have one."""
    lanes: int = Field(8, ge=1)


class StudyTraining(StrictModel):
    """What all arms share in training."""

    elements: int = Field(gt=1)
    """Of a micro-batch. Every arm's latent budget is so large that elements bind: equal steps are then equal documents."""
    global_microbatches: int = Field(ge=1)
    budget_elements: float = Field(gt=0)
    """What the plain baseline reads. Its operations and its core seconds are the budgets of the other two controls."""
    optimiser: OptimiserConfig
    """`lr` is replaced by each value of the grid."""
    rates: list[float] = Field(min_length=1)
    """The grid of learning rates: the same for all arms, `rate_share` of the budget each, seed 1."""
    rate_share: float = Field(gt=0, le=1)
    warmup_steps: int = Field(ge=0)
    decay_share: float = Field(gt=0, lt=1)
    """The rate is constant, then falls linearly to 0 over this last share of whichever budget: each control is a branch."""
    clip_norm: float = Field(gt=0)
    precision: Literal["fp32", "bf16"]
    save_seconds: float = Field(300, gt=0)


class Arm(StrictModel):
    """One model of the comparison."""

    kind: Literal["plain", "lst"]
    patches: PatchPolicyConfig
    """For `plain` it only says where a document may be cut."""
    unit_bpe: bool = False
    text_path: Literal["local", "direct"] | None = None
    """LST: another path of text than the study's model has."""
    layers: Literal["as lst", "parameters", "flops"] = "as lst"
    """Plain: as many layers as LST's global part (the paper's rule), or so many that parameters or operations match."""
    model: dict[str, Any] = {}
    """What differs from the study's model, such as `{patch_decoder: {num_layers: 3}}`. A plain arm has its global part alone."""
    optimiser: OptimiserConfig | None = None
    """Another than the study's; `lr` is replaced by each value of the grid."""
    rates: list[float] | None = Field(None, min_length=1)
    """Another grid than the study's."""
    seeds: list[int] = Field(min_length=1)


class ScoredTask(StrictModel):
    """A task file, prepared where it is spoken. Items lacking a form are left out of the directions that need it."""

    path: str
    items_per_group: int = Field(ge=1)
    """The first so many of each group are scored."""


class Measures(StrictModel):
    """What is measured, and on how much."""

    held_out_documents: int = Field(ge=1)
    """Per kind (text, speech, interleaved), for the tables."""
    curve_documents: int = Field(ge=1)
    """Per kind, for the curves."""
    curve_points: int = Field(ge=2)
    tasks: list[ScoredTask]
    loss_documents: int = Field(0, ge=0)
    """Held-out documents of speech for the tables of where the loss lies and what context is worth; 0: none."""
    asr_steps: int = Field(0, ge=0)
    """Steps of fine-tuning on transcription from each arm's compute-controlled checkpoint; 0: none."""
    asr_lr: float = Field(5e-4, gt=0)
    """Of the fine-tuning: the same for all arms, not tuned."""
    asr_task: str | None = None
    """A prepared task file whose prompts and right endings are transcribed."""
    asr_utterances: int = Field(64, ge=1)

    @model_validator(mode="after")
    def _asr_has_a_task(self) -> Self:
        if self.asr_steps and self.asr_task is None:
            raise ValueError("asr_steps needs asr_task, a prepared task file to transcribe")
        return self


class Compared(StrictModel):
    """Arms of a study, for the picture of what arms gain over the plain baseline."""

    study: str
    """Its file's name without .yaml, beside this study's."""
    title: str
    """What its runs have in common, such as their units."""
    arms: list[str] = Field(min_length=1)
    task: str | None = None
    """Of its tasks, whose preferences alone are shown then. None: the first one, and losses."""


class Study(StrictModel):
    """A study: data, arms, budgets and seeds (configs/experiments/)."""

    name: str
    runs_dir: str
    """Checkpoints and logs. Nothing in it is needed once a unit of work has its record."""
    trunks: list[str] = []
    """`runs_dir`s of studies with shorter budgets. A trunk there of the same arm, seed, data and settings is gone on from instead
    of being trained anew: its rate is constant, so it is what a longer run begins with. The record says so."""
    results_dir: str
    """Records: one small JSON for each finished unit of work, committed."""
    page: str
    layout: Literal["tables", "brief"] = "tables"
    """Of the page: all tables in turn, or the answer first (for studies whose tasks have twins)."""
    budgets: list[str] = []
    """Studies beside this one (their file names without .yaml) that differ in their operations alone: the first picture of a
    brief page shows what their arms prefer against operations."""
    compared: list[Compared] = []
    """What a brief page shows first: the differences of these arms from each study's plain baseline, as a picture and a table."""
    tables: str = ""
    """Said in the headings of a brief page's own tables, where it begins with those of other studies: what their runs have in
    common."""
    data: StudyData
    model: str | ModelConfig
    """The LST; the plain arms have its global part."""
    training: StudyTraining
    arms: dict[str, Arm]
    """In order of work."""
    controls: list[Control] = Field(min_length=1)
    """In order of work."""
    measures: Measures

    @model_validator(mode="after")
    def _has_its_yardstick(self) -> Self:
        first = next(iter(self.arms.values()), None)
        if first is None or first.kind != "plain" or first.unit_bpe or first.layers != "as lst":
            raise ValueError("the first arm must be the plain baseline over units: its budget is everyone's")
        if self.controls[0] != "compute":
            raise ValueError("controls must begin with compute, which the plain baseline's own run answers for all")
        return self

    @property
    def baseline(self) -> str:
        """The first arm's name."""
        return next(iter(self.arms))

    @property
    def network(self) -> ModelConfig:
        """The model's own configuration, once `load_study` has read the file that `model` may name.

        Raises:
            ValueError: it has not been read.
        """
        if isinstance(self.model, str):
            raise ValueError(f"the model is still a file's name ({self.model}): read the study with load_study")
        return self.model

    def arms_of(self, only: str | None) -> list[str]:
        """The arms that a command line asks for, between commas; all without it.

        Raises:
            ConfigError: one is not the study's.
        """
        if only is None:
            return list(self.arms)
        if unknown := set(only.split(",")) - set(self.arms):
            raise ConfigError(f"no arm {', '.join(sorted(unknown))}; there are {', '.join(self.arms)}")
        return only.split(",")

    def rates_of(self, arm: str) -> list[float]:
        """The arm's grid of learning rates."""
        return self.arms[arm].rates or self.training.rates


def load_study(path: str | Path, overrides: list[str]) -> Study:
    """Read a study; a `model` that names a file is replaced by what the file says.

    Raises:
        ConfigError: see `load_config`.
    """
    study = load_config(Study, path, overrides)
    if isinstance(study.model, str):
        study = study.with_updates(model=load_config(ModelConfig, study.model).model_dump())
    if study.network.kind != "lst":
        raise ConfigError(f"{path}: model must be an LST; the plain arms are derived from it")
    return study
