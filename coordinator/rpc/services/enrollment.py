"""EnrollmentService: from a join token and a certificate request to a node's first certificate."""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import structlog
from opentelemetry import trace
from prometheus_client import Counter

from cloudless.api.v1 import control_pb2, control_pb2_grpc
from cloudless.coordinator.core.apply_nodes import admitting_token
from cloudless.coordinator.core.commands import EnrollNode, RenewCertificate
from cloudless.coordinator.rpc.authentication import REFUSED
from cloudless.coordinator.rpc.services.backend import Backend
from cloudless.coordinator.rpc.services.users import ISSUED
from cloudless.errors import CloudlessError
from cloudless.identity.ca import IssuedCertificate
from cloudless.identity.csr import read_csr
from cloudless.identity.spiffe import NODE, SpiffeId
from cloudless.identity.tokens import audience_of

ENROLLMENTS = Counter("cloudless_node_enrollments_total", "Enrolments by result.", ["result"])

log = structlog.get_logger(__name__)
tracer = trace.get_tracer("cloudless.enrollment")


class Enrollment(control_pb2_grpc.EnrollmentServiceServicer):
    """Refuses with TokenRefused (its reason says why), InvalidArgument (BadSpiffeId, CsrInvalid, CsrIdMismatch) or
    FailedPrecondition. A repeat of an enrolment, by token, name and key, counts no second use."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def Enroll(self, request: Any, context: Any) -> Any:
        with tracer.start_as_current_span("enroll", record_exception=False):
            try:
                response = await self._enroll(request)
            except CloudlessError as error:
                ENROLLMENTS.labels("refused").inc()
                REFUSED.labels(error.reason).inc()
                log.warning(
                    "security.auth_failed",
                    reason=error.reason,
                    detail=error.message,
                    node=request.node_name[:64],
                    peer=context.peer(),
                )
                raise
        ENROLLMENTS.labels("enrolled").inc()
        ISSUED.labels(NODE).inc()
        return response

    async def _enroll(self, request: Any) -> Any:
        backend = self._backend
        now_ms = backend.clock.now_ms()
        audience = audience_of(backend.trust_domain)
        claims = backend.signer.verify(request.token, audience=audience, now_ms=now_ms)
        spiffe_id = SpiffeId(backend.trust_domain, NODE, request.node_name)
        key = read_csr(request.csr_der).public_key_sha256
        request_id = _request_id(claims.id, request.node_name, key)
        if not self._is_repeat(request_id, request.node_name, key):
            # Here too, so that who holds a spent token cannot make this coordinator sign, or fill its log.
            admitting_token(
                backend.state, EnrollNode(claims.id, request.node_name, public_key_sha256=key), now_ms=now_ms
            )
        # Signed first, because the log keeps the serial; it leaves this process only once the use was counted.
        issued = backend.authority.sign_csr(request.csr_der, spiffe_id, backend.config.identity.node_certificate_ttl_ms)
        await self._admit(claims.id, request.node_name, issued, request_id=request_id)
        log.info(
            "security.cert_issued", node=request.node_name, serial=issued.serial, expires_at_ms=issued.expires_at_ms
        )
        return control_pb2.EnrollResponse(
            certificate_chain_pem=issued.chain_pem.decode(),
            trust_bundle_pem=backend.authority.trust_bundle_pem.decode(),
            expires_at_ms=issued.expires_at_ms,
            node_id=request.node_name,
            trust_domain=backend.trust_domain,
            coordinators=backend.api_addresses,
        )

    def _is_repeat(self, request_id: str, name: str, key: str) -> bool:
        """Whether the device was admitted by this very enrolment, and is still the node of this name."""
        state = self._backend.state
        node = state.nodes.get(name)
        return request_id in state.results and node is not None and node.public_key_sha256 == key

    async def _admit(self, token_id: str, name: str, issued: IssuedCertificate, *, request_id: str) -> None:
        """Counts one use of the token and admits the node, once for each `request_id`."""
        backend = self._backend
        before = backend.state.nodes.get(name)
        certificate: dict[str, Any] = {
            "node_id": name,
            "public_key_sha256": issued.public_key_sha256,
            "certificate_serial": issued.serial,
            "certificate_expires_at_ms": issued.expires_at_ms,
        }
        command = EnrollNode(token_id=token_id, **certificate)
        actor = f"node/{name}"
        if before is not None and before.public_key_sha256 != issued.public_key_sha256:
            # Refused until the old node is removed; under an id of its own, so that this answer does not stick.
            request_id = _once()
        await backend.store.propose(command, actor=actor, request_id=request_id)
        after = backend.state.nodes.get(name)
        if after is None:
            # The answer of an earlier enrolment came back, and the node has been removed since: a new admission.
            await backend.store.propose(command, actor=actor, request_id=_once())
        elif after.certificate_serial != issued.serial:
            await backend.store.propose(RenewCertificate(**certificate), actor=actor, request_id=_once())


def _request_id(token_id: str, name: str, public_key_sha256: str) -> str:
    """The entry's id follows from token, name and key, so that a repeated enrolment is recognised."""
    same = hashlib.sha256(f"{token_id}\0{name}\0{public_key_sha256}".encode()).hexdigest()[:32]
    return f"enroll/{same}"


def _once() -> str:
    return f"enroll/{secrets.token_hex(16)}"
