"""Calls to etcd: which member is asked, how long it may take, and errors in the fabric's own words.

gRPC's asynchronous client over the few RPCs that the engine needs. Calls go to the endpoint that answered last; after
one that was not answered, to the next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from cloudless.config import EtcdConfig
from cloudless.coordinator.etcd.api import rpc_pb2 as pb
from cloudless.coordinator.etcd.api import rpc_pb2_grpc
from cloudless.errors import CloudlessError, Compacted, DiskFull, InvalidArgument, ResourceExhausted, Unavailable

stubs: Any = rpc_pb2_grpc  # generated without annotations

CALL_S: Final = 3.0
MESSAGE_BYTES_MAX: Final = 64 * 2**20
_OPTIONS: Final = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


def after_prefix(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with `prefix`, which does not end in 0xff."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


def put(key: bytes, value: bytes, *, lease: int = 0) -> Any:
    """An operation of a transaction."""
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))


def get(key: bytes, end: bytes = b"") -> Any:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key, range_end=end))


def delete(key: bytes, end: bytes = b"") -> Any:
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key, range_end=end))


def if_modified_at(key: bytes, revision: int) -> Any:
    """Holds while the key was last written at `revision`; 0: while there is no such key."""
    return pb.Compare(result=pb.Compare.EQUAL, target=pb.Compare.MOD, key=key, mod_revision=revision)


def if_created_at(key: bytes, revision: int) -> Any:
    return pb.Compare(result=pb.Compare.EQUAL, target=pb.Compare.CREATE, key=key, create_revision=revision)


class EtcdClient:
    """One etcd cluster. Belongs to one event loop."""

    def __init__(self, config: EtcdConfig) -> None:
        """Raises InvalidArgument (BadSetting) for files that cannot be read."""
        self._endpoints = config.endpoints
        self._credentials = _credentials(config)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._at = 0

    @property
    def endpoint(self) -> str:
        return self._endpoints[self._at % len(self._endpoints)]

    async def range(
        self, key: bytes, end: bytes = b"", *, revision: int = 0, limit: int = 0, newest_first: bool = False
    ) -> Any:
        """Linearizable, in the order of the keys; as of `revision` where one is given. Raises Compacted when etcd no
        longer has that one."""
        order = pb.RangeRequest.DESCEND if newest_first else pb.RangeRequest.ASCEND
        request = pb.RangeRequest(key=key, range_end=end, revision=revision, limit=limit, sort_order=order)
        return await self._call(stubs.KVStub, "Range", request)

    async def txn(self, compare: Sequence[Any], success: Sequence[Any], failure: Sequence[Any] = ()) -> Any:
        """Raises Unavailable when it is not known whether it was done."""
        return await self._call(stubs.KVStub, "Txn", pb.TxnRequest(compare=compare, success=success, failure=failure))

    async def delete(self, key: bytes, end: bytes = b"") -> int:
        """How many keys it deleted."""
        answer = await self._call(stubs.KVStub, "DeleteRange", pb.DeleteRangeRequest(key=key, range_end=end))
        return int(answer.deleted)

    async def compact(self, revision: int) -> None:
        """Lets etcd forget what was overwritten or deleted before `revision`."""
        await self._call(stubs.KVStub, "Compact", pb.CompactionRequest(revision=revision))

    async def grant(self, ttl_s: int) -> tuple[int, int]:
        """A lease: its id, and its life in seconds, which etcd may have made longer."""
        answer = await self._call(stubs.LeaseStub, "LeaseGrant", pb.LeaseGrantRequest(TTL=ttl_s))
        return int(answer.ID), int(answer.TTL)

    async def keep_alive(self, lease: int, *, timeout_s: float) -> int:
        """Renews a lease once. Its life in seconds; 0: it has ended."""
        call = stubs.LeaseStub(self._channel()).LeaseKeepAlive(timeout=timeout_s)
        try:
            await call.write(pb.LeaseKeepAliveRequest(ID=lease))
            await call.done_writing()
            answer = await call.read()
        except grpc.RpcError as error:
            raise self._failed(error) from None
        finally:
            call.cancel()
        return 0 if answer is grpc.aio.EOF else int(answer.TTL)

    async def revoke(self, lease: int) -> None:
        await self._call(stubs.LeaseStub, "LeaseRevoke", pb.LeaseRevokeRequest(ID=lease))

    async def watch(self, prefix: bytes, *, from_revision: int) -> AsyncIterator[Any]:
        """Answers with all that happens below `prefix` from this revision on, in order. Raises Compacted, Unavailable:
        then watch again from the last revision seen."""
        call = stubs.WatchStub(self._channel()).Watch()
        try:
            create = pb.WatchCreateRequest(key=prefix, range_end=after_prefix(prefix), start_revision=from_revision)
            await call.write(pb.WatchRequest(create_request=create))
            while True:
                answer = await call.read()
                if answer is grpc.aio.EOF:
                    self._at += 1
                    raise Unavailable(f"etcd at {self.endpoint} ended the watch", reason="EtcdUnavailable")
                if answer.compact_revision:
                    raise Compacted(f"etcd forgot everything before revision {answer.compact_revision}")
                if answer.canceled:
                    raise Unavailable(f"etcd ended the watch: {answer.cancel_reason}", reason="EtcdUnavailable")
                yield answer
        except grpc.RpcError as error:
            raise self._failed(error) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()

    def _channel(self) -> grpc.aio.Channel:
        endpoint = self.endpoint
        channel = self._channels.get(endpoint)
        if channel is None:
            if self._credentials is None:
                channel = grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
            else:
                channel = grpc.aio.secure_channel(endpoint, self._credentials, options=_OPTIONS)
            self._channels[endpoint] = channel
        return channel

    async def _call(self, stub: Any, method: str, request: Any) -> Any:
        try:
            return await getattr(stub(self._channel()), method)(request, timeout=CALL_S)
        except grpc.RpcError as error:
            raise self._failed(error) from None

    def _failed(self, error: grpc.RpcError) -> CloudlessError:
        """The error in the fabric's words; after one that another endpoint may not have, the next call goes there."""
        endpoint = self.endpoint
        status, details = error.code(), str(error.details() or "")
        if status is grpc.StatusCode.OUT_OF_RANGE and "compacted" in details:
            return Compacted(f"etcd: {details}")
        if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "space" in details:
            return DiskFull(
                f"etcd has no room: {details}",
                remedy="free space in etcd (compact and defrag it or raise its quota), then run `etcdctl alarm disarm`",
            )
        if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ResourceExhausted(f"etcd: {details}", reason="EtcdBusy", remedy="try again in a moment")
        if status is grpc.StatusCode.INVALID_ARGUMENT:
            return InvalidArgument(f"etcd: {details}", reason="TooLarge" if "too large" in details else "EtcdRefused")
        self._at += 1
        return Unavailable(
            f"etcd at {endpoint} does not answer: {details or status.name}",
            reason="EtcdUnavailable",
            remedy="check that etcd runs and has a quorum (`etcdctl endpoint status --cluster`)",
        )


def _credentials(config: EtcdConfig) -> grpc.ChannelCredentials | None:
    if config.ca_file == Path():
        return None
    read: list[bytes | None] = []
    for path in (config.ca_file, config.key_file, config.cert_file):
        try:
            read.append(None if path == Path() else path.read_bytes())
        except OSError as error:
            raise InvalidArgument(f"cannot read {path}: {error.strerror}", reason="BadSetting") from None
    root, key, chain = read
    return grpc.ssl_channel_credentials(root, key, chain)
