"""Everything that a member has to remember goes through here: one write and one fdatasync for all that came meanwhile.

One group is under way at any time. A full disk is waited for: what could not be written, and everything behind it,
stays in order and is tried again, so that nothing which rests on it leaves this member. Any other error of the disk is
final.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from cloudless.coordinator.engine import RunBlocking
from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.pace import Pace
from cloudless.coordinator.wal.record import HEADER_BYTES, HardState, LogEntry
from cloudless.errors import DiskFull

log = structlog.get_logger(__name__)

GROUP_ENTRIES_MAX: Final = 4096
GROUP_BYTES_MAX: Final = 8 * 2**20

# Bounds of what is written on the event loop (see `wal.pace`). Messages of other members wait meanwhile, so they are
# about what building it costs.
INLINE_SYNC_S: Final = 0.001
INLINE_ENTRIES_MAX: Final = 128
INLINE_BYTES_MAX: Final = 64 * 2**10

RETRY_S: Final = 0.05
RETRY_S_MAX: Final = 1.0


@dataclass(slots=True)
class _Write:
    """A cut of the log, then a hard state and entries; or `work` of another kind, alone. `number`: of the newest
    Persist in it."""

    number: int = 0
    truncate_from: int = 0
    hard_state: HardState | None = None
    entries: Sequence[LogEntry] = ()
    work: Callable[[], None] | None = None
    size_bytes: int = 0


class Writer:
    """`on_durable(number, last_index, last_term)`: everything up to this Persist is on the disk; the log ends there.
    `on_full` is called when a group does not fit, again with each attempt, `on_room` when it did at last. `on_error`:
    the disk failed, or a bug; nothing is written any more. All are called on the event loop."""

    def __init__(
        self,
        wal: Log,
        *,
        run_blocking: RunBlocking,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        on_durable: Callable[[int, int, int], None],
        on_full: Callable[[DiskFull], None],
        on_room: Callable[[], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._wal = wal
        self._run_blocking = run_blocking
        self._spawn = spawn
        self._on_durable = on_durable
        self._on_full = on_full
        self._on_room = on_room
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Write] = deque()
        self._group: list[_Write] = []  # under way; done ones are taken off its front
        self._busy = False
        self._number = 0  # newest Persist of what is done
        self._reported = 0
        self._full: DiskFull | None = None
        self._retry_s = RETRY_S
        self._retry: asyncio.TimerHandle | None = None
        self._pace = Pace(INLINE_SYNC_S)
        self._stopped = False

    @property
    def busy(self) -> bool:
        """A group is being written: what comes now is for the next one."""
        return self._busy

    @property
    def behind(self) -> bool:
        """A group is being written, and another one waits already."""
        return self._busy and bool(self._queue)

    @property
    def unwritten_bytes(self) -> int:
        """Of the records of what was put and may not be in the file yet."""
        waiting = (*self._group, *self._queue)
        return sum([write.size_bytes + len(write.entries) * HEADER_BYTES for write in waiting])

    @property
    def idle(self) -> bool:
        return not self._busy and not self._queue

    @property
    def written_index(self) -> int:
        """Up to here the log can be read, as it will be when all that was put is written."""
        index = self._wal.last_index
        for write in (*self._group, *self._queue):
            if write.truncate_from:
                index = min(index, write.truncate_from - 1)
            if write.entries:
                index = min(index, write.entries[0].index - 1)
        return index

    @property
    def full(self) -> DiskFull | None:
        """The disk had no room for the newest group."""
        return self._full

    def put(
        self, number: int, *, truncate_from: int, hard_state: HardState | None, entries: Sequence[LogEntry]
    ) -> None:
        """Behind all that was put before. Nothing is written before `flush`."""
        size = sum([len(entry.data) for entry in entries])
        if self._queue:  # one write for several
            last = self._queue[-1]
            if last.work is None and not truncate_from and len(last.entries) + len(entries) <= GROUP_ENTRIES_MAX:
                # The newer term stands before the entries then: harmless, nothing rests on either yet.
                last.number = number
                last.hard_state = hard_state or last.hard_state
                last.entries = [*last.entries, *entries] if last.entries else entries
                last.size_bytes += size
                return
        self._queue.append(_Write(number, truncate_from, hard_state, entries, None, size))

    def put_work(self, work: Callable[[], None]) -> None:
        """Something else that changes the log, in its turn; repeated while it raises DiskFull."""
        self._queue.append(_Write(work=work))

    def flush(self, *, aside: bool = False) -> None:
        """Begins with what was put, unless a group is under way: its end goes on by itself. `on_durable` may be called
        before this returns, unless it is to be synced `aside`, in a thread, however quick the disk is."""
        while self._queue and not self._busy and self._retry is None and not self._stopped:
            group = self._group = self._next_group()
            count = sum(len(write.entries) for write in group)
            size = sum(write.size_bytes for write in group)
            small = count <= INLINE_ENTRIES_MAX and size <= INLINE_BYTES_MAX and group[0].work is None
            self._busy = True
            if not small or not self._pace.quick:
                self._spawn(self._outside(self._write))
                return
            try:
                self._append()
                if aside:  # the sync alone: two threads that both need the interpreter keep each other waiting
                    self._spawn(self._outside(self._wal.sync))
                    return
                self._wal.sync()
            except Exception as error:
                self._failed(error)
            else:
                self._done()

    def stop(self) -> None:
        """Begins nothing any more."""
        self._stopped = True
        if self._retry is not None:
            self._retry.cancel()

    # Inside

    def _next_group(self) -> list[_Write]:
        group = [self._queue.popleft()]
        count, size = len(group[0].entries), group[0].size_bytes
        if group[0].work is not None:
            return group
        while self._queue and self._queue[0].work is None:
            write = self._queue[0]
            count, size = count + len(write.entries), size + write.size_bytes
            if count > GROUP_ENTRIES_MAX or size > GROUP_BYTES_MAX:
                break
            group.append(self._queue.popleft())
        return group

    async def _outside(self, work: Callable[[], None]) -> None:
        try:
            await self._run_blocking(work)
        except Exception as error:
            self._failed(error)
        else:
            self._done()
        self.flush(aside=True)  # what came meanwhile

    def _write(self) -> None:
        """In a thread."""
        self._append()
        self._wal.sync()

    def _append(self) -> None:
        """Perhaps in a thread. What was written before an error is taken off the group: `Log` has made it durable
        where the error is DiskFull."""
        wal, group = self._wal, self._group
        while group:
            write = group[0]
            if write.work is not None:
                write.work()
            else:
                if write.truncate_from:
                    wal.truncate_from(write.truncate_from)
                    write.truncate_from = 0
                if write.entries or write.hard_state is not None:
                    wal.append(write.entries, hard_state=write.hard_state, sync=False)
                self._number = write.number
            del group[0]

    def _done(self) -> None:
        self._busy = False
        self._pace.took(self._wal.last_sync_s)
        self._retry_s = RETRY_S
        full, self._full = self._full, None
        self._report()
        if full is not None:
            self._on_room()

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, DiskFull):
            self.stop()
            self._on_error(error)
            return
        self._queue.extendleft(reversed(self._group))
        self._group = []
        self._busy = False
        self._full = error
        if not self._stopped:
            self._retry = self._loop.call_later(self._retry_s, self._try_again)
            self._retry_s = min(self._retry_s * 2, RETRY_S_MAX)
        self._report()
        self._on_full(error)

    def _report(self) -> None:
        if self._number > self._reported:
            self._reported = self._number
            self._on_durable(self._number, self._wal.last_index, self._wal.last_term)

    def _try_again(self) -> None:
        self._retry = None
        self.flush()
