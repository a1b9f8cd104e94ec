"""The replicated store: propose, snapshot, watch.

    result = await store.propose(ScaleWorkload(...), actor="user/alice", request_id="...")
    state = store.snapshot.state                       # immutable; costs nothing
    async for batch in store.watch(from_index): ...    # ordered; WatchLagged or Compacted: list again, go on from there

The store owns the directory and the state: it feeds committed entries to the pure state machine in order, keeps the
last batches of changes for watchers, and has snapshots of the immutable state written when they are due. How an entry
becomes committed, and what is on disk, is the business of its `engine.Engine`, whose `StateHost` it is. All methods
belong to the event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic

import structlog
from opentelemetry import trace
from prometheus_client import Counter, Gauge, Histogram

from cloudless.clock import Clock
from cloudless.config import StoreConfig
from cloudless.coordinator.core.fabric_time import FabricTime, is_leaders
from cloudless.coordinator.core.outcome import ApplyResult
from cloudless.coordinator.engine import (
    Committed,
    Engine,
    EngineParts,
    EngineStatus,
    Membership,
    NotReplicated,
    OpenEngine,
    RunBlocking,
    is_internal,
)
from cloudless.coordinator.feed import Batch, Feed, Watch
from cloudless.coordinator.wal import collector
from cloudless.coordinator.wal.files import DirectoryLock, Filesystem, OsFilesystem
from cloudless.coordinator.wal.machine import Machine, S
from cloudless.coordinator.wal.record import LogEntry
from cloudless.coordinator.wal.single import open_single
from cloudless.coordinator.wal.snapshots import StoredSnapshot
from cloudless.core.model import Event
from cloudless.core.quick import quick_frozen
from cloudless.errors import (
    CloudlessError,
    DiskFull,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    from_code,
)
from cloudless.observe import tracing
from cloudless.observe.histograms import LoopHistogram

__all__ = ["Batch", "Snapshot", "Store", "Watch"]

log = structlog.get_logger(__name__)
tracer = trace.get_tracer("cloudless.store")

APPLIED_INDEX = Gauge("cloudless_raft_applied_index", "Index of the last applied entry.")
APPLY_SECONDS = LoopHistogram(
    "cloudless_raft_apply_duration_seconds",
    "Time to apply one entry to the state.",
    buckets=(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25),
)
SNAPSHOTS = Counter("cloudless_raft_snapshot_total", "Snapshots written.", ["result"])
SNAPSHOT_SECONDS = Histogram("cloudless_raft_snapshot_duration_seconds", "Time to encode and write a snapshot.")
SNAPSHOT_BYTES = Gauge("cloudless_raft_snapshot_size_bytes", "Size of the newest snapshot.")
PROPOSALS_REPEATED = Counter("cloudless_store_proposals_repeated_total", "Proposals repeated by the store itself.")

PROPOSE_TIMEOUT_S = 10.0
# Pauses before a proposal of unknown outcome is repeated: the first, and the longest. An election takes longer.
_BACKOFF_S, _BACKOFF_S_MAX = 0.01, 0.2
_HAND_OVER_S = 2.0  # then it is left to the engine's own end
_ENGINES = ("raft", "single", "etcd")
_EVENTS_FOR_TIME = 1000  # of a snapshot, that are looked at for one of a leader
_THREADS = 4  # the log; a snapshot written beside it; one that is received; one that is sent


@quick_frozen
class Snapshot(Generic[S]):
    """The state as of one entry of the log. Immutable: keep it as long as you like."""

    state: S
    index: int
    term: int


class Store(Generic[S]):
    """See the module. Made by `Store.open`. Implements `engine.StateHost` for its engine."""

    def __init__(
        self,
        *,
        machine: Machine[S],
        config: StoreConfig,
        clock: Clock,
        run_blocking: RunBlocking,
        seconds: Callable[[], float],
        new_request_id: Callable[[], str],
        propose_timeout_s: float,
    ) -> None:
        self._machine = machine
        self._config = config
        self._clock = clock
        self._run_blocking = run_blocking
        self._seconds = seconds
        self._new_request_id = new_request_id
        self._propose_timeout_s = propose_timeout_s
        self._snapshot = Snapshot(machine.empty(), 0, 0)
        self._snapshot_index = 0  # of the newest snapshot that is stored
        self._snapshot_due = config.snapshot_entries
        self._snapshot_task: asyncio.Task[None] | None = None
        self._installing = 0
        self._feed: Feed[S] = Feed(0)
        self._time = FabricTime()
        self._failure: CloudlessError | None = None
        self._failed: asyncio.Event = asyncio.Event()
        self._closing = False
        self._closed: asyncio.Event | None = None
        self._lock: DirectoryLock | None = None
        self._stop_threads: Callable[[], None] = lambda: None
        self._engine: Engine | None = None  # None: opening

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        machine: Machine[S],
        clock: Clock,
        config: StoreConfig | None = None,
        member: str = "",
        filesystem: Filesystem | None = None,
        run_blocking: RunBlocking | None = None,
        seconds: Callable[[], float] = time.perf_counter,
        random_bits: Callable[[int], int] = secrets.randbits,
        engine: OpenEngine | None = None,
        propose_timeout_s: float = PROPOSE_TIMEOUT_S,
    ) -> Store[S]:
        """Takes the directory for this process, recovers the state, and is ready for proposals.

        `engine` replicates: that of a single member unless given, whatever the settings say. `filesystem`,
        `run_blocking`, `seconds` (a monotonic timer) and `random_bits` are the real ones unless a simulation gives its
        own. `propose_timeout_s`: see `propose`. Raises FailedPrecondition (DataDirectoryInUse), Corrupt (damage that
        needs the operator; nothing was changed), DiskFull (not even an empty log fits), InvalidArgument (unknown
        engine), and what the engine raises.
        """
        config = config or StoreConfig()
        if config.engine not in _ENGINES:
            raise InvalidArgument(
                f"store.engine {config.engine!r} is not an engine", reason="BadSetting", remedy="use single or raft"
            )
        filesystem = filesystem or OsFilesystem()
        filesystem.make_dir(directory)
        lock = filesystem.lock(directory / "lock")
        stop_threads: Callable[[], None] = lambda: None  # noqa: E731
        if run_blocking is None:
            run_blocking, stop_threads = _threads()
        try:
            self = cls(
                machine=machine,
                config=config,
                clock=clock,
                run_blocking=run_blocking,
                seconds=seconds,
                new_request_id=lambda: f"{random_bits(128):032x}",
                propose_timeout_s=propose_timeout_s,
            )
            parts = EngineParts(
                directory=directory,
                member=member,
                config=config,
                filesystem=filesystem,
                run_blocking=run_blocking,
                clock=clock,
                seconds=seconds,
                random_bits=random_bits,
                on_failure=self._on_failure,
            )
            began = seconds()
            with collector.paused():
                self._engine = await (engine or open_single)(parts, self)
        except BaseException:
            lock.release()
            stop_threads()
            raise
        self._lock, self._stop_threads = lock, stop_threads
        self._recovered(seconds() - began)
        return self

    def _recovered(self, took_s: float) -> None:
        this = weakref.ref(self)
        APPLIED_INDEX.set_function(lambda: store.applied_index if (store := this()) is not None else 0)
        log.info(
            "store.recovered",
            index=self._snapshot.index,
            term=self._snapshot.term,
            snapshot_index=self._snapshot_index,
            entries=self._snapshot.index - self._snapshot_index,
            seconds=round(took_s, 3),
        )
        self._snapshot_when_due()

    # Reading

    @property
    def snapshot(self) -> Snapshot[S]:
        """The newest state that is applied here. A read of it is linearizable after `read_barrier`."""
        return self._snapshot

    async def read_barrier(self) -> int:
        """Returns once the state here is at least as new as every write that was acknowledged before the call, by any
        member; returns an index that it has then. Raises Unavailable (NoLeader): try again."""
        return await self._running.read_index()

    read_index = read_barrier  # the engine's word for it

    def watch(self, from_index: int | None = None) -> Watch[S]:
        """Every batch behind `from_index` (None: from now on), in order, then those to come.

        Raises Compacted when batches behind `from_index` are no longer kept, or when it lies ahead of this store;
        the iterator raises WatchLagged when its reader was too slow, and Compacted when a snapshot of another member
        took the place of changes that it had not read. All mean: take `snapshot`, go on from its index. Raises
        Unavailable when the store closes or fails. Close the watch when done.
        """
        return self._feed.watch(self._snapshot.index if from_index is None else from_index)

    def now_ms(self) -> int:
        """The fabric's time (`core.fabric_time`): what deadlines of the state are compared with, and what proposals are
        stamped with. Near the wall clock, and the same for one leader as for the one before."""
        return self._time.now_ms(wall_ms=self._clock.now_ms(), monotonic_ms=self._clock.monotonic_ms())

    def _learn_time(self, events: Iterable[Event], *, following: bool) -> None:
        """From the first of these events that is a leader's, if there is one."""
        for event in events:
            if is_leaders(event):
                wall_ms, monotonic_ms = self._clock.now_ms(), self._clock.monotonic_ms()
                self._time.heard(event.time_ms, wall_ms=wall_ms, monotonic_ms=monotonic_ms, following=following)
                return

    @property
    def seconds(self) -> Callable[[], float]:
        """The monotonic timer that durations are measured with; virtual in a simulation."""
        return self._seconds

    # Writing

    async def propose(
        self,
        command: Any,
        *,
        actor: str,
        request_id: str | None = None,
        now_ms: int | None = None,
        term: int | None = None,
    ) -> ApplyResult:
        """Proposes a command; durable and applied here when this returns.

        `actor` is who asked (`user/alice`, `node/n1`, `system/reconciler`); `request_id` makes a repeat harmless:
        it gets the first answer; without one, a random one is made. `now_ms` is the fabric's time unless given. `term`
        is for the leader's own work, planned while it led in this term: see `Engine.propose`.

        While there is no leader, or when the outcome is unknown, it is repeated with the same request id, for
        `propose_timeout_s`; not so with a `term`. Cancelling it leaves the outcome unknown.

        Raises what the state machine refused it with (`errors.from_code`); InvalidArgument for a command that
        cannot be written; ResourceExhausted, DiskFull: not accepted, try later; FailedPrecondition (LeadershipLost,
        with a `term`): it will never be committed; Unavailable: the outcome is unknown, repeat with the same request
        id.
        """
        with tracing.span(tracer, "store.propose") as span:
            try:
                data = self._machine.entry(
                    command,
                    state=self._snapshot.state,
                    actor=actor,
                    request_id=request_id or self._new_request_id(),
                    issued_at_ms=self.now_ms() if now_ms is None else now_ms,
                )
            except ValueError as error:
                raise InvalidArgument(f"{type(command).__name__}: {error}", reason="BadCommand") from None
            committed = await self._commit(data, term)
            if span.is_recording():
                span.set_attributes({"command": type(command).__name__, "index": committed.index})
            result: ApplyResult = committed.outcome
            if not result.accepted:
                raise from_code(result.code, result.message, reason=result.reason, remedy=result.remedy)
            return result

    async def _commit(self, data: bytes, term: int | None) -> Committed:
        loop = asyncio.get_running_loop()
        give_up_at, pause_s = loop.time() + self._propose_timeout_s, _BACKOFF_S
        unknown = False  # an earlier attempt may have been accepted: no refusal of a later one is certain any more
        while True:
            if self._closing:
                raise Unavailable("the store is closed", reason="StoreClosed")
            try:
                return await self._running.propose(data, term=term)
            except Unavailable as error:
                final = term is not None or error.reason == "StoreClosed" or self.failure is not None
                if final or loop.time() + pause_s > give_up_at:
                    if unknown and error.reason == "NoLeader":
                        raise _repetition_refused(error) from error
                    raise
                unknown = unknown or error.reason != "NoLeader"
            except (DiskFull, ResourceExhausted) as error:
                if unknown:
                    raise _repetition_refused(error) from error
                raise
            PROPOSALS_REPEATED.inc()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _BACKOFF_S_MAX)

    # Of the engine

    @property
    def _running(self) -> Engine:
        assert self._engine is not None, "the store is not open yet"
        return self._engine

    @property
    def term(self) -> int:
        return self._running.term

    @property
    def leading(self) -> bool:
        """Whether this coordinator may run the leader's loops."""
        return self._running.leading

    @property
    def leader_id(self) -> str:
        """Id of the coordinator that leads, as far as this one knows, or ""."""
        return self._running.status().leader

    def status(self) -> EngineStatus:
        return self._running.status()

    def on_leadership(self, listener: Callable[[bool], None]) -> None:
        """Calls the listener at once and at every change, on the event loop; see `Engine.on_leadership`."""
        self._running.on_leadership(listener)

    @property
    def membership(self) -> Membership:
        """For changes of who is a member; refuses them where the engine has no members of its own."""
        engine = self._running
        return engine if isinstance(engine, Membership) else NotReplicated(engine.status().engine)

    # As the engine's StateHost

    @property
    def applied_index(self) -> int:
        return self._snapshot.index

    @property
    def applied_term(self) -> int:
        return self._snapshot.term

    def apply(self, entry: LogEntry) -> ApplyResult | None:
        assert entry.index == self._snapshot.index + 1, f"entry {entry.index} behind {self._snapshot.index}"
        if is_internal(entry.data):
            self._snapshot = Snapshot(self._snapshot.state, entry.index, entry.term)
            self._feed.advance(entry.index)
            result = None
        else:
            began = self._seconds()
            applied = self._machine.apply(self._snapshot.state, entry.data, index=entry.index, term=entry.term)
            self._snapshot = Snapshot(applied.state, entry.index, entry.term)
            APPLY_SECONDS.observe(self._seconds() - began)
            self._feed.add(entry.index, applied)
            if applied.events:
                # Its own entries are of its own time; what is applied while the store opens was written long ago.
                following = self._engine is not None and not self._engine.leading
                self._learn_time(applied.events, following=following)
            result = applied.result
        if entry.index >= self._snapshot_due:
            self._snapshot_when_due()
        return result

    def load(self, body: bytes) -> tuple[int, int]:
        state, index, term = self._machine.decode(body)
        self._replace(Snapshot(state, index, term))
        return index, term

    async def install(self, body: bytes) -> tuple[int, int]:
        self._installing += 1
        try:
            state, index, term = await self._run_blocking(lambda: self._decode(body))
        finally:
            self._installing -= 1
        if index > self._snapshot.index:
            self._replace(Snapshot(state, index, term))
            log.info("store.installed", index=index, term=term, bytes=len(body))
        return index, term

    def _decode(self, body: bytes) -> tuple[S, int, int]:
        with collector.paused(freeze=True):
            return self._machine.decode(body)

    def _replace(self, snapshot: Snapshot[S]) -> None:
        self._snapshot = snapshot
        self._snapshot_index = snapshot.index
        self._snapshot_due = snapshot.index + self._config.snapshot_entries
        self._feed.replace(snapshot.index)
        newest = itertools.islice(self._machine.events(snapshot.state), _EVENTS_FOR_TIME)
        self._learn_time(newest, following=False)

    # Life

    @property
    def failure(self) -> CloudlessError | None:
        """Why the store can never write again (a failed disk, removed from the cluster), or None."""
        return self._failure

    async def wait_failed(self) -> CloudlessError:
        """Returns the failure once there is one; the process should log it and end."""
        await self._failed.wait()
        assert self._failure is not None
        return self._failure

    def _on_failure(self, error: CloudlessError) -> None:
        self._failure = error
        self._failed.set()
        self._feed.close()

    async def close(self) -> None:
        """Finishes the proposals under way, ends the watches, closes the files and frees the directory. May be
        repeated."""
        if self._closed is not None:
            await self._closed.wait()
            return
        self._closing, self._closed = True, asyncio.Event()
        try:
            snapshot = self._snapshot_task
            if snapshot is not None:
                await self._hand_over()  # it may end meanwhile
                await asyncio.wait([snapshot])
            await self._running.close()
        finally:
            self._feed.close()
            if self._lock is not None:
                self._lock.release()
            self._stop_threads()
            self._closed.set()

    async def _hand_over(self) -> None:
        """A snapshot may take seconds; nobody has to wait for it to get another leader."""
        engine = self._running
        if engine.leading and isinstance(engine, Membership):
            try:
                async with asyncio.timeout(_HAND_OVER_S):
                    await engine.transfer()
            except (CloudlessError, TimeoutError) as error:
                log.info("store.kept_leadership", cause=str(error))

    # Snapshots

    def _snapshot_when_due(self) -> None:
        busy = self._snapshot_task is not None or self._installing or self._closing or self._engine is None
        if busy or self._snapshot.index < self._snapshot_due:
            return
        task = asyncio.get_running_loop().create_task(self._write_snapshot(self._snapshot))
        task.add_done_callback(self._snapshot_written)
        self._snapshot_task = task

    async def _write_snapshot(self, snapshot: Snapshot[S]) -> None:
        began = self._seconds()
        try:
            body = await self._run_blocking(
                lambda: self._machine.encode(snapshot.state, index=snapshot.index, term=snapshot.term)
            )
            stored = StoredSnapshot(snapshot.index, snapshot.term, body)
            size, removed = await self._running.save_snapshot(stored)
        except (DiskFull, OSError, Unavailable) as error:
            SNAPSHOTS.labels("failed").inc()
            log.warning("snapshot.failed", index=snapshot.index, cause=str(error))
            self._snapshot_due = self._snapshot.index + max(1, self._config.snapshot_entries // 4)
            return
        seconds = self._seconds() - began
        SNAPSHOTS.labels("written").inc()
        SNAPSHOT_SECONDS.observe(seconds)
        SNAPSHOT_BYTES.set(size)
        if snapshot.index > self._snapshot_index:  # else one that was installed meanwhile is newer
            self._snapshot_index = snapshot.index
            self._snapshot_due = snapshot.index + self._config.snapshot_entries
        log.info(
            "snapshot.written",
            index=snapshot.index,
            term=snapshot.term,
            bytes=size,
            segments_removed=removed,
            seconds=round(seconds, 3),
        )

    def _snapshot_written(self, task: asyncio.Task[None]) -> None:
        self._snapshot_task = None
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            SNAPSHOTS.labels("failed").inc()
            log.error("snapshot.bug", exc_info=error)
            self._snapshot_due = self._snapshot.index + self._config.snapshot_entries
        self._snapshot_when_due()  # writes may have come faster than it was written


def _repetition_refused(error: CloudlessError) -> Unavailable:
    return Unavailable(
        f"the outcome of this write is unknown; its repetition was refused: {error.message}",
        reason="OutcomeUnknown",
        remedy="repeat it with the same request id",
    )


def _threads() -> tuple[RunBlocking, Callable[[], None]]:
    executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="cloudless-store")

    def run(work: Callable[[], Any]) -> Any:
        return asyncio.get_running_loop().run_in_executor(executor, work)

    return run, lambda: executor.shutdown(wait=False)
