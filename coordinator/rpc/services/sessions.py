"""SessionService: the agents' side. A node's id comes from its certificate, never from a message."""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

from typing import Any

import structlog

from cloudless.api.v1 import session_pb2, session_pb2_grpc
from cloudless.coordinator.core.commands import RenewCertificate
from cloudless.coordinator.rpc.call import current
from cloudless.coordinator.rpc.services.backend import Backend
from cloudless.coordinator.rpc.services.users import ISSUED
from cloudless.identity.spiffe import NODE, SpiffeId

log = structlog.get_logger(__name__)


class Sessions(session_pb2_grpc.SessionServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def Connect(self, stream: Any, context: Any) -> None:
        await self._backend.hub.serve(current().caller.name, stream, address=context.peer())

    async def Channel(self, stream: Any, context: Any) -> None:
        await self._backend.hub.accept_channel(current().caller.name, stream)

    async def RenewCertificate(self, request: Any, context: Any) -> Any:
        """Signs for the caller's own id only (InvalidArgument CsrIdMismatch otherwise); recorded before it is given
        out, so that every certificate of a node is in the log."""
        backend, name = self._backend, current().caller.name
        issued = backend.authority.sign_csr(
            request.csr_der,
            SpiffeId(backend.trust_domain, NODE, name),
            backend.config.identity.node_certificate_ttl_ms,
        )
        await backend.write(
            RenewCertificate(
                node_id=name,
                public_key_sha256=issued.public_key_sha256,
                certificate_serial=issued.serial,
                certificate_expires_at_ms=issued.expires_at_ms,
            )
        )
        ISSUED.labels(NODE).inc()
        log.info("security.cert_issued", node=name, serial=issued.serial, expires_at_ms=issued.expires_at_ms)
        return session_pb2.RenewCertificateResponse(
            certificate_chain_pem=issued.chain_pem.decode(), expires_at_ms=issued.expires_at_ms
        )
