"""WorkloadService: logs and exec, bridged to a channel of the replica's node.

What the node sends is forwarded before more is taken, and the other way round, so that the slowest of client,
coordinator and node sets the pace. A client that goes away closes the channel, which ends the work on the node.
"""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final

import structlog

from cloudless.api.v1 import control_pb2, session_pb2
from cloudless.coordinator.channels import Channel
from cloudless.coordinator.rpc.call import current
from cloudless.coordinator.rpc.services.backend import Backend
from cloudless.coordinator.rpc.services.replicas import Replicas
from cloudless.coordinator.rpc.streams import GrpcMessageStream
from cloudless.core.model import Replica
from cloudless.errors import FailedPrecondition, InvalidArgument, Unavailable, from_code

COMMAND_BYTES_MAX: Final = 128 * 1024
ALL_LINES: Final = -1

ExecStream = GrpcMessageStream[control_pb2.ExecResponse, control_pb2.ExecRequest]

log = structlog.get_logger(__name__)


class Interactive(Replicas):
    """Handlers of WorkloadService that stream from and to a replica."""

    _backend: Backend

    async def Logs(self, request: Any, context: Any) -> AsyncIterator[Any]:
        if request.tail_lines < ALL_LINES or request.since_ms < 0:
            raise InvalidArgument("tail_lines is -1 or more, since_ms is 0 or more", reason="BadLogsRequest")
        replica = self._placed(request.namespace, request.replica_id)
        opening = session_pb2.OpenChannel(
            logs=session_pb2.LogsOpen(
                replica_id=replica.id,
                container=request.container,
                follow=request.follow,
                tail_lines=request.tail_lines,
                since_ms=max(0, self._backend.clock.now_ms() - request.since_ms) if request.since_ms else 0,
                timestamps=request.timestamps,
            )
        )
        async with await self._backend.hub.open_channel(replica.node_id, opening) as channel:
            while True:
                frame = await received(channel)
                kind = frame.WhichOneof("frame")
                if kind == "log":
                    yield control_pb2.LogsResponse(data=frame.log.data)
                elif kind == "end":
                    raise_failure(frame.end)
                    return

    async def Exec(self, stream: ExecStream, context: Any) -> None:
        first = await stream.receive()
        if first is None or first.WhichOneof("message") != "start":
            raise InvalidArgument("the first message of Exec must be `start`", reason="FirstMessageMissing")
        start = first.start
        if not start.command or sum(len(word) for word in start.command) > COMMAND_BYTES_MAX:
            raise InvalidArgument(f"a command of 1 to {COMMAND_BYTES_MAX} bytes is required", reason="FieldRequired")
        replica = self._placed(start.namespace, start.replica_id)
        opening = session_pb2.OpenChannel(
            exec=session_pb2.ExecOpen(
                replica_id=replica.id,
                container=start.container,
                command=start.command,
                tty=start.tty,
                stdin=start.stdin,
                size=start.size if start.HasField("size") else None,
            )
        )
        log.info("exec.started", caller=current().caller.actor, replica=replica.id, tty=start.tty)
        async with (
            await self._backend.hub.open_channel(replica.node_id, opening) as channel,
            beside(_to_node(stream, channel)),
        ):
            await _to_client(channel, stream)

    def _placed(self, namespace: str, text: str) -> Replica:
        """The replica. Raises FailedPrecondition (ReplicaNotPlaced) while it is on no node."""
        replica = self._replica(namespace, text)
        if not replica.node_id:
            raise FailedPrecondition(
                f"replica {replica.id} is not placed on a node: {replica.placement.summary or 'not yet'}",
                reason="ReplicaNotPlaced",
                remedy=f"see `cloudlessctl describe replica {replica.id}`",
            )
        return replica


@contextlib.asynccontextmanager
async def beside(upward: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs the client's side of a channel while the block runs the node's, and ends it with the block. Where the
    channel broke because the client's side failed, that failure is raised: it is the better reason."""
    task = asyncio.create_task(upward)
    try:
        yield
    except Unavailable:
        if task.done() and not task.cancelled():
            await task
        raise
    finally:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # seen


async def received(channel: Channel) -> session_pb2.ChannelRequest:
    """The next frame of a channel that has not ended. Raises Unavailable (ChannelBroken) for one that ended without
    its last frame."""
    frame = await channel.receive()
    if frame is None:
        raise Unavailable(f"node {channel.node_id} ended the channel too early", reason="ChannelBroken")
    return frame


def raise_failure(end: session_pb2.ChannelEnd) -> None:
    """Raises the error that the node ended a channel with, if it did."""
    if end.error_code:
        raise from_code(end.error_code, end.error_message, reason=end.error_reason, remedy=end.error_remedy)


async def _to_client(channel: Channel, stream: ExecStream) -> None:
    while True:
        frame = await received(channel)
        kind = frame.WhichOneof("frame")
        if kind == "stdout":
            await stream.send(control_pb2.ExecResponse(stdout=frame.stdout))
        elif kind == "stderr":
            await stream.send(control_pb2.ExecResponse(stderr=frame.stderr))
        elif kind == "ready":
            await stream.send(control_pb2.ExecResponse(started=True))
        elif kind == "end":
            raise_failure(frame.end)
            await stream.send(control_pb2.ExecResponse(exit_code=frame.end.exit_code))
            return


async def _to_node(stream: ExecStream, channel: Channel) -> None:
    """Forwards input until the client ends its side, which closes standard input. Closes the channel on a message
    that has no place here."""
    closed = False
    async for message in stream:
        kind = message.WhichOneof("message")
        if kind == "stdin":
            await channel.send(session_pb2.ChannelResponse(stdin=message.stdin))
        elif kind == "resize":
            await channel.send(session_pb2.ChannelResponse(resize=message.resize))
        elif kind == "signal":
            await channel.send(session_pb2.ChannelResponse(signal=message.signal))
        elif kind == "stdin_closed":
            closed = True
            await channel.send(session_pb2.ChannelResponse(stdin_closed=True))
        else:
            await channel.close()
            raise InvalidArgument("only the first message of Exec is `start`", reason="BadExecMessage")
    if not closed:
        await channel.send(session_pb2.ChannelResponse(stdin_closed=True))
