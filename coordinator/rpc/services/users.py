"""UserService: people, their role bindings and their certificates."""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

from typing import Any

import structlog
from prometheus_client import Counter

from cloudless.api.v1 import control_pb2, control_pb2_grpc, types_pb2
from cloudless.api.v1.convert import from_proto, to_proto
from cloudless.coordinator.core.commands import PutUser, RevokeUser
from cloudless.coordinator.core.requests import user_violations
from cloudless.coordinator.rpc.call import current
from cloudless.coordinator.rpc.services.backend import Backend, refuse_violations, required
from cloudless.core.model import RoleBinding, User
from cloudless.core.validation import validate_name
from cloudless.identity.ca import IssuedCertificate
from cloudless.identity.spiffe import USER, SpiffeId

ISSUED = Counter("cloudless_certificates_issued_total", "Certificates signed.", ["kind"])

log = structlog.get_logger(__name__)


class Users(control_pb2_grpc.UserServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def PutUser(self, request: Any, context: Any) -> Any:
        backend = self._backend
        bindings = tuple(from_proto(binding, RoleBinding) for binding in request.bindings)
        user = User(name=request.name, bindings=bindings, created_at_ms=backend.clock.now_ms())
        refuse_violations(user_violations(user, ttl_ms=request.ttl_ms))
        issued = None
        if request.csr_der:
            # Signed before it is proposed, so that a bad request changes nothing; given out only afterwards.
            issued = self._sign(request.csr_der, request.name, request.ttl_ms)
        await backend.write(PutUser(user=user))
        response = control_pb2.PutUserResponse(
            user=to_proto(backend.state.users.get(request.name, user), types_pb2.User),
            trust_bundle_pem=backend.authority.trust_bundle_pem.decode(),
        )
        if issued is not None:
            _log_issued(issued, request.name)
            response.certificate_chain_pem = issued.chain_pem.decode()
            response.expires_at_ms = issued.expires_at_ms
        return response

    async def ListUsers(self, request: Any, context: Any) -> Any:
        users = sorted(self._backend.state.users.values(), key=lambda user: user.name)
        return control_pb2.ListUsersResponse(users=[to_proto(user, types_pb2.User) for user in users])

    async def RevokeUser(self, request: Any, context: Any) -> Any:
        refuse_violations(validate_name(required(request.name, "name"), "name"))
        await self._backend.write(RevokeUser(name=request.name))
        return control_pb2.RevokeUserResponse()

    async def WhoAmI(self, request: Any, context: Any) -> Any:
        caller = current().caller
        return control_pb2.WhoAmIResponse(
            id=caller.spiffe_id,
            bindings=[to_proto(binding, types_pb2.RoleBinding) for binding in caller.bindings],
            certificate_expires_at_ms=caller.certificate_expires_at_ms,
        )

    async def RenewUserCertificate(self, request: Any, context: Any) -> Any:
        """For the life that the present certificate was given: who was let in for an hour is not let in for a month."""
        name = current().caller.name
        issued = self._sign(request.csr_der, name, current().caller.certificate_ttl_ms)
        _log_issued(issued, name)
        return control_pb2.RenewUserCertificateResponse(
            certificate_chain_pem=issued.chain_pem.decode(), expires_at_ms=issued.expires_at_ms
        )

    def _sign(self, csr_der: bytes, name: str, ttl_ms: int) -> IssuedCertificate:
        backend = self._backend
        expected = SpiffeId(backend.trust_domain, USER, name)
        return backend.authority.sign_csr(csr_der, expected, ttl_ms or backend.config.identity.user_certificate_ttl_ms)


def _log_issued(issued: IssuedCertificate, name: str) -> None:
    ISSUED.labels(USER).inc()
    log.info("security.cert_issued", user=name, serial=issued.serial, expires_at_ms=issued.expires_at_ms)
