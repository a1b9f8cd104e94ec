"""The engine of a single member: an entry is committed once it is on this disk."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from prometheus_client import Gauge

from cloudless.coordinator.engine import Committed, EngineParts, EngineStatus, MemberStatus, StateHost
from cloudless.coordinator.wal import record
from cloudless.coordinator.wal.pace import Pace
from cloudless.coordinator.wal.record import HardState, LogEntry
from cloudless.coordinator.wal.snapshots import StoredSnapshot
from cloudless.coordinator.wal.storage import Storage
from cloudless.errors import (
    CloudlessError,
    DiskFull,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from cloudless.observe.histograms import LoopHistogram

log = structlog.get_logger(__name__)

COMMIT_SECONDS = LoopHistogram(
    "cloudless_raft_commit_duration_seconds",
    "Time from the proposal of an entry until it is durable and applied.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
COMMIT_INDEX = Gauge("cloudless_raft_commit_index", "Index of the last committed entry.")
TERM = Gauge("cloudless_raft_term", "Current term.")
STATE = Gauge("cloudless_raft_state", "1 for the role that this member has.", ["state"])

# Bounds of what waits for the disk; behind them a caller is told to come back.
QUEUE_ENTRIES_MAX = 16_384
QUEUE_BYTES_MAX = 128 * 2**20
# Bounds of one group, that is of one write and one fdatasync.
GROUP_ENTRIES_MAX = 2048
GROUP_BYTES_MAX = 8 * 2**20
ENTRY_BYTES_MAX = 16 * 2**20
assert ENTRY_BYTES_MAX <= record.PAYLOAD_BYTES_MAX

# Small groups are written on the event loop while that does not hold it up (see `wal.pace`).
INLINE_SYNC_S = 0.0005
INLINE_ENTRIES_MAX = 8
INLINE_BYTES_MAX = 32 * 2**10

APPLY_SLICE_S = 0.005  # then other tasks of the event loop get their turn


@dataclass(slots=True)
class _Pending:
    data: bytes
    future: asyncio.Future[Committed]
    since_s: float
    entry: LogEntry | None = None


async def open_single(parts: EngineParts, host: StateHost) -> SingleEngine:
    """An `OpenEngine`: recovers the host to the end of the log, all of which is committed."""
    storage = Storage.open(parts, host)
    try:
        storage.replay(host, to_index=storage.wal.last_index)
        return SingleEngine(parts, host, storage)
    except BaseException:
        storage.close()
        raise


class SingleEngine:
    """The only member: see `engine.Engine`. Every start begins a new term, and it leads from the start.

    Whatever is proposed while one group is being synced makes up the next group. Proposals of one caller keep their
    order.
    """

    def __init__(self, parts: EngineParts, host: StateHost, storage: Storage) -> None:
        self._host = host
        self._apply = host.apply
        self._storage = storage
        self._wal = storage.wal
        self._member = parts.member
        self._run_blocking = parts.run_blocking
        self._seconds = parts.seconds
        self._on_failure = parts.on_failure
        self._loop = asyncio.get_running_loop()
        self._term = max(self._wal.hard_state.term, self._wal.last_term) + 1
        self._new_term: HardState | None = HardState(self._term, parts.member)  # goes with the first group
        self._queue: deque[_Pending] = deque()
        self._durable: deque[_Pending] = deque()
        self._commit_index = self._wal.last_index
        self._held_entries = 0
        self._held_bytes = 0
        self._flushing = False  # a flush is scheduled or under way
        self._applying = False
        self._pace = Pace(INLINE_SYNC_S)
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()
        self._saving = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[Callable[[bool], None]] = []
        self._closed = False
        self._failure: CloudlessError | None = None
        TERM.set(self._term)
        STATE.labels("leader").set(1)

    @property
    def term(self) -> int:
        return self._term

    @property
    def leading(self) -> bool:
        return not self._closed and self._failure is None

    @property
    def failure(self) -> CloudlessError | None:
        return self._failure

    def on_leadership(self, listener: Callable[[bool], None]) -> None:
        self._listeners.append(listener)
        listener(self.leading)

    def status(self) -> EngineStatus:
        leader = self._member if self.leading else ""
        last_index = self._wal.last_index
        return EngineStatus(
            engine="single",
            member=self._member,
            role="leader" if self.leading else "follower",
            leader=leader,
            term=self._term,
            commit_index=self._commit_index,
            applied_index=self._host.applied_index,
            first_index=self._wal.first_index,
            last_index=last_index,
            members=(MemberStatus(self._member, leader=self.leading, match_index=self._commit_index),),
        )

    async def propose(self, data: bytes, *, term: int | None = None) -> Committed:
        self._check_usable()
        if term is not None and term != self._term:
            raise FailedPrecondition(f"term {term} is over, this is term {self._term}", reason="LeadershipLost")
        if len(data) > ENTRY_BYTES_MAX:
            raise InvalidArgument(f"an entry has {len(data)} bytes, {ENTRY_BYTES_MAX} are allowed", reason="TooLarge")
        if self._held_entries >= QUEUE_ENTRIES_MAX or self._held_bytes + len(data) > QUEUE_BYTES_MAX:
            raise ResourceExhausted(
                f"{self._held_entries} writes wait for the disk",
                reason="ProposalQueueFull",
                remedy="try again in a moment, with fewer writes at once",
            )
        future: asyncio.Future[Committed] = self._loop.create_future()
        self._queue.append(_Pending(data, future, self._seconds()))
        self._held_entries += 1
        self._held_bytes += len(data)
        self._idle.clear()
        self._schedule()
        return await future

    async def read_index(self) -> int:
        """Nothing is acknowledged before it is applied here."""
        self._check_usable()
        return self._host.applied_index

    async def save_snapshot(self, snapshot: StoredSnapshot) -> tuple[int, int]:
        async with self._saving:
            self._check_usable()
            saved: tuple[int, int] = await self._run_blocking(lambda: self._storage.save_snapshot(snapshot))
            return saved

    async def close(self) -> None:
        """Finishes the proposals and the snapshot under way, and closes the files; safe to repeat."""
        if not self._closed:
            led, self._closed = self.leading, True
            if led:
                self._lead_no_more()
        await self._idle.wait()
        async with self._saving:
            self._storage.close()

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure.copy()
        if self._closed:
            raise Unavailable("the store is closed", reason="StoreClosed")

    def _lead_no_more(self) -> None:
        STATE.labels("leader").set(0)
        for listener in self._listeners:
            listener(False)

    # Writing

    def _schedule(self) -> None:
        """All that is proposed in one turn of the event loop goes into one group."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        group = self._next_group()
        if not group:
            self._flushing = False
            self._settle()
            return
        size = sum(len(pending.data) for pending in group)
        if len(group) <= INLINE_ENTRIES_MAX and size <= INLINE_BYTES_MAX and self._pace.quick:
            try:
                self._write(group)
            except Exception as error:
                self._refuse(group, error)
            else:
                self._committed(group)
            self._flushed()
            return
        task = self._loop.create_task(self._write_outside(group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write_outside(self, group: list[_Pending]) -> None:
        try:
            await self._run_blocking(lambda: self._write(group))
        except Exception as error:
            self._refuse(group, error)
        else:
            self._committed(group)
        self._flushed()

    def _next_group(self) -> list[_Pending]:
        group: list[_Pending] = []
        size = 0
        while self._queue and len(group) < GROUP_ENTRIES_MAX and size < GROUP_BYTES_MAX:
            pending = self._queue.popleft()
            if pending.future.done():  # its caller gave up before anything was written
                self._release(pending)
                continue
            group.append(pending)
            size += len(pending.data)
        return group

    def _write(self, group: list[_Pending]) -> None:
        index = self._wal.last_index
        entries = []
        for offset, pending in enumerate(group, start=1):
            pending.entry = LogEntry(index + offset, self._term, pending.data)
            entries.append(pending.entry)
        self._wal.append(entries, hard_state=self._new_term)
        self._new_term = None

    def _flushed(self) -> None:
        self._flushing = False
        if self._queue:
            self._schedule()
        else:
            self._settle()

    # After the disk

    def _committed(self, group: list[_Pending]) -> None:
        self._pace.took(self._wal.last_sync_s)
        self._durable.extend(group)
        self._commit_index = self._wal.last_index
        COMMIT_INDEX.set(self._commit_index)
        if not self._applying:
            self._apply_durable()

    def _apply_durable(self) -> None:
        """Applies in order, in slices of time; the log goes on meanwhile."""
        self._applying = False
        began = self._seconds()
        while self._durable:
            pending = self._durable.popleft()
            entry = pending.entry
            assert entry is not None
            try:
                outcome = self._apply(entry)
            except Exception as error:  # a broken promise of `apply`; to go on would be to serve a wrong state
                log.exception("store.apply_bug", index=entry.index, term=entry.term)
                self._fail(
                    [pending],
                    Internal(f"applying entry {entry.index} failed: {error!r}", remedy="report this as a bug"),
                )
                return
            self._release(pending)
            now = self._seconds()
            COMMIT_SECONDS.observe(now - pending.since_s)
            if not pending.future.done():
                pending.future.set_result(Committed(entry.index, entry.term, outcome))
            if now - began > APPLY_SLICE_S and self._durable:
                self._loop.call_soon(self._apply_durable)
                return
        self._applying = False
        self._settle()

    def _refuse(self, group: list[_Pending], error: Exception) -> None:
        if isinstance(error, DiskFull):
            for pending in group:
                self._answer(pending, error)
        elif isinstance(error, CloudlessError):
            self._fail(group, error)
        else:
            log.error("store.write_bug", exc_info=error)
            self._fail(group, Internal(f"bug in the write path: {error!r}", remedy="restart, and report this"))

    def _fail(self, group: list[_Pending], error: CloudlessError) -> None:
        """The log is dead: nothing that waits can be answered with certainty."""
        if self._failure is None:
            led, self._failure = self.leading, error
            log.critical("store.failed", cause=str(error))
            if led:
                self._lead_no_more()
            self._on_failure(error)
        for pending in (*group, *self._durable, *self._queue):
            self._answer(pending, error)
        self._durable.clear()
        self._queue.clear()
        self._settle()

    def _answer(self, pending: _Pending, error: CloudlessError) -> None:
        self._release(pending)
        if not pending.future.done():
            pending.future.set_exception(error.copy())

    def _release(self, pending: _Pending) -> None:
        self._held_entries -= 1
        self._held_bytes -= len(pending.data)

    def _settle(self) -> None:
        if not self._held_entries and not self._flushing and not self._durable:
            self._idle.set()
