"""Runs each call through the interceptors, outermost first.

gRPC's own chain of server interceptors wraps handlers anew for each call, differs for each of the four kinds of call,
and asks every service for each call. Here an interceptor is one coroutine for all four, and each method's handler is
found and wrapped once:

    async def __call__(self, call: Call, request, proceed) -> response | None

`request` is a message, or a GrpcMessageStream where the client streams. The response is a message, or None where
the server streams (the handler has written by itself).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Protocol

import grpc
import grpc.aio

from cloudless.coordinator.rpc.call import Call, enter
from cloudless.coordinator.rpc.streams import GrpcMessageStream

UNKNOWN_METHOD = "/unknown"

Proceed = Callable[[Call, Any], Awaitable[Any]]


class Interceptor(Protocol):
    async def __call__(self, call: Call, request: Any, proceed: Proceed) -> Any: ...


class Pipeline(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The one handler that gRPC sees; services are added to it as to a server. Methods outside `known` share one name,
    for a stranger may make up any number of them."""

    def __init__(self, interceptors: Sequence[Interceptor], *, known: Collection[str]) -> None:
        self._interceptors = tuple(interceptors)
        self._known = known
        self._services: list[grpc.GenericRpcHandler] = []
        self._wrapped: dict[str, Any] = {}  # by method, of those that are known

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """As a server's. The one that was added first and knows a method serves it."""
        self._services.extend(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        """What generated code calls beside the other one, with the same handlers."""

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handlers = (service.service(handler_call_details) for service in self._services)
            handler = next((handler for handler in handlers if handler is not None), None)
            if handler is None:
                return None  # gRPC answers UNIMPLEMENTED
            if method not in self._known:
                return self._wrap(UNKNOWN_METHOD, handler)
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Any) -> Any:
        run = _chain(self._interceptors, _innermost(handler))
        request_streaming, response_streaming = handler.request_streaming, handler.response_streaming

        async def serve(request: Any, context: Any) -> Any:
            call = Call(
                method=method,
                context=context,
                request_streaming=request_streaming,
                response_streaming=response_streaming,
                metadata=dict(context.invocation_metadata() or ()),
            )
            enter(call)
            return await run(call, GrpcMessageStream(context) if request_streaming else request)

        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[request_streaming, response_streaming]
        return make(serve, handler.request_deserializer, handler.response_serializer)


def _innermost(handler: Any) -> Proceed:
    function = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if not inspect.isasyncgenfunction(function):
        return lambda call, request: function(request, call.context)

    async def write_all(call: Call, request: Any) -> None:
        # Writing here, not in gRPC's own loop, lets a cancelled call close the generator at once.
        async with aclosing(function(request, call.context)) as responses:
            async for response in responses:
                await call.context.write(response)

    return write_all


def _chain(interceptors: Sequence[Interceptor], innermost: Proceed) -> Proceed:
    run = innermost
    for interceptor in reversed(interceptors):
        run = _link(interceptor, run)
    return run


def _link(interceptor: Interceptor, inner: Proceed) -> Proceed:
    return lambda call, request: interceptor(call, request, inner)
