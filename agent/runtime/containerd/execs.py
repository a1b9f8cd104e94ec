"""A process beside a container's own, with the same restrictions, and its streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from google.protobuf import any_pb2

from cloudless.agent.runtime.base import ExecRequest
from cloudless.agent.runtime.containerd import spec
from cloudless.agent.runtime.containerd.api import containers_pb2, tasks_pb2
from cloudless.agent.runtime.containerd.client import TASK_TIMEOUT_S, Client
from cloudless.agent.runtime.containerd.pipes import FifoReader, FifoWriter
from cloudless.agent.runtime.containerd.tasks import PROCESS_TYPE, start_failure
from cloudless.errors import CloudlessError, FailedPrecondition, Internal, NotFound, Unavailable

_RECONNECT_S = 0.5
_ABANDON_S = 2.0
_LOST_EXIT_CODE = 255
_QUEUE = 16  # chunks of at most 64 KiB


class ContainerdExec:
    """Implements ExecSession. Event loop only."""

    def __init__(self, client: Client, container_id: str, request: ExecRequest, fifos: Path) -> None:
        self._client = client
        self._container_id = container_id
        self._id = f"exec-{uuid.uuid4().hex}"
        self._terminal = request.tty
        self._directory = fifos / self._id
        self._stdin: FifoWriter | None = None
        self._outputs: list[tuple[bool, FifoReader]] = []
        self._waiter: asyncio.Task[int] | None = None

    @classmethod
    async def start(
        cls, client: Client, record: containers_pb2.Container, request: ExecRequest, fifos: Path
    ) -> ContainerdExec:
        """Raises InvalidArgument for a command that cannot be run, FailedPrecondition where the container does not."""
        stored = json.loads(record.spec.value)
        process = spec.exec_process(stored, command=request.command, env=request.env, terminal=request.tty)
        if request.tty:
            process["consoleSize"] = {"width": request.columns, "height": request.rows}
        session = cls(client, record.id, request, fifos)
        try:
            session._open(stdin=request.stdin)
            await session._launch(process, request)
        except BaseException:
            await session._abandon()
            raise
        session._waiter = asyncio.create_task(session._wait_for_exit())
        return session

    async def output(self) -> AsyncIterator[tuple[bool, bytes]]:
        queue: asyncio.Queue[tuple[bool, bytes]] = asyncio.Queue(_QUEUE)

        async def pump(is_stderr: bool, reader: FifoReader) -> None:
            while data := await reader.read():
                await queue.put((is_stderr, data))
            await queue.put((is_stderr, b""))

        pumps = [asyncio.create_task(pump(*source)) for source in self._outputs]
        try:
            left = len(pumps)
            while left:
                is_stderr, data = await queue.get()
                if data:
                    yield is_stderr, data
                else:
                    left -= 1
        finally:
            for task in pumps:
                task.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def write_stdin(self, data: bytes) -> None:
        if self._stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it does not read any more; its exit tells the rest
                await self._stdin.write(data)

    async def close_stdin(self) -> None:
        if self._stdin is None:
            return
        self._stdin.finish()
        request = tasks_pb2.CloseIORequest(container_id=self._container_id, exec_id=self._id, stdin=True)
        with contextlib.suppress(NotFound):
            await self._client.call(self._client.tasks.CloseIO, request)

    async def resize(self, *, columns: int, rows: int) -> None:
        if not self._terminal:
            return
        request = tasks_pb2.ResizePtyRequest(
            container_id=self._container_id, exec_id=self._id, width=columns, height=rows
        )
        with contextlib.suppress(NotFound):
            await self._client.call(self._client.tasks.ResizePty, request)

    async def signal(self, number: int) -> None:
        request = tasks_pb2.KillRequest(container_id=self._container_id, exec_id=self._id, signal=number)
        with contextlib.suppress(NotFound):
            await self._client.call(self._client.tasks.Kill, request)

    async def wait(self) -> int:
        assert self._waiter is not None
        return await asyncio.shield(self._waiter)

    async def close(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            await self.signal(signal.SIGKILL)
            await asyncio.shield(self._waiter)
        self._close_streams()

    def _open(self, *, stdin: bool) -> None:
        self._directory.mkdir(parents=True, mode=0o700)
        self._outputs.append((False, FifoReader(self._directory / "stdout")))
        if not self._terminal:
            self._outputs.append((True, FifoReader(self._directory / "stderr")))
        if stdin:
            self._stdin = FifoWriter(self._directory / "stdin")

    async def _launch(self, process: dict[str, Any], request: ExecRequest) -> None:
        create = tasks_pb2.ExecProcessRequest(
            container_id=self._container_id,
            exec_id=self._id,
            terminal=self._terminal,
            stdin=str(self._directory / "stdin") if self._stdin is not None else "",
            stdout=str(self._directory / "stdout"),
            stderr="" if self._terminal else str(self._directory / "stderr"),
            spec=any_pb2.Any(type_url=PROCESS_TYPE, value=json.dumps(process).encode()),
        )
        try:
            await self._client.call(self._client.tasks.Exec, create)
            start = tasks_pb2.StartRequest(container_id=self._container_id, exec_id=self._id)
            await self._client.call(self._client.tasks.Start, start, timeout=TASK_TIMEOUT_S)
        except NotFound:
            raise FailedPrecondition("the container does not run", reason="ContainerNotRunning") from None
        except Internal as error:
            if "cannot exec in a stopped" in error.message or "container not running" in error.message:
                raise FailedPrecondition("the container does not run", reason="ContainerNotRunning") from None
            raise start_failure(error.message) from None
        for _, reader in self._outputs:
            reader.release()
        if self._stdin is not None:
            self._stdin.release()
        if self._terminal:
            await self.resize(columns=request.columns, rows=request.rows)

    async def _wait_for_exit(self) -> int:
        """The exit code; outlives a restart of containerd. Deletes the process, which also ends its streams where a
        grandchild holds on to them."""
        code = _LOST_EXIT_CODE
        while True:
            try:
                request = tasks_pb2.WaitRequest(container_id=self._container_id, exec_id=self._id)
                code = int((await self._client.call(self._client.tasks.Wait, request, timeout=None)).exit_status)
                break
            except NotFound:  # the task went, and the process with it
                break
            except Unavailable:
                await asyncio.sleep(_RECONNECT_S)
        with contextlib.suppress(CloudlessError):
            await self._delete()
        return code

    async def _delete(self) -> None:
        request = tasks_pb2.DeleteProcessRequest(container_id=self._container_id, exec_id=self._id)
        await self._client.call(self._client.tasks.DeleteProcess, request)

    async def _abandon(self) -> None:
        """Of a start that failed or was given up: it may have happened all the same, and must not go on."""
        self._close_streams()
        try:
            await self._delete()
        except NotFound:
            return
        except CloudlessError:  # it runs
            with contextlib.suppress(CloudlessError, TimeoutError):
                async with asyncio.timeout(_ABANDON_S):
                    await self.signal(signal.SIGKILL)
                    await self._wait_for_exit()

    def _close_streams(self) -> None:
        for _, reader in self._outputs:
            reader.close()
        if self._stdin is not None:
            self._stdin.close()
        shutil.rmtree(self._directory, ignore_errors=True)
