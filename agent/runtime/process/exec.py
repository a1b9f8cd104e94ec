"""One more process under a container's restrictions, joined to pipes or to a terminal.

It is made from the container's stored record, so that it can do nothing that the container cannot. It dies with
the agent, with its container, and with `close`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import sys
import tempfile
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from cloudless.agent.runtime.base import ExecRequest
from cloudless.agent.runtime.process import records
from cloudless.agent.runtime.process.failures import refused
from cloudless.errors import InvalidArgument

LAUNCHER = Path(__file__).with_name("launch.py")
_CHUNK = 64 * 1024
_PENDING_MAX = 16  # chunks read ahead of a slow receiver


class _Output:
    """Chunks from several ends, bounded, until all have closed."""

    def __init__(self, ends: int) -> None:
        self._queue: asyncio.Queue[tuple[bool, bytes] | None] = asyncio.Queue(_PENDING_MAX)
        self._open = ends

    async def put(self, is_stderr: bool, data: bytes) -> None:
        await self._queue.put((is_stderr, data))

    async def end(self) -> None:
        self._open -= 1
        if self._open == 0:
            await self._queue.put(None)

    async def items(self) -> AsyncIterator[tuple[bool, bytes]]:
        while (item := await self._queue.get()) is not None:
            yield item
        self._queue.put_nowait(None)  # for whoever asks again


class _Terminal:
    """The agent's end of a pseudo terminal."""

    def __init__(self, master: int) -> None:
        self.master = master
        os.set_blocking(master, False)

    async def _ready(self, *, write: bool) -> None:
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
        add(self.master, event.set)
        try:
            await event.wait()
        finally:
            remove(self.master)

    async def read(self) -> bytes:
        """b"" once every process has closed its end."""
        while True:
            try:
                return os.read(self.master, _CHUNK)
            except BlockingIOError:
                await self._ready(write=False)
            except OSError:  # EIO: the other end is closed
                return b""

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.master, view) :]
            except BlockingIOError:
                await self._ready(write=True)
            except OSError:
                return

    def resize(self, *, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class ProcessExec:
    """Implements ExecSession."""

    def __init__(self, process: asyncio.subprocess.Process, terminal: _Terminal | None) -> None:
        self._process = process
        self._terminal = terminal
        self._output = _Output(1 if terminal else 2)
        if terminal:
            self._pumps = [asyncio.ensure_future(self._pump(False, terminal))]
        else:
            assert process.stdout
            assert process.stderr
            streams = ((False, process.stdout), (True, process.stderr))
            self._pumps = [asyncio.ensure_future(self._pump(is_stderr, stream)) for is_stderr, stream in streams]
        self.closed = False

    async def _pump(self, is_stderr: bool, source: asyncio.StreamReader | _Terminal) -> None:
        while data := await (source.read() if isinstance(source, _Terminal) else source.read(_CHUNK)):
            await self._output.put(is_stderr, data)
        await self._output.end()

    def output(self) -> AsyncIterator[tuple[bool, bytes]]:
        return self._output.items()

    async def write_stdin(self, data: bytes) -> None:
        if self._terminal:
            await self._terminal.write(data)
        elif self._process.stdin:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._process.stdin.write(data)
                await self._process.stdin.drain()

    async def close_stdin(self) -> None:
        if self._terminal:
            await self._terminal.write(b"\x04")  # a terminal has no end of file but this
        elif self._process.stdin:
            self._process.stdin.close()

    async def resize(self, *, columns: int, rows: int) -> None:
        if self._terminal and not self.closed:
            self._terminal.resize(columns=columns, rows=rows)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signals the process and those of its group. Only before it is reaped: later its number is another's."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def signal(self, number: int) -> None:
        self.kill(number)

    async def wait(self) -> int:
        code = await self._process.wait()
        return 128 - code if code < 0 else code

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.kill()
        await self._process.wait()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        if self._process.stdin:
            self._process.stdin.close()
        if self._terminal:
            os.close(self._terminal.master)


def _record(spec: records.Record, request: ExecRequest) -> dict[str, list[str]]:
    environment = dict(item.split("=", 1) for item in spec.get("env", []))
    if request.tty:
        environment.setdefault("TERM", "xterm")
    environment |= request.env
    changed = {"arg": list(request.command), "env": [f"{name}={value}" for name, value in environment.items()]}
    return {**spec, **changed, **({"tty": ["1"]} if request.tty else {})}


async def start(spec: records.Record, request: ExecRequest) -> ProcessExec:
    """Returns once the program has been executed. `spec`: the record of the container's present attempt. Raises
    InvalidArgument when there is no such program, FailedPrecondition when it cannot be confined."""
    try:
        encoded = records.encode(_record(spec, request))
    except ValueError as error:
        raise InvalidArgument(str(error), reason="BadValue") from None
    error_read, error_write = os.pipe()
    terminal: _Terminal | None = None
    slave = -1
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(os.close, error_read)
        record = cleanup.enter_context(_in_memory(encoded))
        command = [sys.executable, "-I", "-S", str(LAUNCHER), str(record.fileno()), str(error_write), str(os.getpid())]
        with contextlib.ExitStack() as handed_over:
            handed_over.callback(os.close, error_write)
            stdin = asyncio.subprocess.PIPE if request.stdin else asyncio.subprocess.DEVNULL
            stdout = stderr = asyncio.subprocess.PIPE
            if request.tty:
                master, slave = os.openpty()
                handed_over.callback(os.close, slave)
                terminal = _Terminal(master)
                terminal.resize(columns=request.columns, rows=request.rows)
                if "uid" in spec:
                    os.chown(slave, records.number(spec, "uid"), records.number(spec, "gid"))
                stdin = stdout = stderr = slave
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env={},
                pass_fds=(record.fileno(), error_write),
            )
        session = ProcessExec(process, terminal)
        report = await asyncio.to_thread(_read_all, error_read)
        if report:
            await session.close()
            raise refused(report)
        return session


def _in_memory(data: bytes) -> BinaryIO:
    """A file at its start that no disk sees, where the system has such files."""
    in_memory = hasattr(os, "memfd_create")
    file: BinaryIO = os.fdopen(os.memfd_create("record"), "w+b") if in_memory else tempfile.TemporaryFile()  # noqa: SIM115
    file.write(data)
    file.flush()
    file.seek(0)
    return file


def _read_all(descriptor: int) -> bytes:
    data = b""
    while chunk := os.read(descriptor, 4096):
        data += chunk
    return data
