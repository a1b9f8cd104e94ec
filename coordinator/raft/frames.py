"""One TLS connection between two members: frames of a length (4 bytes, big-endian) and a message, either way.

What is written in one turn of the loop leaves as one piece. Nothing blocks: what the peer does not take waits here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

HELLO_BYTES_MAX: Final = 4_096  # nobody has proved who it is before its hello was read
WRITE_BYTES: Final = 256 * 1024  # handed to TLS at once
_LENGTH_BYTES: Final = 4

View = bytes | memoryview


class FrameError(Exception):
    """What came is not a frame of this protocol."""


class FrameConnection(asyncio.Protocol):
    """`frame_bytes_max` holds for what comes in and may be raised later. `on_frame` takes every frame; while it is None
    they wait for `first_frame`. A frame is valid during the call only. An exception of `on_frame` ends the connection.

    `on_closed` is called once, with what broke the connection: None when either side closed it in good order."""

    def __init__(self, on_closed: Callable[[BaseException | None], None]) -> None:
        self.frame_bytes_max = HELLO_BYTES_MAX
        self.on_frame: Callable[[View], None] | None = None
        self.closed = False
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._cause: BaseException | None = None
        self._received = bytearray()
        self._first: asyncio.Future[bytes] | None = None
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._out: deque[bytes] = deque()
        self._out_bytes = 0
        self._flush_due = False
        self._paused = False
        self._finishing = False

    # the owner's side

    @property
    def secured(self) -> bool:
        """Whether the TLS handshake is over."""
        return self._transport is not None

    @property
    def peer_certificate_der(self) -> bytes:
        """b"" before the handshake is over."""
        tls = self._transport.get_extra_info("ssl_object") if self._transport else None
        return (tls.getpeercert(binary_form=True) if isinstance(tls, ssl.SSLObject) else None) or b""

    @property
    def socket(self) -> Any:
        """For its options; None before the handshake is over."""
        return self._transport.get_extra_info("socket") if self._transport else None

    @property
    def backlog_bytes(self) -> int:
        """What waits here and in TLS; the kernel's buffer does not count."""
        return self._out_bytes + (self._transport.get_write_buffer_size() if self._transport else 0)

    def send(self, message: bytes) -> None:
        """Never waits; without effect on a connection that is closed or about to be."""
        if self.closed or self._finishing:
            return
        self._out.append(len(message).to_bytes(_LENGTH_BYTES, "big"))
        self._out.append(message)
        self._out_bytes += _LENGTH_BYTES + len(message)
        if not self._flush_due and not self._paused:
            self._flush_due = True
            self._loop.call_soon(self._flush_soon)

    def flush(self) -> None:
        """Hands what was sent to TLS now, not at the end of the turn."""
        if self._out:
            self._flush()

    async def first_frame(self) -> bytes:
        """The next frame, while nobody takes them. Raises FrameError, ConnectionError, OSError."""
        self._first = self._loop.create_future()
        self._parse()
        if self.closed and not self._first.done():
            self._first.set_exception(self._cause or ConnectionResetError("closed"))
        try:
            frame = await self._first
        finally:
            self._first = None
        if self._finishing:
            raise self._cause or ConnectionResetError("the connection was closed")
        return frame

    def listen(self, on_frame: Callable[[View], None], *, frame_bytes_max: int) -> None:
        """From now on every frame goes to `on_frame`, those that wait at once."""
        self.on_frame, self.frame_bytes_max = on_frame, frame_bytes_max
        self._parse()

    def abort(self, cause: BaseException | None = None) -> None:
        """Ends it at once; `on_closed` comes later."""
        self._cause = self._cause or cause
        self._finishing = True
        self._clear()
        if self._transport is not None:
            self._transport.abort()

    async def finish(self, *, timeout_s: float) -> None:
        """Sends what waits, then closes; after the timeout without."""
        if self._transport is None or self.closed:
            return
        self._finishing = True
        try:
            async with asyncio.timeout(timeout_s):
                self._flush()
                await asyncio.shield(self._ended)
        except TimeoutError:
            self.abort()
            await self._ended

    async def wait_closed(self) -> None:
        """Returns at once where it never came to a connection."""
        if self._transport is not None:
            await self._ended

    # the loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every loop's transports derive from asyncio's.
        self._transport = typed = cast(asyncio.Transport, transport)
        typed.set_write_buffer_limits(high=WRITE_BYTES)
        if self._finishing:  # given up meanwhile
            typed.abort()

    def data_received(self, data: bytes) -> None:
        if self._finishing:
            return
        if self._received or self.on_frame is None:
            self._received += data
            self._parse()
            if self.on_frame is None and len(self._received) > _LENGTH_BYTES + self.frame_bytes_max:
                self.abort(FrameError("more than one frame before it was asked for"))
            return
        with memoryview(data) as view:
            used = self._frames(view)
        if used < len(data):
            self._received += data[used:]

    def connection_lost(self, exc: BaseException | None) -> None:
        self.closed = True
        cause = self._cause or exc
        self._clear()
        self._received.clear()
        if self._first is not None and not self._first.done():
            self._first.set_exception(cause or ConnectionResetError("the connection was closed"))
        if not self._ended.done():
            self._ended.set_result(None)
        self._on_closed(cause)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    # inside

    def _parse(self) -> None:
        received = self._received
        if not received or self._finishing:
            return
        with memoryview(received) as view:
            used = self._frames(view)
        if used:
            del received[:used]

    def _frames(self, view: memoryview) -> int:
        """Hands on the whole frames at the start; returns their length."""
        at, end = 0, len(view)
        while end - at >= _LENGTH_BYTES and not self._finishing:
            start = at + _LENGTH_BYTES
            length = int.from_bytes(view[at:start], "big")
            if length > self.frame_bytes_max:
                self.abort(FrameError(f"a frame of {length} bytes, more than {self.frame_bytes_max}"))
                break
            if end - start < length:
                break
            if self.on_frame is None:
                if self._first is None or self._first.done():
                    break
                self._first.set_result(bytes(view[start : start + length]))
            else:
                with view[start : start + length] as frame:
                    try:
                        self.on_frame(frame)
                    except ValueError as error:
                        self.abort(FrameError(str(error)))
            at = start + length
        return at

    def _flush_soon(self) -> None:
        self._flush_due = False
        if self._out or self._finishing:
            self._flush()

    def _flush(self) -> None:
        transport, out = self._transport, self._out
        if transport is None or self.closed:
            return
        while out and not self._paused:
            if self._out_bytes <= WRITE_BYTES:
                piece = b"".join(out)
                out.clear()
            else:
                some, size = [], 0
                while out and size < WRITE_BYTES:
                    size += len(out[0])
                    some.append(out.popleft())
                piece = b"".join(some)
            self._out_bytes -= len(piece)
            transport.write(piece)
        if self._finishing and not out:
            transport.close()

    def _clear(self) -> None:
        self._out.clear()
        self._out_bytes = 0
