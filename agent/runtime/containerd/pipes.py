"""FIFOs between the agent and a process in a container, on the event loop.

Nothing here blocks: the reading end is opened before the writer exists (a dummy writer keeps it from ending until
`release`), and the writing end before the reader does. A full pipe makes the other side wait, which is the
back-pressure: a reader that is not asked for more stops reading.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

_CHUNK = 1 << 16


class FifoReader:
    """The agent's end of a process's stdout or stderr."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path, 0o600)
        self._path = path
        self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._dummy = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def release(self) -> None:
        """Both ends are in use, or never will be: from now on the end of the writer is the end of the stream."""
        if self._dummy >= 0:
            os.close(self._dummy)
            self._dummy = -1

    async def read(self) -> bytes:
        """The next bytes; empty at the end."""
        while self._reader >= 0:
            try:
                return os.read(self._reader, _CHUNK)
            except BlockingIOError:
                await _ready(self._reader, writing=False)
        return b""

    def close(self) -> None:
        """Repeatable."""
        self.release()
        if self._reader >= 0:
            asyncio.get_running_loop().remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1
        self._path.unlink(missing_ok=True)


class FifoWriter:
    """The agent's end of a process's stdin."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path, 0o600)
        self._path = path
        self._dummy = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def release(self) -> None:
        if self._dummy >= 0:
            os.close(self._dummy)
            self._dummy = -1

    async def write(self, data: bytes) -> None:
        """Returns once the pipe has taken everything. Raises BrokenPipeError if nobody reads any more."""
        view = memoryview(data)
        while view and self._writer >= 0:
            try:
                view = view[os.write(self._writer, view[:_CHUNK]) :]
            except BlockingIOError:
                await _ready(self._writer, writing=True)

    def finish(self) -> None:
        """No more will be written. Repeatable."""
        if self._writer >= 0:
            asyncio.get_running_loop().remove_writer(self._writer)
            os.close(self._writer)
            self._writer = -1

    def close(self) -> None:
        """Repeatable."""
        self.release()
        self.finish()
        self._path.unlink(missing_ok=True)


async def _ready(descriptor: int, *, writing: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        remove(descriptor)
