"""MemberService: what coordinators ask of each other. Who calls is said by the certificate, never by a message."""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from cloudless.api.v1 import member_pb2, member_pb2_grpc
from cloudless.coordinator.core.commands import RecordEvent
from cloudless.coordinator.joining import read_identity
from cloudless.coordinator.rpc.addresses import split
from cloudless.coordinator.rpc.call import current
from cloudless.coordinator.rpc.services.backend import Backend, required
from cloudless.coordinator.rpc.services.peers import PeerCalls
from cloudless.core.model import Severity
from cloudless.errors import PermissionDenied

log = structlog.get_logger(__name__)


class Members(PeerCalls, member_pb2_grpc.MemberServiceServicer):
    """Refuses with PermissionDenied who is no coordinator of this fabric: CoordinatorUnknown, CoordinatorRemoved."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def FetchIdentity(self, request: Any, context: Any) -> Any:
        """Recorded before it is given out, so that the log knows of every copy of the authority."""
        backend = self._backend
        name = await self._admitted()
        await backend.write(
            RecordEvent(
                type="security.identity_fetched",
                severity=Severity.WARNING,
                resource=f"coordinator/{name}",
                description=f"{name} fetched the fabric's authority and the key of join tokens",
                metadata={"peer": context.peer()[:200]},
            )
        )
        files = await asyncio.to_thread(read_identity, backend.config.data_dir)
        log.warning("security.identity_fetched", coordinator=name, peer=context.peer())
        return member_pb2.FetchIdentityResponse(
            files=[member_pb2.IdentityFile(path=path, content=content) for path, content in files.items()]
        )

    async def AddLearner(self, request: Any, context: Any) -> Any:
        name = await self._admitted()
        address = required(request.member_address, "member_address")
        split(address, "member_address")  # what is in the log has to be one
        await self._backend.store.membership.add_learner(name, address)
        log.info("member.added", coordinator=name, member_address=address)
        return member_pb2.AddLearnerResponse(cluster_id=self._backend.cluster_id())

    async def _admitted(self) -> str:
        """The calling coordinator, which the fabric has admitted and not removed."""
        name = current().caller.name
        await self._backend.store.read_barrier()  # another coordinator may have admitted or removed it just now
        known = self._backend.state.coordinators.get(name)
        if known is None:
            raise PermissionDenied(
                f"coordinator {name} is not known to this fabric",
                reason="CoordinatorUnknown",
                remedy=f"admit it: cloudlessctl cluster add {name}",
            )
        if known.removed:
            raise PermissionDenied(
                f"coordinator {name} was removed from this fabric",
                reason="CoordinatorRemoved",
                remedy="empty its data folder and add it under a new id with `cloudlessctl cluster add`",
            )
        return name
