"""Emptying a containerd namespace that belongs to one agent alone."""

from __future__ import annotations

import contextlib
from pathlib import Path

from google.protobuf import empty_pb2

from cloudless.agent.runtime.containerd.api import (
    containers_pb2,
    content_pb2,
    images_pb2,
    introspection_pb2,
    leases_pb2,
    namespaces_pb2,
    snapshots_pb2,
    tasks_pb2,
)
from cloudless.agent.runtime.containerd.client import TASK_TIMEOUT_S, Client
from cloudless.agent.runtime.containerd.tasks import Tasks
from cloudless.errors import CloudlessError, FailedPrecondition, NotFound

# where the shim lets runc and crun keep their containers' states, whatever the daemon's configuration says
_RUNTIME_STATE = Path("/run/containerd/runc")
# a layer of an image per round, at least
_ROUNDS_MAX = 600


async def purge_namespace(client: Client) -> bool:
    """Kills and deletes everything in the client's namespace, then the namespace. Repeatable. False: containerd has no
    such namespace. Raises Unavailable if it does not answer."""
    await client.call(client.version.Version, empty_pb2.Empty())
    known = await client.call(client.namespaces.List, namespaces_pb2.ListNamespacesRequest())
    if client.namespace not in {namespace.name for namespace in known.namespaces}:
        return False
    tasks = Tasks(client, snapshotter="")
    listed = containers_pb2.ListContainersRequest()
    ids = {message.container.id async for message in client.stream(client.containers.ListStream, listed)}
    running = await client.call(client.tasks.List, tasks_pb2.ListTasksRequest())
    for container_id in ids | {task.id for task in running.tasks}:
        await tasks.remove(container_id)
    images = await client.call(client.images.List, images_pb2.ListImagesRequest())
    for image in images.images:
        request = images_pb2.DeleteImageRequest(name=image.name)
        with contextlib.suppress(NotFound):
            await client.call(client.images.Delete, request)
    leases = await client.call(client.leases.List, leases_pb2.ListRequest())
    for lease in leases.leases:
        with contextlib.suppress(NotFound):
            await client.call(client.leases.Delete, leases_pb2.DeleteRequest(id=lease.id))
    for snapshotter in await _snapshotters(client):
        await _remove_snapshots(client, tasks, snapshotter)
    await _remove_content(client)
    request = namespaces_pb2.DeleteNamespaceRequest(name=client.namespace)
    with contextlib.suppress(NotFound):
        await client.call(client.namespaces.Delete, request, timeout=TASK_TIMEOUT_S)
    return True


def remove_runtime_state(namespace: str) -> None:
    """Removes the folder that the OCI runtime keeps for a namespace, which nobody else does. Repeatable; one in use
    stays."""
    for directory in (_RUNTIME_STATE / namespace, _RUNTIME_STATE, _RUNTIME_STATE.parent):
        with contextlib.suppress(OSError):
            directory.rmdir()


async def _snapshotters(client: Client) -> list[str]:
    request = introspection_pb2.PluginsRequest(filters=["type==io.containerd.snapshotter.v1"])
    answer = await client.call(client.introspection.Plugins, request)
    return [plugin.id for plugin in answer.plugins if not plugin.HasField("init_err")]


async def _remove_snapshots(client: Client, tasks: Tasks, snapshotter: str) -> None:
    """The leaves first: a snapshot with children cannot be removed. Raises FailedPrecondition if one stays."""
    for attempt in range(_ROUNDS_MAX):
        async with client.lease():  # its end collects the garbage, which otherwise holds on to parents for a while
            pass
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=snapshotter)
        found = [info async for answer in client.stream(client.snapshots.List, request) for info in answer.info]
        parents = {info.parent for info in found}
        leaves = [info.name for info in found if info.name not in parents]
        if not leaves:
            return
        for name in leaves:
            try:
                await tasks.remove_snapshot(snapshotter, name)
            except FailedPrecondition:
                if attempt == _ROUNDS_MAX - 1:
                    raise


async def _remove_content(client: Client) -> None:
    statuses = await client.call(client.content.ListStatuses, content_pb2.ListStatusesRequest())
    for status in statuses.statuses:
        with contextlib.suppress(NotFound, FailedPrecondition):
            await client.call(client.content.Abort, content_pb2.AbortRequest(ref=status.ref))
    request = content_pb2.ListContentRequest()
    blobs = [info.digest async for answer in client.stream(client.content.List, request) for info in answer.info]
    for digest in blobs:
        with contextlib.suppress(CloudlessError):  # the garbage collector was faster
            await client.call(client.content.Delete, content_pb2.DeleteContentRequest(digest=digest))
