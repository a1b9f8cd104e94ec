"""The replicated store: propose, snapshot, watch.

    result = await store.propose(ScaleWorkload(...), actor="user/alice", request_id="...")
    state = store.snapshot.state                       # immutable; costs nothing
    async for batch in store.watch(from_index): ...    # ordered; WatchLagged or Compacted: list again, go on from there

The store owns what is on disk, feeds committed entries to the pure state machine in order, keeps the last
batches of changes for watchers, and writes snapshots from the immutable state in a thread. How an entry becomes
committed is the `Proposer`'s business (`wal.engine`). All methods belong to the event loop.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import structlog
from opentelemetry import trace
from prometheus_client import Counter, Gauge, Histogram

from cloudless.clock import Clock
from cloudless.config import StoreConfig
from cloudless.coordinator.core.outcome import ApplyResult
from cloudless.coordinator.feed import Batch, Feed, Watch
from cloudless.coordinator.wal import collector
from cloudless.coordinator.wal.engine import Proposer, RunBlocking, SingleEngine
from cloudless.coordinator.wal.files import DirectoryLock, Filesystem, OsFilesystem
from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.machine import Machine, S
from cloudless.coordinator.wal.record import LogEntry
from cloudless.coordinator.wal.recovery import Recovered, check_continuity, load_snapshot, replay
from cloudless.coordinator.wal.snapshots import Snapshots, StoredSnapshot
from cloudless.errors import CloudlessError, DiskFull, InvalidArgument, from_code

__all__ = ["Batch", "Snapshot", "Store", "Watch"]

log = structlog.get_logger(__name__)
tracer = trace.get_tracer("cloudless.store")

APPLIED_INDEX = Gauge("cloudless_raft_applied_index", "Index of the last applied entry.")
APPLY_SECONDS = Histogram(
    "cloudless_raft_apply_duration_seconds",
    "Time to apply one entry to the state.",
    buckets=(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25),
)
SNAPSHOTS = Counter("cloudless_raft_snapshot_total", "Snapshots written.", ["result"])
SNAPSHOT_SECONDS = Histogram("cloudless_raft_snapshot_duration_seconds", "Time to encode and write a snapshot.")
SNAPSHOT_BYTES = Gauge("cloudless_raft_snapshot_size_bytes", "Size of the newest snapshot.")


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[S]):
    """The state as of one entry of the log. Immutable: keep it as long as you like."""

    state: S
    index: int
    term: int


class Store(Generic[S]):
    """See the module. Made by `Store.open`."""

    def __init__(
        self,
        *,
        machine: Machine[S],
        config: StoreConfig,
        clock: Clock,
        run_blocking: RunBlocking,
        seconds: Callable[[], float],
        new_request_id: Callable[[], str],
        wal: Log,
        snapshots: Snapshots,
        lock: DirectoryLock,
        recovered: Recovered[S],
    ) -> None:
        self._machine = machine
        self._config = config
        self._clock = clock
        self._run_blocking = run_blocking
        self._seconds = seconds
        self._new_request_id = new_request_id
        self._wal = wal
        self._snapshots = snapshots
        self._lock = lock
        self._snapshot = Snapshot(recovered.state, recovered.index, recovered.term)
        self._snapshot_due = recovered.snapshot_index + config.snapshot_entries
        self._snapshot_task: asyncio.Task[None] | None = None
        self._feed: Feed[S] = Feed(recovered.index)
        self._failed: asyncio.Event = asyncio.Event()
        self._on_close: Callable[[], None] = lambda: None
        self._engine: Proposer

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
    ) -> Store[S]:
        """Takes the directory for this process, recovers the state, and is ready for proposals.

        `filesystem`, `run_blocking`, `seconds` (a monotonic timer) and `random_bits` are the real ones unless a
        simulation gives its own. Raises FailedPrecondition (DataDirectoryInUse), Corrupt (damage that needs the
        operator; nothing was changed), DiskFull (not even an empty log fits), InvalidArgument (unknown engine).
        """
        config = config or StoreConfig()
        if config.engine != "single":
            raise InvalidArgument(
                f"store.engine {config.engine!r} is not an engine", reason="BadSetting", remedy="use single"
            )
        filesystem = filesystem or OsFilesystem()
        filesystem.make_dir(directory)
        lock = filesystem.lock(directory / "lock")
        stop_threads: Callable[[], None] = lambda: None  # noqa: E731
        if run_blocking is None:
            run_blocking, stop_threads = _threads()
        wal: Log | None = None
        try:
            began = seconds()
            wal = Log.open(
                filesystem,
                directory / "wal",
                segment_bytes=config.segment_bytes,
                salt=lambda: random_bits(32),
                seconds=seconds,
            )
            snapshots = Snapshots(filesystem, directory / "snapshots")
            with collector.paused():
                start = load_snapshot(snapshots, machine)
            check_continuity(start, wal, snapshots)
            if start is not None and start.index > wal.last_index:
                log.warning("store.log_behind_snapshot", last_index=wal.last_index, snapshot_index=start.index)
                wal.reset(start.index, start.term)
            self = cls(
                machine=machine,
                config=config,
                clock=clock,
                run_blocking=run_blocking,
                seconds=seconds,
                new_request_id=lambda: f"{random_bits(128):032x}",
                wal=wal,
                snapshots=snapshots,
                lock=lock,
                recovered=start or Recovered(machine.empty(), 0, 0, 0),
            )
            self._on_close = stop_threads
            self._recover(start, began)
            self._engine = SingleEngine(
                wal,
                apply=self._apply,
                run_blocking=run_blocking,
                seconds=seconds,
                member=member,
                on_failure=self._on_failure,
            )
        except BaseException:
            if wal is not None:
                wal.close()
            lock.release()
            stop_threads()
            raise
        self._snapshot_when_due()
        return self

    def _recover(self, start: Recovered[S] | None, began: float) -> None:
        base = start or Recovered(self._snapshot.state, 0, 0, 0)
        with collector.paused():
            done = replay(base, self._wal, self._machine, to_index=self._wal.last_index, on_applied=self._feed.add)
        self._snapshot = Snapshot(done.state, done.index, done.term)
        APPLIED_INDEX.set(done.index)
        log.info(
            "store.recovered",
            index=done.index,
            term=done.term,
            snapshot_index=done.snapshot_index,
            entries=done.index - done.snapshot_index,
            seconds=round(self._seconds() - began, 3),
        )

    # Reading

    @property
    def snapshot(self) -> Snapshot[S]:
        """The newest applied state. With one member, every read of it is linearizable."""
        return self._snapshot

    def watch(self, from_index: int | None = None) -> Watch[S]:
        """Every batch behind `from_index` (None: from now on), in order, then those to come.

        Raises Compacted when batches behind `from_index` are no longer kept, or when it lies ahead of this store;
        the iterator raises WatchLagged when its reader was too slow. Both mean: take `snapshot`, go on from its
        index. Raises Unavailable when the store closes or fails. Close the watch when done.
        """
        return self._feed.watch(self._snapshot.index if from_index is None else from_index)

    # Writing

    async def propose(
        self, command: Any, *, actor: str, request_id: str | None = None, now_ms: int | None = None
    ) -> ApplyResult:
        """Proposes a command; durable and applied when this returns.

        `actor` is who asked (`user/alice`, `node/n1`, `system/reconciler`); `request_id` makes a repeat harmless:
        it gets the first answer; without one, a random one is made. `now_ms` is the wall clock unless given.

        Raises what the state machine refused it with (`errors.from_code`); InvalidArgument for a command that
        cannot be written; ResourceExhausted, DiskFull: not accepted, try later; Unavailable: the outcome is
        unknown, repeat with the same request id.
        """
        with tracer.start_as_current_span("store.propose") as span:
            try:
                data = self._machine.entry(
                    command,
                    state=self._snapshot.state,
                    actor=actor,
                    request_id=request_id or self._new_request_id(),
                    issued_at_ms=self._clock.now_ms() if now_ms is None else now_ms,
                )
            except ValueError as error:
                raise InvalidArgument(f"{type(command).__name__}: {error}", reason="BadCommand") from None
            committed = await self._engine.propose(data)
            if span.is_recording():
                span.set_attributes({"command": type(command).__name__, "index": committed.index})
            result: ApplyResult = committed.outcome
            if not result.accepted:
                raise from_code(result.code, result.message, reason=result.reason, remedy=result.remedy)
            return result

    def _apply(self, entry: LogEntry) -> ApplyResult:
        began = self._seconds()
        applied = self._machine.apply(self._snapshot.state, entry.data, index=entry.index, term=entry.term)
        self._snapshot = Snapshot(applied.state, entry.index, entry.term)
        APPLY_SECONDS.observe(self._seconds() - began)
        APPLIED_INDEX.set(entry.index)
        self._feed.add(entry.index, applied)
        if entry.index >= self._snapshot_due:
            self._snapshot_when_due()
        return applied.result

    # Life

    @property
    def leading(self) -> bool:
        """Whether this coordinator may write and run the leader's loops."""
        return self._engine.leading

    def on_leadership(self, listener: Callable[[bool], None]) -> None:
        """Calls the listener at once and at every change, on the event loop."""
        self._engine.on_leadership(listener)

    @property
    def failure(self) -> CloudlessError | None:
        """Why the store can never write again (a failed disk), or None."""
        return self._engine.failure

    async def wait_failed(self) -> CloudlessError:
        """Returns the failure once there is one; the process should log it and end."""
        await self._failed.wait()
        assert self._engine.failure is not None
        return self._engine.failure

    def _on_failure(self, error: CloudlessError) -> None:
        self._failed.set()
        self._feed.close()

    async def close(self) -> None:
        """Finishes the proposals under way, ends the watches, closes the files and frees the directory. May be
        repeated."""
        await self._engine.close()
        if self._snapshot_task is not None:
            await asyncio.wait([self._snapshot_task])
        self._feed.close()
        try:
            self._wal.close()
        finally:
            self._lock.release()
            self._on_close()

    # Snapshots

    def _snapshot_when_due(self) -> None:
        if self._snapshot.index < self._snapshot_due or self._snapshot_task is not None:
            return
        task = asyncio.get_running_loop().create_task(self._write_snapshot(self._snapshot))
        task.add_done_callback(self._snapshot_written)
        self._snapshot_task = task

    async def _write_snapshot(self, snapshot: Snapshot[S]) -> None:
        began = self._seconds()
        try:
            size, removed = await self._run_blocking(lambda: self._save(snapshot))
        except (DiskFull, OSError) as error:
            SNAPSHOTS.labels("failed").inc()
            log.warning("snapshot.failed", index=snapshot.index, cause=str(error))
            self._snapshot_due = self._snapshot.index + max(1, self._config.snapshot_entries // 4)
            return
        seconds = self._seconds() - began
        SNAPSHOTS.labels("written").inc()
        SNAPSHOT_SECONDS.observe(seconds)
        SNAPSHOT_BYTES.set(size)
        self._snapshot_due = snapshot.index + self._config.snapshot_entries
        log.info(
            "snapshot.written",
            index=snapshot.index,
            term=snapshot.term,
            bytes=size,
            segments_removed=removed,
            seconds=round(seconds, 3),
        )

    def _save(self, snapshot: Snapshot[S]) -> tuple[int, int]:
        """In a thread: the state is immutable, the log allows compaction beside its writer."""
        with collector.paused():
            body = self._machine.encode(snapshot.state, index=snapshot.index, term=snapshot.term)
        size = self._snapshots.save(StoredSnapshot(snapshot.index, snapshot.term, body))
        return size, self._wal.compact(self._snapshots.compactable_index())

    def _snapshot_written(self, task: asyncio.Task[None]) -> None:
        self._snapshot_task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            SNAPSHOTS.labels("failed").inc()
            log.error("snapshot.bug", exc_info=error)
            self._snapshot_due = self._snapshot.index + self._config.snapshot_entries


def _threads() -> tuple[RunBlocking, Callable[[], None]]:
    """Two threads of the store's own: one for the log, one for a snapshot that is written beside it."""
    executor = ThreadPoolExecutor(2, thread_name_prefix="cloudless-store")

    def run(work: Callable[[], Any]) -> Any:
        return asyncio.get_running_loop().run_in_executor(executor, work)

    return run, lambda: executor.shutdown(wait=False)
