"""Evaluation while a run trains: its tasks are scored and a few prompts continued, by the weights of the moment.

Nothing of it reaches the training: the weights are read without gradients, and every draw has a generator of its own.
"""

from __future__ import annotations

import logging
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from model.data.shards import Sample
from model.evaluation.records import (
    Evaluation,
    SampleSaid,
    TaskAccuracy,
    folder_of_step,
    forget_beyond,
    write_evaluation,
)
from model.inference.continuation import Generator
from model.inference.sampling import Sampling
from model.inference.trained import Trained
from model.monitor.boards import SOUND_RATE
from model.monitor.rows import LogRow
from model.network.init import WRAPPERS
from model.network.lst import build_model
from model.scoring.accuracy import accuracy, select
from model.scoring.documents import check_endings
from model.scoring.scorer import NORMALISATIONS, Precision, check_cards, make_scorer
from model.training.config import EvaluationConfig
from model.training.distributed import reshard
from model.training.loop import Evaluated
from model.training.run import Run
from model.voice.options import open_synthesiser
from model.voice.synthesiser import Synthesiser, at_16k, write_wav
from schemas.config import ConfigError
from schemas.errors import UserError
from schemas.tasks import Task, read_task

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Prompt:
    """The beginning of a sample, or a text."""

    text: str
    units: np.ndarray | None


def make_evaluator(run: Run) -> Evaluator | None:
    """The run's evaluator; None where it has no evaluation. Call it on every rank.

    Raises:
        ConfigError: on every rank: a task or a voice cannot be had, or is of other units than the model.
        ShardError: the data cannot be read.
    """
    if run.config.evaluation is None:
        return None
    evaluator, problem = Evaluator(run, run.config.evaluation), None
    if run.ranks.is_main:
        try:
            evaluator.open()
        except UserError as error:
            problem = str(error)
    if problems := [text for text in run.ranks.gather(problem) if text]:
        raise ConfigError(f"evaluation: {problems[0]}")
    return evaluator


class Evaluator:
    """Call it on every rank after a step: all give their weights, the main one evaluates them."""

    def __init__(self, run: Run, config: EvaluationConfig) -> None:
        self._run, self._config = run, config
        self._tasks: list[Task] = []
        self._prompts: list[_Prompt] = []
        self._voice: Synthesiser | None = None

    def open(self) -> None:
        """Read tasks, prompts and the voice, once.

        Raises:
            ConfigError, ShardError: one of them cannot be had, or does not fit the model.
        """
        config, trained = self._config, self._trained(torch.device("meta"))
        forget_beyond(self._run.folder, self._run.steps)
        self._tasks = [_first_items(read_task(path), config.items) for path in config.tasks]
        names = [task.header.task for task in self._tasks]
        if len(set(names)) < len(names):
            raise ConfigError(f"two of the tasks have the same name: {', '.join(names)}")
        for task in self._tasks if any("S" in direction for direction in config.directions) else []:
            check_cards(task, trained, make_scorer(trained, "auto", "fp32").patching)
        for task in self._tasks:
            check_endings(task, config.directions, trained.composer())
        if config.samples or config.texts:
            Generator.of(trained)
            self._prompts = [*self._spoken_prompts(), *(_Prompt(text=text, units=None) for text in config.texts)]
            if trained.units is not None:
                self._voice = open_synthesiser(Namespace(**config.voice.model_dump()), trained)

    def __call__(self) -> Evaluated:
        """The columns of the step's row, and sounds for boards; empty on ranks but the main one.

        Raises:
            ConfigError: an item cannot be scored in a direction.
        """
        begun, step = time.perf_counter(), self._run.steps
        trained = self._trained(self._run.ranks.device)
        found = Evaluated()
        if self._run.ranks.is_main:
            with torch.random.fork_rng():
                found = self._evaluate(trained, step, begun)
        self._run.ranks.barrier()
        return found

    def _evaluate(self, trained: Trained, step: int, begun: float) -> Evaluated:
        accuracies = list(self._score(trained))
        said = list(self._continue(trained, step))
        folder = folder_of_step(self._run.folder, step)
        folder.mkdir(parents=True, exist_ok=True)
        for sample, sound in said:
            if sample.in_speech is not None:
                write_wav(folder / sample.in_speech, sound, SOUND_RATE)
        samples = [sample for sample, _ in said]
        seconds = time.perf_counter() - begun
        write_evaluation(
            self._run.folder, Evaluation(step=step, accuracies=accuracies, samples=samples, seconds=seconds)
        )
        row: LogRow = {
            f"task_{found.task}_{found.direction}_{found.normalisation}": found.value
            for found in accuracies
            if found.normalisation == self._config.normalisation
        }
        log.info("evaluated step %d in %.1f s", step, seconds)
        sounds = {
            f"said/{number}": sound for number, (sample, sound) in enumerate(said) if sample.in_speech is not None
        }
        return Evaluated(row={**row, "evaluation_seconds": seconds}, sounds=sounds)

    def _score(self, trained: Trained) -> Iterator[TaskAccuracy]:
        if not self._tasks:
            return
        precision: Precision = "fp64" if self._run.ranks.device.type == "cpu" else "fp32"
        scorer = make_scorer(trained, "auto", precision)
        for task in self._tasks:
            scored = scorer.score(task.items, self._config.directions)
            for direction in dict.fromkeys(item.direction for item in scored):
                for normalisation in NORMALISATIONS:
                    interval = accuracy(select(scored, direction), normalisation)
                    yield TaskAccuracy(
                        task=task.header.task,
                        direction=direction,
                        normalisation=normalisation,
                        value=interval.value,
                        low=interval.low,
                        high=interval.high,
                        items=interval.items,
                    )

    def _continue(self, trained: Trained, step: int) -> Iterator[tuple[SampleSaid, np.ndarray]]:
        """Each prompt continued in text and, where there are units, in speech; with the sound."""
        if not self._prompts:
            return
        config, voice = self._config, self._voice
        generator = Generator.of(trained)
        prompts = [
            generator.text_prompt(prompt.text) if prompt.units is None else generator.speech_prompt(prompt.units)
            for prompt in self._prompts
        ]
        sampling = Sampling(temperature=config.temperature, top_p=config.top_p, seed=self._run.config.seed)
        keys = [f"sample-{number}" for number in range(len(prompts))]
        limits = {"max_units": round(config.seconds * self._units_per_second), "max_tokens": config.tokens}
        in_text = generator.generate(prompts, "text", sampling, keys=keys, **limits)
        in_speech = None if voice is None else generator.generate(prompts, "speech", sampling, keys=keys, **limits)
        for number, (prompt, written) in enumerate(zip(self._prompts, in_text, strict=True)):
            sound, file = np.zeros(0, np.float32), None
            before = np.zeros(0, np.uint16) if prompt.units is None else prompt.units
            if in_speech is not None and voice is not None:
                units = np.concatenate([before, in_speech[number].units])
                if len(units):
                    sound, file = at_16k(voice(units), voice.sample_rate), f"said-{number}.flac"
            seconds = len(before) / self._units_per_second if len(before) else 0.0
            yield (
                SampleSaid(prompt=prompt.text, in_speech=file, prompt_seconds=seconds, in_text=written.text),
                sound,
            )

    @property
    def _units_per_second(self) -> float:
        seconds = self._run.corpus.seconds_per_unit
        return 1 / seconds if seconds else 0.0

    def _spoken_prompts(self) -> Iterator[_Prompt]:
        """The beginnings of the first samples of the first source that is spoken: held out ones, if some are."""
        run, config = self._run, self._config
        split: Literal["train", "validation"] = "validation" if run.config.data.held_out else "train"
        spoken = [source for source in run.corpus.sources(run.config.seed, split) if source.config.kind != "text"]
        if not spoken:
            return
        many = min(config.samples, spoken[0].order.total)  # behind the last the first comes again
        for number in range(many):
            sample = spoken[0].sample(number)
            assert isinstance(sample, Sample)
            frames = round(config.prompt_seconds * self._units_per_second)
            spans = zip(sample.meta.words, sample.words, strict=True)
            words = [sample.meta.text[a:b] for (a, b), row in spans if row[1] <= frames]
            yield _Prompt(text=" ".join(words), units=np.asarray(sample.units[:frames]))

    def _trained(self, device: torch.device) -> Trained:
        """The model with the run's weights, shared where they are whole and gathered where they are sharded. On ranks but the
        main one, and on the meta device, without them."""
        run = self._run
        with torch.device("meta"):
            module = build_model(run.config.network, run.config.seed)
        if device.type != "meta":
            # A whole copy on the main rank while the others wait. Items dealt out to ranks would have every layer gathered for
            # every batch, and all ranks would have to make equally many passes.
            reshard(run.module)
            weights = {}
            for name, parameter in run.module.named_parameters():
                for wrapper in WRAPPERS:
                    name = name.replace(wrapper, "")
                whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
                if run.ranks.is_main:
                    weights[name] = whole.detach()
            if run.ranks.is_main:
                module.load_state_dict(weights, assign=True)
        return Trained(
            module=module.eval(),
            config=run.config,
            step=run.steps,
            units=run.corpus.unit_facts(),
            data=run.corpus.fingerprint(),
            root=run.folder,
        )


def _first_items(task: Task, count: int | None) -> Task:
    return replace(task, items=task.items[:count]) if count else task
