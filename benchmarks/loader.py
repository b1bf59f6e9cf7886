"""The loader against the model it feeds and against plain webdataset: throughput, waiting, memory.

    python -m benchmarks.loader --json /tmp/loader.json

Uses the demo's shards where `make shards` has written them, else random shards of the same format.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.harness import Measurement, main
from model.data.compose import utterance_of
from model.data.draws import generator
from model.data.interleave import PaperRule, draw_spans
from model.data.loader import Loader, Placement
from model.data.shards import ShardSet
from model.data.sources import TrainingData
from model.monitor.metrics import read_rows
from model.network.config import ModelConfig
from model.network.lst import build_model
from model.training.config import TrainConfig, load_train_config
from model.training.loop import train
from model.training.optimisation.config import AdamWConfig
from model.training.optimisation.optim import Optimisers
from model.training.stream import make_stream
from schemas.config import parse_config

DEMO = Path("runs/demo/shards/index.json")
MICRO, LANES = 2, 4


def run() -> list[Measurement]:
    """All rows; about a minute on two idle cores."""
    with tempfile.TemporaryDirectory() as folder:
        index = DEMO if DEMO.exists() else _random_shards(Path(folder))
        config = _config(index, Path(folder), elements=2048, latents=1408)
        corpus = TrainingData(config.data)
        loader = Loader(make_stream(config, corpus, "train"), Placement(0, 1, MICRO, LANES, 0))
        return [
            *_throughput(loader, corpus),
            *_against_webdataset(index),
            *_waiting(index, Path(folder)),
            *_memory(config, corpus),
            _speech_share(index),
        ]


def _config(index: Path, folder: Path, *, elements: int, latents: int) -> TrainConfig:
    """configs/train/tiny.yaml over `index`, with these budgets, writing under `folder`."""
    document: dict[str, Any] = load_train_config("configs/train/tiny.yaml", []).model_dump()
    for source in document["data"]["sources"]:
        if source["data"].endswith(".json"):
            source["data"] = str(index)
    document["data"]["tokenizer"]["path"] = str(folder / "tokenizer.json")
    document["output_dir"] = str(folder / "run")
    document["packing"].update(elements=elements, latents=latents)
    document["log"]["progress"] = False
    return parse_config(TrainConfig, document, "benchmarks/loader.py")


def _throughput(loader: Loader, corpus: TrainingData) -> list[Measurement]:
    """Elements per second: the loader alone in one process, and training steps of the 20m model on its batches."""
    batches = loader.step()
    begun, made = time.perf_counter(), 0
    while time.perf_counter() - begun < 5:
        made += sum(int((batch.doc_id_N >= 0).sum()) for batch in loader.step())
    loads = made / (time.perf_counter() - begun)
    model = yaml.safe_load(Path("configs/model/20m.yaml").read_text(encoding="utf-8"))
    module = build_model(parse_config(ModelConfig, model, "20m.yaml").with_vocabulary(corpus.vocabulary), 0)
    optimisers, times = Optimisers(AdamWConfig(kind="adamw", lr=1e-4), module), []
    for number in range(3):
        begun = time.perf_counter()
        sums = module(batches[number % MICRO])
        ((sums.nll_text + sums.nll_unit) / int(batches[number % MICRO].loss_mask_N.sum())).backward()
        optimisers.step(1.0)
        times.append(time.perf_counter() - begun)
    consumes = int((batches[0].doc_id_N >= 0).sum()) / statistics.median(times[1:])
    return [
        Measurement(
            name="loader, one process",
            value=loads,
            unit="elements/s",
            rival="20m model training, fp32",
            rival_value=consumes,
            goal=">= 20x",
            holds=loads >= 20 * consumes,
        )
    ]


def _against_webdataset(index: Path) -> list[Measurement]:
    """Samples per second with hashes checked, patches and documents left out: ours by number, webdataset's in sequence."""
    import webdataset as wds

    shards = ShardSet(str(index))
    places = [(shard, number) for shard, count in enumerate(shards.counts) for number in range(count)]
    urls = [str(index.parent / entry.path) for entry in shards.index.shards if entry.samples]

    def ours() -> int:
        return sum(bool(shards.read(*place)) for place in places)

    def theirs() -> int:
        return sum(1 for _ in wds.WebDataset(urls, shardshuffle=False, empty_check=False).decode())

    rates = []
    for read in (ours, theirs):
        read()
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < 1.5:
            count += read()
        rates.append(count / (time.perf_counter() - begun))
    return [
        Measurement(
            name="samples read", value=rates[0], unit="1/s", rival="webdataset, in sequence", rival_value=rates[1]
        )
    ]


def _waiting(index: Path, folder: Path) -> list[Measurement]:
    """Share of the step that `make train` waits for data, after the first steps; and how full its batches are."""
    config = _config(index, folder, elements=1024, latents=704).with_updates(budget={"steps": 16}, validation=None)
    train(config)
    rows = read_rows(Path(config.output_dir) / "metrics.jsonl")[5:]
    waiting = statistics.median(row["data_wait_share"] for row in rows)
    fill = statistics.mean(row["fill_binding"] for row in rows)
    return [
        Measurement(
            name="waiting for data in make train",
            value=100 * waiting,
            unit="% of a step",
            goal="< 1",
            holds=waiting < 0.01,
        ),
        Measurement(name="fill of the binding budget", value=100 * fill, unit="%", goal=">= 97", holds=fill >= 0.97),
    ]


def _memory(config: TrainConfig, corpus: TrainingData) -> list[Measurement]:
    """Growth of what the loader holds over ten epochs of the speech source."""
    stream = make_stream(config, corpus, "train")
    loader, total = Loader(stream, Placement(0, 1, MICRO, LANES, 0)), stream.sources[0].order.total

    def epochs(count: int) -> int:
        while min(state["drawn"][0] for state in loader.states().values()) * LANES < count * total:
            loader.step()
        return tracemalloc.get_traced_memory()[0]

    epochs(1)
    tracemalloc.start()
    early = epochs(2)
    grown = epochs(12) - early
    tracemalloc.stop()
    return [
        Measurement(name="memory after 10 epochs", value=grown / 1e6, unit="MB more", goal="< 1", holds=grown < 1e6)
    ]


def _speech_share(index: Path) -> Measurement:
    """Speech tokens of interleaved documents at the paper's settings, with text counted at its 1.3 pieces a word."""
    shards, units, words = ShardSet(str(index)), 0, 0
    for shard, count in enumerate(shards.counts):
        for utterance in (utterance_of(shards.read(shard, number)) for number in range(count)):
            for draw in range(50):
                for span in draw_spans(PaperRule(), utterance.num_words, generator(draw, utterance.name)):
                    start, end = utterance.frames_of(span.first, span.last)
                    units += 0 if span.is_text else end - start
                    words += span.last - span.first if span.is_text else 0
    share = units / (units + 1.3 * words)
    return Measurement(
        name="speech share of interleaved tokens",
        value=share,
        unit="",
        rival="the paper",
        rival_value=0.77,
        goal="within 0.05",
        holds=abs(share - 0.77) <= 0.05,
    )


def _random_shards(folder: Path) -> Path:
    from tests.synthetic_shards import write_speech_shards

    return write_speech_shards(folder / "shards", [6, 4], words=(20, 60), num_units=100)


if __name__ == "__main__":
    torch.manual_seed(0)
    main(run, __doc__)
