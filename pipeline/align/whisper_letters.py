"""A letter CTC model that is a small head on the encoder of a Whisper model: log probabilities of letters per frame.

The head's directory (`config.json`, `model.safetensors`, `vocab.json`, `label_priors.json`) is made by
`recipes/tiny_models/whisper_ctc.py`; the encoder is that of a directory which faster-whisper loads, so a run that transcribes
with Whisper has it already.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from pipeline.align.ctc_model import PRIORS, Alphabet, read_alphabet, read_log_priors
from pipeline.align.whisper_witness import RULES, Sound, WhisperWitness
from pipeline.asr.whisperx import file_hashes
from pipeline.asr.whisperx import model_directory as whisper_directory
from pipeline.networks.model_files import model_directory, read_json, torch_device, torch_dtype, weight_hashes
from pipeline.networks.windows import ConvGrid, Window, plan_windows
from schemas.audio import SAMPLE_RATE
from schemas.cards import hash_directory
from schemas.config import ConfigError, StrictModel
from schemas.spec import CtcSpec

HOP, FRAMES = 320, 1_500
"""Of every Whisper: samples per frame, and the frames that it hears at once (30 s)."""


class HeadConfig(StrictModel):
    """config.json of a head."""

    model_type: str = Field(pattern="^whisper-letters$")
    encoder: str
    """The Whisper that it was trained on, by name."""
    encoder_sha256: str
    """`encoder.hash_tensors` of that Whisper's encoder: on another one the head hears nothing."""
    hidden: int
    num_convolutions: int
    pad_token_id: int = 0


class WhisperLetters:
    """The same verbs as `CtcModel`: `files` is cheap, `open` loads, `log_probs` has exactly n // 320 frames for every n."""

    letters_fill_sound = True
    """Each frame was trained on the shares of the letters that are spoken in it."""

    def __init__(self, spec: CtcSpec):
        self.spec = spec
        self.alphabet = Alphabet(labels=(), blank=0, delimiter=None)
        self.grid = ConvGrid(hop=HOP, field=400)
        self._encoder: Any = None
        self._head: Any = None
        self.witness: WhisperWitness | None = None
        """The decoder, once open, where it is asked and the Whisper is an English one."""
        self._log_priors: np.ndarray | None = None
        self._device = "cpu"
        self._dtype: Any = None
        self.batch_size = 1
        """One by one on any device."""

    def files(self) -> dict[str, str]:
        """What determines the emissions: name -> sha256.

        Raises:
            ConfigError: the head or the encoder is missing or incomplete.
        """
        head = model_directory(self.spec.model, "words.model")
        if not (head / "vocab.json").is_file():
            raise ConfigError(f"{head} has no vocab.json: the letters of its head are not known")
        encoder = self._encoder_directory()
        hashes = {**weight_hashes(head), **hash_directory(head, ("vocab.json", PRIORS))}
        hashes["encoder"] = self._config(head).encoder_sha256
        if self.spec.ask_decoder:
            hashes |= {"decoder": file_hashes(str(encoder.resolve()))["model.bin"], "decoder rules": RULES}
        return hashes

    def open(self) -> None:
        """Load encoder and head.

        Raises:
            ConfigError: the head is not of this encoder, or its weights do not fit.
        """
        from safetensors.torch import load_file

        from pipeline.networks.letter_head import LetterHead
        from pipeline.networks.whisper.encoder import WhisperEncoder, hash_tensors, read_ctranslate2

        if self._window()[0] < 1:
            raise ConfigError("words.context_seconds leaves no window: a Whisper encoder hears 30 s, context included")
        folder = model_directory(self.spec.model, "words.model")
        config, tensors = self._config(folder), read_ctranslate2(self._encoder_directory() / "model.bin")
        if hash_tensors(tensors) != config.encoder_sha256:
            raise ConfigError(
                f"{folder} was trained on the encoder of {config.encoder}, and {self.spec.encoder} is another one"
            )
        self._device, self._dtype = torch_device(self.spec.device), torch_dtype(self.spec.dtype)
        encoder = WhisperEncoder.load(tensors)
        document = read_json(folder / "config.json")
        self.alphabet = read_alphabet(folder, document, len(read_json(folder / "vocab.json")))
        head = LetterHead(
            width=encoder.positions.shape[1],
            num_states=len(encoder.blocks) + 1,
            hidden=config.hidden,
            num_convolutions=config.num_convolutions,
            num_labels=len(self.alphabet.labels),
        )
        try:
            head.load_state_dict(
                {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
            )
        except RuntimeError as error:
            raise ConfigError(f"the weights in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
        self._encoder, self._head = (module.eval().requires_grad_(False).to(self._device) for module in (encoder, head))
        if self.spec.ask_decoder:
            self.witness = WhisperWitness.load(self._encoder_directory(), tensors, self._device)
        if (folder / PRIORS).is_file():
            self._log_priors = read_log_priors(folder / PRIORS, self.alphabet.labels)

    def close(self) -> None:
        """Release the models."""
        self._encoder = self._head = self.witness = None

    def log_probs(self, audio: np.ndarray) -> np.ndarray:
        """Log probabilities of float32 [n] samples at 16 kHz: float32 [n // 320, labels]; windows where it is long."""
        return self.listen(audio)[0]

    def listen(self, audio: np.ndarray) -> tuple[np.ndarray, Sound | None]:
        """`log_probs`, and what the second witness hears where there is one."""
        assert self._encoder is not None, "open() comes before log_probs()"
        import torch

        num_frames = len(audio) // HOP
        emissions = np.empty((num_frames, len(self.alphabet.labels)), np.float32)
        if not num_frames:
            return emissions, None
        heard: list[tuple[Window, Any]] = []
        with torch.inference_mode():
            wave = torch.from_numpy(np.ascontiguousarray(audio, np.float32)).to(self._device)
            mel = self._encoder.log_mel(wave[None])  # of the whole audio: loudness is relative to its loudest moment
            for window in plan_windows(num_frames, *self._window()):
                with torch.autocast(self._device, self._dtype, enabled=self.spec.dtype != "float32"):
                    states = self._encoder(mel[..., 2 * window.start : 2 * window.stop])
                    logits = self._head(states)[0]
                if self.witness is not None:
                    heard.append((window, self.witness.hear(states[-1].float())))
                log_probs = torch.log_softmax(logits.float(), dim=-1)
                if self._log_priors is not None:
                    priors = torch.from_numpy(self._log_priors).to(self._device)
                    log_probs = torch.log_softmax(log_probs - priors, dim=-1)
                kept = slice(window.keep_start - window.start, window.keep_stop - window.start)
                emissions[window.keep_start : window.keep_stop] = log_probs[kept].cpu().numpy()
        return emissions, Sound(windows=heard) if heard else None

    def log_probs_batch(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """`log_probs` of each clip: they go one by one, for this encoder masks nothing."""
        return [self.log_probs(clip) for clip in clips]

    def _window(self) -> tuple[int, int]:
        """Frames of a window's core and of its context on each side, within what the encoder hears."""
        context = round(self.spec.context_seconds * SAMPLE_RATE / HOP)
        return min(round(self.spec.window_seconds * SAMPLE_RATE / HOP), FRAMES - 2 * context), context

    def _encoder_directory(self) -> Path:
        assert self.spec.encoder is not None, "CtcSpec asks for an encoder with this format"
        return whisper_directory(self.spec.encoder, "words.encoder")

    def _config(self, folder: Path) -> HeadConfig:
        try:
            return HeadConfig.model_validate(read_json(folder / "config.json"))
        except ValidationError as error:
            raise ConfigError(
                f"{folder} holds no letter head for a Whisper encoder: {error.errors()[0]['msg']}"
            ) from error
