"""containerd's event stream, as far as tasks go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from cloudless.agent.runtime.containerd.api import events_pb2, task_events_pb2
from cloudless.agent.runtime.containerd.client import Client, translate

_TOPICS: dict[str, tuple[str, Any]] = {
    "/tasks/start": ("start", task_events_pb2.TaskStart),
    "/tasks/exit": ("exit", task_events_pb2.TaskExit),
    "/tasks/oom": ("oom", task_events_pb2.TaskOOM),
}


async def subscribe(client: Client, readers: set[asyncio.Task[Any]]) -> AsyncIterator[tuple[str, str]]:
    """(container id, start | exit | oom) of this namespace's containers, not of execs. `readers` holds what waits for
    the daemon: cancelling it ends the iteration. Raises Unavailable when the connection is lost."""
    # the topics need quotes; within one filter all conditions must hold
    filters = [f'topic=="{topic}",namespace=="{client.namespace}"' for topic in _TOPICS]
    call = client.events.Subscribe(events_pb2.SubscribeRequest(filters=filters), metadata=client.metadata)
    try:
        while True:
            reader = asyncio.ensure_future(call.read())
            readers.add(reader)
            try:
                await asyncio.wait({reader})
            finally:
                readers.discard(reader)
                if not reader.done():
                    reader.cancel()
            if reader.cancelled():
                return
            envelope = reader.result()
            if envelope is grpc.aio.EOF:
                raise translate(grpc.aio.AioRpcError(await call.code(), (), (), await call.details()))
            kind, message_type = _TOPICS[envelope.topic]
            message = message_type.FromString(envelope.event.value)
            if kind == "exit" and message.id != message.container_id:
                continue  # an exec's
            yield message.container_id, kind
    except grpc.aio.AioRpcError as error:
        raise translate(error) from None
    finally:
        call.cancel()
