"""Enrolment, the device's side: from one join token to credentials.

As `kubeadm join` and `k3s agent` do: the device connects to an address in the token without trusting it, takes the
root that is presented there, compares its SHA-256 with the token's pin, and only then makes the call, verified
against that root. The device's key never leaves it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import grpc.aio
import structlog
from OpenSSL import SSL, crypto

from cloudless.api.v1 import control_pb2, control_pb2_grpc
from cloudless.errors import CloudlessError, DeadlineExceeded, InvalidArgument, Unauthenticated, Unavailable
from cloudless.identity.channel import REQUEST_ID_METADATA, channel_options, error_from_rpc, explain_distrust
from cloudless.identity.credentials import Credentials
from cloudless.identity.csr import make_csr
from cloudless.identity.keys import PrivateKey, key_pem, new_private_key
from cloudless.identity.spiffe import NODE, SpiffeId, server_name
from cloudless.identity.tokens import TokenClaims, peek

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 15.0

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Enrollment:
    """What enrolment gave: credentials (not yet saved) and addresses of the coordinators' mTLS listeners."""

    credentials: Credentials
    coordinators: tuple[str, ...]


async def enroll(
    jwt: str,
    node_name: str,
    *,
    endpoints: Sequence[str] | None = None,
    key: PrivateKey | None = None,
    trusted_root_pem: bytes | None = None,
) -> Enrollment:
    """Enrols this device as `node_name`, trying each endpoint (default: the token's) once, in order.

    Give the same `key` (see `keys.ensure_private_key`) when repeating an attempt whose outcome is unknown: for the
    same token, name and key the answer is the same. `trusted_root_pem` skips the look at the presented root; the
    pin is checked all the same.

    Raises TokenRefused with the coordinator's reason, InvalidArgument (`BadSpiffeId`, `NoEndpoints`), Unauthenticated
    with reason `RootPinMismatch`, and Unavailable or DeadlineExceeded when no endpoint answered: repeat.
    """
    claims = peek(jwt)
    spiffe_id = SpiffeId(claims.trust_domain, NODE, node_name)
    key = key or new_private_key()
    request = control_pb2.EnrollRequest(token=jwt, node_name=node_name, csr_der=make_csr(key, spiffe_id))
    answer, root_pem = await ask_endpoints(
        claims,
        lambda stub, options: stub.Enroll(request, **options),
        endpoints=endpoints,
        trusted_root_pem=trusted_root_pem,
    )
    credentials = accept_certificate(
        key,
        spiffe_id,
        chain_pem=answer.certificate_chain_pem.encode(),
        bundle_pem=answer.trust_bundle_pem.encode() or root_pem,
    )
    return Enrollment(credentials, tuple(answer.coordinators))


async def ask_endpoints(
    claims: TokenClaims,
    ask: Callable[[Any, dict[str, Any]], Awaitable[A]],
    *,
    endpoints: Sequence[str] | None = None,
    trusted_root_pem: bytes | None = None,
) -> tuple[A, bytes]:
    """Makes one call of EnrollmentService at the first endpoint that answers, tried in order, each verified against
    the token's pin; returns the answer and the root (PEM). `ask(stub, options)` makes the call with these options.

    Raises what `enroll` raises.
    """
    addresses = tuple(endpoints) if endpoints is not None else claims.endpoints
    if not addresses:
        raise InvalidArgument(
            "the join token names no address to enrol at", reason="NoEndpoints", remedy="name the coordinator's address"
        )
    request_id = f"enroll-{secrets.token_hex(12)}"
    failure: CloudlessError | None = None
    for address in addresses:
        try:
            root_pem = trusted_root_pem
            if root_pem is None:
                root_pem = await asyncio.to_thread(fetch_root, address, claims)
            check_pin(root_pem, claims, address=address)
            return await _call(address, root_pem, claims, ask, request_id=request_id), root_pem
        except (Unavailable, DeadlineExceeded, Unauthenticated) as error:
            if isinstance(error, Unauthenticated) and error.reason not in ("RootPinMismatch", "CoordinatorNotTrusted"):
                raise  # the coordinator's own word; another one says the same
            log.warning("enrollment.endpoint_failed", address=address, reason=error.reason, cause=error.message)
            # A wrong root says more than an address that does not answer.
            if failure is None or isinstance(error, Unauthenticated):
                failure = error
    assert failure is not None
    raise failure


def check_pin(root_pem: bytes, claims: TokenClaims, *, address: str) -> None:
    """Raises Unauthenticated with reason `RootPinMismatch` when the root is not the one that the token names."""
    try:
        root = crypto.load_certificate(crypto.FILETYPE_PEM, root_pem)
        digest = hashlib.sha256(crypto.dump_certificate(crypto.FILETYPE_ASN1, root)).hexdigest()
    except (crypto.Error, ValueError):
        digest = ""
    if not secrets.compare_digest(digest.encode(), claims.root_sha256.lower().encode()):
        raise Unauthenticated(
            f"what answers at {address} does not hold the root certificate that the join token names",
            reason="RootPinMismatch",
            remedy="somebody may be in between, or the fabric was made anew: create a new token on the coordinator",
        )


def fetch_root(address: str, claims: TokenClaims) -> bytes:
    """The last certificate (PEM) of the chain presented at `host:port`, trusted by nobody yet. Blocks for at most
    twice the connect timeout. Raises Unavailable."""
    host, port = split_address(address)
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_verify(SSL.VERIFY_NONE, None)  # the pin decides, after this
    context.set_alpn_protos([b"h2"])
    try:
        with socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S) as raw:
            # OpenSSL needs a blocking socket; the kernel keeps the time.
            raw.settimeout(None)
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                raw.setsockopt(socket.SOL_SOCKET, option, _timeval(CONNECT_TIMEOUT_S))
            connection = SSL.Connection(context, raw)
            connection.set_tlsext_host_name(server_name(claims.trust_domain).encode("ascii"))
            connection.set_connect_state()
            connection.do_handshake()
            chain = connection.get_peer_cert_chain() or []
            with contextlib.suppress(SSL.Error):
                connection.shutdown()
    except (OSError, SSL.Error) as error:
        raise Unavailable(
            f"cannot reach the coordinator at {address}: {_cause(error)}",
            reason="CoordinatorUnreachable",
            remedy="check the address, and that its enrolment port is open",
        ) from error
    if not chain:
        raise Unavailable(f"{address} presented no certificate", reason="CoordinatorUnreachable")
    return crypto.dump_certificate(crypto.FILETYPE_PEM, chain[-1])


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port`. Raises InvalidArgument with reason `BadAddress`."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgument(f"{address[:200]!r} is no address", reason="BadAddress", remedy="write host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


async def _call(
    address: str,
    root_pem: bytes,
    claims: TokenClaims,
    ask: Callable[[Any, dict[str, Any]], Awaitable[A]],
    *,
    request_id: str,
) -> A:
    credentials = grpc.ssl_channel_credentials(root_certificates=root_pem)
    options = channel_options(claims.trust_domain)
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        stub = control_pb2_grpc.EnrollmentServiceStub(channel)  # type: ignore[no-untyped-call]
        metadata = ((REQUEST_ID_METADATA, request_id),)
        try:
            return await ask(stub, {"timeout": CALL_TIMEOUT_S, "metadata": metadata, "wait_for_ready": False})
        except grpc.aio.AioRpcError as error:
            raise explain_distrust(error, claims.trust_domain) or error_from_rpc(error) from error


def accept_certificate(key: PrivateKey, spiffe_id: SpiffeId, *, chain_pem: bytes, bundle_pem: bytes) -> Credentials:
    """Takes nothing on faith: the certificate must be for our key and id (Unauthenticated, CertificateInvalid). The
    bundle is the pinned root, and what else the coordinator, which is verified by now, names beside it."""
    credentials = Credentials.from_pem(key_pem=key_pem(key), chain_pem=chain_pem, bundle_pem=bundle_pem)
    if credentials.spiffe_id != spiffe_id:
        raise Unauthenticated(
            f"the coordinator certified {credentials.spiffe_id}, not {spiffe_id}", reason="CertificateInvalid"
        )
    return credentials


def _cause(error: OSError | SSL.Error) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return f"TLS handshake failed {error}".strip()


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("@ll", whole, int((seconds - whole) * 1_000_000))
