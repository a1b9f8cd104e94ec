"""EventService: what happened, from the replicated log; a watch can be resumed after any index."""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any, Final

from cloudless.api.v1 import control_pb2, control_pb2_grpc, types_pb2
from cloudless.api.v1.convert import to_proto
from cloudless.coordinator.core.roles import EVERYWHERE
from cloudless.coordinator.core.state import State
from cloudless.coordinator.rpc.access import namespace_or_default
from cloudless.coordinator.rpc.call import Call, current
from cloudless.coordinator.rpc.listing import PAGE_BYTES_MAX
from cloudless.coordinator.rpc.services.backend import Backend
from cloudless.core.model import Event, Role
from cloudless.errors import Compacted, InvalidArgument

LIMIT_DEFAULT: Final = 500
LIMIT_MAX: Final = 5000
_ALL_OF_ENTRY: Final = 2**31

Matches = Callable[[Event], bool]


class Events(control_pb2_grpc.EventServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def ListEvents(self, request: Any, context: Any) -> Any:
        if not 0 <= request.limit <= LIMIT_MAX:
            raise InvalidArgument(f"limit must be 0 to {LIMIT_MAX}", reason="BadLimit")
        limit = request.limit or LIMIT_DEFAULT
        matches = _filter(current(), request)
        snapshot = self._backend.store.snapshot
        newest: list[types_pb2.Event] = []
        size_bytes = 0
        for event in snapshot.state.events.newest_first():
            if matches(event):
                message = to_proto(event, types_pb2.Event)
                size_bytes += message.ByteSize()
                if len(newest) == limit or size_bytes > PAGE_BYTES_MAX:
                    break
                newest.append(message)
        return control_pb2.ListEventsResponse(events=reversed(newest), revision=snapshot.index)

    async def WatchEvents(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """From index 0: from now on. Else everything after that index, which is the revision of a list; or, with its
        sequence, after the last event seen. Any coordinator goes on where another one ended. Raises Compacted where
        events after it may have been dropped."""
        if request.from_index < 0:
            raise InvalidArgument("from_index must not be negative", reason="BadRevision")
        matches = _filter(current(), request)
        snapshot = self._backend.store.snapshot
        past: list[Event] = []
        if request.from_index:
            sequence = request.from_sequence if request.HasField("from_sequence") else _ALL_OF_ENTRY
            past = _after(snapshot.state, (request.from_index, sequence))
        with closing(self._backend.store.watch(max(snapshot.index, request.from_index))) as batches:
            # Tells a client that waits for it that nothing from this moment on will be missed.
            await context.send_initial_metadata(())
            for event in past:
                if matches(event):
                    yield _message(event)
            async for batch in batches:
                for event in batch.events:
                    if matches(event):
                        yield _message(event)


def _after(state: State, seen: tuple[int, int]) -> list[Event]:
    """The kept events behind the one of index and sequence `seen`, oldest first. Raises Compacted where some may have
    been dropped."""
    found: list[Event] = []
    for event in state.events.newest_first():
        if (event.index, event.sequence) <= seen:
            return found[::-1]
        found.append(event)
    if len(state.events) >= state.events.limit:
        raise Compacted(
            f"events after index {seen[0]} are no longer all kept",
            reason="EventsCompacted",
            remedy="list the events that are kept and watch from the list's revision",
        )
    return found[::-1]


def _message(event: Event) -> Any:
    return control_pb2.WatchEventsResponse(event=to_proto(event, types_pb2.Event))


def _filter(call: Call, request: Any) -> Matches:
    """Namespace, type prefix and resource. What is cluster-wide is for those who may see everything."""
    namespace = None if request.all_namespaces else namespace_or_default(request.namespace)
    prefix, resource = request.type_prefix, request.resource

    def matches(event: Event) -> bool:
        if namespace is None:
            if not call.caller.may(Role.VIEWER, event.namespace or EVERYWHERE):
                return False
        elif event.namespace != namespace:
            return False
        if not event.type.startswith(prefix):
            return False
        if resource.endswith("/"):
            return event.resource.startswith(resource)
        return not resource or event.resource == resource

    return matches
