"""CTC forced alignment: the most likely path of a token sequence through emissions, in time and memory O(frames x tokens).

Graves et al. 2006, section 3.2, with Viterbi's maximum for the sum. States are blank, token 0, blank, token 1, ..., blank:
state s belongs to token s // 2 where s is odd. Equal, token for token, to torchaudio.functional.forced_align.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.storage.compiled import compiled


class TooShort(ValueError):
    """There are fewer frames than the tokens need: one each, and one more between two equal neighbours."""


@dataclass(frozen=True, kw_only=True)
class TokenSpan:
    """Where a token is emitted: frames [start, stop), and the mean of its log probabilities there."""

    start: int
    stop: int
    log_score: float


def viterbi(log_probs: np.ndarray, targets: np.ndarray, blank: int = 0, gaps: np.ndarray | None = None) -> np.ndarray:
    """The best state per frame: int32 [T], for float32 [T, C] log probabilities and integer [L] targets.

    Of equally good predecessors the one that stays is taken, then the nearer one. `gaps` (integer [L + 1]) names a column for
    each blank of its own, where something else than silence may stand between two tokens.

    Raises:
        TooShort: T is less than the tokens need.
        ValueError: a target is the blank or no column of the emissions.
    """
    return viterbi_batch([log_probs], [targets], blank, None if gaps is None else [gaps])[0]


def viterbi_batch(
    log_probs: list[np.ndarray], targets: list[np.ndarray], blank: int = 0, gaps: list[np.ndarray] | None = None
) -> list[np.ndarray]:
    """`viterbi` of each pair; one buffer serves all of them.

    Raises:
        TooShort, ValueError: as `viterbi`; the message names the position in the batch.
    """
    emissions = [np.ascontiguousarray(matrix, np.float32) for matrix in log_probs]
    sequences = [np.ascontiguousarray(sequence, np.int64) for sequence in targets]
    columns = [np.full(len(sequence) + 1, blank, np.int64) for sequence in sequences] if gaps is None else gaps
    cells = 1
    for position, (matrix, sequence) in enumerate(zip(emissions, sequences, strict=True)):
        _check(matrix, sequence, blank, position)
        cells = max(cells, len(matrix) * (2 * len(sequence) + 1))
    steps = np.empty(cells, np.uint8)
    paths = []
    for matrix, sequence, own in zip(emissions, sequences, columns, strict=True):
        path = np.empty(len(matrix), np.int32)
        if len(matrix):
            _viterbi(matrix, sequence, np.ascontiguousarray(own, np.int64), steps, path)
        paths.append(path)
    return paths


def frames_needed(targets: np.ndarray) -> int:
    """The fewest frames that can hold integer [L] targets."""
    return len(targets) + int(np.count_nonzero(targets[1:] == targets[:-1]))


def token_spans(path: np.ndarray, log_probs: np.ndarray, targets: np.ndarray) -> list[TokenSpan]:
    """The frames of each token of a path from `viterbi`, in order; every token has at least one."""
    frames = np.flatnonzero(path % 2)
    token = path[frames] // 2
    score = log_probs[frames, targets[token]].astype(np.float64) if len(frames) else np.zeros(0)
    starts = np.searchsorted(token, np.arange(len(targets)), side="left")
    stops = np.searchsorted(token, np.arange(len(targets)), side="right")
    return [
        TokenSpan(start=int(frames[start]), stop=int(frames[stop - 1]) + 1, log_score=float(score[start:stop].mean()))
        for start, stop in zip(starts, stops, strict=True)
    ]


def with_star(log_probs: np.ndarray, letters: np.ndarray) -> np.ndarray:
    """One more column, the star: as likely as the likeliest of `letters` (columns), so that it matches any one letter.

    A star of probability one (torchaudio's) would beat every letter and swallow silence too; this one costs what a letter does.
    """
    star = log_probs[:, letters].max(axis=1, keepdims=True)
    return np.concatenate([log_probs, star], axis=1, dtype=np.float32)


def _check(matrix: np.ndarray, sequence: np.ndarray, blank: int, position: int) -> None:
    if matrix.ndim != 2 or not 0 <= blank < matrix.shape[1]:
        raise ValueError(f"item {position}: emissions must be [frames, tokens] with the blank {blank} among the tokens")
    if ((sequence < 0) | (sequence >= matrix.shape[1]) | (sequence == blank)).any():
        raise ValueError(f"item {position}: targets must be columns of the emissions and not the blank")
    needed = frames_needed(sequence)
    if len(matrix) < needed:
        raise TooShort(f"item {position}: {len(sequence)} tokens need {needed} frames and there are {len(matrix)}")


@compiled()
def _viterbi(log_probs, targets, gaps, steps, path):  # type: ignore[no-untyped-def]
    """Fill path [T]. `steps` [>= T * (2 L + 1)] holds how many states back the best predecessor is: L + 1 blanks, then L tokens.

    float32 throughout, as torchaudio does, so that ties fall the same way. Blanks and tokens are kept apart and nothing
    branches inside the loops, so that they become vector instructions: blank i is state 2 i, token i is state 2 i + 1.
    """
    num_frames, num_tokens = log_probs.shape[0], len(targets)
    num_states = 2 * num_tokens + 1
    lowest = np.float32(-np.inf)
    skip = np.full(num_tokens, lowest, np.float32)  # 0 where the blank before a token may be left out
    for index in range(1, num_tokens):
        if targets[index] != targets[index - 1]:
            skip[index] = np.float32(0)
    blanks, tokens = np.full(num_tokens + 1, lowest, np.float32), np.full(num_tokens + 1, lowest, np.float32)
    new_blanks, new_tokens = blanks.copy(), tokens.copy()  # tokens[i + 1] is token i; tokens[0] stands before the first
    blanks[0] = log_probs[0, gaps[0]]
    if num_tokens:
        tokens[1] = log_probs[0, targets[0]]
    for frame in range(1, num_frames):
        emitted = log_probs[frame]
        blank_step = steps[frame * num_states : frame * num_states + num_tokens + 1]
        token_step = steps[frame * num_states + num_tokens + 1 : (frame + 1) * num_states]
        for index in range(num_tokens + 1):
            stay, come = blanks[index], tokens[index]
            blank_step[index] = np.uint8(come > stay)
            new_blanks[index] = max(stay, come) + emitted[gaps[index]]
        for index in range(num_tokens):
            stay, come, jump = tokens[index + 1], blanks[index], tokens[index] + skip[index]
            near = max(stay, come)
            token_step[index] = np.uint8(2) if jump > near else np.uint8(come > stay)
            new_tokens[index + 1] = max(near, jump) + emitted[targets[index]]
        blanks, new_blanks = new_blanks, blanks
        tokens, new_tokens = new_tokens, tokens
    state = num_states - 1
    if num_tokens and not blanks[num_tokens] > tokens[num_tokens]:
        state -= 1
    for frame in range(num_frames - 1, 0, -1):
        path[frame] = state
        offset = state // 2 + (num_tokens + 1 if state % 2 else 0)
        state -= steps[frame * num_states + offset]
    path[0] = state
