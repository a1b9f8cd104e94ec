"""A gRPC call's two streams as one MessageStream, for the session hub and for every handler that streams."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Generic, TypeVar

import grpc
from prometheus_client import Counter

from cloudless.errors import Unavailable

Out = TypeVar("Out")
In = TypeVar("In")

MESSAGES = Counter("cloudless_grpc_messages_total", "Messages on gRPC streams.", ["direction"])
_RECEIVED = MESSAGES.labels("received")
_SENT = MESSAGES.labels("sent")


# BaseError: what gRPC's core refuses, such as an operation on a call whose connection is gone. No RpcError.
BROKEN: Final = (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError)


class GrpcMessageStream(Generic[Out, In]):
    """Adapts a server-side call. One task sends at a time and one receives at a time.

    `peek` looks at the first message without consuming it, so that authorisation can read what the caller asks
    for. Closing makes later sends fail; the call itself ends when its handler returns.
    """

    def __init__(self, context: Any) -> None:
        self._context = context
        self._peeked: list[In | None] = []
        self._closed = False
        self._ended = False

    async def send(self, message: Out) -> None:
        if self._closed:
            raise Unavailable("the stream is closed", reason="StreamClosed")
        try:
            await self._context.write(message)
        except BROKEN as error:
            raise Unavailable(f"the stream broke: {error}", reason="StreamBroken") from None
        _SENT.inc()

    async def receive(self) -> In | None:
        if self._peeked:
            return self._peeked.pop()
        if self._ended:
            return None
        try:
            message = await self._context.read()
        except BROKEN as error:
            raise Unavailable(f"the stream broke: {error}", reason="StreamBroken") from None
        if message is grpc.aio.EOF:
            self._ended = True
            return None
        _RECEIVED.inc()
        return message  # type: ignore[no-any-return]

    async def peek(self) -> In | None:
        """The first message, which the next `receive` returns again; None when the peer sent none."""
        if not self._peeked:
            self._peeked.append(await self.receive())
        return self._peeked[0]

    async def close(self) -> None:
        self._closed = True

    def __aiter__(self) -> GrpcMessageStream[Out, In]:
        return self

    async def __anext__(self) -> In:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message
