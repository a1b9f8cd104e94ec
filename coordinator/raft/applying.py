"""Committed entries, to the host, in the order of the log; and snapshots that take their place."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from cloudless.coordinator.engine import RunBlocking, StateHost
from cloudless.coordinator.raft.cache import RecentEntries
from cloudless.coordinator.raft.core.events import SnapshotInstalled
from cloudless.coordinator.raft.core.messages import SnapshotChunk
from cloudless.coordinator.raft.core.model import CONFIGURATION
from cloudless.coordinator.raft.proposals import Proposals
from cloudless.coordinator.raft.reads import Reads
from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.record import LogEntry
from cloudless.coordinator.wal.single import COMMIT_INDEX
from cloudless.coordinator.wal.snapshots import StoredSnapshot
from cloudless.errors import CloudlessError, Internal

SLICE_S: Final = 0.005  # then other tasks of the event loop get their turn
READ_ENTRIES: Final = 1024
_LOOK_AT_CLOCK: Final = 16  # entries between two looks


class Applying:
    """`index` is that of the newest applied entry. `on_applied(term)` is called behind the first entry of each term,
    `on_configuration` behind one that changes the members; `on_bug` when the host broke its promise."""

    def __init__(
        self,
        host: StateHost,
        wal: Log,
        cache: RecentEntries,
        proposals: Proposals,
        reads: Reads,
        *,
        run_blocking: RunBlocking,
        seconds: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        on_bug: Callable[[BaseException], None],
        on_applied: Callable[[int], None],
        on_configuration: Callable[[], None],
        on_installed: Callable[[SnapshotInstalled], None],
    ) -> None:
        self._host = host
        self._wal = wal
        self._cache = cache
        self._proposals = proposals
        self._reads = reads
        self._run_blocking = run_blocking
        self._seconds = seconds
        self._spawn = spawn
        self._on_bug = on_bug
        self._on_applied = on_applied
        self._on_configuration = on_configuration
        self._on_installed = on_installed
        self._loop = asyncio.get_running_loop()
        self.index = host.applied_index
        self._term = 0  # of the newest applied entry, in this life
        self._commit_index = self.index
        self._fetched: deque[LogEntry] = deque()  # from the log, for what memory no longer has
        self._scheduled = False
        self._held_up = False  # the log is read, or a snapshot is installed
        self._stopped = False
        self._free: asyncio.Event = asyncio.Event()  # nothing holds it up
        self._free.set()

    def committed(self, index: int) -> None:
        """Entries up to this one may be applied, in the next `run`."""
        self._commit_index = index
        COMMIT_INDEX.set(index)

    @property
    def done(self) -> bool:
        return self.index >= self._commit_index

    def run(self) -> None:
        """Applies what is committed, for one slice of time; then goes on by itself."""
        if self.index < self._commit_index and not (self._scheduled or self._held_up or self._stopped):
            self._run()

    def stop(self) -> None:
        self._stopped = True

    def _run(self) -> None:
        self._scheduled = False
        if self._held_up or self._stopped:
            return
        began = self._seconds()
        apply, settle, cache = self._host.apply, self._proposals.applied, self._cache
        look = _LOOK_AT_CLOCK
        while self.index < self._commit_index:
            index = self.index + 1
            entry = cache.get(index) or self._from_fetched(index)
            if entry is None:
                self._hold_up()
                self._spawn(self._fetch(index))
                break
            try:
                outcome = apply(entry)
            except Exception as error:  # a broken promise of `apply`; to go on would be to serve a wrong state
                self._fail(entry, error)
                return
            self.index = index
            settle(entry, outcome)
            if entry.term != self._term:
                self._term = entry.term
                self._on_applied(entry.term)
            if entry.data.startswith(CONFIGURATION):
                self._on_configuration()
            look -= 1
            if not look:
                look = _LOOK_AT_CLOCK
                if self._seconds() - began > SLICE_S:
                    self._scheduled = True
                    self._loop.call_soon(self._run)
                    break
        self._reads.applied(self.index)

    def _fail(self, entry: LogEntry, error: Exception) -> None:
        if isinstance(error, CloudlessError):  # it knows what it is: this member must not go on
            self._on_bug(error)
            return
        failure = Internal(f"applying entry {entry.index} failed: {error!r}", remedy="report this as a bug")
        failure.__cause__ = error
        self._on_bug(failure)

    def _from_fetched(self, index: int) -> LogEntry | None:
        while self._fetched and self._fetched[0].index < index:
            self._fetched.popleft()
        return self._fetched.popleft() if self._fetched and self._fetched[0].index == index else None

    async def _fetch(self, index: int) -> None:
        """Committed entries are never cut off; so what the log says there stays true."""
        last = min(self._commit_index, index + READ_ENTRIES - 1)
        try:
            found = await self._run_blocking(lambda: self._wal.entries(index, last + 1))
        finally:
            self._go_on()
        if not found:
            raise Internal(f"committed entry {index} is not in the log", remedy="report this as a bug")
        self._fetched.extend(found)
        self.run()

    def _hold_up(self) -> None:
        self._held_up = True
        self._free.clear()

    def _go_on(self) -> None:
        self._held_up = False
        self._free.set()

    async def install(self, snapshot: StoredSnapshot, chunk: SnapshotChunk, leader: str) -> None:
        """Makes a durable snapshot of another member the state, unless this one has got further meanwhile. Raises
        Corrupt, ValueError: nothing changed."""
        await self._free.wait()
        self._hold_up()
        try:
            if snapshot.index > self.index:
                await self._host.install(snapshot.body)
                self.index = self._host.applied_index
                self._term = 0
                self._commit_index = max(self._commit_index, self.index)
        finally:
            self._go_on()
        if not self._stopped:
            self._on_installed(SnapshotInstalled(leader, snapshot.index, snapshot.term, chunk.configuration))
