"""CTC forced alignment: our Viterbi against torchaudio's and WhisperX's on the same emissions; and oracle emissions.

Eight windows of 30 s (1,500 frames, 32 labels, 350 letters with repeats), random emissions, one thread. The oracle rows say
how far the aligner's own arithmetic is off when emissions tell the truth: frames of 20 ms, word edges anywhere.
"""

from __future__ import annotations

import statistics

import numpy as np
import torch
from torchaudio.functional import forced_align

from benchmarks.harness import Measurement, fastest_of, main
from pipeline.align.ctc import align_emissions
from pipeline.align.ctc_model import Alphabet
from pipeline.align.viterbi import viterbi_batch
from pipeline.text.tokens import tokenise

BATCH, FRAMES, LABELS, TOKENS = 8, 1_500, 32, 350
HOP = 320


def run() -> list[Measurement]:
    torch.set_num_threads(1)
    return [*speed_rows(), *oracle_rows()]


def speed_rows() -> list[Measurement]:
    """Milliseconds per batch of eight, each rival on the very same arrays and paths compared."""
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.standard_normal((BATCH, FRAMES, LABELS)) * 2).float()
    log_probs = torch.log_softmax(logits, dim=-1)
    targets = torch.from_numpy(generator.integers(1, LABELS, (BATCH, TOKENS)))
    matrices, sequences = list(log_probs.numpy()), list(targets.numpy())

    def ours() -> list[np.ndarray]:
        return viterbi_batch(matrices, sequences)

    def torchaudio() -> list[torch.Tensor]:  # it takes one item at a time
        return [forced_align(log_probs[item : item + 1], targets[item : item + 1])[0] for item in range(BATCH)]

    same = all(
        (np.where(path % 2, sequence[np.minimum(path // 2, TOKENS - 1)], 0) == labels[0].numpy()).all()
        for path, sequence, labels in zip(ours(), sequences, torchaudio(), strict=True)
    )
    mine, theirs = (seconds * 1000 for seconds in fastest_of([ours, torchaudio], rounds=9))
    rows = [
        Measurement(name="viterbi, 8 windows of 30 s", value=mine, unit="ms", rival="torchaudio forced_align", rival_value=theirs,
            goal=">= 1x", holds=theirs >= mine),
        Measurement(name="windows with torchaudio's very path", value=100.0 * same, unit="%", goal="100", holds=same),
    ]  # fmt: skip
    whisperx = whisperx_milliseconds(log_probs, targets)
    if whisperx is not None:
        rows.append(
            Measurement(name="viterbi, 8 windows of 30 s", value=mine, unit="ms", rival="WhisperX trellis and backtrack",
                rival_value=whisperx, goal=">= 5x", holds=whisperx >= 5 * mine)
        )  # fmt: skip
    return rows


def whisperx_milliseconds(log_probs: torch.Tensor, targets: torch.Tensor) -> float | None:
    """WhisperX's own loops over the batch; None where WhisperX is not installed."""
    try:
        from whisperx.alignment import backtrack, get_trellis
    except ImportError:
        return None

    def loops() -> None:
        for emission, tokens in zip(log_probs, targets.tolist(), strict=True):
            backtrack(get_trellis(emission, tokens, 0), emission, tokens, 0)

    return fastest_of([loops], rounds=2)[0] * 1000


def oracle_rows() -> list[Measurement]:
    """Boundaries from emissions whose probabilities are the exact shares of each letter in each frame."""
    generator = np.random.default_rng(1)
    labels = ("<pad>", "<unk>", "|", "'", *"abcdefghijklmnopqrstuvwxyz")
    alphabet = Alphabet(labels=labels, blank=0, delimiter=2)
    starts, ends = [], []
    for _ in range(200):
        words = ["".join(generator.permutation(list(labels[4:]))[: generator.integers(1, 9)]) for _ in range(12)]
        line, truth, position = [np.zeros(generator.integers(0, 8_000), int)], [], 0
        position = len(line[0])
        for word in words:
            begin = position
            for letter in word:
                line.append(np.full(generator.integers(700, 2_400), labels.index(letter)))
                position += len(line[-1])
            truth.append((begin, position))
            pause = int(generator.integers(1_000, 6_000)) if generator.random() < 0.3 else 0
            line[-1][len(line[-1]) - (0 if pause else HOP) :] = 2
            line.append(np.full(pause, 2))
            position += pause
        samples = np.concatenate(line)
        frames = len(samples) // HOP
        hot = samples[: frames * HOP].reshape(frames, HOP)
        shares = np.stack([(hot == index).mean(axis=1) for index in range(len(labels))], axis=1)
        audio = np.where(samples > 2, 0.1, 1e-4).astype(np.float32) * generator.standard_normal(len(samples)).astype(
            np.float32
        )
        emissions = np.log(0.98 * shares + 0.02 / len(labels)).astype(np.float32)
        timings = align_emissions(emissions, alphabet, HOP, audio, tokenise(" ".join(words))).timings
        for timing, (begin, end) in zip(timings, truth, strict=True):
            assert timing is not None
            starts.append(abs(timing.start - begin) / 16)
            ends.append(abs(timing.end - end) / 16)
    return [
        Measurement(name="oracle emissions: word starts, median error", value=statistics.median(starts), unit="ms", goal="<= 5",
            holds=statistics.median(starts) <= 5),
        Measurement(name="oracle emissions: word starts, mean error", value=statistics.fmean(starts), unit="ms"),
        Measurement(name="oracle emissions: word starts, worst", value=max(starts), unit="ms", goal="<= 20",
            holds=max(starts) <= 20),
        Measurement(name="oracle emissions: word ends, median error", value=statistics.median(ends), unit="ms", goal="<= 10",
            holds=statistics.median(ends) <= 10),
        Measurement(name="oracle emissions: word ends, mean error", value=statistics.fmean(ends), unit="ms"),
    ]  # fmt: skip


if __name__ == "__main__":
    main(run, __doc__)
