"""Channels: byte streams to a node, for logs, exec and images, without an open port on the node.

The coordinator asks for one over the node's session, with an id that nobody can guess; the node dials back and
names it; the two halves meet here. An id is good for one call of the node that it was made for.

A node that is connected to another coordinator is reached through that one: `RemoteChannel` here, `relay` there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

import structlog
from prometheus_client import Counter, Gauge

from cloudless.api.v1 import member_pb2, session_pb2
from cloudless.errors import CloudlessError, FailedPrecondition, PermissionDenied, ResourceExhausted, Unavailable
from cloudless.streams import MessageStream

log = structlog.get_logger(__name__)

OPEN_TIMEOUT_MS = 10_000
CHANNELS_PER_NODE_MAX = 256
_BUFFERED_FRAMES_MAX = 16
_RELAY_GRACE_MS = 2_000  # for the way there: its own refusal says more than our giving up

OPEN_CHANNELS = Gauge("cloudless_channels_open", "Channels to nodes that are open now.")
CHANNEL_REQUESTS = Counter(
    "cloudless_channel_requests_total", "Channels that were asked for, by outcome.", ["kind", "result"]
)

ChannelStream = MessageStream[session_pb2.ChannelResponse, session_pb2.ChannelRequest]
RelayClientStream = MessageStream[member_pb2.RelayChannelRequest, member_pb2.RelayChannelResponse]
RelayServerStream = MessageStream[member_pb2.RelayChannelResponse, member_pb2.RelayChannelRequest]


class Channel(Protocol):
    """An open channel, wherever its node is connected. One task sends and one receives at a time. Use it as a context
    manager, or close it: the node's call lasts until then."""

    node_id: str

    async def send(self, frame: session_pb2.ChannelResponse) -> None:
        """Returns once the transport took the frame. Raises Unavailable when the channel is closed or broke."""
        ...

    async def receive(self) -> session_pb2.ChannelRequest | None:
        """The next frame; None once the node ended the channel in good order (its last frame was `end`) or `close`
        was called. Raises Unavailable when it broke."""
        ...

    async def close(self) -> None:
        """Ends the channel; the node sees the end of the call. Safe to call twice."""
        ...

    async def __aenter__(self) -> Channel: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class NodeChannel:
    """One open channel, as the coordinator's handlers use it. One task sends and one receives at a time.

    Frames that the node sends wait here, at most 16, so that a slow reader slows the node down. Use it as a context
    manager, or close it: the node's call lasts until then.
    """

    def __init__(self, node_id: str, stream: ChannelStream) -> None:
        self.node_id = node_id
        self._stream = stream
        self._frames: asyncio.Queue[session_pb2.ChannelRequest | None] = asyncio.Queue(_BUFFERED_FRAMES_MAX)
        self._failure: CloudlessError | None = None
        self._reader: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()  # nothing more will arrive in _frames

    async def send(self, frame: session_pb2.ChannelResponse) -> None:
        """Returns once the transport took the frame. Raises Unavailable when the channel is closed or broke."""
        if self._ended.is_set():
            raise self._failure or _closed(self.node_id)
        await self._stream.send(frame)

    async def receive(self) -> session_pb2.ChannelRequest | None:
        """The next frame; None once the node ended the channel in good order (its last frame was `end`) or `close`
        was called. Raises Unavailable when it broke."""
        if self._frames.empty():
            if self._ended.is_set():
                self._raise_failure()
                return None
            # Not Queue.get: the end must wake a reader even where no room was left to say so in the queue.
            frame = asyncio.ensure_future(self._frames.get())
            ended = asyncio.ensure_future(self._ended.wait())
            try:
                await asyncio.wait((frame, ended), return_when=asyncio.FIRST_COMPLETED)
                if frame.done():
                    return frame.result()
            finally:
                frame.cancel()
                ended.cancel()
            self._raise_failure()
            return None
        return self._frames.get_nowait()

    async def close(self) -> None:
        """Ends the channel; the node sees the end of the call. Safe to call twice."""
        self.abandon(None)

    def abandon(self, failure: CloudlessError | None) -> None:
        """As close, and the reader gets `failure`."""
        self._end(failure)
        if self._reader is not None:
            self._reader.cancel()

    async def run(self) -> None:
        """Moves frames from the stream until either side ends it. The node's call runs this."""
        if self._ended.is_set():
            return
        self._reader = asyncio.ensure_future(self._read())
        OPEN_CHANNELS.inc()
        try:
            await asyncio.wait((self._reader,))
        finally:
            # Also when the call is cancelled: then the node has gone.
            OPEN_CHANNELS.dec()
            self.abandon(_broke(self.node_id))
            await self._stream.close()

    async def _read(self) -> None:
        last = ""
        try:
            while (frame := await self._stream.receive()) is not None:
                last = frame.WhichOneof("frame")
                await self._frames.put(frame)
        except Unavailable:
            last = ""
        # A killed client looks like one that ended its stream; only a last frame of kind `end` tells them apart.
        self._end(None if last == "end" else _broke(self.node_id))

    def _end(self, failure: CloudlessError | None) -> None:
        if not self._ended.is_set():
            self._failure = failure
            self._ended.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def __aenter__(self) -> NodeChannel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class RemoteChannel:
    """A channel to a node that is connected to another coordinator, over one call to that coordinator. Nothing is
    kept here: what one side sends waits for the other's transport."""

    def __init__(self, node_id: str, stream: RelayClientStream) -> None:
        self.node_id = node_id
        self._stream = stream
        self._closed = asyncio.Event()
        self._last = ""

    @classmethod
    async def open(
        cls,
        node_id: str,
        request: session_pb2.OpenChannel,
        stream: RelayClientStream,
        *,
        timeout_ms: int = OPEN_TIMEOUT_MS,
    ) -> RemoteChannel:
        """Raises what the other coordinator refused it with, as `ChannelTable.open` does, and Unavailable with reason
        `ChannelNotOpened` where it does not answer."""
        self = cls(node_id, stream)
        try:
            await stream.send(
                member_pb2.RelayChannelRequest(start=member_pb2.RelayStart(node_id=node_id, open=request))
            )
            async with asyncio.timeout((timeout_ms + _RELAY_GRACE_MS) / 1000):
                first = await stream.receive()
            if first is None or not first.opened:
                raise Unavailable(
                    f"the coordinator of node {node_id} did not open the channel", reason="ChannelNotOpened"
                )
        except BaseException as error:
            await stream.close()
            if isinstance(error, TimeoutError):
                raise Unavailable(
                    f"the coordinator of node {node_id} does not answer",
                    reason="ChannelNotOpened",
                    remedy="try again in a moment",
                ) from None
            raise
        return self

    async def send(self, frame: session_pb2.ChannelResponse) -> None:
        if self._closed.is_set():
            raise _closed(self.node_id)
        await self._stream.send(member_pb2.RelayChannelRequest(frame=frame))

    async def receive(self) -> session_pb2.ChannelRequest | None:
        if self._closed.is_set():
            return None
        message = asyncio.ensure_future(self._stream.receive())
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait((message, closed), return_when=asyncio.FIRST_COMPLETED)
            if self._closed.is_set():
                return None
            answer = message.result()
        finally:
            message.cancel()
            closed.cancel()
            await asyncio.gather(message, closed, return_exceptions=True)
        if answer is None:
            if self._last != "end":
                raise _broke(self.node_id)
            return None
        self._last = answer.frame.WhichOneof("frame") or ""
        return answer.frame

    async def close(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            await self._stream.close()

    async def __aenter__(self) -> RemoteChannel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def relay(channel: Channel, stream: RelayServerStream) -> None:
    """The other coordinator's side of a RemoteChannel: moves frames until either side ends. Each is handed on before
    the next is taken, so that the slowest of node, coordinators and client sets the pace."""

    async def to_node() -> None:
        while (message := await _or_none(stream)) is not None:
            if message.WhichOneof("message") == "frame":
                await channel.send(message.frame)
        await channel.close()  # the other coordinator has closed its side, or is gone

    downward = asyncio.ensure_future(to_node())
    try:
        await stream.send(member_pb2.RelayChannelResponse(opened=True))
        while (frame := await channel.receive()) is not None:
            await stream.send(member_pb2.RelayChannelResponse(frame=frame))
    finally:
        downward.cancel()
        await asyncio.wait((downward,))
        if not downward.cancelled():
            downward.exception()  # seen: the channel's own failure says it better


async def _or_none(stream: RelayServerStream) -> member_pb2.RelayChannelRequest | None:
    try:
        return await stream.receive()
    except Unavailable:
        return None


class _Wanted:
    """A channel that was asked for and not yet dialled."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.dialled: asyncio.Future[NodeChannel] = asyncio.get_running_loop().create_future()


class ChannelTable:
    """The channels of every node. `new_id` gives ids that cannot be guessed (128 bits or more)."""

    def __init__(self, new_id: Callable[[], str], *, open_timeout_ms: int = OPEN_TIMEOUT_MS) -> None:
        self._new_id = new_id
        self._open_timeout_ms = open_timeout_ms
        self._wanted: dict[str, _Wanted] = {}
        self._open: dict[str, set[NodeChannel]] = {}

    async def open(
        self, node_id: str, request: session_pb2.OpenChannel, ask: Callable[[session_pb2.OpenChannel], None]
    ) -> NodeChannel:
        """Asks the node and waits until it dials. `ask` hands the message to its session.

        Raises ResourceExhausted with reason `TooManyChannels`, Unavailable with reason `ChannelNotOpened`,
        FailedPrecondition with reason `NodeNotConnected` when its session ends meanwhile, and what `ask` raises.
        """
        pending = sum(wanted.node_id == node_id for wanted in self._wanted.values())
        if len(self._open.get(node_id, ())) + pending >= CHANNELS_PER_NODE_MAX:
            raise ResourceExhausted(
                f"node {node_id} has {CHANNELS_PER_NODE_MAX} open channels",
                reason="TooManyChannels",
                remedy="end some log or exec sessions",
            )
        kind = request.WhichOneof("open") or "unknown"
        channel_id = self._new_id()
        message = session_pb2.OpenChannel()
        message.CopyFrom(request)
        message.channel_id = channel_id
        wanted = self._wanted[channel_id] = _Wanted(node_id)
        result = "failed"
        try:
            ask(message)
            async with asyncio.timeout(self._open_timeout_ms / 1000):
                channel = await wanted.dialled
            result = "opened"
            return channel
        except TimeoutError:
            raise Unavailable(
                f"node {node_id} did not open the channel within {self._open_timeout_ms // 1000} s",
                reason="ChannelNotOpened",
                remedy="try again; see whether the node is overloaded",
            ) from None
        except asyncio.CancelledError:
            if wanted.dialled.done() and not wanted.dialled.cancelled() and wanted.dialled.exception() is None:
                await wanted.dialled.result().close()
            raise
        finally:
            self._wanted.pop(channel_id, None)
            CHANNEL_REQUESTS.labels(kind, result).inc()

    async def accept(self, node_id: str, stream: ChannelStream) -> None:
        """One call of a node: reads the id, joins the two halves, and returns when the channel ends. Raises
        PermissionDenied with reason `ChannelUnknown` for an id that was not made for this node, or was used."""
        try:
            async with asyncio.timeout(self._open_timeout_ms / 1000):
                first = await stream.receive()
        except TimeoutError:
            first = None
        channel_id = first.channel_id if first is not None and first.WhichOneof("frame") == "channel_id" else ""
        wanted = self._wanted.get(channel_id)
        if wanted is None or wanted.node_id != node_id or wanted.dialled.done():
            log.warning("channel.refused", node=node_id)
            raise PermissionDenied("no such channel is wanted from this node", reason="ChannelUnknown")
        channel = NodeChannel(node_id, stream)
        of_node = self._open.setdefault(node_id, set())
        of_node.add(channel)
        wanted.dialled.set_result(channel)
        try:
            await channel.run()
        finally:
            of_node.discard(channel)
            if not of_node:
                self._open.pop(node_id, None)

    def session_ended(self, node_id: str) -> None:
        """Those that were asked for over the session will not be dialled. Open ones go on: they are calls of their
        own."""
        for wanted in self._wanted.values():
            if wanted.node_id == node_id and not wanted.dialled.done():
                wanted.dialled.set_exception(not_connected(node_id))

    def end_all(self, node_id: str | None = None) -> None:
        """Breaks the open channels of a node, or of all."""
        for name in [node_id] if node_id is not None else list(self._open):
            for channel in list(self._open.get(name, ())):
                channel.abandon(_broke(name))
            self.session_ended(name)


def not_connected(node_id: str) -> FailedPrecondition:
    """The error for what needs a session that is not there."""
    return FailedPrecondition(
        f"node {node_id} is not connected",
        reason="NodeNotConnected",
        remedy=f"see `cloudlessctl describe node {node_id}`, and try again when it is back",
    )


def _closed(node_id: str) -> Unavailable:
    return Unavailable(f"the channel to node {node_id} is closed", reason="ChannelClosed")


def _broke(node_id: str) -> Unavailable:
    return Unavailable(f"the channel to node {node_id} broke", reason="ChannelBroken")
