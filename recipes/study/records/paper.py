"""The paper's own tables (arXiv 2510.06195 v2), to stand beside ours."""

from __future__ import annotations

from typing import NamedTuple


class PaperTable(NamedTuple):
    """A table as the paper has it."""

    caption: str
    header: list[str]
    rows: list[list[str]]


_HEADER = ["model", "HellaSwag S->S", "T->T", "StoryCloze S->S", "T->T", "TopicStoryCloze S->S", "T->T"]

COMPUTE = PaperTable(
    "The paper's Table 3 (compute-controlled, 1B parameters, 500k steps):",
    _HEADER,
    [
        ["Base SpeechLLM", "39.0", "47.0", "59.1", "67.8", "87.5", "95.7"],
        ["BPE SpeechLLM", "38.0", "47.5", "58.0", "66.4", "87.0", "93.5"],
        ["LST Static", "44.3", "51.1", "60.5", "70.3", "87.7", "96.2"],
        ["LST Aligned", "42.7", "51.7", "60.4", "70.4", "86.6", "95.7"],
        ["LST Mixed", "44.3", "51.9", "61.4", "70.8", "88.0", "95.9"],
        ["LST Curriculum", "45.5", "52.2", "61.2", "71.6", "87.9", "96.1"],
    ],
)

DATA = PaperTable(
    "The paper's Table 4 (data-controlled; operations saved by its own count, which is of sequence positions):",
    ["model", "saved, %", *_HEADER[1:]],
    [
        ["Base SpeechLLM", "0", "40.2", "49.6", "60.2", "69.1", "87.5", "95.2"],
        ["BPE SpeechLLM", "8.2", "39.4", "48.4", "58.3", "66.3", "86.5", "93.9"],
        ["LST Static", "19.3", "44.3", "51.1", "60.5", "70.3", "87.7", "96.2"],
        ["LST Curriculum", "19.7", "45.5", "52.2", "61.2", "71.6", "87.9", "96.1"],
    ],
)

SEEDS = PaperTable(
    "The paper's Table 9 (mean ± standard deviation of 3 runs, 200k steps):",
    _HEADER,
    [
        ["Base SpeechLLM", "36.5 ± 0.22", "46.3 ± 0.78", "58.3 ± 0.21", "66.6 ± 1.56", "86.3 ± 0.52", "93.9 ± 1.44"],
        ["LST Static", "40.9 ± 0.67", "48.5 ± 0.37", "58.5 ± 0.50", "69.4 ± 0.11", "86.6 ± 0.52", "95.1 ± 0.19"],
        ["LST Curriculum", "41.4 ± 0.13", "49.1 ± 0.06", "59.2 ± 0.68", "69.5 ± 1.56", "87.1 ± 0.45", "95.6 ± 0.45"],
    ],
)

ASR = PaperTable(
    "The paper's Table 5 (word error rate on LibriSpeech clean / other, in %, after fine-tuning steps):",
    ["model", "1k steps", "2k steps", "4k steps", "context units"],
    [
        ["Base SpeechLLM", "140 / 202", "44.7 / 73.2", "20.7 / 42.4", "1x"],
        ["LST", "6.8 / 10.4", "6.0 / 13.3", "-", "0.25x"],
    ],
)

BESIDE = {"compute": COMPUTE, "data": DATA}
