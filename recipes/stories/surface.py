"""What cloze items give away without understanding: `python -m recipes.stories.surface`.

Scorers that know words only, fitted on training stories. One that sees endings alone must be at exactly a half; what the
others reach says how far words' company goes on each rung.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from recipes.stories.cloze import RUNGS
from recipes.stories.generate import ToldPair, ToldStory, cloze_pair, training_story
from schemas.commands.cli import Parser, command

Score = Callable[[str, str], float]
"""(prompt, ending) -> the higher, the likelier."""


def words(text: str) -> list[str]:
    """Lower-case words."""
    return re.findall(r"[a-z]+", text.lower())


def ending_bigrams(stories: Iterable[ToldStory]) -> Score:
    """Log-probability of an ending by a bigram model of endings, interpolated with unigrams; blind to the prompt."""
    ones: Counter[str] = Counter()
    twos: Counter[tuple[str, str]] = Counter()
    for told in stories:
        tokens = ["<s>", *words(told.sentences[-1])]
        ones.update(tokens)
        twos.update(pairwise(tokens))
    total = sum(ones.values())

    def score(prompt: str, ending: str) -> float:
        tokens = ["<s>", *words(ending)]
        return sum(
            math.log(0.9 * twos[a, b] / max(1, ones[a]) + 0.1 * (ones[b] + 1) / (total + len(ones)))
            for a, b in pairwise(tokens)
        )

    return score


def company(stories: Iterable[ToldStory]) -> Score:
    """Mean pointwise mutual information between the words of the prompt and those of the ending."""
    prompts: Counter[str] = Counter()
    endings: Counter[str] = Counter()
    both: Counter[tuple[str, str]] = Counter()
    count = 0
    for told in stories:
        first = set(words(" ".join(told.sentences[:-1])))
        second = set(words(told.sentences[-1]))
        prompts.update(first)
        endings.update(second)
        both.update((a, b) for a in first for b in second)
        count += 1

    def score(prompt: str, ending: str) -> float:
        values = [
            math.log((both[a, b] + 0.5) * count / ((prompts[a] + 1) * (endings[b] + 1)))
            for a in set(words(prompt))
            for b in set(words(ending))
        ]
        return sum(values) / len(values)

    return score


def shortest(prompt: str, ending: str) -> float:
    """Prefers the shorter ending."""
    return -len(ending)


def overlap(prompt: str, ending: str) -> float:
    """The ending with more of its words in the prompt."""
    known = set(words(prompt))
    return sum(word in known for word in words(ending)) / len(words(ending))


def accuracy(score: Score, pairs: Sequence[ToldPair]) -> float:
    """Share of items got right, ties counting a half."""
    right = 0.0
    for pair in pairs:
        for side, sentences in enumerate(pair.prompts):
            prompt = " ".join(sentences)
            margin = score(prompt, pair.endings[side]) - score(prompt, pair.endings[1 - side])
            right += 1.0 if margin > 1e-9 else 0.5 if margin > -1e-9 else 0.0
    return right / (2 * len(pairs))


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stories", type=int, default=20_000, help="to fit on (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=100, help="per rung (default: %(default)s)")
    given = parser.parse_args(arguments)
    mix = dict.fromkeys(RUNGS, 1.0)
    stories = [training_story(given.seed, "text", index, mix) for index in range(given.stories)]
    scorers = {
        "endings alone": ending_bigrams(stories),
        "shortest": shortest,
        "overlap": overlap,
        "company": company(stories),
    }
    print(f"{'rung':10}" + "".join(f"{name:>15}" for name in scorers))
    for rung in RUNGS:
        pairs = [cloze_pair(given.seed, "test", rung, index) for index in range(given.pairs)]
        print(f"{rung:10}" + "".join(f"{accuracy(score, pairs):15.3f}" for score in scorers.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
