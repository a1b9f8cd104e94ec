"""Messages between coordinators over mutual TLS: `link.Transport` on real sockets.

Each member dials every other one and sends over the connection that it dialled; what the others send comes in over
those that they dialled. A connection is used only after both sides showed that they are who they say:

- TLS 1.3 with certificates of the fabric's authority on both sides, the dialled one for the name of coordinators;
- the certificate's SPIFFE id is that of the coordinator that was dialled, or that the hello claims (raft.proto);
- both are of the same cluster (or one does not know its cluster yet), and neither was removed.

Whoever fails that is refused and reported. A connection ends with the certificate that it was made with; a renewed
one is used for the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import structlog
from prometheus_client import Counter, Gauge

from cloudless.clock import Clock
from cloudless.coordinator.raft import wire
from cloudless.coordinator.raft.frames import FrameConnection, FrameError, View
from cloudless.coordinator.raft.greeting import (
    Greeter,
    Refusal,
    Refused,
    TransportTiming,
    bind,
    claimed_id,
    close_at_expiry,
    failure,
    tune,
)
from cloudless.coordinator.raft.link import AnyMessage
from cloudless.errors import InvalidArgument
from cloudless.identity.channel import ServerCertificate
from cloudless.identity.csr import CertificateInfo
from cloudless.identity.enrollment import split_address

__all__ = ["Refusal", "TlsTransport", "TransportTiming"]

BACKLOG_BYTES_MAX: Final = 64 * 2**20
_CLOSE_S: Final = 1.0

CONNECTIONS = Gauge("cloudless_raft_connections", "Connections with other members.", ["direction"])
BYTES = Counter("cloudless_raft_transport_bytes_total", "Bytes of messages between members.", ["direction"])
DROPPED = Counter("cloudless_raft_messages_dropped_total", "Messages to members that were not sent.", ["cause"])
_SENT, _RECEIVED = BYTES.labels("out"), BYTES.labels("in")

log = structlog.get_logger(__name__)


class TlsTransport:
    """`link.Transport`. The constructor binds `listen` (host:port, port 0 for any; see `address`) and raises
    FailedPrecondition (PortInUse), InvalidArgument (BadSetting); nobody is answered before `start`.

    `cluster_id` returns "" as long as this member does not know its cluster. `on_refused` is called on the event loop
    for everybody who was refused, as often as that happens. `random_float`: jitter, from [0, 1)."""

    def __init__(
        self,
        member_id: str,
        *,
        listen: str,
        identity: ServerCertificate,
        trust_domain: str,
        cluster_id: Callable[[], str],
        clock: Clock,
        on_refused: Callable[[Refusal], None],
        timing: TransportTiming | None = None,
        random_float: Callable[[], float] = random.random,
    ) -> None:
        self.greeter = Greeter(member_id, identity=identity, trust_domain=trust_domain, cluster_id=cluster_id)
        self.clock = clock
        self.timing = timing or TransportTiming()
        self.random_float = random_float
        self.closing = False
        self._on_refused = on_refused
        self._on_message: Callable[[str, AnyMessage], None] | None = None
        self._on_lost: Callable[[str], None] | None = None
        self._peers: dict[str, _Peer] = {}
        self._callers: dict[str, _Caller] = {}  # by proved id: the newest connection of each
        self._pending: dict[asyncio.Task[None], _Caller] = {}  # who have not said hello yet, the oldest first
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket = bind(listen)
        host, port = self._socket.getsockname()[:2]
        self.address = _joined(host, port)

    # link.Transport

    def start(self, on_message: Callable[[str, AnyMessage], None], on_lost: Callable[[str], None]) -> None:
        self._on_message, self._on_lost = on_message, on_lost
        self._socket.listen(128)
        self.spawn(self._accept(), "raft.accept")
        for peer in self._peers.values():
            peer.start()

    def connect(self, members: Mapping[str, str]) -> None:
        for member in [m for m, peer in self._peers.items() if members.get(m) != peer.address]:
            was_connected = self._peers[member].connection is not None
            self._peers.pop(member).stop()
            if was_connected and member in members:  # it moved
                asyncio.get_running_loop().call_soon(self.lost, member)
        for member, address in members.items():
            if member != self.greeter.member_id and member not in self._peers:
                self._peers[member] = peer = _Peer(self, member, address)
                if self._on_message is not None and not self.closing:
                    peer.start()
        self.count_connections()

    def refuse(self, members: frozenset[str]) -> None:
        self.greeter.removed = members
        for member in sorted(members):
            detail = f"{member} was removed from the cluster"
            if member in self._peers:
                self._peers[member].drop(Refused("Removed", detail))
            caller = self._callers.get(member)
            if caller is not None:
                caller.report("Removed", detail)
                caller.connection.abort(Refused("Removed", detail))

    def send(self, to: str, message: AnyMessage) -> bool:
        peer = self._peers.get(to)
        connection = peer.connection if peer is not None else None
        if connection is None:
            DROPPED.labels("disconnected").inc()
            return False
        if connection.backlog_bytes > BACKLOG_BYTES_MAX:
            DROPPED.labels("backlog").inc()
            return False
        data = wire.encode(message)
        connection.send(data)
        _SENT.inc(len(data))
        return True

    def flush(self) -> None:
        for peer in self._peers.values():
            if peer.connection is not None:
                peer.connection.flush()

    def backlog_bytes(self, to: str) -> int:
        peer = self._peers.get(to)
        return peer.connection.backlog_bytes if peer is not None and peer.connection is not None else 0

    async def close(self) -> None:
        """What was sent is given a second to leave. May be called twice; no callback is called afterwards."""
        if self.closing:
            return
        self.closing = True
        sending = [peer.connection for peer in self._peers.values() if peer.connection is not None]
        await asyncio.gather(*(connection.finish(timeout_s=_CLOSE_S) for connection in sending))
        callers = list(self._callers.values())
        for caller in callers:
            caller.connection.abort()
        for peer in self._peers.values():
            peer.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for caller in callers:
            await caller.connection.wait_closed()
        self._socket.close()

    # shared by both sides

    def report(self, refusal: Refusal) -> None:
        if not self.closing:
            self._on_refused(refusal)

    def lost(self, member: str) -> None:
        if not self.closing and self._on_lost is not None:
            self._on_lost(member)

    def received(self, member: str, frame: View) -> None:
        """Raises ValueError for what is no message."""
        message = wire.decode(frame)
        _RECEIVED.inc(len(frame))
        if not self.closing and self._on_message is not None:
            self._on_message(member, message)

    def count_connections(self) -> None:
        CONNECTIONS.labels("in").set(len(self._callers))
        CONNECTIONS.labels("out").set(sum(peer.connection is not None for peer in self._peers.values()))

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # those who dial this member

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(self._socket)
            except OSError as error:
                # The caller left already, or no descriptor is free.
                log.warning("raft.accept_failed", cause=str(error))
                await asyncio.sleep(self.timing.retry_s_min)
                continue
            if len(self._pending) >= self.timing.pending_max:
                # A member needs milliseconds: whoever takes longest is none.
                task, slowest = next(iter(self._pending.items()))
                slowest.evicted = True
                del self._pending[task]
                task.cancel()
            caller = _Caller(self, _joined(*address[:2]))
            task = self.spawn(caller.enter(accepted), "raft.caller")
            self._pending[task] = caller
            task.add_done_callback(self._entered)

    def _entered(self, task: asyncio.Task[None]) -> None:
        self._pending.pop(task, None)

    def admit(self, caller: _Caller) -> None:
        """Its newest connection stands: a member knows best which of its own still live."""
        before = self._callers.get(caller.member)
        self._callers[caller.member] = caller
        if before is not None:
            before.connection.abort(ConnectionAbortedError("it dialled again"))
        self.count_connections()
        peer = self._peers.get(caller.member)
        if peer is not None:
            peer.wake()

    def leave(self, caller: _Caller) -> None:
        if self._callers.get(caller.member) is caller:
            del self._callers[caller.member]
        self.count_connections()


class _Caller:
    """One connection that somebody else dialled; the messages of `member` come in here, once that is proved."""

    def __init__(self, transport: TlsTransport, address: str) -> None:
        self.connection = FrameConnection(self._closed)
        self.member = ""
        self.evicted = False
        self._transport = transport
        self._address = address
        self._claimed = ""
        self._info: CertificateInfo | None = None
        self._expiry: asyncio.TimerHandle | None = None

    async def enter(self, accepted: socket.socket) -> None:
        """From the accepted socket to a member that is heard, or a refusal. Raises CancelledError."""
        timing = self._transport.timing
        try:
            async with asyncio.timeout(timing.hello_s):
                await self._secure(accepted)
                await self._greet()
        except Refused as refused:
            self.report(refused.reason, refused.detail)
            self.connection.send(self._transport.greeter.refusal(refused))
            await self.connection.finish(timeout_s=_CLOSE_S)
        except (OSError, EOFError, FrameError, TimeoutError) as error:
            self.connection.abort()
            reason, detail = failure(error, secured=self.connection.secured)
            if reason:
                self.report(reason, detail)
            else:
                log.debug("raft.caller_left", peer=self._address, cause=detail)
        except asyncio.CancelledError:
            self.connection.abort()
            if self.evicted:
                self.report("TooManyHandshakes", "too many are at the door, and it took longest")
            raise

    def report(self, reason: str, detail: str) -> None:
        certificate = str(self._info.spiffe_id) if self._info is not None else ""
        self._transport.report(Refusal(reason, detail, self._address, self._claimed, certificate))

    async def _secure(self, accepted: socket.socket) -> None:
        timing = self._transport.timing
        try:
            tune(accepted, timing)
            context = self._transport.greeter.contexts().accepting
        except BaseException:
            accepted.close()
            raise
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: self.connection,
            accepted,
            ssl=context,
            ssl_handshake_timeout=timing.hello_s,
            ssl_shutdown_timeout=_CLOSE_S,
        )

    async def _greet(self) -> None:
        transport = self._transport
        self._info = info = transport.greeter.identify(self.connection)
        transport.greeter.check_coordinator(info)
        frame = await self.connection.first_frame()
        self._claimed = claimed_id(frame)
        self.member, welcome = transport.greeter.check_hello(frame, info)
        self.connection.send(welcome)
        transport.admit(self)
        log.info("raft.member_connected", member=self.member, peer=self._address, direction="in")
        self._watch_expiry()
        self.connection.listen(self._heard, frame_bytes_max=wire.MESSAGE_BYTES_MAX)

    def _heard(self, frame: View) -> None:
        self._transport.received(self.member, frame)

    def _watch_expiry(self) -> None:
        assert self._info is not None
        self._expiry = close_at_expiry(self.connection, self._info, self._transport.clock, self._watch_expiry)

    def _closed(self, cause: BaseException | None) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        if not self.member:
            return
        self._transport.leave(self)
        if isinstance(cause, FrameError):
            self.report("BadFrame", str(cause))
        log.info("raft.member_lost", member=self.member, peer=self._address, direction="in", cause=str(cause or ""))
        self._transport.lost(self.member)


class _Peer:
    """The connection to one member: dialled, and dialled again whenever it broke."""

    def __init__(self, transport: TlsTransport, member: str, address: str) -> None:
        self.address = address
        self.connection: FrameConnection | None = None  # while messages can be sent
        self._transport = transport
        self._member = member
        self._info: CertificateInfo | None = None
        self._task: asyncio.Task[None] | None = None
        self._awake = asyncio.Event()
        self._broken = asyncio.Event()
        self._stopped = False
        self._failure = ""  # the last one that was logged
        self._expiry: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = self._transport.spawn(self._keep(), f"raft.dial.{self._member}")

    def stop(self) -> None:
        """For good; nobody is told."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
        self.drop(None)

    def drop(self, cause: BaseException | None) -> None:
        if self.connection is not None:
            self.connection.abort(cause)

    def wake(self) -> None:
        """It lives: the next attempt need not wait."""
        self._awake.set()

    async def _keep(self) -> None:
        transport, timing = self._transport, self._transport.timing
        pause_s = timing.retry_s_min
        while True:
            self._awake.clear()
            if self._member not in transport.greeter.removed and await self._dial():
                pause_s = timing.retry_s_min
                await self._broken.wait()
                self._awake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s * (0.5 + transport.random_float())):
                    await self._awake.wait()
            pause_s = min(2 * pause_s, timing.retry_s_max)

    async def _dial(self) -> bool:
        """Whether there was a connection; `_broken` is set when it is over."""
        transport, timing = self._transport, self._transport.timing
        connection = FrameConnection(self._closed)
        self._info = None
        self._broken.clear()
        try:
            host, port = split_address(self.address)
            async with asyncio.timeout(timing.connect_s + timing.hello_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    host,
                    port,
                    ssl=transport.greeter.contexts().dialling,
                    server_hostname=transport.greeter.server_name,
                    ssl_handshake_timeout=timing.hello_s,
                    ssl_shutdown_timeout=_CLOSE_S,
                )
                tune(connection.socket, timing)
                await self._greet(connection)
        except Refused as refused:
            connection.abort()
            self._report(refused.reason, refused.detail)
            return False
        except (OSError, EOFError, FrameError, TimeoutError, InvalidArgument) as error:
            connection.abort()
            reason, detail = failure(error, secured=connection.secured)
            if reason in ("", "HelloTimeout", "HandshakeTimeout") or (connection.secured and reason != "BadHello"):
                # It is away, or slow, or it refused this member.
                self._log_failure(reason or type(error).__name__, detail)
            else:
                self._report(reason, detail)
            return False
        except asyncio.CancelledError:
            connection.abort()
            raise
        if connection.closed:
            return False
        self._failure = ""
        self.connection = connection
        transport.count_connections()
        log.info("raft.member_connected", member=self._member, peer=self.address, direction="out")
        self._watch_expiry()
        connection.listen(_heard_nothing, frame_bytes_max=0)
        return True

    async def _greet(self, connection: FrameConnection) -> None:
        greeter = self._transport.greeter
        self._info = greeter.identify(connection)
        greeter.check_dialled(self._member, self._info)
        connection.send(greeter.hello(self._member))
        greeter.check_welcome(self._member, await connection.first_frame())

    def _report(self, reason: str, detail: str) -> None:
        self._log_failure(reason, detail)
        certificate = str(self._info.spiffe_id) if self._info is not None else ""
        self._transport.report(Refusal(reason, detail, self.address, self._member, certificate, dialled=True))

    def _log_failure(self, reason: str, detail: str) -> None:
        if f"{reason} {detail}" != self._failure:  # the next attempt follows at once
            self._failure = f"{reason} {detail}"
            log.info("raft.member_unreachable", member=self._member, peer=self.address, reason=reason, cause=detail)

    def _watch_expiry(self) -> None:
        if self.connection is not None and self._info is not None:
            self._expiry = close_at_expiry(self.connection, self._info, self._transport.clock, self._watch_expiry)

    def _closed(self, cause: BaseException | None) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        if self.connection is None or not self.connection.closed:
            return  # of an attempt that came to nothing
        self.connection = None
        self._broken.set()
        self._transport.count_connections()
        log.info("raft.member_lost", member=self._member, peer=self.address, direction="out", cause=str(cause or ""))
        if not self._stopped:
            self._transport.lost(self._member)


def _heard_nothing(frame: View) -> None:
    raise ValueError("the side that was dialled has nothing to say")


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
