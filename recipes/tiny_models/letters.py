"""When each letter is spoken: letters aligned to phones by EM over the corpus's own words, then frame targets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from recipes.tiny_models.settings import FRAME
from recipes.voices.store import VoicedSentence

VOCABULARY = ("<pad>", "<unk>", "|", "'", *"abcdefghijklmnopqrstuvwxyz")
"""Index 0 is the blank of CTC."""
INDEX = {letter: index for index, letter in enumerate(VOCABULARY)}
BLANK, DELIMITER = 0, INDEX["|"]
MAX_PHONES = 2
"""A letter sounds as none ("silent e"), one or two phones ("x" in "box")."""
MAX_PAIRS = 1_500
"""What `fit` reads of a larger vocabulary: enough for 27 letters."""
DELIMITER_SAMPLES = FRAME
"""Between words that touch, the delimiter takes the last frame of the first: word starts stay where they are."""

Table = dict[tuple[str, tuple[str, ...]], float]


def fit(pronunciations: Iterable[tuple[str, tuple[str, ...]]], iterations: int = 5) -> Table:
    """P(phones | letter) by expectation-maximisation over (word, phones) pairs, all alignments equally likely at first."""
    pairs = sorted(set(pronunciations))
    pairs = pairs[:: -(-len(pairs) // MAX_PAIRS)]
    table: Table = {}
    for _ in range(iterations):
        counts: Table = defaultdict(float)
        for word, phones in pairs:
            forward, backward = _lattice(word, phones, table), _lattice(word[::-1], phones[::-1], table, reverse=True)
            total = forward[-1, -1]
            if total == 0:
                continue
            for i, letter in enumerate(word):
                for j in range(len(phones) + 1):
                    for width in range(min(MAX_PHONES, len(phones) - j) + 1):
                        key = (letter, phones[j : j + width])
                        rest = backward[len(word) - i - 1, len(phones) - j - width]
                        counts[key] += forward[i, j] * table.get(key, 1.0) * rest / total
        sums: dict[str, float] = defaultdict(float)
        for (letter, _phones), count in counts.items():
            sums[letter] += count
        table = {key: count / sums[key[0]] for key, count in counts.items() if count > 1e-6}
    return table


def _lattice(word: str, phones: tuple[str, ...], table: Table, reverse: bool = False) -> np.ndarray:
    """[letters + 1, phones + 1]: the probability of all alignments of prefixes."""
    grid = np.zeros((len(word) + 1, len(phones) + 1))
    grid[0, 0] = 1.0
    default = 0.0 if table else 1.0
    for i, letter in enumerate(word):
        for j in range(len(phones) + 1):
            if grid[i, j] > 0:
                for width in range(min(MAX_PHONES, len(phones) - j) + 1):
                    piece = phones[j : j + width]
                    grid[i + 1, j + width] += grid[i, j] * table.get(
                        (letter, piece[::-1] if reverse else piece), default
                    )
    return grid


def align(word: str, phones: tuple[str, ...], table: Table) -> list[tuple[int, int]]:
    """The phones [first, last) of each letter on the most likely path;
    an unseen combination costs much but is possible."""
    best = np.full((len(word) + 1, len(phones) + 1), -np.inf)
    width_of = np.zeros(best.shape, dtype=int)
    best[0, 0] = 0.0
    for i, letter in enumerate(word):
        for j in range(len(phones) + 1):
            for width in range(min(MAX_PHONES, len(phones) - j) + 1):
                score = best[i, j] + np.log(table.get((letter, phones[j : j + width]), 1e-9))
                if score > best[i + 1, j + width]:
                    best[i + 1, j + width], width_of[i + 1, j + width] = score, width
    if np.isneginf(best[-1, -1]):  # an abbreviation ("mr"): more phones than its letters can hold
        edges = np.linspace(0, len(phones), len(word) + 1).round().astype(int)
        return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    spans, j = [], len(phones)
    for i in range(len(word), 0, -1):
        width = int(width_of[i, j])
        spans.append((j - width, j))
        j -= width
    return spans[::-1]


def letter_spans(utterance: VoicedSentence, table: Table) -> list[list[tuple[int, int]]]:
    """[start, end) in samples of every letter of every word.
    Silent letters share the sound before them, or the first sound."""
    result = []
    for index, word in enumerate(utterance.words):
        phones = [phone for phone in utterance.phones if phone.word == index]
        assigned = align(word, tuple(phone.name for phone in phones), table)
        sounding = [i for i, (first, last) in enumerate(assigned) if last > first]
        owner = [max((i for i in sounding if i <= letter), default=sounding[0]) for letter in range(len(word))]
        spans = []
        for letter in range(len(word)):
            group = [i for i in range(len(word)) if owner[i] == owner[letter]]
            first, last = assigned[owner[letter]]
            start, end = phones[first].start, phones[last - 1].end
            edges = np.linspace(start, end, len(group) + 1).round().astype(int)
            place = group.index(letter)
            spans.append((int(edges[place]), int(edges[place + 1])))
        result.append(spans)
    return result


def frame_targets(utterance: VoicedSentence, table: Table) -> np.ndarray:
    """float32 [num_samples // 320, vocabulary]: the share of each frame that each letter takes.

    Silence inside is mostly delimiter, silence outside is mostly blank; a doubled letter has a blank in its middle.
    """
    num_samples = len(utterance.audio)
    line = np.zeros((num_samples, 2), dtype=np.int64)  # the label of each sample, and whether it is silence
    line[:, 1] = 1
    words = letter_spans(utterance, table)
    for index, word in enumerate(utterance.words):
        spans = words[index]
        for place, (letter, (start, end)) in enumerate(zip(word, spans, strict=True)):
            line[start:end] = (INDEX[letter], 0)
            if place and word[place - 1] == letter:
                middle = (spans[place - 1][0] + end) // 2
                line[middle - FRAME // 2 : middle + FRAME // 2] = (BLANK, 0)
        if index:
            gap_start, gap_end = words[index - 1][-1][1], spans[0][0]
            gap_start = min(gap_start, max(gap_end - DELIMITER_SAMPLES, words[index - 1][-1][0]))
            line[gap_start:gap_end] = (DELIMITER, gap_end - gap_start > 3 * FRAME)
    num_frames = num_samples // FRAME
    labels = line[: num_frames * FRAME].reshape(num_frames, FRAME, 2)
    targets = np.stack([(labels[:, :, 0] == index).mean(axis=1) for index in range(len(VOCABULARY))], axis=1)
    inner = (labels[:, :, 0] == DELIMITER).mean(axis=1) * (labels[:, :, 1]).mean(axis=1)
    targets[:, DELIMITER] -= 0.3 * inner
    targets[:, BLANK] += 0.3 * inner
    return targets.astype(np.float32)


def pronunciations(utterances: Iterable[VoicedSentence]) -> Iterable[tuple[str, tuple[str, ...]]]:
    """The (word, phones) pairs spoken in a corpus."""
    for utterance in utterances:
        by_word: dict[int, list[str]] = defaultdict(list)
        for phone in utterance.phones:
            by_word[phone.word].append(phone.name)
        for index, word in enumerate(utterance.words):
            yield word, tuple(by_word[index])
