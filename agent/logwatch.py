"""Watches the logs of this node's containers: notes when they grew, rotates them, wakes who follows them.

On Linux inotify says when a log changed, so that an idle node costs nothing and a busy one at most ten wake-ups a
second for all its logs together; elsewhere sizes are polled once a second. Rotation copies the log to `<log>.1`
(replacing the previous one) and truncates it in place: the writer holds the file open and appends. What is written
between the last byte copied and the truncation would be lost; copying goes on until nothing is left, which makes
that window a few microseconds, and it opens once per `max_bytes` of output.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from cloudless.agent.logs import INDEX_ENTRY, index_of, rotated

log = structlog.get_logger(__name__)

_SETTLE_DELAY_S: Final = 0.1
_POLL_INTERVAL_S: Final = 1.0
_IN_MODIFY: Final = 0x2
_IN_Q_OVERFLOW: Final = 0x4000
_IN_IGNORED: Final = 0x8000
_IN_NONBLOCK_CLOEXEC: Final = 0o2004000


@dataclass(slots=True)
class WatchedLog:
    """What is known of one log. Readers keep it: it holds good when the log is no longer watched."""

    path: Path
    size: int = 0  # of the last index entry
    inode: int = 0  # of the file that inotify watches
    watch: int = -1
    rotations: int = 0  # since it is watched
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # of the next change; replaced when set

    def tell(self) -> None:
        told, self.changed = self.changed, asyncio.Event()
        told.set()


class LogWatcher:
    """Event loop only. `max_bytes` 0: never rotates. Files are touched in threads."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._watched: dict[Path, WatchedLog] = {}
        self._by_watch: dict[int, WatchedLog] = {}
        self._inotify: _Inotify | None = None
        self._wake = asyncio.Event()
        self.rotating = asyncio.Lock()  # held while a log changes its place; readers that compare places take it

    def watch(self, paths: Iterable[Path]) -> None:
        """Watches exactly these from now on; a file need not exist yet."""
        wanted = set(paths)
        for path in [p for p in self._watched if p not in wanted]:
            gone = self._watched.pop(path)
            self._unwatch(gone)
            gone.tell()
        for path in wanted - set(self._watched):
            self._watched[path] = WatchedLog(path)
        self._wake.set()

    def find(self, path: Path) -> WatchedLog | None:
        """The log, when it is watched. To follow it: take `changed`, read, then wait for what was taken."""
        return self._watched.get(path)

    async def run(self) -> None:
        """Watches until cancelled."""
        self._inotify = _Inotify.open()
        if self._inotify is None:
            log.info("logs.polled", interval_ms=int(_POLL_INTERVAL_S * 1000))
        loop = asyncio.get_running_loop()
        try:
            while True:
                if self._inotify is not None:
                    loop.add_reader(self._inotify.file, self._wake.set)
                    pending = any(held.watch < 0 for held in self._watched.values())
                else:
                    pending = bool(self._watched)
                with contextlib.suppress(TimeoutError):
                    # A log that does not exist yet cannot be watched: looked for until it does.
                    async with asyncio.timeout(_POLL_INTERVAL_S if pending else None):
                        await self._wake.wait()
                if self._inotify is not None:
                    loop.remove_reader(self._inotify.file)
                await asyncio.sleep(_SETTLE_DELAY_S)  # bounds the cost of a log that is written all the time
                self._wake.clear()
                await self.look()
        finally:
            if self._inotify is not None:
                loop.remove_reader(self._inotify.file)
                self._inotify.close()
                self._inotify = None
            self._by_watch.clear()

    async def look(self) -> None:
        """Notes what changed since the last look. Called by `run`; by itself it needs no inotify."""
        held_now = self._due()
        if not held_now:
            return
        grown = await asyncio.to_thread(self._note, held_now)
        for held in grown:
            if self._max_bytes and held.size >= self._max_bytes:
                async with self.rotating:
                    await asyncio.to_thread(_rotate, held)
            held.tell()

    def _due(self) -> list[WatchedLog]:
        if self._inotify is None:
            return list(self._watched.values())
        overflow, watches, ended = self._inotify.drain()
        for watch in ended:  # the file was removed; another may take its place
            if (held := self._by_watch.pop(watch, None)) is not None:
                held.watch = -1
        due = {id(h): h for h in (self._by_watch.get(w) for w in watches) if h is not None}
        for held in self._watched.values():
            if overflow or held.watch < 0 or not held.inode:
                due[id(held)] = held
            if held.watch < 0 and (watch := self._inotify.add(held.path)) >= 0:
                held.watch = watch
                self._by_watch[watch] = held
        return list(due.values())

    def _unwatch(self, held: WatchedLog) -> None:
        self._by_watch.pop(held.watch, None)
        if self._inotify is not None and held.watch >= 0:
            self._inotify.remove(held.watch)

    def _note(self, due: list[WatchedLog]) -> list[WatchedLog]:
        """In a thread: one index entry for each log that grew."""
        grown = []
        for held in due:
            try:
                with open(held.path, "rb") as file:
                    status = os.fstat(file.fileno())
                index = index_of(held.path)
                if status.st_ino != held.inode:
                    held.inode = status.st_ino
                    held.size = _last_size(index)
                if status.st_size == held.size:
                    continue
                if status.st_size < held.size:  # truncated by somebody else
                    index.unlink(missing_ok=True)
                    held.rotations += 1
                held.size = status.st_size
                if held.size:
                    with open(index, "ab") as file:
                        file.write(INDEX_ENTRY.pack(held.size, status.st_mtime_ns // 1_000_000))
                grown.append(held)
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("log.watch_failed", log=str(held.path), cause=str(error))
        return grown


def _last_size(index: Path) -> int:
    try:
        data = index.read_bytes()
    except OSError:
        return 0
    whole = len(data) - len(data) % INDEX_ENTRY.size
    return int(INDEX_ENTRY.unpack_from(data, whole - INDEX_ENTRY.size)[0]) if whole else 0


def _rotate(held: WatchedLog) -> None:
    """In a thread: copies the log aside and truncates it. On a full disk the log is truncated all the same, and
    said so: its writer must not stop the node."""
    path, target = held.path, rotated(held.path)
    temporary = path.with_name(path.name + ".rotating")
    try:
        with open(path, "r+b", buffering=0) as source:
            try:
                with open(temporary, "wb", buffering=0) as copy:
                    while chunk := source.read(1 << 20):
                        copy.write(chunk)
                    index_of(path).replace(index_of(target)) if index_of(path).exists() else None
                    os.replace(temporary, target)
                    while chunk := source.read(1 << 20):
                        copy.write(chunk)
                    source.truncate(0)
            except OSError as error:
                temporary.unlink(missing_ok=True)
                index_of(path).unlink(missing_ok=True)
                source.truncate(0)
                log.error("log.discarded", log=str(path), bytes=held.size, cause=str(error))
        held.rotations += 1
        held.size = 0
        log.info("log.rotated", log=str(path))
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("log.rotation_failed", log=str(path), cause=str(error))


class _Inotify:
    """The three system calls, by ctypes: the standard library has no binding."""

    def __init__(self, libc: ctypes.CDLL, file: int) -> None:
        self._libc = libc
        self.file = file

    @classmethod
    def open(cls) -> _Inotify | None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            file = libc.inotify_init1(_IN_NONBLOCK_CLOEXEC)
        except (OSError, AttributeError):
            return None
        return cls(libc, file) if file >= 0 else None

    def add(self, path: Path) -> int:
        return int(self._libc.inotify_add_watch(self.file, os.fsencode(path), _IN_MODIFY))

    def remove(self, watch: int) -> None:
        self._libc.inotify_rm_watch(self.file, watch)

    def drain(self) -> tuple[bool, set[int], set[int]]:
        """Whether events were lost, which watches fired, and which ended."""
        watches: set[int] = set()
        ended: set[int] = set()
        overflow = False
        while True:
            try:
                data = os.read(self.file, 65536)
            except BlockingIOError:
                return overflow, watches, ended
            at = 0
            while at + 16 <= len(data):
                watch = int.from_bytes(data[at : at + 4], "little", signed=True)
                mask = int.from_bytes(data[at + 4 : at + 8], "little")
                length = int.from_bytes(data[at + 12 : at + 16], "little")
                overflow = overflow or bool(mask & _IN_Q_OVERFLOW)
                (ended if mask & _IN_IGNORED else watches).add(watch)
                at += 16 + length

    def close(self) -> None:
        os.close(self.file)
