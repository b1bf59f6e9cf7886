"""What a corpus will weigh and how long it takes, from a sample of its stories."""

from __future__ import annotations

from recipes.stories.corpus import BuildTarget
from recipes.stories.generate import cloze_pair, training_story
from recipes.stories.settings import StoriesConfig
from recipes.stories.voices import parse_voice

WORDS_PER_SECOND = {"flite": 2.75, "espeak": 3.2}
SECONDS_PER_SECOND = {"flite": 0.018, "espeak": 0.006}
"""Processor time per second of speech, synthesis and FLAC: measured on the demo (docs/stories.md)."""
BYTES_PER_SECOND = {"flite": 15_500, "espeak": 17_500}
STORY_SECONDS, PAIR_SECONDS = 0.0005, 0.016
SAMPLE = 100


def format_plan(config: StoriesConfig, planned: list[BuildTarget], processes: int) -> str:
    """A line per target: how much it holds, how large it will be, whether it is there."""
    story = sum(len(training_story(config.seed, "text", n, config.mix).text.split()) for n in range(SAMPLE)) / SAMPLE
    lines = []
    total = 0.0
    for target in planned:
        if target.name == "text":
            words, voices, work = story * config.text.stories, [], STORY_SECONDS * config.text.stories
        elif target.name == "speech":
            words, voices = story * config.speech.stories, config.speech.voices
            work = STORY_SECONDS * config.speech.stories
        else:
            task = next(task for task in config.tasks if f"task-{task.name}" == target.name)
            pairs = task.pairs * len(task.rungs)
            told = [cloze_pair(config.seed, task.split, rung, 0) for rung in task.rungs]
            each = sum(len(" ".join((*p, e)).split()) for t in told for p, e in zip(t.prompts, t.endings, strict=True))
            words, voices, work = pairs * each / len(told), task.voices, PAIR_SECONDS * pairs
        amount = f"{words:,.0f} words"
        size = words * 5.3
        if voices:
            engines = [parse_voice(voice).engine for voice in voices]
            seconds = words * sum(1 / WORDS_PER_SECOND[engine] for engine in engines) / len(engines)
            work += seconds * sum(SECONDS_PER_SECOND[engine] for engine in engines) / len(engines)
            size += seconds * sum(BYTES_PER_SECOND[engine] for engine in engines) / len(engines)
            amount += f", {seconds / 3600:.2f} hours in {len(voices)} voices"
        there = target.result.exists()
        total += 0 if there else work
        lines.append(f"{target.name}: {amount}, {size / 1e6:,.1f} MB{' (is there)' if there else ''}")
    return "\n".join([*lines, f"about {total / processes / 60:.1f} minutes with {processes} processes"])
