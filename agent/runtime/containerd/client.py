"""containerd over its socket: one channel, one namespace, its errors as ours.

Every call carries the namespace; calls inside `lease()` carry the lease as well. The channel reconnects by
itself; a call that meets a dead daemon raises Unavailable, and the caller repeats it.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from cloudless.agent.runtime.containerd.api import (
    containers_pb2_grpc,
    content_pb2_grpc,
    diff_pb2_grpc,
    events_pb2_grpc,
    images_pb2_grpc,
    introspection_pb2_grpc,
    leases_pb2,
    leases_pb2_grpc,
    namespaces_pb2,
    namespaces_pb2_grpc,
    snapshots_pb2_grpc,
    tasks_pb2_grpc,
    version_pb2_grpc,
)
from cloudless.errors import (
    AlreadyExists,
    CloudlessError,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)

CALL_TIMEOUT_S = 10.0
# making a task forks, mounts and sets up cgroups; a stalled SD card must not fail it
TASK_TIMEOUT_S = 120.0
_MESSAGE_BYTES_MAX = 64 * 2**20
_LEASE_HOURS = 24  # a lease of a killed agent ends by itself

_ERRORS: dict[grpc.StatusCode, type[CloudlessError]] = {
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
}

_current_lease: contextvars.ContextVar[str] = contextvars.ContextVar("containerd_lease", default="")


def translate(error: grpc.aio.AioRpcError) -> CloudlessError:
    """containerd's status as ours; an unknown one is Internal with containerd's words."""
    details = error.details() or error.code().name
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(
            f"containerd does not answer: {details}", reason="RuntimeUnavailable", remedy="is containerd running?"
        )
    # the daemon's own clock may be the first to notice that the time is over
    if error.code() is grpc.StatusCode.UNKNOWN and details.startswith("context deadline exceeded"):
        return DeadlineExceeded(f"containerd: {details}")
    # 1.6 has no status of its own for "the daemon is shutting down" and for a shim that went away
    if error.code() is grpc.StatusCode.UNKNOWN and details.endswith((": ttrpc: closed", "ttrpc: closed: unknown")):
        return Unavailable(f"containerd: {details}", reason="RuntimeUnavailable")
    return _ERRORS.get(error.code(), Internal)(f"containerd: {details}")


class Client:
    """Stubs of one containerd namespace. Event loop only."""

    def __init__(self, address: str, namespace: str) -> None:
        """`address` is the socket's path, with or without `unix://`."""
        self.address = address.removeprefix("unix://")
        self.namespace = namespace
        self._channel = grpc.aio.insecure_channel(
            f"unix://{self.address}",
            options=(
                ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
                ("grpc.default_authority", "localhost"),
                # no other channel of this process may share the connection's fate
                ("grpc.use_local_subchannel_pool", 1),
            ),
        )

        def stub(generated: Any) -> Any:  # generated code carries no types
            return generated(self._channel)

        self.containers = stub(containers_pb2_grpc.ContainersStub)
        self.content = stub(content_pb2_grpc.ContentStub)
        self.diff = stub(diff_pb2_grpc.DiffStub)
        self.events = stub(events_pb2_grpc.EventsStub)
        self.images = stub(images_pb2_grpc.ImagesStub)
        self.introspection = stub(introspection_pb2_grpc.IntrospectionStub)
        self.leases = stub(leases_pb2_grpc.LeasesStub)
        self.namespaces = stub(namespaces_pb2_grpc.NamespacesStub)
        self.snapshots = stub(snapshots_pb2_grpc.SnapshotsStub)
        self.tasks = stub(tasks_pb2_grpc.TasksStub)
        self.version = stub(version_pb2_grpc.VersionStub)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        lease = _current_lease.get()
        named = (("containerd-namespace", self.namespace),)
        return (*named, ("containerd-lease", lease)) if lease else named

    async def call(self, method: Any, request: Any, *, timeout: float | None = CALL_TIMEOUT_S) -> Any:
        """One unary call. `timeout` in seconds; None: as long as it takes. Raises CloudlessError."""
        try:
            return await method(request, metadata=self.metadata, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise translate(error) from None

    async def stream(self, method: Any, request: Any, *, timeout: float | None = CALL_TIMEOUT_S) -> AsyncIterator[Any]:
        """The messages of one server stream. Raises CloudlessError."""
        call = method(request, metadata=self.metadata, timeout=timeout)
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise translate(error) from None
        finally:
            call.cancel()

    async def ensure_namespace(self) -> None:
        request = namespaces_pb2.CreateNamespaceRequest(namespace=namespaces_pb2.Namespace(name=self.namespace))
        with contextlib.suppress(AlreadyExists):
            await self.call(self.namespaces.Create, request)

    @contextlib.asynccontextmanager
    async def lease(self) -> AsyncIterator[None]:
        """What is made inside is safe from the garbage collector until the end. Whatever nothing refers to by
        then is collected before this returns."""
        request = leases_pb2.CreateRequest(
            id=f"cloudless-{uuid.uuid4()}", labels={"containerd.io/gc.expire": _expiry(_LEASE_HOURS)}
        )
        await self.call(self.leases.Create, request)
        token = _current_lease.set(request.id)
        try:
            yield
        finally:
            _current_lease.reset(token)
            with contextlib.suppress(NotFound):
                await self.call(
                    self.leases.Delete, leases_pb2.DeleteRequest(id=request.id, sync=True), timeout=TASK_TIMEOUT_S
                )

    async def close(self) -> None:
        await self._channel.close()


def _expiry(hours: int) -> str:
    # the label's meaning is a wall clock time: containerd compares it with its own
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
