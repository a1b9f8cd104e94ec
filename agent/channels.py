"""Serves the channels that a coordinator asks for: logs, exec, image import and image list.

The agent dials each channel itself, beside its session, so that a node needs no open port. Every channel ends with
a ChannelEnd that says how it went, unless the other side hung up; whatever happens, the process of an exec is
ended and the file of an import is deleted. Sending waits for the transport, which is the back-pressure: a slow
reader slows a log's reading or a program's output, and nothing piles up here.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import structlog
from opentelemetry import trace

from cloudless.agent import metrics
from cloudless.agent.imports import receive_archive
from cloudless.agent.logread import LogReader
from cloudless.agent.logwatch import LogWatcher
from cloudless.agent.runtime.base import ExecRequest, ExecSession, Image, Runtime
from cloudless.api.v1 import session_pb2 as pb
from cloudless.api.v1.convert import to_proto
from cloudless.core.model import Assignment, ReplicaPhase
from cloudless.errors import CloudlessError, Internal, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from cloudless.streams import MessageStream

log = structlog.get_logger(__name__)
_tracer = trace.get_tracer("cloudless.agent")

Stream: TypeAlias = MessageStream[pb.ChannelRequest, pb.ChannelResponse]
SessionStream: TypeAlias = MessageStream[pb.ConnectRequest, pb.ConnectResponse]

CHANNELS_AT_ONCE: Final = 128
_FRAME_BYTES: Final = 64 * 1024
# After the program ended, how long its output may still be held open by a child of it.
_OUTPUT_GRACE_S: Final = 1.0
_OVER: Final = frozenset({None, ReplicaPhase.SUCCEEDED, ReplicaPhase.FAILED})


class Replicas(Protocol):
    """What channels ask the supervisor."""

    def assignment(self, replica_id: str) -> Assignment | None: ...
    def phase(self, replica_id: str) -> ReplicaPhase | None: ...


class ChannelServer:
    """`dial` opens a channel's stream beside the session that asked for it. `spool` is a folder for archives."""

    def __init__(
        self,
        runtime: Runtime,
        replicas: Replicas,
        watcher: LogWatcher,
        *,
        dial: Callable[[SessionStream], Awaitable[Stream]],
        spool: Path,
    ) -> None:
        self._runtime = runtime
        self._replicas = replicas
        self._watcher = watcher
        self._dial = dial
        self._spool = spool
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, order: pb.OpenChannel, session: SessionStream) -> None:
        """Serves one channel in the background. Returns at once."""
        task = asyncio.get_running_loop().create_task(self._serve(order, session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ends every channel."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, order: pb.OpenChannel, session: SessionStream) -> None:
        kind = order.WhichOneof("open") or "unknown"
        try:
            stream = await self._dial(session)
        except (CloudlessError, OSError) as error:
            log.warning("channel.dial_failed", kind=kind, cause=str(error))
            return
        try:
            with _tracer.start_as_current_span(f"channel.{kind}"), metrics.CHANNELS.labels(kind).track_inprogress():
                await stream.send(pb.ChannelRequest(channel_id=order.channel_id))
                end = await self._run(kind, order, stream)
                await stream.send(pb.ChannelRequest(end=end))
        except Unavailable as error:
            log.info("channel.broken", kind=kind, cause=str(error))
        finally:
            await stream.close()

    async def _run(self, kind: str, order: pb.OpenChannel, stream: Stream) -> pb.ChannelEnd:
        """The channel's work; its failures become the end that is sent, a broken stream is raised."""
        try:
            if len(self._tasks) > CHANNELS_AT_ONCE:
                raise ResourceExhausted(
                    f"this node serves {CHANNELS_AT_ONCE} channels already", reason="TooManyChannels"
                )
            match kind:
                case "logs":
                    await self._logs(order.logs, stream)
                case "exec":
                    return pb.ChannelEnd(exit_code=await self._exec(order.exec, stream))
                case "import_image":
                    await self._import(order.import_image, stream)
                case "list_images":
                    for image in await self._runtime.images():
                        await _send_image(stream, image)
                case _:
                    raise InvalidArgument("this agent does not know that kind of channel", reason="UnknownChannel")
        except _HungUp:
            raise Unavailable("the other side hung up", reason="HungUp") from None
        except _Broken as broken:
            raise broken.error from None
        except CloudlessError as error:
            return pb.ChannelEnd(
                error_code=error.code,
                error_message=error.message,
                error_reason=error.reason,
                error_remedy=error.remedy,
            )
        except OSError as error:
            return pb.ChannelEnd(error_code=Internal.code, error_message=str(error))
        return pb.ChannelEnd()

    def _container(self, replica_id: str, container: str) -> str:
        """The container's name; without one given, the replica's first. Raises NotFound."""
        assignment = self._replicas.assignment(replica_id)
        if assignment is None:
            raise NotFound(f"replica {replica_id} is not on this node", reason="ReplicaNotFound")
        names = [c.name for c in assignment.spec.containers]
        if not container and names:
            return names[0]
        if container not in names:
            raise NotFound(
                f"replica {replica_id} has no container {container!r}",
                reason="ContainerNotFound",
                remedy=f"it has {', '.join(names)}",
            )
        return container

    # Logs ------------------------------------------------------------------------------------------------

    async def _logs(self, asked: pb.LogsOpen, stream: Stream) -> None:
        container = self._container(asked.replica_id, asked.container)
        reader = LogReader(
            self._runtime.log_path(asked.replica_id, container),
            self._watcher,
            tail_lines=max(-1, asked.tail_lines),
            since_ms=asked.since_ms,
            timestamps=asked.timestamps,
        )

        async def send() -> None:
            await _send(stream, pb.ChannelRequest(ready=pb.ChannelReady()))
            async with reader:
                chunks = reader.chunks(
                    follow=asked.follow, finished=lambda: self._replicas.phase(asked.replica_id) in _OVER
                )
                async with contextlib.aclosing(chunks):
                    async for chunk in chunks:
                        await _send(stream, pb.ChannelRequest(log=pb.LogChunk(data=chunk)))

        await _until_hung_up(send(), stream)

    # Exec ------------------------------------------------------------------------------------------------

    async def _exec(self, asked: pb.ExecOpen, stream: Stream) -> int:
        container = self._container(asked.replica_id, asked.container)
        if not asked.command:
            raise InvalidArgument("no command was given", reason="NoCommand")
        request = ExecRequest(
            asked.replica_id,
            container,
            tuple(asked.command),
            tty=asked.tty,
            stdin=asked.stdin,
            columns=asked.size.columns or 80,
            rows=asked.size.rows or 24,
        )
        session = await self._runtime.exec(request)
        log.info("exec.started", replica=asked.replica_id, container=container, tty=asked.tty)
        try:
            await _send(stream, pb.ChannelRequest(ready=pb.ChannelReady()))
            return await _Exec(session, stream).run()
        finally:
            await asyncio.shield(session.close())

    # Images ----------------------------------------------------------------------------------------------

    async def _import(self, asked: pb.ImportOpen, stream: Stream) -> None:
        await _send(stream, pb.ChannelRequest(ready=pb.ChannelReady()))
        async with receive_archive(_archive(stream), self._spool) as (archive, size):
            images = await self._runtime.import_image(archive, reference=asked.reference)
        log.info("image.imported", images=[image.reference for image in images], bytes=size)
        for image in images:
            await _send_image(stream, image)


class _Exec:
    """Moves bytes between one stream and one process until the process has ended."""

    def __init__(self, session: ExecSession, stream: Stream) -> None:
        self._session = session
        self._stream = stream

    async def run(self) -> int:
        output = asyncio.ensure_future(self._send_output())
        code = asyncio.ensure_future(self._session.wait())
        incoming = asyncio.ensure_future(self._take_input())
        streams: tuple[asyncio.Future[Any], ...] = (incoming, output)
        tasks: tuple[asyncio.Future[Any], ...] = (*streams, code)
        try:
            while not code.done():
                await asyncio.wait([t for t in tasks if not t.done()], return_when=asyncio.FIRST_COMPLETED)
                for task in streams:
                    if task.done():
                        task.result()  # raises when the other side is gone
            await asyncio.wait([output], timeout=_OUTPUT_GRACE_S)
            if output.done():
                output.result()
            return code.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send_output(self) -> None:
        async for is_stderr, data in self._session.output():
            for start in range(0, len(data), _FRAME_BYTES):
                piece = data[start : start + _FRAME_BYTES]
                frame = pb.ChannelRequest(stderr=piece) if is_stderr else pb.ChannelRequest(stdout=piece)
                await _send(self._stream, frame)

    async def _take_input(self) -> None:
        """Ends only by raising: the other side hung up. What a dying process no longer takes is dropped."""
        while True:
            message = await _receive(self._stream)
            with contextlib.suppress(CloudlessError, BrokenPipeError, ConnectionError):
                match message.WhichOneof("frame"):
                    case "stdin":
                        await self._session.write_stdin(message.stdin)
                    case "stdin_closed":
                        await self._session.close_stdin()
                    case "resize":
                        columns, rows = message.resize.columns, message.resize.rows
                        if 0 < columns <= 10_000 and 0 < rows <= 10_000:
                            await self._session.resize(columns=columns, rows=rows)
                    case "signal":
                        if 0 < message.signal < signal.NSIG:
                            await self._session.signal(message.signal)
                    case _:
                        pass


class _HungUp(Exception):
    """The other side ended the stream before the work was done."""


class _Broken(Exception):
    """The stream broke: told apart from an Unavailable that the runtime raised."""

    def __init__(self, error: Unavailable) -> None:
        super().__init__(str(error))
        self.error = error


async def _send(stream: Stream, message: pb.ChannelRequest) -> None:
    try:
        await stream.send(message)
    except CloudlessError as error:
        raise _Broken(Unavailable(error.message, reason=error.reason, remedy=error.remedy)) from None


async def _receive(stream: Stream) -> pb.ChannelResponse:
    try:
        message = await stream.receive()
    except CloudlessError as error:
        raise _Broken(Unavailable(error.message, reason=error.reason, remedy=error.remedy)) from None
    if message is None:
        raise _HungUp
    return message


async def _archive(stream: Stream) -> AsyncIterator[bytes]:
    """The bytes of an archive as they come; ends with its last byte."""
    while True:
        message = await _receive(stream)
        match message.WhichOneof("frame"):
            case "data":
                yield message.data
            case "data_end":
                return
            case _:
                raise InvalidArgument("something else than an archive's bytes came", reason="UnexpectedFrame")


async def _send_image(stream: Stream, image: Image) -> None:
    await _send(stream, pb.ChannelRequest(image=to_proto(image, pb.ImageInfo)))


async def _until_hung_up(work: Awaitable[None], stream: Stream) -> None:
    """Runs `work`; ends it when the other side ends the stream, which sends nothing else."""

    async def listen() -> None:
        while True:
            await _receive(stream)

    working, listening = asyncio.ensure_future(work), asyncio.ensure_future(listen())
    try:
        await asyncio.wait([working, listening], return_when=asyncio.FIRST_COMPLETED)
        (working if working.done() else listening).result()
    finally:
        for task in (working, listening):
            task.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)
