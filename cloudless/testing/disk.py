"""SimDisk: a `Filesystem` in memory that loses, tears, refuses and delays writes, by a seed.

What it models, at its worst allowed by POSIX:
- bytes that were not synced survive a power cut sector by sector, or not, in any order; holes read as zeros;
- created, renamed and removed names that were not followed by `fsync_dir` survive as a prefix of their order;
- a failed sync drops what it should have written, and the next one "succeeds" (fsyncgate);
- a full disk takes part of a write before it refuses the rest;
- `PowerCut` can come in the middle of any operation (`cut_power_at`).

`restart()` is the end of the process alone (kill -9): the page cache stays.
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cloudless.coordinator.wal.files import AppendFile, DirectoryLock, in_use

SECTOR_BYTES = 512
T = TypeVar("T")


class PowerCut(BaseException):
    """The machine stopped inside this operation. Not an Exception: no handler of the code under test may go on."""


@dataclass(slots=True)
class _Write:
    offset: int
    data: bytes


@dataclass(slots=True)
class _Truncate:
    size_bytes: int


@dataclass(slots=True)
class _Inode:
    cached: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[_Write | _Truncate] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _NameChange:
    folder: Path
    remove: Path | None
    add: Path | None
    inode: _Inode | None


def _apply(target: bytearray, change: _Write | _Truncate) -> None:
    if isinstance(change, _Truncate):
        if change.size_bytes < len(target):
            del target[change.size_bytes :]
        return
    if len(target) < change.offset:
        target.extend(bytes(change.offset - len(target)))
    target[change.offset : change.offset + len(change.data)] = change.data


class SimDisk:
    """See the module.

    `capacity_bytes`: a full disk, may be changed at any time. `sync_delay_s`: how long each sync takes.
    `operations` counts the operations that change something; `cut_power_at` is the one that PowerCut comes in, right
    after `on_cut` was called.
    `seconds` is a timer that sees those delays, on top of the `base` one; `run_blocking` waits for them.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        capacity_bytes: int | None = None,
        sync_delay_s: Callable[[random.Random], float] | None = None,
        base: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.random = random.Random(seed)
        self.capacity_bytes = capacity_bytes
        self.sync_delay_s = sync_delay_s
        self.operations = 0
        self.cut_power_at: int | None = None
        self.on_cut: Callable[[], None] = lambda: None
        self._base = base
        self._delayed_s = 0.0
        self._failing_syncs = 0
        self._off = False
        self._epoch = 0
        self._folders: set[Path] = set()
        self._names: dict[Path, _Inode] = {}
        self._durable_names: dict[Path, _Inode] = {}
        self._name_changes: list[_NameChange] = []
        self._locks: dict[Path, int] = {}

    # Faults

    def power_cut(self) -> None:
        """What was not synced may be gone. The disk is usable again; open files and locks are not."""
        changes = self._name_changes
        for change in changes[: self.random.randint(0, len(changes))]:
            self._settle(change)
        kept = self.random.choice((0.0, 0.5, 0.9, 1.0))
        for inode in {id(i): i for i in (*self._durable_names.values(), *self._names.values())}.values():
            self._tear(inode, kept)
        self._names = dict(self._durable_names)
        self._name_changes = []
        self.restart()

    def _tear(self, inode: _Inode, kept: float) -> None:
        for change in inode.pending:
            if isinstance(change, _Truncate):
                if self.random.random() < kept:
                    _apply(inode.durable, change)
                continue
            at = 0
            while at < len(change.data):
                room = SECTOR_BYTES - (change.offset + at) % SECTOR_BYTES
                if self.random.random() < kept:
                    _apply(inode.durable, _Write(change.offset + at, change.data[at : at + room]))
                at += room
        inode.pending = []
        inode.cached = bytearray(inode.durable)

    def restart(self) -> None:
        """The process ended: locks are free, open files are closed, what was written is still there."""
        self._epoch += 1
        self._locks = {}
        self._off = False
        self.cut_power_at = None

    def fail_syncs(self, count: int = 1) -> None:
        """The next syncs raise EIO, and what they should have written is never durable."""
        self._failing_syncs = count

    def flip_bit(self, path: Path, *, offset: int, bit: int = 0) -> None:
        inode = self._names[path]
        for content in (inode.cached, inode.durable):
            if offset < len(content):
                content[offset] ^= 1 << bit

    @property
    def off(self) -> bool:
        """A PowerCut came; every operation raises it until `power_cut()` or `restart()`."""
        return self._off

    def used_bytes(self) -> int:
        return sum(len(inode.cached) for inode in self._names.values())

    # Time

    def seconds(self) -> float:
        return self._base() + self._delayed_s

    async def run_blocking(self, work: Callable[[], T]) -> T:
        """Runs the work at once and returns after as much (virtual) time as the disk took for it."""
        before = self._delayed_s
        try:
            return work()
        finally:
            delay, self._delayed_s = self._delayed_s - before, before
            if delay:
                await asyncio.sleep(delay)

    # Filesystem

    def make_dir(self, path: Path) -> None:
        self._step()
        self._folders |= {path, *path.parents}

    def open_append(self, path: Path) -> AppendFile:
        self._step()
        if path.parent not in self._folders:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        if path not in self._names:
            inode = self._names[path] = _Inode()
            self._name_changes.append(_NameChange(path.parent, None, path, inode))
        return _SimFile(self, self._names[path])

    def read(self, path: Path, *, offset: int = 0, length: int | None = None) -> bytes:
        self._on()
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        content = self._names[path].cached
        return bytes(content[offset : len(content) if length is None else offset + length])

    def list_names(self, directory: Path) -> tuple[str, ...]:
        self._on()
        return tuple(sorted(path.name for path in self._names if path.parent == directory))

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        if source not in self._names:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(source))
        inode = self._names[target] = self._names.pop(source)
        self._name_changes.append(_NameChange(target.parent, source, target, inode))

    def unlink(self, path: Path) -> None:
        self._step()
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        del self._names[path]
        self._name_changes.append(_NameChange(path.parent, path, None, None))

    def fsync_dir(self, directory: Path) -> None:
        self._step()
        touched = [i for i, change in enumerate(self._name_changes) if change.folder == directory]
        if touched:
            for change in self._name_changes[: touched[-1] + 1]:
                self._settle(change)
            del self._name_changes[: touched[-1] + 1]

    def free_bytes(self, directory: Path) -> int:
        self._on()
        return 2**40 if self.capacity_bytes is None else max(0, self.capacity_bytes - self.used_bytes())

    def lock(self, path: Path) -> DirectoryLock:
        self._step()
        if path in self._locks:
            raise in_use(path, "")
        self._locks[path] = self._epoch
        return _SimLock(self, path)

    # Inside

    def _settle(self, change: _NameChange) -> None:
        if change.remove is not None:
            self._durable_names.pop(change.remove, None)
        if change.add is not None and change.inode is not None:
            self._durable_names[change.add] = change.inode

    def _on(self) -> None:
        if self._off:
            raise PowerCut

    def _step(self) -> None:
        self._on()
        self.operations += 1
        if self.cut_power_at is not None and self.operations >= self.cut_power_at:
            self._off = True
            self.on_cut()
            raise PowerCut

    def _append(self, inode: _Inode, data: bytes) -> None:
        try:
            self._step()
        except PowerCut:
            self._put(inode, data[: self.random.randint(0, len(data))])
            raise
        free = self.free_bytes(Path())
        self._put(inode, data[:free])
        if len(data) > free:
            raise OSError(errno.ENOSPC, "No space left on device")

    @staticmethod
    def _put(inode: _Inode, data: bytes) -> None:
        inode.pending.append(_Write(len(inode.cached), data))
        inode.cached += data

    def _truncate(self, inode: _Inode, size_bytes: int) -> None:
        self._step()
        del inode.cached[size_bytes:]
        inode.pending.append(_Truncate(size_bytes))

    def _sync(self, inode: _Inode) -> None:
        self._step()
        if self.sync_delay_s is not None:
            self._delayed_s += self.sync_delay_s(self.random)
        changes, inode.pending = inode.pending, []
        if self._failing_syncs:
            self._failing_syncs -= 1
            raise OSError(errno.EIO, "Input/output error")
        for change in changes:
            _apply(inode.durable, change)


class _SimFile:
    def __init__(self, disk: SimDisk, inode: _Inode) -> None:
        self._disk = disk
        self._inode = inode
        self._epoch = disk._epoch
        self._open = True

    def _check(self) -> None:
        if not self._open or self._epoch != self._disk._epoch:
            raise OSError(errno.EBADF, "Bad file descriptor")

    def append(self, data: bytes) -> None:
        self._check()
        self._disk._append(self._inode, data)

    def truncate(self, size_bytes: int) -> None:
        self._check()
        self._disk._truncate(self._inode, size_bytes)

    def sync(self) -> None:
        self._check()
        self._disk._sync(self._inode)

    def size_bytes(self) -> int:
        self._check()
        return len(self._inode.cached)

    def close(self) -> None:
        self._open = False


class _SimLock:
    def __init__(self, disk: SimDisk, path: Path) -> None:
        self._disk = disk
        self._path = path
        self._epoch = disk._epoch

    def release(self) -> None:
        if self._epoch == self._disk._epoch:
            self._disk._locks.pop(self._path, None)
