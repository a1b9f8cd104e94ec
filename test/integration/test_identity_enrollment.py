"""Enrolment from the device's side against a real listener: the pin, the refusals, and more than one address."""

import contextlib
import dataclasses
import socket

import grpc
import grpc.aio
import pytest

from cloudless.api.v1 import control_pb2, control_pb2_grpc
from cloudless.clock import SystemClock
from cloudless.core.model import JoinToken
from cloudless.errors import InvalidArgument, TokenRefused, Unauthenticated, Unavailable
from cloudless.identity import channel
from cloudless.identity.channel import ServerCertificate, server_credentials
from cloudless.identity.enrollment import enroll, split_address
from cloudless.identity.keys import new_private_key
from cloudless.identity.spiffe import SpiffeId
from cloudless.identity.tokens import TokenSigner, audience_of
from cloudless.testing.identity import Fabric


class Enroller(control_pb2_grpc.EnrollmentServiceServicer):
    """The least that answers as a coordinator does."""

    def __init__(self, fabric, signer):
        self.fabric = fabric
        self.signer = signer
        self.requests = []
        self.request_ids = []
        self.answer_as = ""

    async def Enroll(self, request, context):
        self.requests.append(request)
        self.request_ids.append(dict(context.invocation_metadata())[channel.REQUEST_ID_METADATA])
        try:
            audience = audience_of(self.fabric.trust_domain)
            self.signer.verify(request.token, audience=audience, now_ms=SystemClock().now_ms())
        except TokenRefused as error:
            trailers = ((channel.ERROR_TRAILER, error.code), (channel.REASON_TRAILER, error.reason))
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.message, trailers)
        name = self.answer_as or request.node_name
        if self.answer_as:
            chain = self.fabric.member("node", name).chain_pem
            expires_at_ms = 0
        else:
            who = SpiffeId(self.fabric.trust_domain, "node", name)
            issued = self.fabric.ca.sign_csr(request.csr_der, who, 3_600_000)
            chain, expires_at_ms = issued.chain_pem, issued.expires_at_ms
        return control_pb2.EnrollResponse(
            certificate_chain_pem=chain.decode(),
            trust_bundle_pem=self.fabric.ca.trust_bundle_pem.decode(),
            expires_at_ms=expires_at_ms,
            node_id=name,
            trust_domain=self.fabric.trust_domain,
            coordinators=["192.0.2.1:8443"],
        )


@contextlib.asynccontextmanager
async def listener(fabric, servicer):
    server = grpc.aio.server()
    control_pb2_grpc.add_EnrollmentServiceServicer_to_server(servicer, server)
    certificate = ServerCertificate(fabric.member("coordinator", "c1"))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(certificate, require_client=False))
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@pytest.fixture
def fabric(tmp_path):
    return Fabric(tmp_path / "ca")


@pytest.fixture
def servicer(fabric, tmp_path):
    return Enroller(fabric, TokenSigner.create(tmp_path))


@pytest.fixture
async def address(fabric, servicer):
    async with listener(fabric, servicer) as where:
        yield where


def token(servicer, fabric, endpoints, *, ttl_ms=60_000, root_sha256=""):
    now_ms = SystemClock().now_ms()
    record = JoinToken(id="t1", node_pattern="*", created_at_ms=now_ms, expires_at_ms=now_ms + ttl_ms, max_uses=1)
    pin = root_sha256 or fabric.ca.root_sha256
    return servicer.signer.sign(record, trust_domain=fabric.trust_domain, root_sha256=pin, endpoints=endpoints)


@pytest.fixture
def dead_address():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening: refused
        yield f"127.0.0.1:{held.getsockname()[1]}"


async def test_one_string_is_enough(fabric, servicer, address):
    result = await enroll(token(servicer, fabric, [address]), "n1")
    assert result.coordinators == ("192.0.2.1:8443",)
    assert str(result.credentials.spiffe_id) == "spiffe://fabric.example/node/n1"
    assert result.credentials.bundle_pem == fabric.ca.trust_bundle_pem
    assert result.credentials.expires_at_ms > SystemClock().now_ms()


async def test_a_repeat_uses_the_same_key_under_its_own_request_id(fabric, servicer, address):
    key = new_private_key()
    first = await enroll(token(servicer, fabric, [address]), "n1", key=key)
    again = await enroll(token(servicer, fabric, [address]), "n1", key=key)
    assert first.credentials.key_pem == again.credentials.key_pem
    assert len(set(servicer.request_ids)) == 2


async def test_the_next_address_is_tried(fabric, servicer, address, dead_address):
    jwt = token(servicer, fabric, [dead_address, address])
    assert (await enroll(jwt, "n1")).credentials.trust_domain == "fabric.example"
    with pytest.raises(Unavailable) as caught:
        await enroll(jwt, "n1", endpoints=[dead_address])
    assert caught.value.reason == "CoordinatorUnreachable"
    assert dead_address in caught.value.message
    with pytest.raises(InvalidArgument) as refused:
        await enroll(token(servicer, fabric, []), "n1")
    assert refused.value.reason == "NoEndpoints"


async def test_a_stranger_never_sees_the_token(fabric, servicer, tmp_path, dead_address):
    stranger = Fabric(tmp_path / "stranger")
    theirs = Enroller(stranger, servicer.signer)
    async with listener(stranger, theirs) as address:
        for endpoints in ([address], [address, dead_address]):
            with pytest.raises(Unauthenticated) as caught:
                await enroll(token(servicer, fabric, endpoints), "n1")
            assert caught.value.reason == "RootPinMismatch"
    assert theirs.requests == []


async def test_a_node_of_the_fabric_cannot_take_the_token(fabric, servicer):
    """It can present the true root, but holds no certificate with a coordinator's name."""
    posing = Fabric.__new__(Fabric)
    posing.__dict__.update(fabric.__dict__)
    posing.member = lambda kind, name: fabric.member("node", "n9")
    async with listener(posing, servicer) as address:
        with pytest.raises(Unauthenticated) as caught:
            await enroll(token(servicer, fabric, [address]), "n1")
    assert caught.value.reason == "CoordinatorNotTrusted"
    assert servicer.requests == []


async def test_the_coordinators_refusal_comes_through(fabric, servicer, address):
    with pytest.raises(TokenRefused) as caught:
        await enroll(token(servicer, fabric, [address, address], ttl_ms=-1000), "n1")
    assert caught.value.reason == "TokenExpired"
    assert len(servicer.requests) == 1  # its word is final


async def test_a_certificate_for_another_is_not_taken(fabric, servicer, address):
    for answer_as in ("n1", "n2"):  # of another key; of another key and name
        servicer.answer_as = answer_as
        with pytest.raises(Unauthenticated) as caught:
            await enroll(token(servicer, fabric, [address]), "n1")
        assert caught.value.reason == "CertificateInvalid"


async def test_bad_names_fail_before_anything_is_sent(fabric, servicer, address):
    with pytest.raises(InvalidArgument) as caught:
        await enroll(token(servicer, fabric, [address]), "N 1")
    assert caught.value.reason == "BadSpiffeId"
    with pytest.raises(TokenRefused):
        await enroll("nonsense", "n1")
    assert servicer.requests == []


async def test_what_is_no_tls_is_unreachable(fabric, servicer):
    with socket.create_server(("127.0.0.1", 0)) as plain:
        address = f"127.0.0.1:{plain.getsockname()[1]}"
        import threading

        def answer():
            connection, _ = plain.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unavailable, match="TLS handshake"):
            await enroll(token(servicer, fabric, [address]), "n1")
        thread.join()


@pytest.mark.parametrize("text", ["", "a", ":1", "a:", "a:x", "a:0", "a:70000", "a:\u0661"])
def test_bad_addresses(text):
    with pytest.raises(InvalidArgument) as caught:
        split_address(text)
    assert caught.value.reason == "BadAddress"


def test_addresses():
    assert split_address("[::1]:8442") == ("::1", 8442)
    assert split_address("host.example:1") == ("host.example", 1)


def test_trusting_the_presented_root_needs_the_pin(fabric, servicer):
    from cloudless.identity.enrollment import check_pin
    from cloudless.identity.tokens import peek

    claims = peek(token(servicer, fabric, ["x:1"]))
    check_pin(fabric.ca.trust_bundle_pem, claims, address="x:1")
    check_pin(
        fabric.ca.trust_bundle_pem, dataclasses.replace(claims, root_sha256=claims.root_sha256.upper()), address="x"
    )
    for pem in (b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(Unauthenticated):
            check_pin(pem, claims, address="x:1")
