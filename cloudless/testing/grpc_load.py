"""A gRPC client that costs next to nothing: unary calls of one method over one HTTP/2 connection under mutual TLS.

For measuring servers: a grpc.aio client takes as much of a processor for a call as the server does. Requests are bytes
that are there already, headers are a handful of constant bytes (the first call puts them into the server's table,
RFC 7541 §6.2.1), and of an answer only the length and the end are read. An answer without a message is a failed call,
which stops the measurement: nothing that fails may be counted as fast.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import cast

from cloudless.identity.credentials import Credentials
from cloudless.identity.spiffe import server_name
from cloudless.identity.tls import MutualTls

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_WINDOW = 2**31 - 1


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: bytes, value: bytes, *, name_index: int = 0) -> bytes:
    """With incremental indexing; texts shorter than 127 bytes, no Huffman coding (RFC 7541 §6.2.1)."""
    head = bytes([0x40 | name_index]) if name_index else b"\x40" + bytes([len(name)]) + name
    return head + bytes([len(value)]) + value


class CallFailed(Exception):
    """The server answered a call with an error, or ended the connection."""


class UnaryLoad(asyncio.Protocol):
    """Made by `connect`. `call` may be used for up to a hundred calls at once."""

    def __init__(self, path: str, authority: str) -> None:
        post, https = b"\x83", b"\x87"  # of the static table
        self._headers = (
            post
            + https
            + _literal(b"", path.encode(), name_index=4)
            + _literal(b"", authority.encode(), name_index=1)
            + _literal(b"", b"application/grpc", name_index=31)
            + _literal(b"te", b"trailers")
        )
        self._next_headers = post + https + bytes([0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62])
        self._stream = 1
        self._waiting: dict[int, Callable[[BaseException | None], None]] = {}
        self._answered: set[int] = set()
        self._buffer = bytearray()
        self._send_window = 65_535
        self._held: deque[tuple[bytes, int]] = deque()  # frames, and how much of the window they need
        self._out: list[bytes] = []
        self._transport: asyncio.Transport

    @classmethod
    async def connect(cls, address: str, credentials: Credentials, path: str) -> UnaryLoad:
        """`path` is /package.Service/Method. The first call has to end before others begin."""
        host, _, port = address.rpartition(":")
        context = MutualTls.of(credentials).dialling
        context.set_alpn_protocols(["h2"])
        name = server_name(credentials.trust_domain)
        _, made = await asyncio.get_running_loop().create_connection(
            lambda: cls(path, name), host, int(port), ssl=context, server_hostname=name
        )
        return made

    def close(self) -> None:
        self._transport.abort()

    async def call(self, request: bytes) -> None:
        """One call. Raises CallFailed."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(error: BaseException | None) -> None:
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        self.start(request, ended)
        await done

    def start(self, request: bytes, ended: Callable[[BaseException | None], None]) -> None:
        stream, self._stream = self._stream, self._stream + 2
        self._waiting[stream] = ended
        message = b"\0" + struct.pack(">I", len(request)) + request
        frames = _frame(_HEADERS, _END_HEADERS, stream, self._headers) + _frame(_DATA, _END_STREAM, stream, message)
        self._headers = self._next_headers
        if self._held or self._send_window < len(message):
            self._held.append((frames, len(message)))
            return
        self._send_window -= len(message)
        self._write(frames)

    def _write(self, data: bytes) -> None:
        self._out.append(data)
        if len(self._out) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._transport.write(b"".join(self._out))
        self._out.clear()

    # the loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "h2"
        settings = struct.pack(">HIHI", 4, _WINDOW, 2, 0)  # INITIAL_WINDOW_SIZE, ENABLE_PUSH
        window = _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW - 65_535))
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + window)

    def connection_lost(self, exc: BaseException | None) -> None:
        for ended in list(self._waiting.values()):
            ended(CallFailed(f"the connection ended: {exc}"))
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        while end - at >= 9:
            length = buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]
            if end - at < 9 + length:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big")
            start = at + 9
            at = start + length
            if kind == _DATA:
                if length:
                    self._answered.add(stream)
            elif kind == _HEADERS:
                if flags & _END_STREAM:
                    self._end(stream)
            else:
                self._other(kind, flags, stream, bytes(buffer[start:at]))
        del buffer[:at]

    def _end(self, stream: int) -> None:
        answered = stream in self._answered
        self._answered.discard(stream)
        self._waiting.pop(stream)(None if answered else CallFailed("an answer without a message"))

    def _other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _PING and not flags & _ACK:
            self._write(_frame(_PING, _ACK, 0, payload))
        elif kind == _SETTINGS and not flags & _ACK:
            self._write(_frame(_SETTINGS, _ACK, 0))
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._send_window += int.from_bytes(payload, "big")
            while self._held and self._held[0][1] <= self._send_window:
                frames, length = self._held.popleft()
                self._send_window -= length
                self._write(frames)
        elif kind == _RST_STREAM:
            self._waiting.pop(stream)(CallFailed(f"reset: {payload.hex()}"))
        elif kind == _GOAWAY:
            self._transport.abort()


async def latencies_of(
    load: UnaryLoad, requests: Callable[[int], bytes], *, in_flight: int, seconds: float
) -> list[float]:
    """Keeps `in_flight` calls under way for so long; their latencies in seconds, in the order of their ends. `requests`
    makes the n-th one. Raises CallFailed for the first that fails."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    number = under_way = 0

    def begin() -> None:
        nonlocal number, under_way
        request = requests(number)
        number += 1
        under_way += 1
        began = time.perf_counter()

        def ended(error: BaseException | None) -> None:
            nonlocal under_way
            now = time.perf_counter()
            under_way -= 1
            if error is not None:
                if not done.done():
                    done.set_exception(error)
                return
            latencies.append(now - began)
            if now < end:
                begin()
            elif under_way == 0 and not done.done():
                done.set_result(None)

        load.start(request, ended)

    for _ in range(in_flight):
        begin()
    await done
    return latencies
