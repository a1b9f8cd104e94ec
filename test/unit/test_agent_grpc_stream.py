"""What gRPC's core refuses on a call whose connection went is a broken stream, and nothing that ends an agent."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
import pytest
from grpc._cython import cygrpc

from cloudless.agent.grpc_stream import GrpcStream
from cloudless.coordinator.rpc.streams import GrpcMessageStream
from cloudless.errors import Unavailable


class Refusing:
    """A call on which every operation fails as gRPC's core lets it fail."""

    def __init__(self) -> None:
        self.cancelled = self.released = False

    async def refuse(self, *_: object) -> Any:
        raise cygrpc.ExecuteBatchError('Failed "execute_batch"')

    write = read = done_writing = code = refuse

    def cancel(self) -> None:
        self.cancelled = True

    async def release(self) -> None:
        self.released = True


def test_what_the_core_refuses_is_no_error_of_a_call() -> None:
    assert issubclass(cygrpc.ExecuteBatchError, grpc.aio.BaseError)
    assert not issubclass(cygrpc.ExecuteBatchError, grpc.RpcError)


async def test_an_agents_stream_breaks_and_closes() -> None:
    call: Any = Refusing()
    stream: GrpcStream[Any, Any] = GrpcStream(call, call)
    for operation in (stream.send(object()), stream.receive()):
        with pytest.raises(Unavailable) as caught:
            await operation
        assert caught.value.reason == "StreamBroken"
    await asyncio.wait_for(stream.close(), 1)
    assert call.cancelled
    assert call.released


async def test_a_coordinators_stream_breaks() -> None:
    stream: GrpcMessageStream[Any, Any] = GrpcMessageStream(Refusing())
    for operation in (stream.send(object()), stream.receive()):
        with pytest.raises(Unavailable) as caught:
            await operation
        assert caught.value.reason == "StreamBroken"
