"""One reader of one container's log: from its tail or a time, and on to its end or for as long as it grows."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloudless.agent import logs
from cloudless.agent.logwatch import LogWatcher, WatchedLog

_CHUNK_BYTES: Final = 64 * 1024
# How long a follower waits at most before it asks again whether the container is still there.
_FOLLOW_CHECK_S: Final = 1.0
_UNWATCHED_CHECK_S: Final = 0.25


@dataclass(slots=True)
class _Segment:
    """A stretch of one open file that is still to be read."""

    file: int
    position: int
    end: int
    index: logs.LogIndex

    def close(self) -> None:
        os.close(self.file)


class LogReader:
    """`tail_lines` -1: all; `since_ms` 0: from the start. Use as an async context manager, read `chunks` once.

    Raises FileNotFoundError from `chunks` never: a log that was not written yet is empty.
    """

    def __init__(
        self, path: Path, watcher: LogWatcher, *, tail_lines: int = -1, since_ms: int = 0, timestamps: bool = False
    ) -> None:
        self._path = path
        self._watcher = watcher
        self._tail_lines = tail_lines
        self._since_ms = since_ms
        self._timestamps = timestamps
        self._segments: list[_Segment] = []  # the last one is the log itself; before it, what was rotated away
        self._log: WatchedLog | None = None
        self._rotations = 0
        self._pending = b""  # the beginning of a line whose rest is not read yet
        self._pending_ms = 0

    async def __aenter__(self) -> LogReader:
        return self

    async def __aexit__(self, *_: object) -> None:
        for segment in self._segments:
            segment.close()
        self._segments.clear()

    async def chunks(self, *, follow: bool, finished: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
        """Whole lines, some at a time, in order; the last line may lack its newline. With `follow` it goes on until
        `finished` and all was read. A slow consumer slows the reading, never the container."""
        await self._open()
        while True:
            last_round = not follow or finished()
            if last_round and follow:
                await self._extend()
            log = self._find()
            change = log.changed if log is not None else asyncio.Event()
            if not self._segments:
                await self._open()
            async for chunk in self._drain():
                yield chunk
            if last_round:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_UNWATCHED_CHECK_S if log is None else _FOLLOW_CHECK_S):
                    await change.wait()
            await self._extend()
        if self._pending:
            yield self._finish_line(b"")

    def _find(self) -> WatchedLog | None:
        self._log = self._log or self._watcher.find(self._path)
        return self._log

    async def _open(self) -> None:
        async with self._watcher.rotating:
            log = self._find()
            self._rotations = log.rotations if log is not None else 0
            self._segments = await asyncio.to_thread(self._open_files)

    def _open_files(self) -> list[_Segment]:
        found: list[_Segment] = []
        for path in (logs.rotated(self._path), self._path):
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            status = os.fstat(file)
            index = logs.LogIndex.read(path, fallback_ms=status.st_mtime_ns // 1_000_000)
            found.append(_Segment(file, 0, status.st_size, index))
        if found and not self._path.exists():
            for segment in found:
                segment.close()
            return []
        self._skip(found)
        return found

    def _skip(self, found: list[_Segment]) -> None:
        """Moves the beginnings up to what was asked for."""
        wanted = self._tail_lines
        for place in range(len(found) - 1, -1, -1):
            segment = found[place]
            if self._since_ms:
                since = segment.index.offset_since(self._since_ms)
                segment.position = logs.line_start(segment.file, since, end=segment.end)
            if wanted >= 0:
                tail = logs.tail_offset(segment.file, end=segment.end, lines=wanted)
                segment.position = max(segment.position, tail)
                if place and wanted and tail == 0:
                    wanted -= logs.count_lines(segment.file, end=segment.end)
                    before = found[place - 1]
                    cut = before.end and os.pread(before.file, 1, before.end - 1) != b"\n"
                    wanted = max(0, wanted + 1 if cut and segment.end else wanted)
                else:
                    wanted = 0

    async def _extend(self) -> None:
        """Takes in what was written, and moves on from a file that was rotated away."""
        if not self._segments:
            return
        async with self._watcher.rotating:
            log = self._find()
            rotations = log.rotations if log is not None else 0
            await asyncio.to_thread(self._extend_files, rotations - self._rotations)
            self._rotations = rotations

    def _extend_files(self, rotated_times: int) -> None:
        current = self._segments[-1]
        if rotated_times:  # what we had not read of it is in the copy; after two rotations a part is lost
            with contextlib.suppress(OSError):
                copy = os.open(logs.rotated(self._path), os.O_RDONLY | os.O_CLOEXEC)
                status = os.fstat(copy)
                times = logs.LogIndex.read(logs.rotated(self._path), fallback_ms=status.st_mtime_ns // 1_000_000)
                start = min(current.position, status.st_size) if rotated_times == 1 else 0
                self._segments.insert(-1, _Segment(copy, start, status.st_size, times))
        if rotated_times:
            current.position = 0
        status = os.fstat(current.file)
        if status.st_size < current.position:  # truncated by somebody else
            current.position = 0
        current.end = status.st_size
        if self._timestamps:
            current.index = logs.LogIndex((1 << 62,), (status.st_mtime_ns // 1_000_000,))

    async def _drain(self) -> AsyncIterator[bytes]:
        """Everything up to the present ends."""
        while self._segments:
            segment = self._segments[0]
            while segment.position < segment.end:
                batch = await asyncio.to_thread(self._read_batch, segment)
                if batch is None:
                    break
                if batch:
                    yield batch
            if len(self._segments) == 1:
                return
            self._segments.pop(0).close()

    def _read_batch(self, segment: _Segment) -> bytes | None:
        """One block's whole lines, ready to send; what follows them is kept. None: the file is shorter than it
        was."""
        size = min(_CHUNK_BYTES, segment.end - segment.position)
        start = segment.position
        block = os.pread(segment.file, size, start)
        if not block:
            segment.end = segment.position
            return None
        segment.position += len(block)
        out: list[bytes] = []
        begin = 0
        while (newline := block.find(b"\n", begin)) >= 0:
            if not self._pending:
                self._pending_ms = segment.index.time_ms(start + begin)
            out.append(self._finish_line(block[begin : newline + 1]))
            begin = newline + 1
        if begin < len(block):
            if not self._pending:
                self._pending_ms = segment.index.time_ms(start + begin)
            self._pending += block[begin:]
            if len(self._pending) >= logs.LINE_BYTES_MAX:
                out.append(self._finish_line(b""))
        return b"".join(out)

    def _finish_line(self, rest: bytes) -> bytes:
        line, self._pending = self._pending + rest, b""
        return logs.stamp(line, self._pending_ms) if self._timestamps else line
