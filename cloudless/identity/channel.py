"""gRPC channels and listeners under mutual TLS, and what a failed call means in the fabric's own words.

Clients dial any address of a coordinator and expect the name `coordinator.<trust-domain>` there, which only the
authority puts into a coordinator's certificate. Settings of the transport live here, once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
import grpc.aio

from cloudless import errors
from cloudless.errors import CloudlessError, Unauthenticated, Unavailable
from cloudless.identity.credentials import Credentials
from cloudless.identity.spiffe import server_name

MAX_MESSAGE_BYTES = 4 * 2**20  # that a coordinator takes from anybody
# That a coordinator may say: what a node shall run goes in one message, which no single workload may make too large.
MAX_ANSWER_BYTES = 128 * 2**20
KEEPALIVE_INTERVAL_MS = 10_000
KEEPALIVE_TIMEOUT_MS = 5_000

# Metadata of an answer that carries an error: its code, its reason, and its remedy (binary: any text).
ERROR_TRAILER = "cloudless-error"
REASON_TRAILER = "cloudless-reason"
REMEDY_TRAILER = "cloudless-remedy-bin"
REQUEST_ID_METADATA = "cloudless-request-id"
# How new a read has to be (`coordinator.rpc.consistency`).
CONSISTENCY_METADATA = "cloudless-consistency"
LINEARIZABLE = "linearizable"
STALE = "stale"
# Of a request: what it knows of the coordinators' addresses (`addresses_digest`). Of an answer, as a trailer and only
# where that is not what they are: the addresses, with commas between.
COORDINATORS_METADATA = "cloudless-coordinators"
COORDINATORS_NOW_TRAILER = "cloudless-coordinators-now"

Option = tuple[str, Any]

CLIENT_OPTIONS: tuple[Option, ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_INTERVAL_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    # A channel with a renewed certificate must make its own connection, not share the old one's.
    ("grpc.use_local_subchannel_pool", 1),
    # Our callers wait and repeat by rules of their own; gRPC may not wait for two minutes between attempts.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
)

SERVER_OPTIONS: tuple[Option, ...] = (
    ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_INTERVAL_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_INTERVAL_MS // 2),
    # Two coordinators on one port would answer at random.
    ("grpc.so_reuseport", 0),
)


def addresses_digest(addresses: Iterable[str]) -> str:
    """Stands for a set of addresses, in any order."""
    return hashlib.sha256("\n".join(sorted(addresses)).encode()).hexdigest()[:16]


def channel_options(trust_domain: str, options: Sequence[Option] = ()) -> list[Option]:
    """The options of every client channel into this fabric; `options` come last and win."""
    return [*CLIENT_OPTIONS, ("grpc.ssl_target_name_override", server_name(trust_domain)), *options]


def _channel_credentials(credentials: Credentials) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=credentials.bundle_pem,
        private_key=credentials.key_pem,
        certificate_chain=credentials.chain_pem,
    )


def open_channel(address: str, credentials: Credentials, *, options: Sequence[Option] = ()) -> grpc.aio.Channel:
    """A channel to a coordinator's mTLS listener, `host:port`. Connects with the first call; a renewed certificate
    needs a new channel. Call inside a running event loop."""
    return grpc.aio.secure_channel(
        address, _channel_credentials(credentials), options=channel_options(credentials.trust_domain, options)
    )


def open_sync_channel(address: str, credentials: Credentials, *, options: Sequence[Option] = ()) -> grpc.Channel:
    """As `open_channel`, for programs without an event loop."""
    return grpc.secure_channel(
        address, _channel_credentials(credentials), options=channel_options(credentials.trust_domain, options)
    )


class ServerCertificate:
    """The certificate that listeners present now. `replace` takes effect with the next connection; those that
    stand go on. Written by one task, read by gRPC's threads."""

    def __init__(self, credentials: Credentials) -> None:
        self.current = credentials

    def replace(self, credentials: Credentials) -> None:
        """Presents these from the next handshake on."""
        self.current = credentials


def server_credentials(certificate: ServerCertificate, *, require_client: bool) -> grpc.ServerCredentials:
    """Credentials of a listener that follow `certificate` live.

    With `require_client` only holders of a valid certificate of the fabric get through the handshake (API listener).
    Without, nobody is asked, and the root is sent along, so that a device with a join token can check it against
    the token's pin (enrolment listener).
    """

    def configuration(credentials: Credentials) -> grpc.ServerCertificateConfiguration:
        chain = credentials.chain_pem if require_client else credentials.chain_pem + credentials.bundle_pem
        return grpc.ssl_server_certificate_configuration(
            [(credentials.key_pem, chain)], root_certificates=credentials.bundle_pem if require_client else None
        )

    shown = certificate.current

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        latest = certificate.current
        if latest is shown:
            return None  # as before
        shown = latest
        return configuration(latest)

    return grpc.dynamic_ssl_server_credentials(
        configuration(shown), fetch, require_client_authentication=require_client
    )


def error_from_rpc(
    error: grpc.RpcError, *, credentials: Credentials | None = None, now_ms: int | None = None
) -> CloudlessError:
    """The error that a failed call stands for: the one that the coordinator named in its trailers, else the one
    its gRPC status means. With `credentials` and `now_ms` a broken handshake is explained as well."""
    status, details, trailers = _parts(error)
    code = trailers.get(ERROR_TRAILER, "")
    if code:
        reason, remedy = trailers.get(REASON_TRAILER, ""), trailers.get(REMEDY_TRAILER, "")
        return errors.from_code(code, details, reason=reason, remedy=remedy)
    if status == "UNAVAILABLE" and credentials is not None and now_ms is not None:
        return explain_handshake(credentials, error, now_ms)
    return errors.BY_GRPC_STATUS.get(status, errors.Internal)(details or f"the call failed with {status}")


def explain_handshake(credentials: Credentials, error: grpc.RpcError, now_ms: int) -> CloudlessError:
    """What an UNAVAILABLE call says about the two certificates.

    Unauthenticated with reason `CoordinatorNotTrusted` (what answers is not of this fabric), `CertificateExpired`,
    `CertificateNotYetValid` or `CertificateRefused` (ours); Unavailable with reason `CoordinatorCertificateInvalid`
    (expired, by this device's clock), `CoordinatorUnreachable`.
    """
    _, details, _ = _parts(error)
    distrust = _distrust(details, credentials.trust_domain)
    if distrust is not None:
        return distrust
    # A server that refuses a client's certificate can only hang up (TLS 1.3); which client side faults are
    # possible is known here.
    if "failed to connect" in details and ("Socket closed" in details or "reset by peer" in details):
        return _refused(credentials, now_ms)
    return Unavailable(details or "the coordinator cannot be reached", reason="CoordinatorUnreachable")


def explain_distrust(error: grpc.RpcError, trust_domain: str) -> CloudlessError | None:
    """The part of `explain_handshake` that is about the server's certificate; None when it was not the cause."""
    return _distrust(_parts(error)[1], trust_domain)


def _distrust(details: str, trust_domain: str) -> CloudlessError | None:
    if "CERTIFICATE_VERIFY_FAILED" not in details and "Hostname Verification" not in details:
        return None
    if "expired" in details or "not yet valid" in details:
        return Unavailable(
            "the coordinator's certificate is not valid at this device's time",
            reason="CoordinatorCertificateInvalid",
            remedy="compare the clocks; if they agree, look at the coordinator",
        )
    return Unauthenticated(
        f"what answers at this address is not a coordinator of {trust_domain}",
        reason="CoordinatorNotTrusted",
        remedy="check the address; if the fabric was made anew, enrol again",
    )


def _refused(credentials: Credentials, now_ms: int) -> Unauthenticated:
    not_before_ms, expires_at_ms = credentials.not_before_ms, credentials.expires_at_ms
    if not expires_at_ms:
        from cloudless.identity.csr import read_certificate

        try:
            info = read_certificate(credentials.chain_pem)
        except Unauthenticated as broken:
            return broken
        not_before_ms, expires_at_ms = info.not_before_ms, info.expires_at_ms
    if now_ms >= expires_at_ms:
        return Unauthenticated(
            f"the certificate of {credentials.spiffe_id} has expired",
            reason="CertificateExpired",
            remedy="get a new one: a node with a join token, a person from an admin",
        )
    if now_ms < not_before_ms:
        return Unauthenticated(
            f"the certificate of {credentials.spiffe_id} is not valid yet at this device's time",
            reason="CertificateNotYetValid",
            remedy="set the clock",
        )
    return Unauthenticated(
        f"the coordinator hung up on the certificate of {credentials.spiffe_id}",
        reason="CertificateRefused",
        remedy="it belongs to another fabric, or a clock is wrong; if it was accepted before, try again",
    )


def _parts(error: grpc.RpcError) -> tuple[str, str, dict[str, str]]:
    """Status name, details and trailers; an error without them reads as UNKNOWN."""
    code = getattr(error, "code", None)
    status = code() if callable(code) else None
    details = getattr(error, "details", None)
    text = (details() if callable(details) else None) or ""
    trailing = getattr(error, "trailing_metadata", None)
    pairs: Iterable[tuple[str, str | bytes]] = (trailing() if callable(trailing) else None) or ()
    trailers = {key: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for key, value in pairs}
    return (status.name if isinstance(status, grpc.StatusCode) else "UNKNOWN"), text, trailers
