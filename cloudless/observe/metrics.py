"""`/metrics` and `/healthz` on a small HTTP listener, loopback unless configured otherwise.

Written on asyncio streams: two fixed GET paths do not need a web framework, and the agent stays small.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from prometheus_client import REGISTRY, Info
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from cloudless import __version__
from cloudless.config import MetricsConfig
from cloudless.errors import FailedPrecondition, InvalidArgument

_REQUEST_LIMIT_BYTES = 8192
_REQUEST_TIMEOUT_S = 5.0
_REQUESTS_AT_ONCE = 32

BUILD_INFO = Info("cloudless_build", "Version of the running program.")


class MetricsServer:
    """Serves until closed. `address` is the real host and port (port 0 picks one)."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        host, port = server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()


async def serve(config: MetricsConfig, *, health: Callable[[], bool]) -> MetricsServer | None:
    """Starts the listener; None when it is switched off. `health` answers liveness and must not block.

    Raises InvalidArgument for a bad address, FailedPrecondition when the port is taken.
    """
    BUILD_INFO.info({"version": __version__})
    if not config.listen:
        return None
    host, separator, port = config.listen.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(f"metrics.listen {config.listen!r} is not HOST:PORT", reason="BadSetting")

    under_way = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way
        if under_way >= _REQUESTS_AT_ONCE:
            writer.transport.abort()
            return
        under_way += 1
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = _answer(head, health)
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + body
                )
                writer.close()
                await writer.wait_closed()  # all of it is on its way
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # a peer that does not finish its request gets no answer
        finally:
            under_way -= 1
            writer.transport.abort()  # a peer that does not read its answer is not waited for

    try:
        server = await asyncio.start_server(handle, host.strip("[]"), int(port), limit=_REQUEST_LIMIT_BYTES)
    except OSError as error:
        # asyncio's own text repeats the address; a name that does not resolve has a number of its own.
        number = error.errno or 0
        cause = os.strerror(number) if number > 0 else error.strerror
        raise FailedPrecondition(
            f"cannot listen on {config.listen} for metrics: {cause}",
            reason="PortInUse",
            remedy="set metrics.listen to a free address, or to an empty one to switch it off",
        ) from None
    return MetricsServer(server)


def _answer(head: bytes, health: Callable[[], bool]) -> tuple[str, str, bytes]:
    parts = head.split(b"\r\n", 1)[0].split(b" ")
    if len(parts) != 3 or parts[0] not in (b"GET", b"HEAD"):
        return "405 Method Not Allowed", "text/plain", b"only GET\n"
    path = parts[1].split(b"?")[0]
    if path == b"/metrics":
        return "200 OK", CONTENT_TYPE_LATEST, generate_latest(REGISTRY)
    if path == b"/healthz":
        return ("200 OK", "text/plain", b"ok\n") if health() else ("503 Service Unavailable", "text/plain", b"no\n")
    return "404 Not Found", "text/plain", b"see /metrics and /healthz\n"
