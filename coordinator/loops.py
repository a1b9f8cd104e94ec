"""The one reconcile loop: from what the state is and what it should be, to commands.

    watch the store -> mark keys dirty -> plan = reconcile(state, key, now_ms, seed) -> propose its commands

Level-triggered: a plan looks at the newest state only, so a missed, doubled or late trigger does no harm, and the
loop may be stopped and started at any point. It runs while this coordinator leads, and stops at once when it leads no
more; what it proposes carries the term, so that the log refuses the plans of one that does not know yet. A reconcile
function is pure and does not wait; everything that can fail or wait is here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

import structlog
from opentelemetry import trace
from prometheus_client import Counter, Gauge, Histogram

from cloudless.coordinator.store import Batch, Snapshot, Store
from cloudless.errors import CloudlessError, Compacted, Unavailable, WatchLagged
from cloudless.observe import tracing

log = structlog.get_logger(__name__)
tracer = trace.get_tracer("cloudless.reconcile")

QUEUE_DEPTH = Gauge("cloudless_reconcile_queue_depth", "Keys that wait to be reconciled.", ["loop"])
SECONDS = Histogram(
    "cloudless_reconcile_duration_seconds",
    "Time of one pure reconcile, without its proposals.",
    ["loop"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1),
)
RUNS = Counter("cloudless_reconcile_total", "Reconciles, by what they led to.", ["loop", "result"])

LEADERSHIP_LOST = "LeadershipLost"
BACKOFF_MS_MIN = 100
BACKOFF_MS_MAX = 30_000
# A wall clock that jumps must not make a deadline sleep for ever, and a deadline in the past must not spin.
WAKE_MS_MIN = 20
WAKE_MS_MAX = 60_000
# So many plans in a row that changed something, for one key, are no progress any more but a quarrel. A plan is
# bounded (core.reconcile.draft), so that a workload on 100 000 nodes takes several hundred.
UNSETTLED_PLANS = 2000
CONCURRENCY = 8  # plans of different keys whose proposals are under way at once
_BATCHES_PER_TURN = 256
_KEYS_PER_TURN = 2000
_SHORT_S = 0.005  # of plans that take no longer one may follow the other at once
_REST = 3.0  # so many times as long as a long plan took, no other begins
_REST_SETTLED = 8.0  # the same, where it found nothing to do


class Key(Protocol):
    """Names what is reconciled, as a str or a tuple of them. Ordered: the same seed then gives the same run."""

    def __lt__(self, other: Any, /) -> bool: ...
    def __hash__(self) -> int: ...


S = TypeVar("S")
K = TypeVar("K", bound="Key")


class Plan(Protocol):
    """What a reconcile function decided."""

    @property
    def commands(self) -> tuple[Any, ...]:
        """To propose, in this order; empty: all is as it should be. A command with a field `planned_at_index` gets
        the index of the state that it was planned on."""
        ...

    @property
    def wake_at_ms(self) -> int | None:
        """The fabric's time at which to look again although nothing changed; None: not needed."""
        ...


Reconcile = Callable[[S, K, int, int], Plan]
"""(state, key, now_ms, seed) -> plan. Pure; an exception is a bug, and is retried with backoff. `now_ms` is the time of
the fabric (`Store.now_ms`)."""


class ReconcileLoop(Generic[S, K]):
    """One loop over one kind of key. All methods belong to the event loop."""

    def __init__(
        self,
        store: Store[S],
        *,
        name: str,
        dirty: Callable[[Batch[S]], Iterable[K]],
        all_keys: Callable[[S], Iterable[K]],
        reconcile: Reconcile[S, K],
        rng: random.Random,
        actor: str,
        concurrency: int = CONCURRENCY,
        seconds: Callable[[], float] | None = None,
    ) -> None:
        """`dirty` names the keys that a batch may concern, `all_keys` those of a state, both in the order in which
        they are looked at; `rng` gives the seeds and the jitter; `actor` is written into the log
        (`system/reconciler`); `name` labels metrics and log lines; `seconds` is the store's timer unless given."""
        self._store = store
        self._name = name
        self._dirty_of = dirty
        self._all_keys = all_keys
        self._reconcile = reconcile
        self._rng = rng
        self._actor = actor
        self._concurrency = concurrency
        self._seconds = seconds or store.seconds
        self._term: _Term[S, K] | None = None
        self._ended: set[asyncio.Task[None]] = set()
        self._stopped = False

    def start(self) -> None:
        """Runs whenever this coordinator leads, from now until `stop`."""
        self._store.on_leadership(self.set_leading)

    def set_leading(self, leading: bool) -> None:
        """Starts or stops at once. What a stopped loop had proposed may still be committed, if it was in time."""
        if leading and self._term is None and not self._stopped:
            log.info("reconcile.started", loop=self._name)
            self._term = _Term(self)
        elif not leading and self._term is not None:
            log.info("reconcile.stopped", loop=self._name)
            self._ended |= self._term.cancel()
            self._term = None

    def mark(self, key: K) -> None:
        """Asks for a reconcile of this key, for a reason that the store does not know (an observation in memory).
        No effect while not leading: a new leader looks at every key anyway."""
        if self._term is not None:
            self._term.mark(key)

    async def stop(self) -> None:
        """Stops for good; returns when nothing of the loop runs any more. May be repeated."""
        self._stopped = True
        self.set_leading(False)
        if self._ended:
            await asyncio.wait(self._ended)
            self._ended.clear()


class _Term(Generic[S, K]):
    """The loop during one term of leadership: its queue, its timers, its tasks."""

    def __init__(self, owner: ReconcileLoop[S, K]) -> None:
        self._owner = owner
        self._number = owner._store.term
        self._dirty: dict[K, None] = {}  # in the order of marking
        self._busy: set[K] = set()  # their proposals are under way
        self._again: set[K] = set()  # busy ones that were marked meanwhile
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._streaks: dict[K, int] = {}
        self._work = asyncio.Event()
        self._slots = asyncio.Semaphore(owner._concurrency)
        self._depth = QUEUE_DEPTH.labels(owner._name)
        self._duration = SECONDS.labels(owner._name)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawn(self._follow())
        self._spawn(self._plan_forever())

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("reconcile.bug", loop=self._owner._name, exc_info=error)

    def cancel(self) -> set[asyncio.Task[None]]:
        """Cancels everything; returns the tasks that still have to end."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._dirty.clear()
        self._depth.set(0)
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        return tasks

    # What to look at

    def mark(self, key: K) -> None:
        if key in self._busy:
            self._again.add(key)
        elif key not in self._dirty:
            self._dirty[key] = None
            self._depth.set(len(self._dirty))
            self._work.set()

    def _mark_later(self, key: K, delay_ms: int) -> None:
        self._cancel_timer(key)
        self._timers[key] = self._loop.call_later(delay_ms / 1000, self._due, key)

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.mark(key)

    def _cancel_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    async def _follow(self) -> None:
        """Follows the store for as long as the term lasts; from the list again when that ended early."""
        while True:
            try:
                await self._list_and_watch()
            except (WatchLagged, Compacted) as error:
                log.warning("reconcile.relist", loop=self._owner._name, cause=error.message)
            except Unavailable:  # the store closed or failed; whoever owns both stops this loop
                return
            except Exception as error:
                log.error("reconcile.watch_failed", loop=self._owner._name, exc_info=error)
                await asyncio.sleep(BACKOFF_MS_MAX / 1000)

    async def _list_and_watch(self) -> None:
        """Marks every key of the state, then those that commits concern."""
        owner = self._owner
        snapshot = owner._store.snapshot
        watch = owner._store.watch(snapshot.index)
        try:
            for count, key in enumerate(owner._all_keys(snapshot.state), start=1):
                self.mark(key)
                if count % _KEYS_PER_TURN == 0:
                    await asyncio.sleep(0)
            count = 0
            async for batch in watch:
                for key in owner._dirty_of(batch):
                    self.mark(key)
                count += 1
                if count % _BATCHES_PER_TURN == 0:  # batches that are there already do not yield
                    await asyncio.sleep(0)
        finally:
            watch.close()

    # What to do

    async def _plan_forever(self) -> None:
        """Plans one key after the other, and lets the event loop turn between two. Long plans get a quarter of its
        time: whatever else is to be done, heartbeats to be read among it, is done before the next one. What happens to
        a key meanwhile (a workload of thousands gets a report for each replica) is one plan then, not many."""
        while True:
            await self._work.wait()
            await self._slots.acquire()
            if not self._dirty:
                self._slots.release()
                self._work.clear()
                continue
            key = next(iter(self._dirty))
            del self._dirty[key]
            self._depth.set(len(self._dirty))
            began = self._owner._seconds()
            if not self._plan(key):
                self._slots.release()
            took_s = self._owner._seconds() - began
            rest = _REST if key in self._busy else _REST_SETTLED
            await asyncio.sleep(rest * took_s if took_s > _SHORT_S else 0)

    def _plan(self, key: K) -> bool:
        """Reconciles a key. True: its proposals are under way, and hold a slot."""
        owner = self._owner
        snapshot = owner._store.snapshot
        self._cancel_timer(key)
        began = owner._seconds()
        with tracing.span(tracer, "reconcile") as span:
            try:
                plan = owner._reconcile(snapshot.state, key, owner._store.now_ms(), owner._rng.getrandbits(63))
            except Exception as error:
                log.error("reconcile.failed", loop=owner._name, key=str(key), index=snapshot.index, exc_info=error)
                span.record_exception(error)
                self._retry(key, "bug")
                return False
            finally:
                self._duration.observe(owner._seconds() - began)
            if span.is_recording():
                span.set_attributes({"loop": owner._name, "key": str(key), "commands": len(plan.commands)})
            if not plan.commands:
                RUNS.labels(owner._name, "settled").inc()
                self._failures.pop(key, None)
                self._streaks.pop(key, None)
                self._wake_at(key, plan.wake_at_ms)
                return False
            self._busy.add(key)
            self._spawn(self._propose(key, plan, snapshot))  # inherits the span as its parent
            return True

    async def _propose(self, key: K, plan: Plan, snapshot: Snapshot[S]) -> None:
        owner = self._owner
        changed = False
        refusal: Exception | None = None
        try:
            for command in plan.commands:
                result = await owner._store.propose(
                    _at_index(command, snapshot.index), actor=owner._actor, term=self._number
                )
                changed = changed or result.changed != "unchanged"
        except Exception as error:
            refusal = error
        finally:
            self._busy.discard(key)
            self._slots.release()
        if isinstance(refusal, CloudlessError) and refusal.reason == LEADERSHIP_LOST:
            RUNS.labels(owner._name, "superseded").inc()  # this loop is stopped; the next leader looks at every key
        elif isinstance(refusal, CloudlessError):
            log.info(
                "reconcile.refused",
                loop=owner._name,
                key=str(key),
                index=snapshot.index,
                reason=refusal.reason,
                cause=refusal.message,
            )
            self._retry(key, "refused")
        elif refusal is not None:
            log.error("reconcile.failed", loop=owner._name, key=str(key), index=snapshot.index, exc_info=refusal)
            self._retry(key, "bug")
        elif not changed:
            self._retry(key, "unchanged")
        else:
            RUNS.labels(owner._name, "changed").inc()
            self._failures.pop(key, None)
            self._progress(key, plan.wake_at_ms)

    def _progress(self, key: K, wake_at_ms: int | None) -> None:
        streak = self._streaks[key] = self._streaks.get(key, 0) + 1
        if streak > UNSETTLED_PLANS:
            if streak == UNSETTLED_PLANS + 1:
                log.warning("reconcile.unsettled", loop=self._owner._name, key=str(key), plans=streak)
            self._again.discard(key)
            self._back_off(key, streak - UNSETTLED_PLANS)
            return
        self._wake_at(key, wake_at_ms)
        self._resume(key)

    def _retry(self, key: K, result: str) -> None:
        RUNS.labels(self._owner._name, result).inc()
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        self._back_off(key, failures)
        self._resume(key)

    def _resume(self, key: K) -> None:
        """Something happened to the key while it was busy: that is a reason to look at once."""
        if key in self._again:
            self._again.discard(key)
            self.mark(key)

    def _back_off(self, key: K, attempt: int) -> None:
        ceiling = min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** min(attempt - 1, 20))
        self._mark_later(key, round(ceiling * self._owner._rng.uniform(0.5, 1.0)))

    def _wake_at(self, key: K, at_ms: int | None) -> None:
        if at_ms is not None:
            delay_ms = at_ms - self._owner._store.now_ms()
            self._mark_later(key, min(max(delay_ms, WAKE_MS_MIN), WAKE_MS_MAX))


def _at_index(command: Any, index: int) -> Any:
    if getattr(command, "planned_at_index", None) == 0:
        return dataclasses.replace(command, planned_at_index=index)
    return command
