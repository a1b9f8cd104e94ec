"""The other coordinators over gRPC: what `observing.Peers` is in production.

One connection per coordinator carries the subscription and every relayed channel. It is made anew when this
coordinator's certificate was renewed or the other one's address changed; the old one goes with its last stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

import grpc
import grpc.aio
import structlog

from cloudless.api.v1 import member_pb2, member_pb2_grpc
from cloudless.clock import Clock
from cloudless.coordinator.directory import Directory
from cloudless.coordinator.observing import RelayStream
from cloudless.coordinator.rpc.call import current_or_none
from cloudless.errors import CloudlessError, Unavailable
from cloudless.identity.channel import REQUEST_ID_METADATA, ServerCertificate, error_from_rpc, open_channel
from cloudless.identity.credentials import Credentials

log = structlog.get_logger(__name__)

# For whom a coordinator asks: `user/alice`. The caller itself is the coordinator; this is for the record.
ACTOR_METADATA: Final = "cloudless-actor"


class _Connection:
    """One channel to one coordinator, closed with its last stream once it is no longer the newest."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self.address = address
        self.credentials = credentials
        self._channel = open_channel(address, credentials)
        self.stub: Any = member_pb2_grpc.MemberServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._streams = 0
        self._retired = False

    def begin(self) -> None:
        self._streams += 1

    async def end(self) -> None:
        self._streams -= 1
        await self._close_when_done()

    async def retire(self) -> None:
        self._retired = True
        await self._close_when_done()

    async def close(self) -> None:
        await self._channel.close()

    async def _close_when_done(self) -> None:
        if self._retired and self._streams <= 0:
            await self._channel.close()


class GrpcPeers:
    """See `observing.Peers`. Event loop only; `close` it when done."""

    def __init__(self, directory: Directory, certificate: ServerCertificate, clock: Clock) -> None:
        self._directory = directory
        self._certificate = certificate
        self._clock = clock
        self._connections: dict[str, _Connection] = {}
        self._turn: dict[str, int] = {}  # which of its addresses is tried, by coordinator
        self._retiring: set[asyncio.Task[None]] = set()

    def ids(self) -> Sequence[str]:
        return [other.id for other in self._directory.others() if other.api_addresses]

    async def observe(self, coordinator_id: str) -> AsyncGenerator[member_pb2.ObserveResponse, None]:
        connection = self._connection(coordinator_id)
        connection.begin()
        call = connection.stub.Observe(member_pb2.ObserveRequest())
        try:
            while (answer := await call.read()) is not grpc.aio.EOF:
                yield answer
            await self._raise_failure(coordinator_id, connection, call)
        except grpc.aio.AioRpcError as error:
            raise self._explain(coordinator_id, connection, error) from None
        except asyncio.InvalidStateError:
            await self._raise_failure(coordinator_id, connection, call)
        finally:
            call.cancel()
            await connection.end()

    def relay(self, coordinator_id: str) -> RelayStream:
        connection = self._connection(coordinator_id)
        connection.begin()
        call = current_or_none()
        metadata: list[tuple[str, str]] = []
        if call is not None and call.principal is not None:
            metadata = [(ACTOR_METADATA, call.principal.actor), (REQUEST_ID_METADATA, call.request_id)]
        return _Relay(self, coordinator_id, connection, connection.stub.RelayChannel(metadata=metadata))

    async def close(self) -> None:
        """Ends every stream and closes every connection. May be repeated."""
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            await connection.close()
        await asyncio.gather(*self._retiring, return_exceptions=True)

    def _connection(self, coordinator_id: str) -> _Connection:
        others = {other.id: other for other in self._directory.others()}
        other = others.get(coordinator_id)
        if other is None or not other.api_addresses:
            raise Unavailable(f"coordinator {coordinator_id} is not known here", reason="CoordinatorUnknown")
        address = other.api_addresses[self._turn.get(coordinator_id, 0) % len(other.api_addresses)]
        credentials = self._certificate.current
        known = self._connections.get(coordinator_id)
        if known is not None and known.address == address and known.credentials is credentials:
            return known
        if known is not None:
            task = asyncio.ensure_future(known.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        connection = self._connections[coordinator_id] = _Connection(address, credentials)
        return connection

    def _explain(self, coordinator_id: str, connection: _Connection, error: grpc.aio.AioRpcError) -> CloudlessError:
        explained = error_from_rpc(error, credentials=connection.credentials, now_ms=self._clock.now_ms())
        if explained.reason == "CoordinatorUnreachable":
            self._turn[coordinator_id] = self._turn.get(coordinator_id, 0) + 1
        return explained

    async def _raise_failure(self, coordinator_id: str, connection: _Connection, call: Any) -> None:
        """Raises what a call ended with; nothing where it ended in good order."""
        code = await call.code()
        if code is grpc.StatusCode.OK:
            return
        error = grpc.aio.AioRpcError(
            code, await call.initial_metadata(), await call.trailing_metadata(), details=await call.details()
        )
        raise self._explain(coordinator_id, connection, error)


class _Relay:
    """One RelayChannel call as a MessageStream."""

    def __init__(self, peers: GrpcPeers, coordinator_id: str, connection: _Connection, call: Any) -> None:
        self._peers = peers
        self._coordinator_id = coordinator_id
        self._connection = connection
        self._call = call
        self._closed = False

    async def send(self, message: member_pb2.RelayChannelRequest) -> None:
        if self._closed:
            raise Unavailable("the stream is closed", reason="StreamClosed")
        try:
            await self._call.write(message)
        except grpc.aio.AioRpcError as error:
            raise self._peers._explain(self._coordinator_id, self._connection, error) from None
        except asyncio.InvalidStateError:
            await self._raise_failure()
            raise Unavailable("the stream has ended", reason="StreamClosed") from None

    async def receive(self) -> member_pb2.RelayChannelResponse | None:
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._peers._explain(self._coordinator_id, self._connection, error) from None
        except asyncio.InvalidStateError:
            message = grpc.aio.EOF
        if message is not grpc.aio.EOF:
            return message  # type: ignore[no-any-return]
        await self._raise_failure()
        return None

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._call.cancel()
            await self._connection.end()

    async def _raise_failure(self) -> None:
        await self._peers._raise_failure(self._coordinator_id, self._connection, self._call)
