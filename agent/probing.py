"""Runs one health check: HTTP, TCP, exec or gRPC. When each is due and what results add up to is the core's.

Nothing here blocks the event loop or outlives its timeout, and no answer of a container can cost more than a few
kilobytes: what it sends beyond the status is not read. A check that hangs holds nobody else's up: only the making of
processes for exec checks is bounded, and waiting for one's turn there is not part of the timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from cloudless.agent.core.model import Check
from cloudless.agent.core.probes import timeout_ms
from cloudless.agent.runtime.base import ExecRequest, Runtime
from cloudless.core.model import Assignment
from cloudless.core.spec import Container, GrpcProbe, HttpProbe
from cloudless.errors import CloudlessError, NotFound, Unavailable

if TYPE_CHECKING:
    import ssl

Prober: TypeAlias = Callable[[str, Assignment, Check], Awaitable[tuple[bool | None, str]]]

_STATUS_LINE_BYTES: Final = 4096
_SERVING: Final = 1
_SERVING_STATUS: Final = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")  # of grpc.health.v1
_STARTS_AT_ONCE: Final = 8
_DETAIL_MAX: Final = 256  # of what a program or a server said
# The container went, or the runtime: neither tells of its health, and the next look will.
_NOT_A_VERDICT: Final = frozenset({"ContainerNotRunning", "RuntimeUnavailable", "ReplicaNotFound"})


def port_of(container: Container, port: str) -> int | None:
    """The number of a probe's port: a number already, or the name of one of the container's ports."""
    if port.isdigit():
        return int(port)
    return next((p.container_port for p in container.ports if p.name == port), None)


def _place(container: Container, check: Check) -> str:
    """HOST:PORT that a check goes to; empty where it goes to none."""
    probe = check.probe
    wanted = probe.http or probe.tcp or probe.grpc
    port = port_of(container, wanted.port) if wanted is not None and probe.exec is None else None
    host = f"[{check.address}]" if ":" in check.address else check.address
    return f"{host}:{port}" if port is not None else ""


_WORDS: Final = {
    errno.ECONNREFUSED: "connection refused at",
    errno.ECONNRESET: "connection reset by",
    errno.EPIPE: "connection closed by",
    errno.EHOSTUNREACH: "no route to",
    errno.ENETUNREACH: "no route to",
}


def _words(error: OSError, place: str) -> str:
    """What went wrong, for people: without the numbers and tuples of Python's own texts."""
    words = _WORDS.get(error.errno or 0)
    if place and words:
        return f"{words} {place}"
    reason = error.strerror or str(error) or type(error).__name__
    if tls := getattr(error, "reason", None):  # an ssl.SSLError
        reason = f"TLS failed ({str(tls).replace('_', ' ').lower()})"
    return f"{reason} at {place}" if place else reason


class NetworkProber:
    """Checks containers over the network, and through the runtime's exec. A `Prober`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._starts = asyncio.Semaphore(_STARTS_AT_ONCE)
        self._tls: ssl.SSLContext | None = None

    async def __call__(self, replica_id: str, assignment: Assignment, check: Check) -> tuple[bool | None, str]:
        """Whether the check passed, and a word about it when not; None when it could not be made, because the
        runtime does not answer or the container does not run (any more): that says nothing of its health. Raises
        only when cancelled."""
        container = next((c for c in assignment.spec.containers if c.name == check.container), None)
        if container is None:
            return False, "no such container"
        limit_ms = timeout_ms(check.probe)
        try:
            async with asyncio.timeout(limit_ms / 1000) as limit:
                if check.probe.exec is not None:
                    return await self._exec(replica_id, container.name, check.probe.exec.command, limit, limit_ms)
                return await self._check(container, check)
        except TimeoutError:
            place = _place(container, check)
            return False, f"no answer{f' from {place}' if place else ''} within {limit_ms} ms"
        except (Unavailable, NotFound) as error:
            return None, error.message
        except OSError as error:
            return False, _words(error, _place(container, check))
        except CloudlessError as error:
            return (None if error.reason in _NOT_A_VERDICT else False), error.message
        except (ValueError, OverflowError) as error:  # OverflowError: a port of no network
            return False, str(error) or type(error).__name__

    async def _check(self, container: Container, check: Check) -> tuple[bool, str]:
        probe = check.probe
        wanted = probe.http or probe.tcp or probe.grpc
        if wanted is None:
            return False, "the probe says nothing to check"
        port = port_of(container, wanted.port)
        if port is None:
            return False, f"the container has no port named {wanted.port}"
        if not check.address:
            return False, "the replica has no address"
        if probe.http is not None:
            return await self._http(probe.http, check.address, port)
        if probe.grpc is not None:
            return await _grpc(probe.grpc, check.address, port, place=_place(container, check))
        _, writer = await asyncio.open_connection(check.address, port)
        await _hang_up(writer)
        return True, ""

    async def _http(self, probe: HttpProbe, host: str, port: int) -> tuple[bool, str]:
        tls = self._context() if probe.scheme.upper() == "HTTPS" else None
        reader, writer = await asyncio.open_connection(host, port, ssl=tls, limit=_STATUS_LINE_BYTES)
        try:
            headers = {"Host": f"{host}:{port}", "User-Agent": "cloudless-probe/1", "Accept": "*/*"}
            given = {name.lower() for name in probe.headers}
            lines = [f"{k}: {v}" for k, v in headers.items() if k.lower() not in given]
            lines += [f"{k}: {v}" for k, v in probe.headers.items()]
            if any("\r" in line or "\n" in line for line in lines) or any(c in (probe.path or "/") for c in " \r\n"):
                return False, "the probe's path or headers hold a line break or space"
            head = "\r\n".join([f"GET {probe.path or '/'} HTTP/1.1", *lines, "Connection: close"])
            writer.write(head.encode() + b"\r\n\r\n")
            await writer.drain()
            parts = (await reader.readline()).split(None, 2)
            if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
                return False, "the answer is not HTTP"
            status = int(parts[1][:4])
            return 200 <= status <= 399, f"HTTP status {status}"
        finally:
            await _hang_up(writer)

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            import ssl

            # A health check asks whether it answers, not who: the certificate is not for this address.
            self._tls = ssl.create_default_context()
            self._tls.check_hostname = False
            self._tls.verify_mode = ssl.CERT_NONE
        return self._tls

    async def _exec(
        self, replica_id: str, container: str, command: tuple[str, ...], limit: asyncio.Timeout, limit_ms: int
    ) -> tuple[bool, str]:
        limit.reschedule(None)
        async with self._starts:
            limit.reschedule(asyncio.get_running_loop().time() + limit_ms / 1000)
            session = await self._runtime.exec(ExecRequest(replica_id, container, command))
        try:
            last = b""

            async def drain() -> None:
                nonlocal last
                async for _, data in session.output():
                    last = (last + data)[-_DETAIL_MAX:]

            draining = asyncio.ensure_future(drain())
            try:
                code = await session.wait()
                # A child that keeps the output open must not keep the check from its result.
                await asyncio.wait([draining], timeout=0.1)
            finally:
                draining.cancel()
                with contextlib.suppress(asyncio.CancelledError, CloudlessError):
                    await draining
            words = last.decode("utf-8", "replace").strip().replace("\n", " ")
            return code == 0, f"exit code {code}" + (f": {words}" if words else "")
        finally:
            await session.close()


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    # Aborted rather than closed: a peer that never answers a TLS goodbye would cost a task.
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _grpc(probe: GrpcProbe, host: str, port: int, *, place: str) -> tuple[bool, str]:
    import grpc
    import grpc.aio

    async with grpc.aio.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(
            "/grpc.health.v1.Health/Check", request_serializer=_encode_health, response_deserializer=_decode_health
        )
        try:
            status = await call(probe.service, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE and "onnection refused" in (error.details() or ""):
                return False, f"connection refused at {place}"
            return False, f"gRPC {error.code().name}: {(error.details() or '')[:_DETAIL_MAX]}".strip(": ")
    known = status < len(_SERVING_STATUS)
    return status == _SERVING, f"health status {_SERVING_STATUS[status] if known else status}"


def _encode_health(service: str) -> bytes:
    """HealthCheckRequest{service}: one string field, spared the dependency on its generated code."""
    name = service.encode()
    if not name:
        return b""
    size, length = len(name), b""
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return b"\x0a" + length + bytes([size]) + name


def _decode_health(data: bytes) -> int:
    """HealthCheckResponse.status: one enum field; absent means 0 (UNKNOWN)."""
    return data[1] if len(data) >= 2 and data[0] == 0x08 else 0
