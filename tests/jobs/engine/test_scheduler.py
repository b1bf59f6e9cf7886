"""Who does what next and what a death costs, with actors that live in this process and die when they are told to."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

import jobs.engine.scheduler as scheduler_module
from jobs.cluster.pools import Pool
from jobs.engine.scheduler import Scheduler
from jobs.runtime.job import MAX_DEATHS, Job, PartitionTask, ShardTask
from schemas.errors import TryAgain


class RayActorError(Exception):
    """Ray's name for a dead actor."""


class ActorUnavailableError(RayActorError):
    """Ray's name for one that cannot be reached, of which it does not know yet whether it is dead."""


class Actor:
    """Remembers what it was asked; `die` says of a call whether it ends the actor, and with which words."""

    def __init__(self, ray: FakeRay, options: dict[str, Any], node: str) -> None:
        self.ray, self.options, self.node = ray, options, node
        self.where, self.do = _Method(self, lambda: self.node), _Method(self, self._do)
        self.did: list[tuple[int, tuple[str, ...]]] = []

    def _do(self, task: PartitionTask, stages: tuple[str, ...]) -> PartitionTask:
        self.did.append((task.number, stages))
        self.ray.order.append((task.number, stages))
        if isinstance(task, PartitionTask):
            task.receipts |= dict.fromkeys(stages, "sha")
        return task


class _Method:
    def __init__(self, actor: Actor, call: Callable[..., Any]) -> None:
        self.actor, self.call = actor, call

    def remote(self, *arguments: Any) -> int:
        return self.actor.ray.submit(self.actor, self.call, arguments)


class FakeRay:
    """As much of Ray as the scheduler uses. Calls are answered one by one, the oldest first."""

    class exceptions:
        RayActorError = RayActorError
        ActorUnavailableError = ActorUnavailableError

    def __init__(self, starts: int = 100) -> None:
        self.actors: list[Actor] = []
        self.killed: list[Actor] = []
        self.calls: dict[int, tuple[Actor, Callable[..., Any], tuple[Any, ...]]] = {}
        self.order: list[tuple[int, tuple[str, ...]]] = []
        self.die: Callable[[Actor, PartitionTask], str] = lambda actor, task: ""
        self.die_at_start = ""
        self.unreachable: dict[int, int] = {}
        """Number of an actor that has worked -> answers of it that do not come through."""
        self.gone: Actor | None = None
        """Whose node is lost."""
        self.starts = starts
        self.lost: set[str] = set()
        self._numbers = itertools.count()

    def remote(self, **options: Any) -> Any:
        return lambda cls: _Class(self)

    def submit(self, actor: Actor, call: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
        number = next(self._numbers)
        self.calls[number] = (actor, call, arguments)
        return number

    def wait(self, references: list[int], num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        able = [number for number in references if self.actors.index(self.calls[number][0]) < self.starts]
        return sorted(able)[:1], []

    def get(self, reference: int) -> Any:
        actor, call, arguments = self.calls[reference]
        number = self.actors.index(actor)
        if actor.did and self.unreachable.get(number, 0):
            self.unreachable[number] -= 1
            raise ActorUnavailableError("RPC error: Socket closed")
        words = self.die(actor, arguments[0]) if arguments else self.die_at_start
        if actor is self.gone:
            words = "The actor died because its node has died."
        if words:
            raise RayActorError(words)
        return call(*arguments)

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": actor.node, "Alive": actor.node not in self.lost} for actor in self.actors]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}


class _Class:
    def __init__(self, ray: FakeRay, options: dict[str, Any] | None = None) -> None:
        self.ray, self.given = ray, options or {}

    def options(self, **options: Any) -> _Class:
        return _Class(self.ray, options)

    def remote(self, *arguments: Any) -> Actor:
        actor = Actor(self.ray, self.given, f"node{len(self.ray.actors)}")
        self.ray.actors.append(actor)
        return actor


def pool(name: str, stages: tuple[str, ...], least: int = 1, most: int = 1, gpus: float = 0.0) -> Pool:
    return Pool(name=name, stages=stages, least=least, most=max(least, most), cpus=1.0, gpus=gpus, memory=0)


class NoStore:
    """Nothing was committed, and nobody said why he died, but for what is in `notes`."""

    notes: dict[str, bytes] = {}

    def __init__(self, root: str) -> None: ...

    def read_commit(self, *arguments: object) -> None:
        raise FileNotFoundError

    def read_bytes(self, path: str) -> bytes:
        if path not in self.notes:
            raise FileNotFoundError(path)
        return self.notes[path]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scheduler]:
    monkeypatch.setattr(scheduler_module, "Store", NoStore)
    monkeypatch.setattr(NoStore, "notes", {})

    class Anything:
        output = "nowhere"
        fingerprint = "f"

    class Stages(dict[str, Any]):
        def __missing__(self, key: str) -> Any:
            return Anything()

    def made(
        ray: FakeRay,
        pools: list[Pool],
        stopping: Callable[[], bool] = lambda: False,
        resize: Callable[[], dict[str, int]] | None = None,
    ) -> Scheduler:
        job: Any = Job(spec=Anything(), stages=Stages(), run_id="run")  # type: ignore[arg-type]
        return Scheduler(ray, job, pools, stopping, resize)

    return made


def tasks(count: int) -> list[PartitionTask]:
    return [PartitionTask(number=number, units=dict.fromkeys("abc", f"u{number}"), items=()) for number in range(count)]


def test_a_line_does_all_stages_of_a_partition_in_one_go(make: Callable[..., Scheduler]) -> None:
    ray = FakeRay()
    done = list(make(ray, [pool("line", ("a", "b", "c"), least=2)]).run("abc", tasks(6)))
    assert sorted(task.number for task in done) == list(range(6))
    assert {stages for _, stages in ray.order} == {("a", "b", "c")}
    assert len(ray.actors) == 2
    assert all(actor.did for actor in ray.actors)


def test_stages_with_pools_of_their_own_take_turns_and_the_furthest_goes_first(make: Callable[..., Scheduler]) -> None:
    ray = FakeRay()
    done = list(make(ray, [pool("line", ("a", "c")), pool("b", ("b",))]).run("abc", tasks(4)))
    assert len(done) == 4
    for number in range(4):
        assert [stages for task, stages in ray.order if task == number] == [("a",), ("b",), ("c",)]
    assert ray.order.index((0, ("c",))) < ray.order.index((3, ("a",))), "the line began all before it ended any"


def test_what_a_gpu_waits_for_goes_before_what_is_furthest(make: Callable[..., Scheduler]) -> None:
    ray = FakeRay()
    list(make(ray, [pool("line", ("a", "c")), pool("b", ("b",), gpus=1.0)]).run("abc", tasks(5)))
    assert ray.order.index((1, ("a",))) < ray.order.index((0, ("c",)))


def test_a_death_is_counted_and_only_for_what_was_under_way(make: Callable[..., Scheduler]) -> None:
    ray, deaths = FakeRay(), {3: MAX_DEATHS}

    def die(actor: Actor, task: PartitionTask) -> str:
        if deaths.get(task.number):
            deaths[task.number] -= 1
            return "the worker process died"
        return ""

    ray.die = die
    done = {task.number: task for task in make(ray, [pool("line", ("a", "b", "c"), least=2)]).run("abc", tasks(6))}
    assert done[3].deaths == {"a": MAX_DEATHS}
    assert all(not task.deaths and not task.failed for number, task in done.items() if number != 3)
    assert len(ray.actors) == 2 + MAX_DEATHS


def test_the_neighbour_on_a_gpu_is_not_suspected_twice(make: Callable[..., Scheduler]) -> None:
    ray = FakeRay()
    ray.die = lambda actor, task: "died" if task.number == 0 and task.deaths.get("a", 0) < MAX_DEATHS else ""
    done = {task.number: task for task in make(ray, [pool("a", ("a",), gpus=1.0)]).run("a", tasks(3))}
    assert done[0].deaths == {"a": MAX_DEATHS}
    assert all(done[number].deaths.get("a", 0) < MAX_DEATHS for number in (1, 2))


@pytest.mark.parametrize("words", ["The actor died because its node has died.", "no reason, but the node is gone"])
def test_a_lost_node_is_nobodys_fault(make: Callable[..., Scheduler], words: str) -> None:
    ray = FakeRay()

    def die(actor: Actor, task: PartitionTask) -> str:
        if actor is ray.actors[0]:
            ray.lost.add(actor.node)
            return words
        return ""

    ray.die = die
    done = list(make(ray, [pool("line", ("a",), least=2)]).run("a", tasks(4)))
    assert len(done) == 4
    assert not any(task.deaths for task in done)


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_worker_out_of_reach_is_asked_until_it_is_known_to_be_dead_or_alive(
    make: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_lost: bool
) -> None:
    """Ray takes seconds to see that a node is gone; what was there in those seconds is as little at fault as later."""
    monkeypatch.setattr(scheduler_module, "ASK_SECONDS", 0.0)
    ray = FakeRay()
    ray.unreachable[0] = 3
    scheduler = make(ray, [pool("line", ("a",), least=2)])
    begun = scheduler.run("a", tasks(6))
    done = [next(begun), next(begun)]
    if is_lost:
        ray.gone = ray.actors[0]
    done += begun
    assert sorted(task.number for task in done) == list(range(6))
    assert not any(task.deaths for task in done)
    assert ("a node was lost" in caplog.text) == is_lost


def test_an_operator_is_told_who_died_of_what_and_what_comes_next(
    make: Callable[..., Scheduler], caplog: pytest.LogCaptureFixture
) -> None:
    ray = FakeRay()
    NoStore.notes["attempts/run/a/u1"] = b"timeout"
    words = "pid: 7 namespace: n ip: 10.0.0.1 Worker exit type: SYSTEM_ERROR"
    ray.die = lambda actor, task: words if task.number < 2 and not task.deaths else ""
    list(make(ray, [pool("line", ("a",))]).run("a", tasks(3)))
    who, taken_apart = (
        "a worker of the pool line died (process 7 on 10.0.0.1)",
        "taken apart next, to find what does it",
    )
    assert f"{who}: it was killed, or crashed in native code; a of the partition u0: tried again" in caplog.text
    assert f"{who}: it ended itself; a of the partition u1 took longer than it may: {taken_apart}" in caplog.text


@pytest.mark.parametrize("code", ["timeout", "out_of_memory"])
def test_where_the_worker_said_why_the_next_attempt_is_isolated(make: Callable[..., Scheduler], code: str) -> None:
    ray, first = FakeRay(), [True]

    def die(actor: Actor, task: PartitionTask) -> str:
        if task.number == 1 and first:
            first.clear()
            NoStore.notes["attempts/run/a/u1"] = code.encode()
            return "died"
        return ""

    ray.die = die
    done = {task.number: task for task in make(ray, [pool("line", ("a",))]).run("a", tasks(2))}
    assert done[1].deaths == {"a": MAX_DEATHS}


def test_a_shard_whose_worker_said_why_it_died_is_taken_apart_and_one_that_goes_on_killing_is_set_aside(
    make: Callable[..., Scheduler],
) -> None:
    ray = FakeRay()
    NoStore.notes["attempts/run/shards/s1"] = b"timeout"
    ray.die = lambda actor, task: "died" if task.number == 2 or (task.number == 1 and not task.deaths) else ""
    shards: list[Any] = [ShardTask(number=number, name=f"s{number}", partitions=[]) for number in range(3)]
    done = {task.number: task for task in make(ray, [pool("line", ("shards",))]).run(["shards"], shards)}
    assert done[0].deaths == 0
    assert (done[1].deaths, done[1].failed) == (MAX_DEATHS, "")
    assert "the shard s2: 5 workers died of it" in done[2].failed


def test_a_partition_that_kills_whoever_takes_it_apart_is_set_aside(make: Callable[..., Scheduler]) -> None:
    ray = FakeRay()
    ray.die = lambda actor, task: "died" if task.number == 1 else ""
    done = {task.number: task for task in make(ray, [pool("line", ("a", "b"))]).run("ab", tasks(3))}
    assert "a of the partition u1: 5 workers died of it" in done[1].failed
    assert not done[0].failed
    assert not done[2].failed


def test_workers_that_never_get_to_work_end_the_run_with_a_sentence(make: Callable[..., Scheduler]) -> None:
    ray = FakeRay()
    ray.die_at_start = "The actor died: no module named jobs"
    with pytest.raises(
        TryAgain,
        match=rf"{scheduler_module.STARTS} workers in a row died before they had done anything.*no module named jobs",
    ):
        list(make(ray, [pool("line", ("a",))]).run("a", tasks(1)))


def test_a_pool_grows_while_work_waits_and_not_further_than_said(make: Callable[..., Scheduler]) -> None:
    ray = FakeRay()
    list(make(ray, [pool("line", ("a",), least=1, most=4)]).run("a", tasks(40)))
    assert len(ray.actors) == 4


def test_a_pool_follows_a_cluster_that_grows(make: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_module, "RESIZE_SECONDS", -1.0)
    ray = FakeRay()
    list(make(ray, [pool("line", ("a",))], resize=lambda: {"line": 1 + len(ray.order) // 5}).run("a", tasks(30)))
    assert len(ray.actors) > 3


def test_a_worker_that_has_no_node_yet_keeps_nobody_waiting_but_is_spoken_of(
    make: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ray = FakeRay(starts=1)
    assert len(list(make(ray, [pool("line", ("a",), least=3)]).run("a", tasks(5)))) == 5, "one of three had come"
    assert caplog.text == ""
    monkeypatch.setattr(scheduler_module, "SAY_SECONDS", 0.0)
    alone, rounds = FakeRay(starts=0), itertools.count()
    scheduler = make(alone, [pool("line", ("a",), least=2)], lambda: next(rounds) > 3)
    assert len(list(scheduler.run("a", tasks(5)))) == 5
    assert "waiting for workers: the pool line asks for 2 workers of 1 CPUs and none has started" in caplog.text


def test_a_stop_ends_what_is_under_way_and_begins_nothing(make: Callable[..., Scheduler]) -> None:
    ray = FakeRay()
    scheduler = make(ray, [pool("line", ("a", "b"))], lambda: len(ray.order) >= 2)
    back = list(scheduler.run("ab", tasks(6)))
    assert len(back) == 6
    assert sum(bool(task.receipts) for task in back) == len(ray.order) == 2
