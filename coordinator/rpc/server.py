"""The two gRPC listeners and what is served on each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from cloudless.api.v1 import (
    control_pb2,
    control_pb2_grpc,
    member_pb2,
    member_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
)
from cloudless.coordinator.directory import Directory
from cloudless.coordinator.rpc import access, addresses
from cloudless.coordinator.rpc.authentication import Authentication
from cloudless.coordinator.rpc.authorization import Authorization
from cloudless.coordinator.rpc.consistency import Consistency
from cloudless.coordinator.rpc.deadlines import Deadlines
from cloudless.coordinator.rpc.failures import Failures
from cloudless.coordinator.rpc.learning import Learning
from cloudless.coordinator.rpc.observation import Observation
from cloudless.coordinator.rpc.pipeline import Pipeline
from cloudless.coordinator.rpc.services.backend import Backend
from cloudless.coordinator.rpc.services.cluster import Cluster
from cloudless.coordinator.rpc.services.enrollment import Enrollment
from cloudless.coordinator.rpc.services.events import Events
from cloudless.coordinator.rpc.services.images import Images
from cloudless.coordinator.rpc.services.members import Members
from cloudless.coordinator.rpc.services.nodes import Nodes
from cloudless.coordinator.rpc.services.planning import Planning
from cloudless.coordinator.rpc.services.sessions import Sessions
from cloudless.coordinator.rpc.services.tokens import Tokens
from cloudless.coordinator.rpc.services.users import Users
from cloudless.coordinator.rpc.services.workload_service import WorkloadService
from cloudless.errors import Unauthenticated, Unavailable
from cloudless.identity.channel import (
    KEEPALIVE_INTERVAL_MS,
    SERVER_OPTIONS,
    Option,
    ServerCertificate,
    server_credentials,
)

log = structlog.get_logger(__name__)

ENROLL_MESSAGE_BYTES: Final = 64 * 1024
ENROLL_CONCURRENT_CALLS: Final = 256
ENROLL_DEADLINE_MS: Final = 15_000

_FIRST_MESSAGE_S: Final = 1.0

# Clients ping idle connections every ten seconds. gRPC's own limit is one ping in five minutes; a connection with
# nothing but a quiet watch on it would be closed as abusive after half a minute.
_PINGS: Final[Option] = ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_INTERVAL_MS // 2)
# A stranger who does not finish the TLS handshake holds a connection for no longer.
_HANDSHAKE: Final[Option] = ("grpc.server_handshake_timeout_ms", 10_000)
_API_OPTIONS: Final[Sequence[Option]] = (*SERVER_OPTIONS, _PINGS, _HANDSHAKE, ("grpc.max_concurrent_streams", 1024))
_ENROLL_OPTIONS: Final[Sequence[Option]] = (
    *(option for option in SERVER_OPTIONS if option[0] != "grpc.max_receive_message_length"),
    _PINGS,
    _HANDSHAKE,
    ("grpc.max_receive_message_length", ENROLL_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", 64),
    # Strangers get in here: calls whose request never comes end with their connection.
    ("grpc.max_connection_idle_ms", 30_000),
    ("grpc.max_connection_age_ms", 60_000),
    ("grpc.max_connection_age_grace_ms", ENROLL_DEADLINE_MS),
)

API_SERVICES: Final = tuple(
    service.full_name
    for file in (control_pb2, session_pb2, member_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    if service.name != "EnrollmentService"
)
ENROLL_SERVICES: Final = ("cloudless.api.v1.EnrollmentService",)


class RpcServer:
    """Binds both listeners, then serves. `api_address` and `enroll_address` are the real ones (port 0 picks one)."""

    def __init__(self, backend: Backend, certificate: ServerCertificate) -> None:
        self._backend = backend
        self._certificate = certificate
        self._health = health.HealthServicer()
        authentication = Authentication(
            trust_domain=backend.trust_domain, state=lambda: backend.state, clock=backend.clock
        )
        self._authorization = Authorization(authentication, state=lambda: backend.state, clock=backend.clock)
        observation, failures = Observation(), Failures()
        api = (
            observation,
            failures,
            Deadlines(),
            Learning(backend.directory.api_addresses),
            Consistency(backend.store),
            authentication,
            self._authorization,
        )
        enroll = (observation, failures, Deadlines(default_ms=ENROLL_DEADLINE_MS, max_ms=ENROLL_DEADLINE_MS))
        self._api_services = Pipeline(api, known=access.TABLE)
        self._enroll_services = Pipeline(enroll, known=access.OPEN)
        self._api = grpc.aio.server(handlers=[self._api_services], options=_API_OPTIONS)
        self._enroll = grpc.aio.server(
            handlers=[self._enroll_services],
            options=_ENROLL_OPTIONS,
            maximum_concurrent_rpcs=ENROLL_CONCURRENT_CALLS,
        )
        self._watcher: asyncio.Task[None] | None = None
        self.api_address = ""
        self.enroll_address = ""

    async def start(self) -> None:
        """Binds and serves. Raises FailedPrecondition (PortInUse), InvalidArgument (BadSetting)."""
        listen = self._backend.config.listen
        self.api_address = self._bind(self._api, listen.api, "listen.api", require_client=True)
        self.enroll_address = self._bind(self._enroll, listen.enroll, "listen.enroll", require_client=False)
        self._backend.directory.listening(
            api=tuple(addresses.advertised(listen.advertise, self.api_address)),
            enroll=tuple(addresses.advertised(listen.advertise_enroll, self.enroll_address)),
            member=self._backend.directory.own_member,
        )
        self._serve_api()
        self._serve_enrollment()
        await self.ready(False)
        await self._api.start()
        await self._enroll.start()
        self._watcher = asyncio.create_task(self._authorization.watch_streams(), name="rpc.watch_streams")

    async def ready(self, serving: bool) -> None:
        """What the health service answers."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *API_SERVICES, *ENROLL_SERVICES):
            await self._health.set(service, status)

    async def stop(self, *, grace_s: float) -> None:
        """Takes no new calls, ends open streams at once (their clients go elsewhere or come back), gives other calls
        `grace_s` to end, then cancels them. Safe to call twice."""
        self._authorization.end_streams(
            Unavailable("the coordinator is stopping", reason="ShuttingDown", remedy="connect again in a moment")
        )
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
        await asyncio.gather(self._api.stop(grace_s), self._enroll.stop(grace_s))

    def _bind(self, server: grpc.aio.Server, address: str, setting: str, *, require_client: bool) -> str:
        host, port = addresses.split(address, setting)
        credentials = server_credentials(self._certificate, require_client=require_client)
        try:
            bound = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise addresses.in_use(address, setting) from error
        return addresses.joined(host, bound if port == 0 else port)

    def _serve_api(self) -> None:
        backend, server = self._backend, self._api_services
        control, session = _registrations(control_pb2_grpc), _registrations(session_pb2_grpc)
        session.add_SessionServiceServicer_to_server(Sessions(backend), server)
        _registrations(member_pb2_grpc).add_MemberServiceServicer_to_server(Members(backend), server)
        control.add_TokenServiceServicer_to_server(Tokens(backend), server)
        control.add_NodeServiceServicer_to_server(Nodes(backend), server)
        control.add_WorkloadServiceServicer_to_server(WorkloadService(backend), server)
        control.add_PlanningServiceServicer_to_server(Planning(backend), server)
        control.add_ImageServiceServicer_to_server(Images(backend), server)
        control.add_UserServiceServicer_to_server(Users(backend), server)
        control.add_EventServiceServicer_to_server(Events(backend), server)
        control.add_ClusterServiceServicer_to_server(Cluster(backend), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        shown = reflection.aio.ReflectionServicer((*API_SERVICES, HEALTH, reflection.SERVICE_NAME))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(shown, server)

    def _serve_enrollment(self) -> None:
        control, server = _registrations(control_pb2_grpc), self._enroll_services
        control.add_EnrollmentServiceServicer_to_server(Enrollment(self._backend), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        server.add_generic_rpc_handlers((_NeedsCertificate(self._backend.directory),))


def _registrations(module: Any) -> Any:
    """Generated code carries no types."""
    return module


class _NeedsCertificate(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every other call on the enrolment listener, whatever its name and kind."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._handler = grpc.stream_stream_rpc_method_handler(self._refuse)

    def service(self, handler_call_details: Any) -> Any:
        return self._handler

    async def _refuse(self, stream: Any, context: Any) -> None:
        # Clients that are still sending when the answer comes may lose it.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_MESSAGE_S):
                await stream.receive()
        where = ", ".join(self._directory.api_addresses())
        raise Unauthenticated(
            f"this call needs a client certificate; use the mTLS listener at {where}",
            reason="CertificateMissing",
            remedy=f"dial {where} with the certificate that enrolment or an administrator gave you",
        )
