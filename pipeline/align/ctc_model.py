"""Letter CTC models of the wav2vec2 family: log probabilities of letters per frame, from audio of any length."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.networks.exact_convolutions import exact_convolutions
from pipeline.networks.model_files import (
    model_directory,
    read_json,
    torch_device,
    torch_dtype,
    weight_hashes,
    whole_model,
)
from pipeline.networks.padded import run_padded
from pipeline.networks.resolver import bundle_file, bundle_of
from pipeline.networks.windowed import Windowing, run_windowed
from pipeline.networks.windows import ConvGrid
from schemas.audio import SAMPLE_RATE
from schemas.cards import hash_directory
from schemas.config import ConfigError
from schemas.spec import CtcSpec

EXTRACTOR_EPSILON = 1e-7
"""Of the normalisation over the whole audio, as transformers' feature extractor has it."""
PRIORS = "label_priors.json"
"""Label -> its mean probability over training data. Where a model's directory has it, emissions are divided by it, as hybrid
recognisers do: what aligns is how well a label explains the sound, not how common the label is."""


@dataclass(frozen=True, kw_only=True)
class Alphabet:
    """The columns of the emissions. The star, one more column, stands for what the model has no letter for."""

    labels: tuple[str, ...]
    blank: int
    delimiter: int | None
    """Between words, where the model was trained with one ("|")."""

    @property
    def star(self) -> int:
        return len(self.labels)

    @property
    def letters(self) -> np.ndarray:
        """The columns of single characters that are spoken: int64."""
        spoken = [index for index, label in enumerate(self.labels) if self._is_letter(index, label)]
        return np.array(spoken, np.int64)

    def _is_letter(self, index: int, label: str) -> bool:
        spoken = len(label) == 1 and (label.isalnum() or label in "'’" or unicodedata.category(label)[0] == "M")
        return spoken and index not in (self.blank, self.delimiter)

    def columns(self, word: str) -> list[int]:
        """The columns of a word's characters: each as it is where the model has it, else as it may write it, else the star.

        Tried in turn: either case; decomposed; without its accents; spelled out (\u00df as ss, a ligature as its letters). A
        mark that is no sound of its own (a virama, the vowels of Arabic and Hebrew) is left out where the model has none.
        """
        return [column for character in word for column in self._columns(character)]

    def width(self, column: int) -> int:
        """How many characters a column stands for."""
        return 1

    def _columns(self, character: str) -> list[int]:
        parts = unicodedata.normalize("NFD", character)
        folded = unicodedata.normalize("NFKD", character).casefold()
        apostrophes = {"'": "\u2019", "\u2019": "'"}
        for form in (character, apostrophes.get(character, character), parts, parts[:1], folded, folded[:1]):
            for cased in (form, form.upper(), form.lower()):
                columns = [self._index.get(part) for part in cased]
                if columns and None not in columns:
                    return [column for column in columns if column is not None]
        return [] if unicodedata.combining(character) else [self.star]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {label: index for index, label in enumerate(self.labels) if self._is_letter(index, label)}


class CtcModel:
    """A model and its alphabet. `files` is cheap; `open` loads; `log_probs` has exactly n // hop frames for every n."""

    letters_fill_sound = False

    def __init__(self, spec: CtcSpec):
        self.spec = spec
        self.alphabet = Alphabet(labels=(), blank=0, delimiter=None)
        self.grid = ConvGrid(hop=320, field=400)
        self._model: Any = None
        self._convolutions: Any = None
        self._normalise = False
        self._log_priors: np.ndarray | None = None
        self._device = "cpu"
        self._dtype: Any = None
        self.batch_size = 1

    def files(self) -> dict[str, str]:
        """What determines the emissions: name -> sha256.

        Raises:
            ConfigError: the model is missing or incomplete.
        """
        if self.spec.format == "torchaudio":
            bundle = _bundle(self.spec.model)
            bundle_file(bundle, "words.model")
            return {bundle._path: "torchaudio"}
        directory = model_directory(self.spec.model, "words.model")
        if not (directory / "vocab.json").is_file():
            raise ConfigError(f"{directory} has no vocab.json: the letters of its CTC head are not known")
        return {**weight_hashes(directory), **hash_directory(directory, ("vocab.json", PRIORS))}

    def open(self) -> None:
        """Load the model.

        Raises:
            ConfigError: it is no letter CTC model, or its weights do not fit.
        """
        self._device, self._dtype = torch_device(self.spec.device), torch_dtype(self.spec.dtype)
        if self.spec.format == "torchaudio":
            bundle_file(_bundle(self.spec.model), "words.model")  # torchaudio would fetch it
            self._open_bundle(_bundle(self.spec.model))
        else:
            self._open_directory(model_directory(self.spec.model, "words.model"))
        self._model = self._model.eval().requires_grad_(False).to(self._device, self._dtype)
        self.batch_size = self.spec.batch_size if self._device == "cuda" else 1  # slower than one by one on a CPU
        layers = [layer.conv for layer in self._convolutions]
        self.grid = ConvGrid.of([conv.kernel_size[0] for conv in layers], [conv.stride[0] for conv in layers])
        if not len(self.alphabet.letters):
            raise ConfigError(f"{self.spec.model} has no letters in its vocabulary: a character CTC model is needed")

    def close(self) -> None:
        """Release the model."""
        self._model = self._convolutions = None

    def log_probs(self, audio: np.ndarray) -> np.ndarray:
        """Log probabilities of float32 [n] samples at 16 kHz: float32 [n // hop, labels]; windows where it is long."""
        assert self._model is not None, "open() comes before log_probs()"
        return run_windowed(
            audio,
            grid=self.grid,
            width=len(self.alphabet.labels),
            windowing=Windowing.of(
                self.spec.window_seconds,
                self.spec.context_seconds,
                self.grid.hop,
                self.batch_size,
            ),
            forward=self._forward,
            first_convolution=self._convolutions[0],
            normalise=EXTRACTOR_EPSILON if self._normalise else None,
        )

    def log_probs_batch(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As `log_probs` of each clip, in one step for those that fit into a window."""
        return run_padded(
            clips,
            grid=self.grid,
            longest=round((self.spec.window_seconds + 2 * self.spec.context_seconds) * SAMPLE_RATE),
            forward=self._forward_padded,
            alone=self.log_probs,
            first_convolution=self._convolutions[0],
            normalise=EXTRACTOR_EPSILON if self._normalise else None,
        )

    def _forward(self, waves: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        with torch.inference_mode(), exact_convolutions(self._model, self._device, self._dtype):
            batch = torch.from_numpy(np.stack(waves).astype(np.float32, copy=False)).to(self._device, self._dtype)
            return self._emissions(self._model(batch))

    def _forward_padded(self, batch: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode(), exact_convolutions(self._model, self._device, self._dtype):
            waves = torch.from_numpy(batch).to(self._device, self._dtype)
            if self.spec.format == "torchaudio":
                return self._emissions(self._model(waves, torch.from_numpy(lengths).to(self._device)))
            mask = torch.from_numpy((np.arange(batch.shape[1]) < lengths[:, None]).astype(np.int64))
            return self._emissions(self._model(waves, attention_mask=mask.to(self._device)))

    def _emissions(self, output: Any) -> np.ndarray:
        """Log probabilities in float32, divided by the priors where there are some: [clips, frames, labels]."""
        import torch

        logits = output.logits if hasattr(output, "logits") else output[0]
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        # By how often the model says each label, so that none wins for being frequent, blank above all (docs/decisions.md has
        # what this and two smaller measures gave on an unseen voice: 21 to 13 ms).
        if self._log_priors is not None:
            log_probs = torch.log_softmax(log_probs - torch.from_numpy(self._log_priors).to(self._device), dim=-1)
        emissions: np.ndarray = log_probs.cpu().numpy()
        return emissions

    def _open_directory(self, directory: Path) -> None:
        from transformers import AutoModelForCTC

        config = read_json(directory / "config.json")
        if config.get("model_type") not in ("wav2vec2", "hubert"):
            raise ConfigError(
                f"{directory} holds a {config.get('model_type')!r} model; Wav2Vec2ForCTC or HubertForCTC is needed"
            )
        self._model = whole_model(AutoModelForCTC, directory, "it was not trained as a CTC model")
        self._convolutions = self._model.base_model.feature_extractor.conv_layers
        preprocessor = directory / "preprocessor_config.json"
        by_norm = config.get("feat_extract_norm") == "layer"
        self._normalise = (
            bool(read_json(preprocessor).get("do_normalize", by_norm)) if preprocessor.is_file() else by_norm
        )
        self.alphabet = read_alphabet(directory, config, int(self._model.config.vocab_size))
        if (directory / PRIORS).is_file():
            self._log_priors = read_log_priors(directory / PRIORS, self.alphabet.labels)

    def _open_bundle(self, bundle: Any) -> None:
        import torchaudio

        aligner = isinstance(bundle, torchaudio.pipelines.Wav2Vec2FABundle)
        model = bundle.get_model(with_star=False) if aligner else bundle.get_model()
        labels = bundle.get_labels(star=None) if aligner else bundle.get_labels()
        self._normalise = bool(bundle._normalize_waveform)
        self._model = getattr(model, "model", model)  # without the wrapper that would normalise each window by itself
        self._convolutions = self._model.feature_extractor.conv_layers
        delimiter = labels.index("|") if "|" in labels else None
        self.alphabet = Alphabet(labels=tuple(labels), blank=0, delimiter=delimiter)


def read_alphabet(directory: Path, config: dict[str, Any], size: int) -> Alphabet:
    """The labels of a model's directory, and its delimiter where its tokenizer names one.

    Raises:
        ConfigError: vocab.json does not number the labels.
    """
    vocabulary = read_json(directory / "vocab.json")
    if not all(isinstance(index, int) and 0 <= index < size for index in vocabulary.values()):
        raise ConfigError(f"{directory}/vocab.json does not list the {size} tokens of the model as a flat mapping")
    labels = [""] * size
    for label, index in vocabulary.items():
        labels[index] = label
    tokenizer = directory / "tokenizer_config.json"
    wanted = read_json(tokenizer).get("word_delimiter_token", "|") if tokenizer.is_file() else "|"
    delimiter = labels.index(wanted) if wanted in labels else None
    return Alphabet(labels=tuple(labels), blank=int(config.get("pad_token_id") or 0), delimiter=delimiter)


def read_log_priors(path: Path, labels: tuple[str, ...]) -> np.ndarray:
    """float32 [labels]: logarithms of the priors in a file.

    Raises:
        ConfigError: not each label has a probability.
    """
    priors = read_json(path)
    if set(priors) != set(labels) or not all(isinstance(value, float) and 0 <= value <= 1 for value in priors.values()):
        raise ConfigError(f"{path} must give each of the {len(labels)} labels of vocab.json a probability")
    return np.asarray(np.log(np.array([priors[label] for label in labels], np.float32) + np.float32(1e-4)))


def _bundle(name: str) -> Any:
    bundle = bundle_of(name)
    if not hasattr(bundle, "get_labels"):
        raise ConfigError(f"torchaudio has no CTC bundle {name!r}; WAV2VEC2_ASR_BASE_960H and MMS_FA are two of them")
    return bundle
