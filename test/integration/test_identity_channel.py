"""Mutual TLS on real sockets: who gets in, what the others are told, and renewal without a failed call."""

import asyncio
import contextlib
import time

import grpc
import grpc.aio
import pytest

from cloudless.clock import SystemClock
from cloudless.errors import NotFound, PermissionDenied, Unauthenticated, Unavailable
from cloudless.identity import channel as module
from cloudless.identity.channel import (
    SERVER_OPTIONS,
    ServerCertificate,
    error_from_rpc,
    open_channel,
    open_sync_channel,
    server_credentials,
)
from cloudless.identity.csr import read_certificate
from cloudless.identity.renewal import Renewer
from cloudless.testing.identity import Fabric

METHOD = "/test.Echo/Call"


async def who_am_i(request, context):
    if request == b"refuse":
        trailers = (
            (module.ERROR_TRAILER, "permission_denied"),
            (module.REASON_TRAILER, "RoleMissing"),
            (module.REMEDY_TRAILER, "frag den Administrator für mehr".encode()),
        )
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "you may not", trailers)
    if request == b"missing":
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
    pem = context.auth_context()["x509_pem_cert"][0]
    info = read_certificate(pem)
    return f"{info.spiffe_id} {info.serial}".encode()


@pytest.fixture
def fabric(tmp_path):
    return Fabric(tmp_path / "ca")


@contextlib.asynccontextmanager
async def serving(certificate, *, require_client=True):
    server = grpc.aio.server(options=SERVER_OPTIONS)
    handler = grpc.unary_unary_rpc_method_handler(who_am_i)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Call": handler}),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(certificate, require_client=require_client))
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@pytest.fixture
async def address(fabric):
    async with serving(ServerCertificate(fabric.member("coordinator", "c1"))) as where:
        yield where


async def call(address, credentials, request=b""):
    async with open_channel(address, credentials) as channel:
        try:
            return (await channel.unary_unary(METHOD)(request, timeout=5)).decode()
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, credentials=credentials, now_ms=SystemClock().now_ms()) from None


async def test_members_get_in_as_who_they_are(fabric, address):
    assert (await call(address, fabric.member("node", "n1"))).startswith("spiffe://fabric.example/node/n1 ")
    assert (await call(address, fabric.member("user", "bob"))).startswith("spiffe://fabric.example/user/bob ")


async def test_programs_without_a_loop(fabric, address):
    def blocking():
        with open_sync_channel(address, fabric.member("user", "bob")) as channel:
            return channel.unary_unary(METHOD)(b"", timeout=5)

    assert b"user/bob" in await asyncio.to_thread(blocking)


async def test_each_refusal_is_explained(fabric, address, tmp_path):
    stranger = Fabric(tmp_path / "stranger")
    import dataclasses

    # The stranger's key and certificate, but trusting our root: only the coordinator can refuse it.
    disguised = dataclasses.replace(stranger.member("node", "n1"), bundle_pem=fabric.ca.trust_bundle_pem)
    elsewhere = dataclasses.replace(fabric.member("node", "n1"), trust_domain="other.example")
    cases = [
        (fabric.member("node", "n1", ttl_ms=60_000, issued_ago_ms=120_000), Unauthenticated, "CertificateExpired"),
        (fabric.member("node", "n1", issued_ago_ms=-600_000), Unauthenticated, "CertificateNotYetValid"),
        (disguised, Unauthenticated, "CertificateRefused"),
        (stranger.member("node", "n1"), Unauthenticated, "CoordinatorNotTrusted"),
        (elsewhere, Unauthenticated, "CoordinatorNotTrusted"),
    ]
    for credentials, kind, reason in cases:
        with pytest.raises(kind) as caught:
            await call(address, credentials)
        assert caught.value.reason == reason
        # As a context holds them: times not known beforehand.
        unknown = dataclasses.replace(credentials, expires_at_ms=0, not_before_ms=0)
        with pytest.raises(kind) as caught:
            await call(address, unknown)
        assert caught.value.reason == reason


async def test_nobody_gets_in_without_a_certificate(fabric, address):
    anonymous = grpc.ssl_channel_credentials(root_certificates=fabric.ca.trust_bundle_pem)
    options = module.channel_options("fabric.example")
    async with grpc.aio.secure_channel(address, anonymous, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(METHOD)(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_node_cannot_pose_as_a_coordinator(fabric):
    for impostor in (fabric.member("node", "n1"), fabric.member("user", "c1")):
        async with serving(ServerCertificate(impostor)) as address:
            with pytest.raises(Unauthenticated) as caught:
                await call(address, fabric.member("node", "n2"))
            assert caught.value.reason == "CoordinatorNotTrusted"


async def test_a_coordinator_that_is_away_or_expired(fabric):
    old = fabric.member("coordinator", "c1", ttl_ms=60_000, issued_ago_ms=120_000)
    async with serving(ServerCertificate(old)) as address:
        with pytest.raises(Unavailable) as caught:
            await call(address, fabric.member("node", "n1"))
        assert caught.value.reason == "CoordinatorCertificateInvalid"
    with pytest.raises(Unavailable) as caught:
        await call(address, fabric.member("node", "n1"))
    assert caught.value.reason == "CoordinatorUnreachable"


async def test_errors_cross_the_wire(fabric, address):
    with pytest.raises(PermissionDenied, match="you may not") as caught:
        await call(address, fabric.member("user", "bob"), b"refuse")
    assert (caught.value.reason, caught.value.remedy) == ("RoleMissing", "frag den Administrator für mehr")
    with pytest.raises(NotFound, match="no such thing"):
        await call(address, fabric.member("user", "bob"), b"missing")


async def test_the_listener_shows_a_replaced_certificate_to_new_connections(fabric):
    first, second = fabric.member("coordinator", "c1"), fabric.member("coordinator", "c1")
    certificate = ServerCertificate(first)
    node = fabric.member("node", "n1")
    async with serving(certificate) as address, open_channel(address, node) as standing:
        await standing.unary_unary(METHOD)(b"", timeout=5)
        assert await _shown_serial(address, node) == read_certificate(first.chain_pem).serial
        certificate.replace(second)
        assert await _shown_serial(address, node) == read_certificate(second.chain_pem).serial
        await standing.unary_unary(METHOD)(b"", timeout=5)  # a connection that stands goes on


async def _shown_serial(address, credentials):
    import socket
    import ssl
    import tempfile

    def look():
        host, port = address.rsplit(":", 1)
        with tempfile.NamedTemporaryFile() as pem, tempfile.NamedTemporaryFile() as root:
            pem.write(credentials.key_pem + credentials.chain_pem)
            root.write(credentials.bundle_pem)
            pem.flush()
            root.flush()
            context = ssl.create_default_context(cafile=root.name)
            context.load_cert_chain(pem.name)
            context.set_alpn_protocols(["h2"])
            with (
                socket.create_connection((host, int(port)), timeout=5) as raw,
                context.wrap_socket(raw, server_hostname="coordinator.fabric.example") as wrapped,
            ):
                return ssl.DER_cert_to_PEM_cert(wrapped.getpeercert(binary_form=True))

    return read_certificate((await asyncio.to_thread(look)).encode()).serial


@pytest.mark.parametrize("life_ms", [3000])
async def test_renewal_under_load_fails_no_call(fabric, address, tmp_path, life_ms):
    """Calls run all the time while the certificate is renewed three times; the old channel is drained."""
    from cloudless.identity import credentials as stored
    from cloudless.identity.spiffe import SpiffeId

    who = SpiffeId("fabric.example", "node", "n1")
    first = fabric.member("node", "n1", ttl_ms=life_ms)
    current = open_channel(address, first)
    draining: set[asyncio.Task[None]] = set()
    renewals = 0
    enough = asyncio.Event()

    async def renew(csr_der):
        issued = fabric.ca.sign_csr(csr_der, who, life_ms)
        return issued.chain_pem, issued.expires_at_ms

    def on_renewed(fresh):
        nonlocal current, renewals
        task = asyncio.get_running_loop().create_task(current.close(grace=5))
        draining.add(task)
        current = open_channel(address, fresh)
        renewals += 1
        if renewals == 3:
            enough.set()

    renewer = Renewer(
        first,
        renew=renew,
        save=lambda fresh: fresh.save(tmp_path / "identity"),
        on_renewed=on_renewed,
        clock=SystemClock(),
        jitter=lambda: 0.5,
    )
    answers = []

    async def load():
        while not enough.is_set() or time.monotonic() - started < 3.5:
            answers.append(await current.unary_unary(METHOD)(b"", timeout=5))

    started = time.monotonic()
    task = asyncio.create_task(renewer.run())
    await asyncio.wait_for(asyncio.gather(*(load() for _ in range(4))), 30)
    task.cancel()
    await asyncio.gather(*draining)
    await current.close()
    assert time.monotonic() - started > 3  # well past the life of the first certificate
    assert len(answers) > 100
    assert stored.load(tmp_path / "identity") == renewer.credentials
    async with open_channel(address, first) as expired:
        with pytest.raises(grpc.aio.AioRpcError):
            await expired.unary_unary(METHOD)(b"", timeout=5)
