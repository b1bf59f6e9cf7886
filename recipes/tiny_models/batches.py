"""Training batches: a pure function of the step, so that an interrupted run goes on exactly as it would have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recipes.tiny_models.corpus import parts
from recipes.tiny_models.settings import FRAME, PAD
from recipes.voices.settings import SEED
from recipes.voices.store import VoicedSentence, load
from schemas.cards import fingerprint, hash_file
from schemas.files import whole_file


@dataclass(frozen=True, kw_only=True)
class SpeechCorpus:
    """Utterances end to end, each cut to whole 50 Hz frames."""

    items: list[VoicedSentence]
    audio: np.ndarray
    """int16 [frames * 320]."""
    starts: np.ndarray
    """The first frame of each utterance, and the number of frames at the end."""

    @property
    def num_frames(self) -> int:
        return int(self.starts[-1])


@dataclass(frozen=True, kw_only=True)
class Share:
    """How much of a source a training run uses: the first parts of each of its voices, so many times over."""

    source: str
    parts: int
    times: int = 1


def load_corpus(shares: tuple[Share, ...]) -> SpeechCorpus:
    """The utterances of all shares."""
    items = [
        item
        for share in shares
        for item in [item for part in parts(share.source, share.parts) for item in load(part)] * share.times
    ]
    lengths = [len(item.audio) // FRAME for item in items]
    audio = np.concatenate([item.audio[: length * FRAME] for item, length in zip(items, lengths, strict=True)])
    return SpeechCorpus(items=items, audio=audio, starts=np.concatenate([[0], np.cumsum(lengths)]))


def kept_path(folder: Path, name: str, shares: tuple[Share, ...]) -> Path:
    """Where `folder` keeps what was made of these shares: other shares, or parts that were made anew, have another file."""
    content = [[share.times, [hash_file(part) for part in parts(share.source, share.parts)]] for share in shares]
    return folder / f"{name}-{fingerprint(content)[:12]}.npz"


def generator(step: int, stream: str) -> np.random.Generator:
    """The random numbers of one step."""
    return np.random.default_rng([SEED, step, *stream.encode()])


def crops(corpus: SpeechCorpus, rng: np.random.Generator, batch: int, frames: int) -> tuple[torch.Tensor, np.ndarray]:
    """Random windows: waves [batch, frames * 320 + 2 * PAD] in [-1, 1], and the first frame of each."""
    first = rng.integers(1, corpus.num_frames - frames - 1, size=batch)
    waves = [corpus.audio[start * FRAME - PAD : (start + frames) * FRAME + PAD] for start in first]
    return torch.from_numpy(np.stack(waves).astype(np.float32) / 32768), first


def augment(waves: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Another level, another microphone's tilt, and some noise: [batch, samples] to the same shape."""
    batch = len(waves)

    def draw(low: float, high: float) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(low, high, size=(batch, 1)).astype(np.float32))

    tilt = draw(-0.7, 0.5) * (draw(0, 1) < 0.6)
    waves = torch.cat([waves[:, :1], waves[:, 1:] + tilt * waves[:, :-1]], dim=1)
    noise = torch.from_numpy(rng.standard_normal(waves.shape, dtype=np.float32))
    colour = draw(0.0, 0.95)
    noise = torch.cat([noise[:, :1], noise[:, 1:] + colour * noise[:, :-1]], dim=1)
    power = waves.square().mean(dim=1, keepdim=True).sqrt() / noise.square().mean(dim=1, keepdim=True).sqrt()
    noisy = waves + noise * power * 10 ** (-draw(8, 45) / 20) * (draw(0, 1) < 0.7)
    # From quiet recordings to unit variance, which loaders that normalise the waveform give: features must not care.
    return noisy / noisy.square().mean(dim=1, keepdim=True).add(1e-8).sqrt() * 10 ** (draw(-42, 3) / 20)


def time_mask(rng: np.random.Generator, batch: int, frames: int, share: float, span: int) -> torch.Tensor:
    """bool [batch, frames]: about `share` of the frames, in spans."""
    starts = rng.random((batch, frames)) < share / span
    mask = np.zeros((batch, frames), dtype=bool)
    for offset in range(span):
        mask[:, offset:] |= starts[:, : frames - offset]
    return torch.from_numpy(mask)


def cosine(step: int, total: int, warmup: int, peak: float) -> float:
    """Learning rate: linear warm-up, then half a cosine down to 2 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * (step - warmup) / max(1, total - warmup)))))


def save_checkpoint(path: Path, state: dict[str, object]) -> None:
    """Write a checkpoint and publish it by renaming."""
    with whole_file(path) as temporary:
        torch.save(state, temporary)
