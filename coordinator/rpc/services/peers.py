"""The part of MemberService in which coordinators tell each other of their nodes and reach them for each other.

Mixed into the servicer of MemberService. Both calls work without a leader: they are about what this process holds.
"""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import structlog

from cloudless.api.v1 import member_pb2
from cloudless.coordinator.channels import relay
from cloudless.coordinator.rpc.call import current
from cloudless.coordinator.rpc.peers import ACTOR_METADATA
from cloudless.coordinator.rpc.services.backend import Backend, required
from cloudless.coordinator.rpc.streams import GrpcMessageStream
from cloudless.errors import InvalidArgument

log = structlog.get_logger(__name__)

RelayCall = GrpcMessageStream[member_pb2.RelayChannelResponse, member_pb2.RelayChannelRequest]


class PeerCalls:
    """Handlers of MemberService. Who calls is a coordinator: the access table and authentication see to it. What a
    person may was checked by the coordinator that the person called."""

    _backend: Backend

    async def Observe(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async with aclosing(self._backend.hub.observe()) as answers:
            async for answer in answers:
                yield answer

    async def RelayChannel(self, stream: RelayCall, context: Any) -> None:
        """A channel to a node that is connected here. Raises what `SessionHub.open_channel_here` does."""
        first = await stream.receive()
        if first is None or first.WhichOneof("message") != "start":
            raise InvalidArgument("the first message of RelayChannel must be `start`", reason="FirstMessageMissing")
        node_id = required(first.start.node_id, "node_id")
        call = current()
        log.info(
            "channel.relayed",
            node=node_id,
            kind=first.start.open.WhichOneof("open") or "unknown",
            actor=str(call.metadata.get(ACTOR_METADATA, ""))[:200],
            coordinator=call.caller.name,
        )
        async with await self._backend.hub.open_channel_here(node_id, first.start.open) as channel:
            await relay(channel, stream)
