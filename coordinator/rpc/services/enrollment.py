"""EnrollmentService: from a join token and a certificate request to a first certificate."""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from typing import Any

import structlog
from opentelemetry import trace
from prometheus_client import Counter

from cloudless.api.v1 import control_pb2, control_pb2_grpc
from cloudless.coordinator.core.apply_coordinators import admitting_coordinator_token, enrolled
from cloudless.coordinator.core.apply_nodes import admitting_token
from cloudless.coordinator.core.commands import EnrollCoordinator, EnrollNode, RenewCertificate
from cloudless.coordinator.rpc.authentication import REFUSED
from cloudless.coordinator.rpc.services.backend import Backend
from cloudless.coordinator.rpc.services.users import ISSUED
from cloudless.errors import CloudlessError, FailedPrecondition, TokenRefused
from cloudless.identity.ca import IssuedCertificate
from cloudless.identity.csr import read_csr
from cloudless.identity.spiffe import COORDINATOR, NODE, SpiffeId, server_name
from cloudless.identity.tokens import TokenClaims, audience_of

ENROLLMENTS = Counter("cloudless_node_enrollments_total", "Enrolments by result.", ["result"])
JOINS = Counter("cloudless_coordinator_joins_total", "Coordinators that asked to join, by result.", ["result"])

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
                _say_refused(error, context, node=request.node_name[:64])
                raise
        ENROLLMENTS.labels("enrolled").inc()
        ISSUED.labels(NODE).inc()
        return response

    async def JoinCoordinator(self, request: Any, context: Any) -> Any:
        with tracer.start_as_current_span("join_coordinator", record_exception=False):
            try:
                response = await self._join(request)
            except CloudlessError as error:
                JOINS.labels("refused").inc()
                _say_refused(error, context, coordinator=request.coordinator_id[:64])
                raise
        JOINS.labels("admitted").inc()
        ISSUED.labels(COORDINATOR).inc()
        return response

    async def _enroll(self, request: Any) -> Any:
        backend = self._backend
        claims = self._claims(request.token)
        spiffe_id = SpiffeId(backend.trust_domain, NODE, request.node_name)
        key = read_csr(request.csr_der).public_key_sha256
        request_id = _request_id(claims.id, request.node_name, key)
        # Another coordinator may have made the token just now: then the log decides.
        if claims.id in backend.state.tokens and not self._is_repeat(request_id, request.node_name, key):
            # Here too, so that who holds a spent token cannot make this coordinator sign, or fill its log.
            command = EnrollNode(claims.id, request.node_name, public_key_sha256=key)
            admitting_token(backend.state, command, now_ms=backend.clock.now_ms())
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

    async def _join(self, request: Any) -> Any:
        """For the same token, id and key the answer is the same, at no further use of the token."""
        backend = self._backend
        name = request.coordinator_id
        claims = self._claims(request.token)
        spiffe_id = SpiffeId(backend.trust_domain, COORDINATOR, name)
        command = EnrollCoordinator(
            token_id=claims.id,
            coordinator_id=name,
            public_key_sha256=read_csr(request.csr_der).public_key_sha256,
            version=request.version,
            log_schema=request.log_schema,
        )
        self._check_joining(command)
        issued = backend.authority.sign_csr(
            request.csr_der,
            spiffe_id,
            backend.config.identity.node_certificate_ttl_ms,
            dns_names=(server_name(backend.trust_domain), "localhost"),
            ip_addresses=("127.0.0.1", "::1"),
        )
        command = dataclasses.replace(command, certificate_serial=issued.serial)
        await backend.store.propose(command, actor=f"coordinator/{name}", request_id=_once("join"))
        log.info("security.cert_issued", coordinator=name, serial=issued.serial, expires_at_ms=issued.expires_at_ms)
        return control_pb2.JoinCoordinatorResponse(
            certificate_chain_pem=issued.chain_pem.decode(),
            trust_bundle_pem=backend.authority.trust_bundle_pem.decode(),
            expires_at_ms=issued.expires_at_ms,
            trust_domain=backend.trust_domain,
            coordinators=backend.api_addresses,
            store_engine=backend.config.store.engine,
        )

    def _check_joining(self, command: EnrollCoordinator) -> None:
        """Here too, so that a token that admits nobody makes this coordinator sign nothing."""
        state = self._backend.state
        token = state.tokens.get(command.token_id)
        if token is None or enrolled(state, command) is not None:
            return  # made by another coordinator just now: then the log decides; or a repeat
        known = state.coordinators.get(command.coordinator_id)
        if command.coordinator_id in token.used_by and known is not None and not known.removed:
            raise FailedPrecondition(
                f"coordinator {known.id} joined with this token before, from another data folder: this member lost its "
                "disk",
                reason="MemberLostDisk",
                remedy=f"remove {command.coordinator_id} with `cloudlessctl cluster remove`, then join with an empty "
                "folder under a new id with `cloudlessctl cluster add`",
            )
        if token.coordinator_id and token.coordinator_id != command.coordinator_id:
            raise TokenRefused(
                f"join token {token.id} admits coordinator {token.coordinator_id}, not {command.coordinator_id}",
                reason="CoordinatorNotAllowed",
                remedy=f"start the coordinator with --id {token.coordinator_id}, or make a token for this id with "
                "`cloudlessctl cluster add`",
            )
        admitting_coordinator_token(state, command, now_ms=self._backend.clock.now_ms())

    def _claims(self, token: str) -> TokenClaims:
        backend = self._backend
        audience = audience_of(backend.trust_domain)
        return backend.signer.verify(token, audience=audience, now_ms=backend.clock.now_ms())

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


def _say_refused(error: CloudlessError, context: Any, **who: str) -> None:
    REFUSED.labels(error.reason).inc()
    log.warning("security.auth_failed", reason=error.reason, detail=error.message, peer=context.peer(), **who)


def _request_id(token_id: str, name: str, public_key_sha256: str) -> str:
    """The entry's id follows from token, name and key, so that a repeated enrolment is recognised."""
    same = hashlib.sha256(f"{token_id}\0{name}\0{public_key_sha256}".encode()).hexdigest()[:32]
    return f"enroll/{same}"


def _once(kind: str = "enroll") -> str:
    return f"{kind}/{secrets.token_hex(16)}"
