"""Each call's way through the interceptors, over a real gRPC server."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY

from cloudless.coordinator.rpc import observation
from cloudless.coordinator.rpc.call import current
from cloudless.coordinator.rpc.deadlines import Deadlines
from cloudless.coordinator.rpc.failures import Failures
from cloudless.coordinator.rpc.observation import Observation, valid_request_id
from cloudless.coordinator.rpc.pipeline import UNKNOWN_METHOD, Pipeline
from cloudless.coordinator.rpc.streams import GrpcMessageStream
from cloudless.errors import BY_CODE, Conflict, InvalidArgument, Unavailable
from cloudless.identity.channel import error_from_rpc
from cloudless.observe import tracing


class Server:
    """Methods under /test.T/<name>, with bytes as messages."""

    def __init__(self, deadlines: Deadlines) -> None:
        self.methods: dict[str, grpc.RpcMethodHandler] = {}
        known = _Everything()
        pipeline = Pipeline((Observation(), Failures(), deadlines), known=known)
        self.server = grpc.aio.server(handlers=[pipeline])
        outer = self

        class Handler(grpc.GenericRpcHandler):
            def service(self, details: Any) -> Any:
                return outer.methods.get(details.method)

        pipeline.add_generic_rpc_handlers((Handler(),))
        self.port = self.server.add_insecure_port("127.0.0.1:0")


class _Everything(frozenset[str]):
    def __contains__(self, item: object) -> bool:
        return item != "/test.T/Stranger"


@pytest.fixture
async def served() -> AsyncIterator[tuple[Server, grpc.aio.Channel]]:
    server = Server(Deadlines(default_ms=200, max_ms=400))
    await server.server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield server, channel
    await server.server.stop(None)


async def _failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("cls", sorted(set(BY_CODE.values()), key=lambda cls: cls.code))
async def test_each_error_arrives_as_itself(served: Any, cls: Any) -> None:
    server, channel = served

    async def handler(request: bytes, context: Any) -> bytes:
        raise cls("the cause: größer", reason="SomeReason", remedy="do this: größer")

    server.methods["/test.T/Fail"] = grpc.unary_unary_rpc_method_handler(handler)
    error = await _failure(channel.unary_unary("/test.T/Fail")(b""))
    assert error.code().name == cls.grpc_status
    back = error_from_rpc(error)
    if cls.code == "internal":
        assert "größer" not in back.message
    else:
        assert (type(back), back.message, back.reason, back.remedy) == (
            cls,
            "the cause: größer",
            "SomeReason",
            "do this: größer",
        )


async def test_nothing_of_a_bug_reaches_the_caller(served: Any) -> None:
    server, channel = served

    async def handler(request: bytes, context: Any) -> bytes:
        raise KeyError("password=hunter2")

    server.methods["/test.T/Bug"] = grpc.unary_unary_rpc_method_handler(handler)
    error = await _failure(channel.unary_unary("/test.T/Bug")(b"", metadata=(("cloudless-request-id", "r-1"),)))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in error.details()
    assert "KeyError" not in error.details()
    assert "r-1" in error.details()
    assert dict(error.trailing_metadata())["cloudless-request-id"] == "r-1"


async def test_a_long_message_with_many_violations_is_cut_not_lost(served: Any) -> None:
    server, channel = served

    async def handler(request: bytes, context: Any) -> bytes:
        raise InvalidArgument("ä" * 50_000, remedy="r" * 50_000)

    server.methods["/test.T/Long"] = grpc.unary_unary_rpc_method_handler(handler)
    error = await _failure(channel.unary_unary("/test.T/Long")(b""))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().endswith("...")


async def test_request_ids(served: Any) -> None:
    server, channel = served

    async def handler(request: bytes, context: Any) -> bytes:
        return current().request_id.encode()

    server.methods["/test.T/Id"] = grpc.unary_unary_rpc_method_handler(handler)
    call = channel.unary_unary("/test.T/Id")
    assert await call(b"", metadata=(("cloudless-request-id", "mine"),)) == b"mine"
    first, second = await call(b""), await call(b"")
    assert first != second
    assert valid_request_id(first.decode())
    for bad in ("x" * 129, "has space", ""):
        error = await _failure(call(b"", metadata=(("cloudless-request-id", bad),)))
        assert error_from_rpc(error).reason == "BadRequestId"


async def test_a_call_without_deadline_gets_the_default(served: Any) -> None:
    server, channel = served
    cancelled = asyncio.Event()

    async def handler(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return b""

    server.methods["/test.T/Slow"] = grpc.unary_unary_rpc_method_handler(handler)
    error = await _failure(channel.unary_unary("/test.T/Slow")(b""))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "0.2 s" in error.details()
    await asyncio.wait_for(cancelled.wait(), 5)
    clamped = await _failure(channel.unary_unary("/test.T/Slow")(b"", timeout=3600))
    assert "0.4 s" in clamped.details()
    own = await _failure(channel.unary_unary("/test.T/Slow")(b"", timeout=0.05))
    assert own.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_streams_have_no_limit_and_can_be_peeked(served: Any) -> None:
    server, channel = served

    async def echo(stream: GrpcMessageStream[bytes, bytes], context: Any) -> None:
        assert await stream.peek() == b"1"
        await asyncio.sleep(0.45)  # past both limits of unary calls
        async for message in stream:
            await stream.send(message + b"!")

    server.methods["/test.T/Echo"] = grpc.stream_stream_rpc_method_handler(echo)

    async def requests() -> AsyncIterator[bytes]:
        yield b"1"
        yield b"2"

    call = channel.stream_stream("/test.T/Echo")(requests())
    assert [message async for message in call] == [b"1!", b"2!"]


async def test_a_cancelled_watch_closes_its_generator(served: Any) -> None:
    server, channel = served
    closed = asyncio.Event()

    async def watch(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            closed.set()

    server.methods["/test.T/Watch"] = grpc.unary_stream_rpc_method_handler(watch)
    call = channel.unary_stream("/test.T/Watch")(b"")
    assert await call.read() == b"first"
    call.cancel()
    await asyncio.wait_for(closed.wait(), 5)


async def test_an_error_in_the_middle_of_a_stream_keeps_its_reason(served: Any) -> None:
    server, channel = served

    async def watch(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        raise Conflict("changed", reason="Moved")

    server.methods["/test.T/Watch"] = grpc.unary_stream_rpc_method_handler(watch)
    call = channel.unary_stream("/test.T/Watch")(b"")
    assert await call.read() == b"first"
    error = await _failure(call.read())
    assert error_from_rpc(error).reason == "Moved"


async def test_sending_on_a_closed_stream_is_unavailable() -> None:
    stream: GrpcMessageStream[bytes, bytes] = GrpcMessageStream(None)
    await stream.close()
    await stream.close()
    with pytest.raises(Unavailable):
        await stream.send(b"")


async def test_names_made_up_by_strangers_share_one_metric(served: Any) -> None:
    server, channel = served

    async def handler(request: bytes, context: Any) -> bytes:
        return current().method.encode()

    server.methods["/test.T/Stranger"] = grpc.unary_unary_rpc_method_handler(handler)
    assert await channel.unary_unary("/test.T/Stranger")(b"") == UNKNOWN_METHOD.encode()
    labels = {"method": UNKNOWN_METHOD, "code": "OK"}
    assert REGISTRY.get_sample_value("cloudless_grpc_requests_total", labels)
    assert not REGISTRY.get_sample_value("cloudless_grpc_requests_total", {"method": "/test.T/Stranger", "code": "OK"})


async def test_an_unknown_method_is_unimplemented(served: Any) -> None:
    _, channel = served
    error = await _failure(channel.unary_unary("/test.T/None")(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_refused_calls_leave_nothing_behind(served: Any) -> None:
    """gRPC's own `abort` makes a cycle of each call; the transport counts them as open until they are collected."""
    server, channel = served
    contexts: list[weakref.ref[Any]] = []

    async def handler(request: bytes, context: Any) -> bytes:
        contexts.append(weakref.ref(current()))
        raise Conflict("no")

    server.methods["/test.T/No"] = grpc.unary_unary_rpc_method_handler(handler)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            await _failure(channel.unary_unary("/test.T/No")(b""))
        await channel.close()  # the last call's task has ended for certain
        assert [ref() for ref in contexts[:2]] == [None, None]
    finally:
        gc.enable()


async def test_each_call_is_one_span_below_its_callers(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server, channel = served
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(observation, "tracer", provider.get_tracer("test"))
    monkeypatch.setattr(tracing, "_on", True)

    async def handler(request: bytes, context: Any) -> bytes:
        raise Conflict("no")

    server.methods["/test.T/Traced"] = grpc.unary_unary_rpc_method_handler(handler)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    metadata = (("traceparent", parent), ("cloudless-request-id", "r-7"))
    await _failure(channel.unary_unary("/test.T/Traced")(b"", metadata=metadata))
    (span,) = exporter.get_finished_spans()
    assert span.name == "test.T/Traced"
    assert format(span.context.trace_id, "032x") in parent
    assert span.attributes == {"rpc.grpc.status": "ABORTED", "request_id": "r-7"}


async def test_many_calls_share_one_timer_and_each_ends_in_its_time(served: Any) -> None:
    server, channel = served
    loop = asyncio.get_running_loop()

    async def handler(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.sleep(float(request))
        except asyncio.CancelledError:
            if request == b"9":  # one that ends all the same
                return b"late"
            raise
        return b"in time"

    server.methods["/test.T/Sleep"] = grpc.unary_unary_rpc_method_handler(handler)
    call = channel.unary_unary("/test.T/Sleep")
    for _ in range(2):  # the timer is set again after a pause
        began = loop.time()
        answers = await asyncio.gather(
            *(call(seconds) for seconds in (b"0", b"5", b"0.05", b"9", b"5")), return_exceptions=True
        )
        assert 0.19 < loop.time() - began < 2
        assert [answers[0], answers[2], answers[3]] == [b"in time", b"in time", b"late"]
        assert [answers[i].code() for i in (1, 4)] == [grpc.StatusCode.DEADLINE_EXCEEDED] * 2
