"""Enrolment against a real coordinator: each refusal with its own reason and status, and what a repeat costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import jwt as pyjwt
import pytest

from cloudless.api.v1 import control_pb2, control_pb2_grpc, session_pb2, session_pb2_grpc
from cloudless.coordinator.core.commands import CreateToken
from cloudless.core.model import JoinToken
from cloudless.errors import CloudlessError
from cloudless.identity.channel import channel_options, error_from_rpc
from cloudless.identity.credentials import Credentials
from cloudless.identity.csr import make_csr
from cloudless.identity.enrollment import enroll
from cloudless.identity.keys import new_private_key
from cloudless.identity.renewal import Renewer
from cloudless.identity.spiffe import NODE, SpiffeId
from cloudless.identity.tokens import TokenSigner
from cloudless.testing.coordinator import TRUST_DOMAIN, RunningCoordinator, running_coordinator

_NOW_MS = 1_700_000_000_000


class Clock:
    """Real but for an offset, so that certificates and TLS agree and tokens can be made to expire."""

    def __init__(self) -> None:
        from cloudless.clock import SystemClock

        self._real = SystemClock()
        self.offset_ms = 0

    def now_ms(self) -> int:
        return self._real.now_ms() + self.offset_ms

    def monotonic_ms(self) -> int:
        return self._real.monotonic_ms()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def fabric(tmp_path: Path, clock: Clock) -> AsyncIterator[RunningCoordinator]:
    async with running_coordinator(tmp_path, clock=clock) as c:
        yield c


async def _enroll_raw(c: RunningCoordinator, **request: Any) -> tuple[grpc.StatusCode, str]:
    """The status and reason of an Enroll call."""
    credentials = grpc.ssl_channel_credentials(c.admin.bundle_pem)
    async with grpc.aio.secure_channel(c.enroll_address, credentials, options=channel_options(TRUST_DOMAIN)) as channel:
        try:
            await control_pb2_grpc.EnrollmentServiceStub(channel).Enroll(control_pb2.EnrollRequest(**request))
        except grpc.aio.AioRpcError as error:
            return error.code(), error_from_rpc(error).reason
    return grpc.StatusCode.OK, ""


def _csr(name: str, trust_domain: str = TRUST_DOMAIN) -> bytes:
    return make_csr(new_private_key(), SpiffeId(trust_domain, NODE, name))


async def _refusal(c: RunningCoordinator, jwt: str, name: str = "n1", csr: bytes | None = None) -> tuple[str, str]:
    before = c.state
    status, reason = await _enroll_raw(c, token=jwt, node_name=name, csr_der=_csr(name) if csr is None else csr)
    assert c.state.nodes == before.nodes, "a refusal admits nobody"
    assert {t.id: t.uses for t in c.state.tokens.values()} == {t.id: t.uses for t in before.tokens.values()}
    return status.name, reason


async def test_a_device_becomes_a_node(fabric: RunningCoordinator) -> None:
    jwt = await fabric.token(node_pattern="n*", region="home", zone="attic", labels={"disk": "ssd"})
    done = await enroll(jwt, "n1")
    assert str(done.credentials.spiffe_id) == f"spiffe://{TRUST_DOMAIN}/node/n1"
    assert done.coordinators == (fabric.api_address,)
    node = fabric.state.nodes["n1"]
    assert (node.region, node.zone, dict(node.labels)) == ("home", "attic", {"disk": "ssd"})
    assert node.certificate_expires_at_ms == done.credentials.expires_at_ms
    assert [token.uses for token in fabric.state.tokens.values()] == [1]
    types = [event.type for event in fabric.state.events]
    assert {"security.token_used", "security.cert_issued", "node.enrolled"} <= set(types)


async def test_a_used_up_token_is_refused(fabric: RunningCoordinator) -> None:
    jwt = await fabric.token(node_pattern="*")
    await enroll(jwt, "n1")
    index = fabric.store.snapshot.index
    assert await _refusal(fabric, jwt, "n2") == ("UNAUTHENTICATED", "TokenUsedUp")
    assert fabric.store.snapshot.index == index, "a spent token writes nothing into the log"


async def test_an_expired_token_is_refused(fabric: RunningCoordinator, clock: Clock) -> None:
    jwt = await fabric.token(ttl_ms=60_000)
    clock.offset_ms = 60_001
    assert await _refusal(fabric, jwt) == ("UNAUTHENTICATED", "TokenExpired")


async def test_a_revoked_token_is_refused(fabric: RunningCoordinator) -> None:
    async with fabric.channel() as channel:
        stub = control_pb2_grpc.TokenServiceStub(channel)
        made = await stub.CreateToken(control_pb2.CreateTokenRequest())
        await stub.RevokeToken(control_pb2.RevokeTokenRequest(id=made.token.id))
    assert await _refusal(fabric, made.jwt) == ("UNAUTHENTICATED", "TokenRevoked")


def _signed(c: RunningCoordinator, signer: TokenSigner, *, trust_domain: str = TRUST_DOMAIN, **fields: Any) -> str:
    now_ms = c.coordinator.clock.now_ms()
    token = JoinToken(
        **{
            "id": "jt-forged",
            "node_pattern": "*",
            "max_uses": 1,
            "created_at_ms": now_ms,
            "expires_at_ms": now_ms + 60_000,
            **fields,
        }
    )
    return signer.sign(
        token,
        trust_domain=trust_domain,
        root_sha256=c.coordinator.identity.authority.root_sha256,
        endpoints=(c.enroll_address,),
    )


async def test_a_token_for_another_audience_is_refused(fabric: RunningCoordinator) -> None:
    jwt = _signed(fabric, fabric.coordinator.identity.signer, trust_domain="other.example")
    assert await _refusal(fabric, jwt) == ("UNAUTHENTICATED", "TokenWrongAudience")


async def test_a_token_signed_by_another_key_is_refused(fabric: RunningCoordinator, tmp_path: Path) -> None:
    jwt = _signed(fabric, TokenSigner.create(tmp_path / "stranger"))
    assert await _refusal(fabric, jwt) == ("UNAUTHENTICATED", "TokenAltered")


async def test_an_altered_token_is_refused(fabric: RunningCoordinator) -> None:
    jwt = await fabric.token(node_pattern="other")
    header, payload, signature = jwt.split(".")
    claims = pyjwt.decode(jwt, options={"verify_signature": False})
    forged = pyjwt.encode({**claims, "sub": "*", "uses": 1000}, "k" * 32, algorithm="HS256").split(".")[1]
    for altered in (f"{header}.{forged}.{signature}", f"{header}.{payload}.{signature[:-6]}AAAAAA", "no token", ""):
        assert await _refusal(fabric, altered) == ("UNAUTHENTICATED", "TokenAltered")


async def test_a_token_that_this_fabric_signed_but_never_recorded_is_refused(fabric: RunningCoordinator) -> None:
    jwt = _signed(fabric, fabric.coordinator.identity.signer)
    assert await _refusal(fabric, jwt) == ("UNAUTHENTICATED", "TokenUnknown")


async def test_a_token_for_another_node_name_is_refused(fabric: RunningCoordinator) -> None:
    jwt = await fabric.token(node_pattern="db-*")
    assert await _refusal(fabric, jwt, "web-1") == ("UNAUTHENTICATED", "NodeNameNotAllowed")


async def test_a_request_for_another_id_is_refused(fabric: RunningCoordinator) -> None:
    jwt = await fabric.token()
    assert await _refusal(fabric, jwt, "n1", _csr("n2")) == ("INVALID_ARGUMENT", "CsrIdMismatch")
    person = make_csr(new_private_key(), SpiffeId(TRUST_DOMAIN, "user", "admin"))
    assert await _refusal(fabric, jwt, "n1", person) == ("INVALID_ARGUMENT", "CsrIdMismatch")
    assert await _refusal(fabric, jwt, "n1", _csr("n1", "other.example")) == ("INVALID_ARGUMENT", "CsrIdMismatch")
    assert await _refusal(fabric, jwt, "n1", b"\x30\x03garbage") == ("INVALID_ARGUMENT", "CsrInvalid")
    assert await _refusal(fabric, jwt, "Not A Name", _csr("n1")) == ("INVALID_ARGUMENT", "BadSpiffeId")


async def test_a_name_that_another_device_holds_is_refused_until_that_is_removed(fabric: RunningCoordinator) -> None:
    await fabric.node("n1")
    jwt, key = await fabric.token(), new_private_key()
    csr = make_csr(key, SpiffeId(TRUST_DOMAIN, NODE, "n1"))
    for _ in range(2):
        assert await _refusal(fabric, jwt, "n1", csr) == ("ALREADY_EXISTS", "NodeKeyMismatch")
    async with fabric.channel() as channel:
        await control_pb2_grpc.NodeServiceStub(channel).RemoveNode(control_pb2.RemoveNodeRequest(id="n1"))
    assert (await enroll(jwt, "n1", key=key)).credentials.spiffe_id.name == "n1"


async def test_a_repeated_enrolment_counts_once(fabric: RunningCoordinator) -> None:
    jwt, key = await fabric.token(node_pattern="n1"), new_private_key()
    answers = await asyncio.gather(*(enroll(jwt, "n1", key=key) for _ in range(3)))
    again = await enroll(jwt, "n1", key=key)
    assert len({answer.credentials.chain_pem for answer in (*answers, again)}) == 4
    assert [token.uses for token in fabric.state.tokens.values()] == [1]
    assert fabric.state.nodes["n1"].certificate_expires_at_ms == again.credentials.expires_at_ms
    async with fabric.channel(again.credentials) as channel:
        await session_pb2_grpc.SessionServiceStub(channel).RenewCertificate(
            session_pb2.RenewCertificateRequest(csr_der=make_csr(key, SpiffeId(TRUST_DOMAIN, NODE, "n1")))
        )


async def test_a_removed_node_needs_a_use_of_its_own(fabric: RunningCoordinator) -> None:
    jwt, key = await fabric.token(node_pattern="n1"), new_private_key()
    before = (await enroll(jwt, "n1", key=key)).credentials
    async with fabric.channel() as channel:
        await control_pb2_grpc.NodeServiceStub(channel).RemoveNode(control_pb2.RemoveNodeRequest(id="n1"))
    async with fabric.channel(before) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _renew(channel, before, key=key)
        assert (caught.value.code().name, error_from_rpc(caught.value).reason) == ("UNAUTHENTICATED", "NodeRemoved")
    with pytest.raises(CloudlessError) as refused:
        await enroll(jwt, "n1", key=key)
    assert refused.value.reason == "TokenUsedUp"


async def test_uses_are_counted_under_contention(fabric: RunningCoordinator) -> None:
    jwt = await fabric.token(node_pattern="n*", max_uses=3)
    outcomes = await asyncio.gather(*(enroll(jwt, f"n{i}") for i in range(8)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, CloudlessError)]
    assert len(refused) == 5
    assert {error.reason for error in refused} == {"TokenUsedUp"}
    assert len(fabric.state.nodes) == 3


async def test_token_uses_survive_a_restart(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path) as first:
        jwt = await first.token(node_pattern="*")
        await enroll(jwt, "n1")
        root = first.coordinator.identity.authority.root_sha256
    async with running_coordinator(tmp_path) as second:
        assert second.coordinator.identity.authority.root_sha256 == root
        with pytest.raises(CloudlessError) as refused:
            await enroll(jwt, "n2", endpoints=[second.enroll_address])
        assert refused.value.reason == "TokenUsedUp"


async def _renew(channel: grpc.aio.Channel, credentials: Credentials, *, key: Any = None, csr: bytes = b"") -> Any:
    from cloudless.identity.keys import load_key_pem

    csr = csr or make_csr(key or load_key_pem(credentials.key_pem), credentials.spiffe_id)
    return await session_pb2_grpc.SessionServiceStub(channel).RenewCertificate(
        session_pb2.RenewCertificateRequest(csr_der=csr)
    )


async def test_a_node_renews_for_itself_only(fabric: RunningCoordinator) -> None:
    node = await fabric.node("n1")
    await fabric.node("n2")
    async with fabric.channel(node) as channel:
        answer = await _renew(channel, node)
        fresh = node.renewed(answer.certificate_chain_pem.encode())
        assert fabric.state.nodes["n1"].certificate_expires_at_ms == fresh.expires_at_ms
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _renew(channel, node, csr=_csr("n2"))
        assert (caught.value.code().name, error_from_rpc(caught.value).reason) == ("INVALID_ARGUMENT", "CsrIdMismatch")


async def test_a_short_lived_certificate_renews_under_load_with_no_failed_call(tmp_path: Path) -> None:
    """Coordinator's and node's certificates live 6 s here; the load lasts for more than two lives."""
    async with running_coordinator(tmp_path, identity__node_certificate_ttl_ms=6_000) as c:
        credentials = await c.node("n1")
        channels = [c.channel(credentials)]
        serials: list[str] = []

        async def renew(csr_der: bytes) -> tuple[bytes, int]:
            answer = await _renew(channels[-1], credentials, csr=csr_der)
            return answer.certificate_chain_pem.encode(), answer.expires_at_ms

        def renewed(fresh: Credentials) -> None:
            channels.append(c.channel(fresh))
            serials.append(c.state.nodes["n1"].certificate_serial)

        renewer = Renewer(
            credentials,
            renew=renew,
            save=lambda fresh: None,
            on_renewed=renewed,
            clock=c.coordinator.clock,
            jitter=lambda: 0.5,
        )
        renewing = asyncio.create_task(renewer.run())
        calls = failures = 0
        loop = asyncio.get_running_loop()
        end = loop.time() + 13.0

        async def load() -> None:
            nonlocal calls, failures
            while loop.time() < end:
                try:
                    await _renew(channels[-1], credentials)  # any call of a node will do
                    calls += 1
                except grpc.aio.AioRpcError as error:
                    failures += 1
                    raise AssertionError(f"{error.code()} {error.details()}") from error

        await asyncio.gather(*(load() for _ in range(4)))
        renewing.cancel()
        for channel in channels:
            await channel.close()
        assert failures == 0
        assert calls > 100
        assert len(serials) >= 3, "the certificate was replaced several times"


async def test_a_certificate_that_expired_since_the_handshake_is_refused(
    fabric: RunningCoordinator, clock: Clock
) -> None:
    node = await fabric.node("n1")
    async with fabric.channel(node) as channel:
        await _renew(channel, node)
        clock.offset_ms = 24 * 3_600_000 + 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _renew(channel, node)
        assert (caught.value.code().name, error_from_rpc(caught.value).reason) == (
            "UNAUTHENTICATED",
            "CertificateExpired",
        )


async def test_a_repeated_create_token_makes_one_token(fabric: RunningCoordinator) -> None:
    metadata = (("cloudless-request-id", "same"),)
    async with fabric.channel() as channel:
        stub = control_pb2_grpc.TokenServiceStub(channel)
        first = await stub.CreateToken(control_pb2.CreateTokenRequest(), metadata=metadata)
        second = await stub.CreateToken(control_pb2.CreateTokenRequest(), metadata=metadata)
    assert first.token == second.token
    assert first.jwt == second.jwt
    assert len(fabric.state.tokens) == 1
    with pytest.raises(CloudlessError):
        await fabric.store.propose(CreateToken(JoinToken(id=first.token.id)), actor="test")
