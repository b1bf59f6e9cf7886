"""Backend `whisperx`: WhisperX's own batched Whisper over our segments, from a local model and without a network."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pipeline.asr.base import Heard, Unusable
from pipeline.networks.ahead import made_ahead
from pipeline.networks.resolver import NEEDED, Wanted, licence_notes, place_of
from pipeline.source.base import AudioReader
from pipeline.text.languages import language_code
from schemas.cards import Card, hash_directory
from schemas.config import ConfigError
from schemas.spec import WhisperXSpec
from schemas.tables import Recording, Segment

FILES = (*NEEDED["ctranslate2"], "preprocessor_config.json", "vocabulary.txt", "vocabulary.json")
LOGPROB_DIGITS = 4
"""float32 inference differs by about 1e-7 between batch shapes and thread counts; the table does not show it."""


@contextlib.contextmanager
def without_detectors() -> Iterator[None]:
    """While it lasts, `whisperx.vads` is a module of empty classes: the segments are ours, and WhisperX's own detectors bring
    pyannote, lightning and pandas along, 6 s of processor time and 300 MB per worker.
    """
    name = "whisperx.vads"
    if name in sys.modules:
        yield
        return
    stand_in = ModuleType(name)
    for detector in ("Vad", "Silero", "Pyannote"):
        setattr(stand_in, detector, type(detector, (), {}))
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]


class WhisperXRecogniser:
    """Whisper in a CTranslate2 directory, through `whisperx.asr`.

    On a CPU segments go one by one: a batch gains next to nothing there, and one by one a segment's text cannot depend on
    its neighbours. On CUDA all segments of a partition, of whatever recordings, go through in batches of `batch_size`, and the
    next batch is decoded and turned into features while one is heard. Whisper pads each to 30 s, so lengths do not matter.
    """

    def __init__(self, spec: WhisperXSpec) -> None:
        self._spec = spec
        self._pipeline: Any = None
        self._batch_size = 1
        self._language_of_spec = None if spec.language is None else language_code(spec.language)

    def card(self) -> Card:
        """The hashes of the model's files."""
        folder = model_directory(self._spec.model)
        return Card(
            kind="asr",
            name=Path(self._spec.model).name,
            facts=file_hashes(str(folder.resolve())),
            notes=licence_notes(Wanted(field="transcripts.model", form="ctranslate2", name=self._spec.model)),
        )

    def open(self) -> None:
        """Load the model.

        Raises:
            ConfigError: the model's directory is missing or incomplete, or the model does not know the language.
        """
        folder = model_directory(self._spec.model)
        import torch

        with without_detectors():
            from whisperx.asr import load_model
        device = self._spec.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        compute: str = self._spec.compute_type
        if compute == "auto":
            compute = "float16" if device == "cuda" else "int8"
        with contextlib.redirect_stdout(io.StringIO()):  # it prints that the VAD given here takes precedence
            self._pipeline = load_model(
                str(folder),
                device,
                compute_type=compute,
                language="en",
                asr_options={"beam_size": self._spec.beam_size},
                vad_model=_our_segments,
                local_files_only=True,
                threads=int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
            )
        self._batch_size = 1 if device == "cpu" else self._spec.batch_size
        if self._language_of_spec is not None and not self._knows(self._language_of_spec):
            raise ConfigError(f"transcripts.language is {self._spec.language!r}, which {folder.name} does not know")

    def close(self) -> None:
        """Release the model."""
        self._pipeline = None

    def halve_batch(self) -> bool:
        """See `pipeline.stage.Batched`."""
        self._batch_size, before = max(self._batch_size // 2, 1), self._batch_size
        return self._batch_size < before

    def transcribe(self, cuts: Sequence[tuple[Recording, Segment]], audio: AudioReader) -> Sequence[Heard | Unusable]:
        """Text and mean log-probability per token of each segment; the language is detected where none is given."""
        size = self._batch_size
        batches = [cuts[first : first + size] for first in range(0, len(cuts), size)]

        def read(batch: Sequence[tuple[Recording, Segment]]) -> tuple[list[Any], list[str | None]]:
            cut = [audio.read(recording, row.channel)[row.start : row.end] for recording, row in batch]
            return [self._features(samples) for samples in cut], [recording.language_hint for recording, _ in batch]

        made = made_ahead(read, batches, ahead=size > 1)
        return [heard for features, hints in made for heard in self._transcribe_batch(features, hints)]

    def _features(self, samples: np.ndarray) -> Any:
        from whisperx.audio import N_SAMPLES, log_mel_spectrogram

        num_mels = self._pipeline.model.feat_kwargs.get("feature_size") or 80
        return log_mel_spectrogram(samples, num_mels, padding=N_SAMPLES - len(samples))

    def _transcribe_batch(self, features: Sequence[Any], hints: Sequence[str | None]) -> list[Heard]:
        import torch

        whisper = self._pipeline.model
        languages = [self._language(mel, hint) for mel, hint in zip(features, hints, strict=True)]
        results: dict[int, Heard] = {}
        for language in dict.fromkeys(name for name, _ in languages):  # one call for all of a language
            places = [place for place, (name, _) in enumerate(languages) if name == language]
            batch = torch.stack([features[place] for place in places])
            heard = whisper.generate_segment_batched(batch, self._tokenizer(language), self._pipeline.options)
            for place, text, logprob in zip(places, heard["text"], heard["avg_logprob"], strict=True):
                results[place] = Heard(
                    text=text.strip(),
                    language=language,
                    language_prob=languages[place][1],
                    avg_logprob=round(float(logprob), LOGPROB_DIGITS),
                )
        return [results[place] for place in range(len(features))]

    def _language(self, mel: Any, hint: str | None) -> tuple[str, float | None]:
        """(language, probability): the spec's, the only one that the model knows, the manifest's, or the detected one."""
        whisper = self._pipeline.model
        if self._language_of_spec is not None:
            return self._language_of_spec, None
        if not whisper.model.is_multilingual:
            return "en", None
        if hint is not None and self._knows(language_code(hint)):
            return language_code(hint), None
        token, probability = whisper.model.detect_language(whisper.encode(mel))[0][0]
        return token.removeprefix("<|").removesuffix("|>"), round(float(probability), LOGPROB_DIGITS)

    def _knows(self, language: str) -> bool:
        whisper = self._pipeline.model
        if not whisper.model.is_multilingual:
            return language == "en"
        return whisper.hf_tokenizer.token_to_id(f"<|{language}|>") is not None

    def _tokenizer(self, language: str) -> Any:
        from faster_whisper.tokenizer import Tokenizer

        whisper = self._pipeline.model
        return Tokenizer(whisper.hf_tokenizer, whisper.model.is_multilingual, task="transcribe", language=language)


def _our_segments(_: Any) -> Any:
    """Stands where WhisperX would put a VAD of its own: the segments stage has been here before."""
    raise AssertionError("WhisperX's VAD is not used")


def model_directory(model: str, key: str = "transcripts.model") -> Path:
    """The directory of a model for CTranslate2: a path, a hub name or faster-whisper's name for one. Nothing is fetched.
    `key` is where the configuration names it.

    Raises:
        ModelError: it is neither, or files are missing.
    """
    return Path(place_of(Wanted(field=key, form="ctranslate2", name=model)))


@lru_cache(maxsize=4)
def file_hashes(folder: str) -> dict[str, str]:
    """The sha256 of each file of a Whisper directory that this process has not yet hashed, once."""
    return hash_directory(folder, FILES)
