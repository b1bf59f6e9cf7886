"""The sequence of global batches: the same for every number of ranks and workers, and after every resume."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import threading
import time
import tracemalloc
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import pytest

from model.data import lanes
from model.data.compose import Composer
from model.data.lanes import Address, LaneState, Stream, fixed_batches
from model.data.loader import Loader, Placement
from model.data.packing import pack
from model.data.sources import DocumentStream, TrainingData
from model.network.batch import Batch
from model.training.config import TrainConfig
from model.training.distributed import Ranks
from model.training.stream import make_stream
from schemas.config import ConfigError
from schemas.errors import ExitCode, UserError
from tests.model.training.training_runs import parsed, run_document, write_data

MICRO = 8


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    document = run_document(folder, folder / "run")
    document["global_microbatches"] = MICRO
    document["data"]["held_out"] = 0.1
    return parsed(document, folder / "run.yaml")


@pytest.fixture(scope="module")
def stream(config: TrainConfig) -> Stream:
    return make_stream(config, TrainingData(config.data), "train")


def bytes_of(batch: Batch) -> str:
    """A hash of everything in a batch."""
    digest = hashlib.sha256(repr((batch.num_latents, batch.sample_ids)).encode())
    for name in ("ids_N", "is_unit_N", "latent_id_N", "closed_N", "doc_id_N", "loss_mask_N"):
        digest.update(getattr(batch, name).numpy().tobytes())
    return digest.hexdigest()


def read(
    stream: Stream, world: int, workers: int, steps: int, first: int = 0, states: list[LaneState] | None = None
) -> tuple[list[list[str]], list[LaneState]]:
    """The global batches of `steps` steps, as all ranks together see them, and the lanes' states after them."""
    columns, lanes = [], {}
    for rank in range(world):
        loader = Loader(stream, Placement(rank, world, MICRO, stream.lanes, workers), first, states)
        columns.append([[bytes_of(batch.check()) for batch in loader.step()] for _ in range(steps)])
        lanes.update(json.loads(json.dumps(loader.states())))
        loader.close()
    steps_of = [list(itertools.chain(*zip(*(column[s] for column in columns), strict=True))) for s in range(steps)]
    return steps_of, [LaneState.from_json(lanes[str(number)]) for number in range(stream.lanes)]


@pytest.mark.parametrize("world,workers", [(1, 0), (2, 0), (2, 2), (4, 1)])
def test_batches_do_not_depend_on_ranks_workers_or_a_resume(stream: Stream, world: int, workers: int) -> None:
    """Batches i to i + 5 after a resume at i, on any (world, workers), are those of one undisturbed process."""
    reference, _ = read(stream, 1, 0, 9)
    _, states = read(stream, 2, 1, 3)  # what a run on other ranks saved at step 3
    resumed, after = read(stream, world, workers, 6, first=3, states=states)
    assert resumed == reference[3:]
    assert after == read(stream, 1, 0, 9)[1]
    assert len(set(itertools.chain(*reference))) == 9 * MICRO  # and no batch comes twice


def test_every_sample_is_drawn_once_per_epoch_by_all_lanes_together(stream: Stream) -> None:
    """The documents dealt to the lanes are the source's order, with none left out and none twice."""
    _, states = read(stream, 1, 0, 12)
    for number, source in enumerate(stream.sources):
        drawn = [k * stream.lanes + lane for lane, state in enumerate(states) for k in range(state.drawn[number])]
        assert len(set(drawn)) == len(drawn)
        common = min(state.drawn[number] for state in states) * stream.lanes
        assert set(range(common)) <= set(drawn)
        places = Counter(source.order.locate(index) for index in range(common))
        assert max(places.values(), default=1) == 1


def test_sources_get_their_share_of_elements(stream: Stream) -> None:
    """Weights act on elements: after some hundreds of batches the shares are the weights', to a few percent."""
    _, states = read(stream, 1, 0, 40)
    drawn = [sum(state.elements[i] for state in states) for i in range(len(stream.sources))]
    weights = [source.config.weight for source in stream.sources]
    for elements, weight in zip(drawn, weights, strict=True):
        assert elements / sum(drawn) == pytest.approx(weight / sum(weights), abs=0.04)


def test_held_out_samples_are_never_trained_on(config: TrainConfig) -> None:
    corpus = TrainingData(config.data)

    def names(split: Any) -> set[str]:
        stream = make_stream(config, corpus, split)
        return {
            document.sample_id.split("#")[0]
            for source in stream.sources
            for index in range(source.order.total)
            for document in source.documents(index, stream.composer)
        }

    train, validation = names("train"), names("validation")
    assert train
    assert validation
    assert train.isdisjoint(validation)
    assert len(train) + len(validation) == 16 + 21


def test_validation_draws_no_sample_twice_before_all_have_come(config: TrainConfig) -> None:
    """However many lanes training has. Each draw is seen where the loader asks its source for a sample."""
    stream = make_stream(config, TrainingData(config.data), "validation")
    drawn: list[tuple[int, int]] = []

    class Watched:
        def __init__(self, number: int, source: DocumentStream) -> None:
            self._number, self._source = number, source

        def __getattr__(self, name: str) -> Any:
            return getattr(self._source, name)

        def documents(self, index: int, composer: Composer) -> Any:
            drawn.append((self._number, index))
            return self._source.documents(index, composer)

    watched = cast(list[DocumentStream], [Watched(number, source) for number, source in enumerate(stream.sources)])
    fixed_batches(replace(stream, sources=watched), 6, 0)
    for number in range(len(watched)):
        mine = list(dict.fromkeys(index for which, index in drawn if which == number))  # a cut document is made again
        assert mine == list(range(len(mine)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_that_breaks_a_rule_never_reaches_the_trainer(
    workers: int, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Batch:
        batch = pack(*arguments)
        return replace(batch, latent_id_N=batch.latent_id_N + 1)

    monkeypatch.setattr(lanes, "pack", broken)
    with (
        contextlib.closing(Loader(stream, Placement(0, 1, MICRO, stream.lanes, workers))) as loader,
        pytest.raises(ValueError, match="latent ids start at 0"),
    ):
        loader.step()
    with pytest.raises(ValueError, match="latent ids start at 0"):
        fixed_batches(stream, 1, 0)


def test_spans_and_patches_are_drawn_anew_each_epoch(stream: Stream) -> None:
    """The same passage in two epochs: other spans; the same epoch asked twice: the same document."""
    source = stream.sources[0]
    by_place: dict[tuple[int, int], list[bytes]] = {}
    for index in range(3 * source.order.total):
        _, shard, sample = source.order.locate(index)
        (document,) = source.documents(index, stream.composer)
        again = source.documents(index, stream.composer)[0]
        assert document.ids.tobytes() == again.ids.tobytes()
        by_place.setdefault((shard, sample), []).append(document.ids.tobytes())
    assert sum(len(set(versions)) > 1 for versions in by_place.values()) > len(by_place) * 0.8


def test_the_curriculum_follows_the_step(stream: Stream) -> None:
    """Early documents have word patches, late ones static patches of four."""
    document = stream.sources[1].documents(0, stream.composer)[0]
    rng = __import__("numpy").random.default_rng
    early, _ = stream.patcher(document, 0, rng(0))
    late, _ = stream.patcher(document, 20, rng(0))
    lengths = Counter(late[document.is_unit].tolist()).values()
    assert early.tolist() != late.tolist()
    assert max(lengths) == 4


def test_memory_is_flat_over_ten_epochs(stream: Stream) -> None:
    """What a loader holds after ten epochs is what it held after one (256 kB allowed)."""
    place = Placement(0, 1, MICRO, stream.lanes, 0)
    loader = Loader(stream, place)
    total = stream.sources[0].order.total

    def run_epochs(count: int) -> int:
        while min(state["drawn"][0] for state in loader.states().values()) * stream.lanes < count * total:
            loader.step()
        return tracemalloc.get_traced_memory()[0]

    run_epochs(1)
    tracemalloc.start()
    try:
        early = run_epochs(2)
        late = run_epochs(11)
    finally:
        tracemalloc.stop()
    assert late - early < 256_000


@pytest.mark.parametrize(
    "world,workers,message",
    [
        (3, 0, "global_microbatches 8 cannot be dealt evenly to 3 ranks"),
        (4, 4, "data.lanes 8 must be a multiple of ranks x workers = 4 x 4; the next one is 16"),
    ],
)
def test_a_placement_that_would_share_lanes_is_refused(stream: Stream, world: int, workers: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Loader(stream, Placement(0, world, MICRO, stream.lanes, workers))


def _end_holding(lock: Any) -> None:
    lock.acquire()
    os._exit(0)


def test_a_worker_that_ended_with_a_lock_holds_nobody_up(stream: Stream) -> None:
    """A signal ends a worker anywhere, also while it asks whether DataLoader is done; the trainer still comes to its end."""
    loader = Loader(stream, Placement(0, 1, MICRO, stream.lanes, 1))
    loader.step()
    dead = multiprocessing.get_context("fork").Process(
        target=_end_holding, args=(loader._items._workers_done_event._cond._lock,)
    )
    dead.start()
    dead.join()
    closing = threading.Thread(target=loader.close, daemon=True)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()


@pytest.mark.parametrize("stuck", ["at its start", "in a batch"])
def test_a_worker_that_gives_nothing_ends_with_a_sentence(stuck: str, stream: Stream, monkeypatch: Any) -> None:
    """Whether it hears SIGTERM or not: to be tried again, and no process stays."""
    if stuck == "at its start":  # where signals are still blocked
        monkeypatch.setattr("model.data.loader._begin_worker", lambda _: time.sleep(600))
    else:
        stream = replace(stream, patcher=lambda *_: time.sleep(600))  # type: ignore[arg-type,return-value]
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)
    before = set(multiprocessing.active_children())
    loader = Loader(stream, Placement(0, 1, MICRO, stream.lanes, 1), patience=1)
    with pytest.raises(UserError, match=r"no batch came .*timed out after 1 seconds.*run the same command") as raised:
        loader.step()
    loader.close()
    assert raised.value.code == ExitCode.TRY_AGAIN
    assert set(multiprocessing.active_children()) == before


def test_a_worker_that_was_killed_is_named(stream: Stream) -> None:
    """As the kernel does where memory runs out."""
    loader = Loader(stream, Placement(0, 1, MICRO, stream.lanes, 1), patience=1)
    [worker] = loader._workers
    with contextlib.suppress(RuntimeError):  # DataLoader's handler of SIGCHLD, if it comes that early
        worker.kill()
        worker.join()
    with pytest.raises(UserError, match=rf"no batch came .*{worker.pid}.* run the same command to go on"):
        loader.step()
    loader.close()


def test_a_lane_state_survives_json() -> None:
    state = LaneState(batches=3, drawn=(1, 2), elements=(5, 9), pending=(Address(0, 8, 0, 17, 2),))
    assert LaneState.from_json(json.loads(json.dumps(asdict(state)))) == state


def test_global_generators_are_left_alone(stream: Stream) -> None:
    import random

    import numpy as np
    import torch

    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    read(stream, 1, 1, 1)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # noqa: NPY002


def test_ranks_of_one_process_need_no_group() -> None:
    import torch

    ranks = Ranks(0, 1, torch.device("cpu"))
    assert ranks.sum([1.5]) == [1.5]
    assert ranks.gather("a") == ["a"]
    ranks.barrier()


def test_sources_name_what_does_not_fit(config: TrainConfig, tmp_path: Path) -> None:
    """Another unit vocabulary, text shards as speech, no such file: one sentence each."""
    from model.data.shards import ShardError
    from tests.synthetic_shards import write_speech_shards, write_text_shards

    document = config.data.model_dump()
    other = write_speech_shards(tmp_path / "other", [2], num_units=7)
    document["sources"][1]["data"] = str(other)
    with pytest.raises(ConfigError, match="different unit tokenizers"):
        TrainingData(type(config.data).model_validate(document))
    document["sources"][1]["data"] = str(write_text_shards(tmp_path / "text", [2]))
    with pytest.raises(ConfigError, match=r"'speech' needs speech shards, and .* is a text-only set"):
        TrainingData(type(config.data).model_validate(document))
    document["sources"][1]["data"] = str(tmp_path / "nowhere" / "index.json")
    with pytest.raises(ShardError, match=r"cannot read the shard index .*nowhere"):
        TrainingData(type(config.data).model_validate(document))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_patch_larger_than_a_batch_is_a_sentence(config: TrainConfig, workers: int) -> None:
    """From a worker too, whose errors come with its traceback."""
    document = config.model_dump()
    document["patches"] = {"policy": "static", "size": 1000}
    document["packing"] = {"elements": 40, "latents": 40, "min_piece": 4}
    wide = type(config).model_validate(document)
    loader = Loader(make_stream(wide, TrainingData(wide.data), "train"), Placement(0, 1, 1, wide.data.lanes, workers))
    try:
        with pytest.raises(
            UserError, match=r"^a patch of document \S+ does not fit .*: raise packing.elements$"
        ) as caught:
            list(iter(loader.step, None))
    finally:
        loader.close()
    assert caught.value.code == ExitCode.CONFIGURATION


def test_a_source_of_which_nothing_can_be_held_out_is_said(config: TrainConfig, tmp_path: Path) -> None:
    """One recording of two minutes is one sample: training on it ended in a traceback after its first step."""
    from tests.synthetic_shards import write_speech_shards

    document = config.data.model_dump()
    document["sources"] = [
        {"kind": "speech", "data": str(write_speech_shards(tmp_path, [1], num_units=40)), "weight": 1}
    ]
    corpus = TrainingData(type(config.data).model_validate(document))
    assert corpus.sources(1, "train")[0].order.total == 1
    with pytest.raises(ConfigError, match=r"has 1 samples .*set data.held_out: 0"):
        corpus.sources(1, "validation")
