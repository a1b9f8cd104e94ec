"""The agent's streams over gRPC: one HTTP/2 connection to a coordinator carries its session and its channels."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from cloudless.api.v1 import session_pb2 as pb
from cloudless.api.v1 import session_pb2_grpc
from cloudless.clock import Clock
from cloudless.errors import CloudlessError, Unavailable
from cloudless.identity.channel import error_from_rpc, open_channel
from cloudless.identity.credentials import Credentials

Out = TypeVar("Out")
In = TypeVar("In")

_CLOSE_TIMEOUT_S = 2.0


class Connection:
    """One connection to one coordinator under one certificate; closed with its last stream."""

    def __init__(self, address: str, credentials: Credentials, clock: Clock) -> None:
        self.address = address
        self._credentials = credentials
        self._clock = clock
        self._channel = open_channel(address, credentials)
        self._streams = 0
        self._closed = False
        self._stub = session_pb2_grpc.SessionServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def connect(self) -> GrpcStream[pb.ConnectRequest, pb.ConnectResponse]:
        """The session's stream. Opens with its first message."""
        return self._open(self._stub.Connect)

    def channel(self) -> GrpcStream[pb.ChannelRequest, pb.ChannelResponse]:
        """A logs, exec or import stream beside the session."""
        return self._open(self._stub.Channel)

    async def renew(self, csr_der: bytes) -> tuple[bytes, int]:
        """A fresh certificate chain (PEM) and its end (wall clock ms). Raises what the coordinator refused with."""
        try:
            request = pb.RenewCertificateRequest(csr_der=csr_der)
            answer = await self._stub.RenewCertificate(request, timeout=15.0)
        except grpc.aio.AioRpcError as error:
            raise self.explain(error) from None
        return answer.certificate_chain_pem.encode(), answer.expires_at_ms

    def explain(self, error: grpc.aio.AioRpcError) -> CloudlessError:
        return error_from_rpc(error, credentials=self._credentials, now_ms=self._clock.now_ms())

    def _open(self, method: Any) -> GrpcStream[Any, Any]:
        if self._closed:
            raise Unavailable(f"the connection to {self.address} is closed", reason="StreamClosed")
        self._streams += 1
        return GrpcStream(method(), self)

    async def release(self) -> None:
        """A stream ended; the connection goes with the last one."""
        self._streams -= 1
        if self._streams <= 0:
            self._closed = True
            await self._channel.close()


class GrpcStream(Generic[Out, In]):
    """A `MessageStream` over one bidirectional call."""

    def __init__(self, call: Any, connection: Connection) -> None:
        self._call = call
        self.connection = connection
        self._closed = False
        self._reading: asyncio.Task[Any] | None = None

    async def send(self, message: Out) -> None:
        if self._closed:
            raise Unavailable("the stream is closed", reason="StreamClosed")
        try:
            await self._call.write(message)
        except grpc.aio.AioRpcError as error:
            raise self.connection.explain(error) from None
        except asyncio.InvalidStateError:
            raise await self._end() from None
        except grpc.aio.BaseError as error:
            raise _refused(error) from None

    async def receive(self) -> In | None:
        # gRPC cancels the whole call when a read is cancelled; a reader that only gave up waiting must not do that,
        # and what arrives for it is the next reader's.
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._call.read())
        try:
            message = await asyncio.shield(self._reading)
        except asyncio.CancelledError:
            if not self._reading.cancelled():
                raise
            self._reading = None
            raise await self._end() from None
        except grpc.aio.AioRpcError as error:
            raise self.connection.explain(error) from None
        except asyncio.InvalidStateError:
            raise await self._end() from None
        except grpc.aio.BaseError as error:
            raise _refused(error) from None
        self._reading = None
        if message is not grpc.aio.EOF:
            return message  # type: ignore[no-any-return]
        if await self._call.code() is grpc.StatusCode.OK:
            return None
        raise await self._end()

    async def _end(self) -> CloudlessError:
        """Why the call ended, which gRPC tells only on asking."""
        status = grpc.aio.AioRpcError(
            await self._call.code(),
            await self._call.initial_metadata(),
            await self._call.trailing_metadata(),
            details=await self._call.details(),
        )
        return self.connection.explain(status)

    async def close(self) -> None:
        """Half-closes and gives the peer a moment to take in what was sent; then the call is cancelled."""
        if self._closed:
            return
        self._closed = True
        try:
            with contextlib.suppress(grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError, TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await self._call.done_writing()
                    await self._call.code()
        finally:
            self._call.cancel()
            if self._reading is not None:
                self._reading.cancel()
                await asyncio.wait([self._reading])
            await self.connection.release()


def _refused(error: grpc.aio.BaseError) -> Unavailable:
    """gRPC's core refused an operation, as it does on a call whose connection went; that is no RpcError."""
    return Unavailable(f"the stream broke: {error}", reason="StreamBroken")
