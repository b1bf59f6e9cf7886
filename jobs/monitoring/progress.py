"""What a run shows while it works: a bar with the time left on a terminal, else a line a minute; and the driver's gauges."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from jobs.monitoring.estimate import RECENT, Estimate, StageProgress, UnitHours, count_codes, duration, estimate
from jobs.monitoring.logs import LOG
from jobs.monitoring.metrics import show
from jobs.monitoring.watch import CommitWatch
from schemas.commit import Commit

LINE_SECONDS = 60.0
POLL_SECONDS = {True: 2.0, False: 20.0}
"""Between looks into the store: a folder of this machine, an object store."""
BAR = "{desc} {percentage:3.0f}% |{bar:20}| {postfix}, {elapsed} gone"


@dataclass(frozen=True, kw_only=True)
class Load:
    """A pool at one time."""

    workers: int
    """That have started and live."""
    working: int
    """Of these, that hold a task."""


class Progress:
    """Counts commits as they come, in a thread of its own, and says how far the run is."""

    def __init__(
        self,
        stages: Sequence[StageProgress],
        hours: Mapping[str, UnitHours],
        pools: Callable[[], Mapping[str, Load]],
        watch: CommitWatch,
        *,
        bar: bool,
        is_local: bool = True,
        line_seconds: float = LINE_SECONDS,
    ) -> None:
        """`hours`: stage -> those of its units; `pools`: who is there now and has work."""
        self.stages = {stage.stage: stage for stage in stages}
        self._hours, self._pools, self._watch = hours, pools, watch
        self._poll_seconds, self._line_seconds = POLL_SECONDS[is_local], line_seconds
        self._begun = self._said = time.monotonic()
        self._busy: deque[tuple[float, float]] = deque()
        self._loads: deque[tuple[float, Mapping[str, Load]]] = deque()
        self._since: float | None = None
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._bar = tqdm(total=100.0, desc="tokenize", bar_format=BAR, mininterval=0.5) if bar else None
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        self._show()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._read()  # and not who has work: the workers are gone
        self._show()
        if self._bar is not None:
            self._bar.close()
        elif self._said > self._begun:
            LOG.info("%s", self.line())

    def heard(self, commits: Sequence[Commit]) -> None:
        """Commits that came back from a worker."""
        with self._lock:
            for commit in commits:
                if self._watch.heard(commit):
                    self._count(commit)

    def _count(self, commit: Commit) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = max(self._begun, now - commit.seconds_busy)  # the first unit began then, not now
        self.stages[commit.stage].add(commit, self._hours[commit.stage].of(commit.partition))
        self._busy.append((now, commit.seconds_busy))

    def _run(self) -> None:
        while not self._ended.wait(self._poll_seconds):
            self._look()
            if self._bar is None and time.monotonic() - self._said >= self._line_seconds:
                self._said = time.monotonic()
                LOG.info("%s", self.line())

    def _look(self) -> None:
        self._read()
        self._loads.append((time.monotonic(), self._pools()))
        while time.monotonic() - self._loads[0][0] > RECENT:
            self._loads.popleft()
        self._show()

    def _read(self) -> None:
        try:
            with self._lock:
                for commit in self._watch.poll():
                    self._count(commit)
        except OSError as error:  # the store is silent for a while: the run sees to that, and this shows what it knows
            LOG.warning("progress cannot be read: %s", error)

    def _window(self) -> float:
        """Seconds that the recent work took."""
        now = time.monotonic()
        while self._busy and now - self._busy[0][0] > RECENT:
            self._busy.popleft()
        return min(RECENT, now - self._since) if self._since is not None else 0.0

    def estimate(self) -> Estimate:
        """How far, how fast, how long."""
        seconds = self._window()
        return estimate(self.stages.values(), sum(busy for _, busy in self._busy), seconds)

    def busy_shares(self) -> dict[str, float]:
        """Pool -> share of its workers' time in which they had work, lately; of each that has had a worker."""
        there: defaultdict[str, int] = defaultdict(int)
        working: defaultdict[str, int] = defaultdict(int)
        for _, pools in self._loads:
            for pool, load in pools.items():
                there[pool] += load.workers
                working[pool] += load.working
        return {pool: working[pool] / workers for pool, workers in there.items() if workers}

    def line(self) -> str:
        """Done, rate, rejects, time left, busy share per pool: all that an operator asks, in one line."""
        now = self.estimate()
        if self._since is None:
            waited = duration(time.monotonic() - self._begun)
            here = sum(load.workers for load in self._pools().values())
            gone = bool(self.busy_shares())  # there were workers, a while ago
            nobody = "no worker is left" if gone else "workers are starting"
            at = f"{here} workers are at their first partitions" if here else nobody
            new = "new " if any(stage.units_done for stage in self.stages.values()) else ""  # a run that goes on
            return f"nothing {new}is committed yet: {at} ({waited})"
        done = "" if now.share_done is None else f"{now.share_done:.0%} done: "
        counts = ", ".join(f"{name} {it.units_done}/{it.units}" for name, it in self.stages.items())
        rejects: Counter[str] = sum((stage.rejects for stage in self.stages.values()), Counter())
        pools = self._loads[-1][1] if self._loads else {}
        busy = ", ".join(
            f"{pool} {share:.0%} of {pools[pool].workers}" if pools[pool].workers else f"{pool} (no worker just now)"
            for pool, share in self.busy_shares().items()
        )
        parts = [
            f"{done}{counts}",
            f"{now.rate:.1f} h of audio/h" if now.rate is not None else "",
            "rejected " + (count_codes(rejects, 5) or "nothing"),
            f"busy {busy}" if busy else "no worker was there lately",
            now.left,
        ]
        return "; ".join(part for part in parts if part)

    def _show(self) -> None:
        """All gauges each time: Ray forgets one that is not set again for a while."""
        now = self.estimate()
        for pool, load in self._loads[-1][1].items() if self._loads else ():
            show("lst_pool_workers", load.workers, {"pool": pool})
        for name, stage in self.stages.items():
            show("lst_pending_units", stage.units - stage.units_done, {"stage": name})
            show("lst_pending_audio_hours", stage.hours_left, {"stage": name})
        if now.seconds_left is not None:
            show("lst_seconds_left", now.seconds_left, {})
        if self._bar is not None:
            self._bar.set_postfix_str(self._brief(now), refresh=False)
            share = now.share_done if now.share_done is not None else self._by_units()
            self._bar.update(100.0 * share - self._bar.n)
            self._bar.refresh()

    def _by_units(self) -> float:
        """Before every stage was measured: units, one as good as another."""
        units = sum(stage.units for stage in self.stages.values())
        return sum(stage.units_done for stage in self.stages.values()) / units if units else 1.0

    def _brief(self, now: Estimate) -> str:
        if self._since is None:
            return "workers are starting"
        done, units = (sum(getattr(stage, name) for stage in self.stages.values()) for name in ("units_done", "units"))
        rate = f", {now.rate:.1f} h/h" if now.rate is not None else ""
        left = f", {duration(now.seconds_left)} left" if now.seconds_left is not None else ""
        return f"{done}/{units} tasks{rate}{left}"
