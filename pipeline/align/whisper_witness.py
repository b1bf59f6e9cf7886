"""A second witness of the words: the decoder of an English Whisper, told the text, says how probable it finds each word.

Letters are judged by 20 ms of sound each, and "the" is in "they". The decoder hears the whole segment and knows the language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.align.base import AlignError, Alignment, WordTiming
from pipeline.align.belief import text_score
from pipeline.networks.windows import Window
from pipeline.text.tokens import Token
from schemas.config import ConfigError

RULES = "whisper-decoder-2"
ENGLISH = 51_864
"""The size of the vocabulary of every Whisper that knows English alone: one less than of those that ask for a language."""
RARITY, FREQUENT = 2 / 3, 100
"""Tokens are numbered by frequency, and the decoder finds what is rare improbable even where it is said: a log probability is
taken beside this share of log(1 + number / 100). Otherwise names would be doubtful, one after another."""
COMMON = 4_096
"""Tokens of the vocabulary beside which one is probable, its commonest: all 51,864 cost more
than the layers, and tell no more."""
HOP = 320


@dataclass(frozen=True, kw_only=True)
class Sound:
    """What the decoder hears of a segment: its encoder's windows, whose kept frames tile it."""

    windows: Sequence[tuple[Window, Any]]


@dataclass(frozen=True, kw_only=True)
class _Telling:
    """The words of a window: their tokens, and the place of each word's first."""

    segment: int
    words: list[int]
    kept: list[bool]
    """Whether the word starts in the frames that the window keeps."""
    ids: list[int]
    starts: list[int]
    sound: Any


class WhisperWitness:
    """The decoder beside the aligner's encoder. It takes several segments at once: its weights are more than their states."""

    def __init__(self, decoder: Any, tokenizer: Any, device: str) -> None:
        import torch

        self._decoder = decoder.eval().requires_grad_(False).to(device)
        self._device = device
        prompt = [tokenizer.token_to_id(name) for name in ("<|startoftranscript|>", "<|notimestamps|>")]
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        if None in prompt or max(vocabulary.values()) >= ENGLISH:
            raise ConfigError("its tokenizer.json is not that of an English Whisper")
        self._prompt = prompt
        self._alike = _alike(vocabulary)
        self._encode = lru_cache(maxsize=1 << 16)(
            lambda word: tokenizer.encode(" " + word, add_special_tokens=False).ids
        )
        with torch.inference_mode():
            self._common = self._decoder.embedded(torch.arange(COMMON, device=device)).T.contiguous()

    @classmethod
    def load(cls, folder: Path, encoder: Mapping[str, np.ndarray], device: str) -> WhisperWitness | None:
        """The decoder of a Whisper directory, or None where it is no English Whisper.

        Raises:
            ConfigError: its files are damaged.
        """
        from tokenizers import Tokenizer

        from pipeline.networks.whisper.decoder import WhisperDecoder
        from pipeline.networks.whisper.encoder import read_ctranslate2

        tensors = read_ctranslate2(folder / "model.bin", "decoder")
        if len(tensors.get("embeddings/weight", ())) != ENGLISH:
            return None
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            return cls(WhisperDecoder.load(encoder, tensors), tokenizer, device)
        except Exception as error:  # tokenizers raises nothing more exact
            raise ConfigError(f"the decoder in {folder} cannot be loaded: {error}: fetch it again") from error

    def hear(self, state: Any) -> Any:
        """What the decoder hears of the encoder's last state [1, T, D]."""
        return self._decoder.heard(state[0])

    def ask(
        self, segments: Sequence[tuple[Sequence[Token], Alignment]], min_score: float
    ) -> list[Alignment | AlignError]:
        """The alignments with `WordTiming.told` of each word that the decoder was told of; an error in place of one whose
        `text_score` is below `min_score`."""
        tellings = [
            telling
            for index, (tokens, alignment) in enumerate(segments)
            if isinstance(alignment.sound, Sound)
            for telling in self._tellings(index, tokens, alignment.timings, alignment.sound)
        ]
        told: list[list[float | None]] = [[None] * len(tokens) for tokens, _ in segments]
        if tellings:
            for telling, found in zip(tellings, self._log_probs(tellings), strict=True):
                for word, kept, log_prob in zip(telling.words, telling.kept, found.tolist(), strict=True):
                    if kept:
                        told[telling.segment][word] = log_prob
        return [
            _believed(
                replace(
                    alignment, timings=[_with(*pair) for pair in zip(alignment.timings, found, strict=True)], sound=None
                ),
                min_score,
            )
            for (_, alignment), found in zip(segments, told, strict=True)
        ]

    def _tellings(
        self, segment: int, tokens: Sequence[Token], timings: Sequence[WordTiming | None], sound: Sound
    ) -> list[_Telling]:
        """What to tell of each window; a text longer than the decoder's positions is told as far as they last."""
        frames = np.maximum.accumulate([timing.start // HOP if timing else 0 for timing in timings])
        frames = np.minimum(frames, sound.windows[-1][0].stop - 1)  # less than a frame is left over at the end
        shouted = all(token.text.isupper() for token in tokens)
        result = []
        for window, heard in sound.windows:
            telling = _Telling(segment=segment, words=[], kept=[], ids=list(self._prompt), starts=[], sound=heard)
            for word in np.flatnonzero((frames >= window.start) & (frames < window.stop)).tolist():
                text = tokens[word].text.lower() if shouted else tokens[word].text
                ids = self._encode(text if telling.words else text[:1].upper() + text[1:])
                if len(telling.ids) + len(ids) > len(self._decoder.positions):
                    break
                telling.words.append(word)
                telling.kept.append(window.keep_start <= frames[word] < window.keep_stop)
                telling.starts.append(len(telling.ids) - len(self._prompt))
                telling.ids.extend(ids)
            if telling.words:
                result.append(telling)
        return result

    def _log_probs(self, tellings: Sequence[_Telling]) -> list[np.ndarray]:
        """Of each word the log probability of its least likely token, beside its frequency; either case is as good."""
        import torch

        with torch.inference_mode():
            texts = [torch.tensor(telling.ids, device=self._device) for telling in tellings]
            states = self._decoder(texts, [telling.sound for telling in tellings]).split([len(text) for text in texts])
            asked = torch.cat([state[len(self._prompt) - 1 : -1] for state in states])
            total = torch.logsumexp(asked @ self._common, dim=1).double().cpu().numpy()
            alike = [self._alike[token] for telling in tellings for token in telling.ids[len(self._prompt) :]]
            rows = np.repeat(np.arange(len(alike)), [len(tokens) for tokens in alike])
            columns = np.concatenate(alike)
            weights = self._decoder.embedded(torch.from_numpy(columns).to(self._device))
            logits = (asked[torch.from_numpy(rows).to(self._device)] * weights).sum(dim=1).double().cpu().numpy()
        rare = columns >= COMMON
        np.logaddexp.at(total, rows[rare], logits[rare])
        own = np.logaddexp.reduceat(logits, np.flatnonzero(np.diff(rows, prepend=-1)))
        lengths = np.cumsum([len(telling.ids) - len(self._prompt) for telling in tellings])
        rarity = RARITY * np.log1p(np.array([tokens.min() for tokens in alike]) / FREQUENT)
        by_telling = np.split(own - total + rarity, lengths[:-1])
        return [
            np.minimum.reduceat(tokens, telling.starts) for tokens, telling in zip(by_telling, tellings, strict=True)
        ]


def _believed(alignment: Alignment, min_score: float) -> Alignment | AlignError:
    if alignment.fit is None:  # no letter was heard as itself
        return alignment
    score = text_score(alignment.fit, [timing.told for timing in alignment.timings if timing is not None])
    if score >= min_score:
        return alignment
    return AlignError(
        f"the letters of the transcript are {alignment.fit:.3f} times as probable as what is heard in their place, the "
        f"Whisper's decoder makes {score:.3f} of it, and words.min_score is {min_score:g}: text and audio do not belong together"
    )


def _with(timing: WordTiming | None, told: float | None) -> WordTiming | None:
    return None if timing is None else replace(timing, told=told)


def _alike(vocabulary: Mapping[str, int]) -> list[np.ndarray]:
    """Of each token those that are the same in another case, itself among them."""
    by_form: dict[str, list[int]] = {}
    for text, index in vocabulary.items():
        by_form.setdefault(text.lower(), []).append(index)
    result = [np.empty(0, np.int64)] * ENGLISH
    for forms in by_form.values():
        for index in forms:
            result[index] = np.array(forms, np.int64)
    return result
