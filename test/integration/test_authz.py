"""Who gets in, on which listener, and how far: every RPC over the wire against a real coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from prometheus_client import REGISTRY

from cloudless.api.v1 import control_pb2, control_pb2_grpc, session_pb2, session_pb2_grpc
from cloudless.clock import SystemClock
from cloudless.coordinator.rpc import authorization
from cloudless.coordinator.rpc.access import OPEN, TABLE
from cloudless.core.model import Role
from cloudless.errors import CloudlessError, Unauthenticated
from cloudless.identity.ca import CertificateAuthority
from cloudless.identity.channel import channel_options, error_from_rpc
from cloudless.identity.credentials import Credentials
from cloudless.identity.csr import make_csr
from cloudless.identity.keys import key_pem, new_private_key
from cloudless.identity.spiffe import NODE, SpiffeId
from cloudless.testing.coordinator import TRUST_DOMAIN, RunningCoordinator, coordinator_config, running_coordinator
from cloudless.testing.identity import Fabric

HEALTH_CHECK = "/grpc.health.v1.Health/Check"


@pytest.fixture
async def c(tmp_path: Path) -> AsyncIterator[RunningCoordinator]:
    async with running_coordinator(tmp_path) as running:
        yield running


def _every_rpc() -> list[str]:
    files = (control_pb2, session_pb2, health_pb2, reflection_pb2)
    return [
        f"/{service.full_name}/{method.name}"
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


async def _call(channel: grpc.aio.Channel, method: str, request: bytes = b"") -> CloudlessError | None:
    """Calls by name with raw bytes, as a stranger would; what it failed with."""
    try:
        await channel.unary_unary(method)(request, timeout=10)
    except grpc.aio.AioRpcError as error:
        failure = error_from_rpc(error)
        failure.status = error.code().name  # type: ignore[attr-defined]
        return failure
    return None


def _status(failure: CloudlessError | None) -> tuple[str, str]:
    assert failure is not None
    return failure.status, failure.reason  # type: ignore[attr-defined]


def _without_certificate(c: RunningCoordinator, address: str) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(c.admin.bundle_pem)
    return grpc.aio.secure_channel(address, credentials, options=channel_options(TRUST_DOMAIN))


async def test_without_a_certificate_only_enrolment_and_health_answer(c: RunningCoordinator) -> None:
    """A scan of both ports: every RPC there is, and one that there is not."""
    async with _without_certificate(c, c.enroll_address) as channel:
        for method in [*_every_rpc(), "/made.up.Service/Method"]:
            if method.endswith("Health/Watch"):
                continue  # answers, and goes on
            failure = await _call(channel, method)
            if method not in OPEN:
                assert _status(failure) == ("UNAUTHENTICATED", "CertificateMissing"), method
                assert failure is not None
                assert c.api_address in failure.message
            elif method == HEALTH_CHECK:
                assert failure is None
            elif "Enroll" in method:
                assert _status(failure) == ("UNAUTHENTICATED", "TokenAltered")
    async with _without_certificate(c, c.api_address) as channel:
        for method in [*_every_rpc(), "/made.up.Service/Method"]:
            assert _status(await _call(channel, method))[0] == "UNAVAILABLE", method  # the handshake fails


async def test_without_tls_nothing_answers(c: RunningCoordinator) -> None:
    for address in (c.api_address, c.enroll_address):
        async with grpc.aio.insecure_channel(address) as channel:
            assert _status(await _call(channel, HEALTH_CHECK))[0] == "UNAVAILABLE"


async def _handshake_refused(c: RunningCoordinator, credentials: Credentials) -> str:
    """Every RPC is refused; why, as the client can tell."""
    async with c.channel(credentials) as channel:
        for method in _every_rpc():
            assert _status(await _call(channel, method))[0] == "UNAVAILABLE", method
        try:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        except grpc.aio.AioRpcError as error:
            return error_from_rpc(error, credentials=credentials, now_ms=SystemClock().now_ms()).reason
    raise AssertionError("the call was answered")


async def test_a_strangers_certificate_is_refused(c: RunningCoordinator, tmp_path: Path) -> None:
    stranger = Fabric(tmp_path / "stranger", trust_domain=TRUST_DOMAIN).member("user", "admin")
    posing = Credentials.from_pem(key_pem=stranger.key_pem, chain_pem=stranger.chain_pem, bundle_pem=c.admin.bundle_pem)
    assert await _handshake_refused(c, posing) == "CertificateRefused"


class _Ago:
    """Two days ago."""

    def now_ms(self) -> int:
        return SystemClock().now_ms() - 48 * 3_600_000

    def monotonic_ms(self) -> int:
        return SystemClock().monotonic_ms()


async def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    config = coordinator_config(tmp_path)
    long_ago = CertificateAuthority.create(config.data_dir / "ca", TRUST_DOMAIN, _Ago())
    async with running_coordinator(tmp_path) as c:
        key, who = new_private_key(), SpiffeId(TRUST_DOMAIN, NODE, "n1")
        await c.node("n1", key=key)
        issued = long_ago.sign_csr(make_csr(key, who), who, 24 * 3_600_000)
        expired = Credentials.from_pem(key_pem=key_pem(key), chain_pem=issued.chain_pem, bundle_pem=c.admin.bundle_pem)
        assert expired.expires_at_ms < SystemClock().now_ms()
        assert await _handshake_refused(c, expired) == "CertificateExpired"


async def test_a_node_speaks_for_itself_on_its_session_only(c: RunningCoordinator) -> None:
    one = await c.node("n1")
    await c.node("n2")
    async with c.channel(one) as channel:
        for method in TABLE:
            if "/cloudless." in method and NODE not in TABLE[method].kinds:
                assert _status(await _call(channel, method)) == ("PERMISSION_DENIED", "NotForThisCaller"), method
        other = make_csr(new_private_key(), SpiffeId(TRUST_DOMAIN, NODE, "n2"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await session_pb2_grpc.SessionServiceStub(channel).RenewCertificate(
                session_pb2.RenewCertificateRequest(csr_der=other)
            )
        assert error_from_rpc(caught.value).reason == "CsrIdMismatch"
        guess = session_pb2.ChannelRequest(channel_id="a-channel-of-another-node")
        failure = await _call(channel, "/cloudless.api.v1.SessionService/Channel", guess.SerializeToString())
        assert _status(failure) == ("PERMISSION_DENIED", "ChannelUnknown")


async def test_a_person_is_no_node(c: RunningCoordinator) -> None:
    async with c.channel() as channel:
        for name in ("Connect", "Channel", "RenewCertificate"):
            failure = await _call(channel, f"/cloudless.api.v1.SessionService/{name}")
            assert _status(failure) == ("PERMISSION_DENIED", "NotForThisCaller")


async def test_enrolment_is_not_served_to_those_with_a_certificate(c: RunningCoordinator) -> None:
    async with c.channel() as channel:
        failure = await _call(channel, "/cloudless.api.v1.EnrollmentService/Enroll")
        assert _status(failure)[0] == "UNIMPLEMENTED"


async def test_roles_over_the_wire(c: RunningCoordinator) -> None:
    viewer = await c.user("vera", (Role.VIEWER, "default"))
    operator = await c.user("olaf", (Role.OPERATOR, "default"))
    nobody = await c.user("nina")
    await c.put_workload("web")
    await c.put_workload("hidden", namespace="other")
    get = control_pb2.GetWorkloadRequest(name="web")
    scale = control_pb2.ScaleWorkloadRequest(name="web", replicas=2)
    everything = control_pb2.ListWorkloadsRequest(options=control_pb2.ListOptions(all_namespaces=True))

    async def outcome(credentials: Credentials, method: str, request: Any) -> Any:
        async with c.channel(credentials) as channel:
            try:
                return await getattr(control_pb2_grpc.WorkloadServiceStub(channel), method)(request)
            except grpc.aio.AioRpcError as error:
                return error_from_rpc(error)

    assert (await outcome(viewer, "GetWorkload", get)).workload.metadata.name == "web"
    denied = await outcome(viewer, "ScaleWorkload", scale)
    assert (denied.code, denied.reason) == ("permission_denied", "RoleRequired")
    assert "user/vera needs role operator or higher in namespace default" in denied.message
    assert (await outcome(operator, "ScaleWorkload", scale)).workload.spec.replicas == 2
    assert (await outcome(nobody, "GetWorkload", get)).reason == "RoleRequired"
    assert (await outcome(nobody, "ListWorkloads", everything)).reason == "RoleRequired"
    seen = await outcome(viewer, "ListWorkloads", everything)
    assert [workload.metadata.name for workload in seen.workloads] == ["web"]
    assert (
        await outcome(viewer, "GetWorkload", control_pb2.GetWorkloadRequest(namespace="other", name="hidden"))
    ).reason == "RoleRequired"
    method = "/cloudless.api.v1.WorkloadService/ScaleWorkload"
    labels = {"method": method, "reason": "RoleRequired"}
    assert REGISTRY.get_sample_value("cloudless_authz_denied_total", labels)


async def test_who_am_i_and_a_renewed_certificate(c: RunningCoordinator) -> None:
    vera = await c.user("vera", (Role.VIEWER, "default"), ttl_ms=60_000)
    async with c.channel(vera) as channel:
        stub = control_pb2_grpc.UserServiceStub(channel)
        me = await stub.WhoAmI(control_pb2.WhoAmIRequest())
        assert me.id == f"spiffe://{TRUST_DOMAIN}/user/vera"
        assert [binding.namespace for binding in me.bindings] == ["default"]
        assert me.certificate_expires_at_ms == vera.expires_at_ms
        key = new_private_key()
        answer = await stub.RenewUserCertificate(
            control_pb2.RenewUserCertificateRequest(csr_der=make_csr(key, vera.spiffe_id))
        )
        assert vera.expires_at_ms - 1000 <= answer.expires_at_ms <= vera.expires_at_ms + 30_000, (
            "its life stays a minute"
        )
        posing = make_csr(key, SpiffeId(TRUST_DOMAIN, "user", "admin"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.RenewUserCertificate(control_pb2.RenewUserCertificateRequest(csr_der=posing))
        assert error_from_rpc(caught.value).reason == "CsrIdMismatch"


async def test_a_revoked_person_is_out_at_once_and_open_streams_end(c: RunningCoordinator) -> None:
    vera = await c.user("vera", (Role.VIEWER, "*"))
    async with c.channel(vera) as channel, c.channel() as admin:
        workloads = control_pb2_grpc.WorkloadServiceStub(channel)
        watch = workloads.WatchWorkloads(control_pb2.WatchWorkloadsRequest())
        assert (await watch.read()).synced
        users = control_pb2_grpc.UserServiceStub(admin)
        await users.RevokeUser(control_pb2.RevokeUserRequest(name="vera"))
        failure = await _call(channel, "/cloudless.api.v1.ClusterService/GetStatus")
        assert _status(failure) == ("UNAUTHENTICATED", "UserRevoked")
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await asyncio.wait_for(watch.read(), 10)
        error = error_from_rpc(ended.value)
        assert (type(error), error.reason) == (Unauthenticated, "UserRevoked")


async def test_one_caller_cannot_open_streams_without_end(
    c: RunningCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorization, "STREAMS_PER_CALLER_MAX", 2)
    vera = await c.user("vera", (Role.VIEWER, "*"))
    async with c.channel(vera) as channel, c.channel() as admin:
        workloads = control_pb2_grpc.WorkloadServiceStub(channel)
        watches = [workloads.WatchWorkloads(control_pb2.WatchWorkloadsRequest()) for _ in range(2)]
        for watch in watches:
            assert (await watch.read()).synced
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await workloads.WatchWorkloads(control_pb2.WatchWorkloadsRequest()).read()
        assert error_from_rpc(refused.value).reason == "TooManyStreams"
        other = control_pb2_grpc.WorkloadServiceStub(admin).WatchWorkloads(control_pb2.WatchWorkloadsRequest())
        assert (await other.read()).synced, "the limit is each caller's own"
        watches[0].cancel()
        async with asyncio.timeout(10):
            while True:
                again = workloads.WatchWorkloads(control_pb2.WatchWorkloadsRequest())
                try:
                    assert (await again.read()).synced
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.01)


async def test_reflection_lists_the_services_to_a_person(c: RunningCoordinator) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    async with c.channel() as channel:
        call = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(iter([request]))
        answer = reflection_pb2.ServerReflectionResponse.FromString(await call.read())
    names = {service.name for service in answer.list_services_response.service}
    assert "cloudless.api.v1.WorkloadService" in names
    assert "cloudless.api.v1.EnrollmentService" not in names


async def test_health_on_both_listeners(c: RunningCoordinator) -> None:
    async with _without_certificate(c, c.enroll_address) as open_channel, c.channel() as channel:
        for one in (open_channel, channel):
            for service in ("", "cloudless.api.v1.WorkloadService"):
                request = health_pb2.HealthCheckRequest(service=service)
                answer = await health_pb2_grpc.HealthStub(one).Check(request)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_messages_have_a_limit(c: RunningCoordinator) -> None:
    async with _without_certificate(c, c.enroll_address) as channel:
        failure = await _call(
            channel, "/cloudless.api.v1.EnrollmentService/Enroll", b"\x0a\xff\xff\x07" + b"x" * 131_071
        )
        assert _status(failure)[0] == "RESOURCE_EXHAUSTED"
    async with c.channel() as channel:
        request = control_pb2.CreateTokenRequest(region="x" * 5_000_000)
        raw = channel.unary_unary("/cloudless.api.v1.TokenService/CreateToken")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(request.SerializeToString())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
