"""Who may talk to this member: TLS, certificates and the hello (raft.proto), before any message of Raft is read."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError

from cloudless.api.v1 import raft_pb2 as pb
from cloudless.clock import Clock
from cloudless.coordinator.raft.frames import FrameConnection, FrameError
from cloudless.errors import FailedPrecondition, InvalidArgument, Unauthenticated
from cloudless.identity.channel import ServerCertificate
from cloudless.identity.csr import CertificateInfo, read_certificate
from cloudless.identity.spiffe import COORDINATOR, server_name
from cloudless.identity.tls import MutualTls, failure_reason

PROTOCOL: Final = 1
PROTOCOL_OLDEST: Final = 1
_TEXT_MAX: Final = 200  # of what others claim, in reports
_EXPIRY_CHECK_S: Final = 30.0  # the wall clock may jump


@dataclass(frozen=True, slots=True)
class Refusal:
    """`reason` is CamelCase and one of a fixed set, `detail` is for people. `peer`: host:port. `claimed`: the member id
    that it gave itself, or that was dialled; `certificate`: the SPIFFE id that it proved; each "" where it did not come
    to that. `dialled`: this member had dialled it."""

    reason: str
    detail: str
    peer: str
    claimed: str = ""
    certificate: str = ""
    dialled: bool = False


@dataclass(frozen=True, slots=True)
class TransportTiming:
    """Seconds. `hello_s`: TLS and hello together may take so long. `silence_s`: unanswered packets for so long break a
    connection (whole seconds, but for TCP's user timeout). `retry_*`: the pause between two attempts to reach a member,
    doubling. `pending_max`: callers that have not said hello yet; with one more the oldest is dropped."""

    hello_s: float = 5.0
    connect_s: float = 3.0
    silence_s: float = 2.0
    retry_s_min: float = 0.05
    retry_s_max: float = 1.0
    pending_max: int = 32


class Refused(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Greeter:
    """What this member shows, and what it demands of others. `cluster_id` returns "" as long as it is not known."""

    def __init__(
        self, member_id: str, *, identity: ServerCertificate, trust_domain: str, cluster_id: Callable[[], str]
    ) -> None:
        self.member_id = member_id
        self.server_name = server_name(trust_domain)
        self.removed: frozenset[str] = frozenset()
        self._identity = identity
        self._trust_domain = trust_domain
        self._cluster_id = cluster_id
        self._tls: tuple[object, MutualTls] | None = None

    def contexts(self) -> MutualTls:
        """Of the certificate as it is now. Raises ssl.SSLError, OSError."""
        current = self._identity.current
        if self._tls is None or self._tls[0] is not current:
            self._tls = current, MutualTls.of(current)
        return self._tls[1]

    def identify(self, connection: FrameConnection) -> CertificateInfo:
        """What the other side's certificate says, which TLS has verified. Raises Refused."""
        try:
            return read_certificate(ssl.DER_cert_to_PEM_cert(connection.peer_certificate_der).encode())
        except Unauthenticated as error:
            raise Refused(error.reason, error.message) from None

    def check_coordinator(self, info: CertificateInfo) -> None:
        """Raises Refused for everybody else; to be asked before anything is read or said."""
        who = info.spiffe_id
        if who.trust_domain != self._trust_domain or who.kind != COORDINATOR:
            raise Refused("NotACoordinator", f"{who} is no coordinator of {self._trust_domain}")

    def hello(self, to: str) -> bytes:
        hello = pb.MemberHello(
            protocol=PROTOCOL,
            protocol_oldest=PROTOCOL_OLDEST,
            member_id=self.member_id,
            to=to,
            cluster_id=self._cluster_id(),
        )
        return bytes(hello.SerializeToString())

    def check_hello(self, frame: bytes, info: CertificateInfo) -> tuple[str, bytes]:
        """Of a coordinator that dialled: its proved id, and the welcome. Raises Refused."""
        hello = _parsed(pb.MemberHello, frame)
        claimed = hello.member_id
        if claimed != info.spiffe_id.name:
            raise Refused(
                "WrongMember", f"it claims to be {claimed[:_TEXT_MAX]} with the certificate of {info.spiffe_id}"
            )
        if hello.protocol < PROTOCOL_OLDEST or hello.protocol_oldest > PROTOCOL:
            raise Refused(
                "UnknownProtocol",
                f"it speaks {hello.protocol_oldest} to {hello.protocol}, this member {PROTOCOL_OLDEST} to {PROTOCOL}",
            )
        if claimed == self.member_id:
            raise Refused("OwnId", f"another process has the id of this member, {claimed}")
        if hello.to != self.member_id:
            raise Refused("WrongAddress", f"it wants {hello.to[:_TEXT_MAX]}, this is {self.member_id}")
        self._check_membership(claimed, hello.cluster_id)
        welcome = pb.MemberWelcome(
            protocol=min(PROTOCOL, hello.protocol), member_id=self.member_id, cluster_id=self._cluster_id()
        )
        return claimed, bytes(welcome.SerializeToString())

    def check_dialled(self, member: str, info: CertificateInfo) -> None:
        """Of the one that was dialled, before anything is said to it. Raises Refused."""
        self.check_coordinator(info)
        if info.spiffe_id.name != member:
            raise Refused("WrongMember", f"{member} was dialled, the certificate is of {info.spiffe_id}")

    def check_welcome(self, member: str, frame: bytes) -> None:
        """Raises Refused; ConnectionRefusedError where the other side refused this one."""
        welcome = _parsed(pb.MemberWelcome, frame)
        if welcome.refused:
            raise ConnectionRefusedError(f"{welcome.refused[:_TEXT_MAX]}: {welcome.message[:_TEXT_MAX]}")
        if welcome.member_id != member or not PROTOCOL_OLDEST <= welcome.protocol <= PROTOCOL:
            raise Refused("BadHello", f"a welcome of {welcome.member_id[:_TEXT_MAX]!r} in protocol {welcome.protocol}")
        self._check_membership(member, welcome.cluster_id)

    def refusal(self, refused: Refused) -> bytes:
        """What a caller is told before it is hung up on."""
        welcome = pb.MemberWelcome(
            protocol=PROTOCOL, member_id=self.member_id, refused=refused.reason, message=refused.detail
        )
        return bytes(welcome.SerializeToString())

    def _check_membership(self, member: str, cluster_id: str) -> None:
        if member in self.removed:
            raise Refused("Removed", f"{member} was removed from the cluster")
        ours = self._cluster_id()
        if ours and cluster_id and ours != cluster_id:
            raise Refused("WrongCluster", f"{member} is of the cluster {cluster_id[:_TEXT_MAX]}, not of {ours}")


def claimed_id(frame: bytes) -> str:
    """Whom a hello, sound or not, says that it is of; for reports."""
    try:
        return str(pb.MemberHello.FromString(frame).member_id)[:_TEXT_MAX]
    except DecodeError:
        return ""


def failure(error: BaseException, *, secured: bool) -> tuple[str, str]:
    """Why a connection came to nothing, as a refusal's reason and detail; reason "" where the other side only left.
    `secured`: after the TLS handshake."""
    if isinstance(error, FrameError):
        return "BadHello", str(error)
    if isinstance(error, TimeoutError) and secured:
        return "HelloTimeout", "it did not say hello in time"
    reason = failure_reason(error)
    if reason == "HandshakeTimeout":
        return reason, "it did not finish the TLS handshake in time"
    return reason, str(error)[:_TEXT_MAX]


def close_at_expiry(
    connection: FrameConnection, info: CertificateInfo, clock: Clock, again: Callable[[], None]
) -> asyncio.TimerHandle | None:
    """Ends the connection if the peer's certificate has ended; else calls `again` then, or earlier."""
    left_s = (info.expires_at_ms - clock.now_ms()) / 1000
    if left_s <= 0:
        connection.abort(ConnectionAbortedError("its certificate has expired"))
        return None
    return asyncio.get_running_loop().call_later(min(left_s + 0.001, _EXPIRY_CHECK_S), again)


def tune(sock: Any, timing: TransportTiming) -> None:
    """Small messages leave at once; a way that fell silent is noticed."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (  # not every system has each
        ("TCP_KEEPIDLE", max(1, round(timing.silence_s / 2))),
        ("TCP_KEEPINTVL", 1),
        ("TCP_KEEPCNT", max(1, round(timing.silence_s / 2))),
        ("TCP_USER_TIMEOUT", round(timing.silence_s * 1000)),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def bind(listen: str) -> socket.socket:
    """A socket bound to host:port, port 0 for any. Raises FailedPrecondition (PortInUse), InvalidArgument."""
    host, separator, port = listen.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(f"listen.member {listen[:_TEXT_MAX]!r} is not HOST:PORT", reason="BadSetting")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            bare, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidArgument(f"listen.member: no address for {bare!r}: {error}", reason="BadSetting") from error
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise FailedPrecondition(
            f"cannot listen on {listen} (listen.member): the port is in use, or the address is not this host's",
            reason="PortInUse",
            remedy="end what uses it, or set listen.member to another address",
        ) from error
    return bound


def _parsed(kind: type[Any], frame: bytes) -> Any:
    try:
        return kind.FromString(frame)
    except DecodeError:
        raise Refused("BadHello", "what it said first is no hello") from None
