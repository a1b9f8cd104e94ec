"""ContainerdRuntime: replicas as containers, each with a network of its own.

What runs is written on containerd's records (see labels.py): a restarted agent reads them and knows everything. The
sandboxes are cached in memory; records are changed under the replica's lock only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import structlog
from google.protobuf import any_pb2, empty_pb2
from opentelemetry import trace

from cloudless.agent.network.bridge import ReplicaNetworks
from cloudless.agent.runtime.base import (
    ContainerState,
    ContainerStats,
    ContainerView,
    ExecRequest,
    ExecSession,
    Image,
    RuntimeEvent,
    Sandbox,
    SandboxView,
)
from cloudless.agent.runtime.containerd import cgroups, host, labels, spec, stats
from cloudless.agent.runtime.containerd.api import (
    containers_pb2,
    introspection_pb2,
    process_pb2,
    tasks_pb2,
)
from cloudless.agent.runtime.containerd.client import Client
from cloudless.agent.runtime.containerd.events import subscribe
from cloudless.agent.runtime.containerd.execs import ContainerdExec
from cloudless.agent.runtime.containerd.folders import Folders
from cloudless.agent.runtime.containerd.images import ImageStore, this_platform
from cloudless.agent.runtime.containerd.plans import make_plan, signal_number
from cloudless.agent.runtime.containerd.tasks import RUNTIME, SPEC_TYPE, Tasks
from cloudless.clock import Clock
from cloudless.config import RuntimeConfig
from cloudless.core.model import Feature, PortBinding, RuntimeInfo
from cloudless.core.spec import Container
from cloudless.errors import (
    AlreadyExists,
    CloudlessError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)

log = structlog.get_logger(__name__)
tracer = trace.get_tracer("cloudless.agent.runtime")

_CREATES_MAX = 8  # at a time; more only wait for the disk and the kernel
_HOST_ADDRESS = "127.0.0.1"


class ContainerdRuntime:
    """Implements Runtime. Event loop only."""

    name = "containerd"

    def __init__(self, config: RuntimeConfig, *, data_dir: Path, clock: Clock, node_name: str = "") -> None:
        """Connects to nothing yet. `data_dir` is the agent's; `node_name` is told to the replicas. Raises
        InvalidArgument(reason="BadSetting")."""
        self._config = config
        self._clock = clock
        self._node_name = node_name
        self._folders = Folders(data_dir)
        self._host = host.detect(architecture=this_platform().architecture, cgroup_prefix=config.cgroup_prefix)
        self._creating = asyncio.Semaphore(_CREATES_MAX)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by replica
        self._sandboxes: dict[str, labels.SandboxRecord] = {}
        self._names: dict[str, tuple[str, str]] = {}  # container id -> replica, container
        self._oom: set[str] = set()  # container ids of which an event told that they ran out of memory
        self._starting: set[str] = set()  # container ids
        self._listeners: set[asyncio.Task[Any]] = set()
        self._networks = self._new_networks()
        self._client: Client | None = None
        self._images: ImageStore | None = None
        self._tasks: Tasks | None = None

    def _new_networks(self) -> ReplicaNetworks:
        return ReplicaNetworks(bridge=self._config.bridge, subnet=self._config.subnet, directory=self._folders.network)

    # connection

    async def start(self) -> None:
        """Also raises FailedPrecondition(reason="NetworkUnavailable") where there can be no bridge."""
        if self._client is not None:
            return
        client = Client(self._config.containerd_address, self._config.containerd_namespace)
        try:
            await client.ensure_namespace()
            images = ImageStore(client)
            images.snapshotter = await self._snapshotter(client)
            await asyncio.to_thread(self._folders.prepare)
            records = await self._records(client)
            await self._adopt(records)
        except BaseException:
            await client.close()
            raise
        self._client, self._images = client, images
        self._tasks = Tasks(client, snapshotter=images.snapshotter)
        await self._remove_strays(records)
        log.info(
            "runtime.started",
            runtime=self.name,
            namespace=client.namespace,
            replicas=len(self._sandboxes),
            snapshotter=images.snapshotter,
        )

    async def close(self) -> None:
        client, self._client = self._client, None
        for listener in list(self._listeners):
            listener.cancel()
        await asyncio.gather(*self._listeners, return_exceptions=True)
        if client is not None:
            await client.close()
            self._networks.close()
            self._networks = self._new_networks()

    async def describe(self) -> tuple[RuntimeInfo, tuple[Feature, ...]]:
        features = await asyncio.to_thread(host.features, self._host)
        try:
            client = self._connected()
            answer = await client.call(client.version.Version, empty_pb2.Empty())
        except CloudlessError as error:
            return RuntimeInfo(self.name, "", False, error.message), features
        return RuntimeInfo(self.name, answer.version, True), features

    # sandboxes

    async def list(self) -> Sequence[SandboxView]:
        client = self._connected()
        records = await self._records(client)
        tasks = await client.call(client.tasks.List, tasks_pb2.ListTasksRequest())
        running = {task.id: task for task in tasks.tasks}
        looks = [self._look(record, running.get(record.id)) for record in records if labels.CONTAINER in record.labels]
        found: defaultdict[str, list[ContainerView]] = defaultdict(list)
        for view in await asyncio.gather(*looks):
            if view is not None:
                found[view.replica_id].append(view)
        return [self._sandboxes[replica].view(found[replica]) for replica in sorted(self._sandboxes)]

    async def ensure_sandbox(self, sandbox: Sandbox) -> SandboxView:
        client = self._connected()
        replica = labels.check_replica_id(sandbox.replica_id)
        with tracer.start_as_current_span("runtime.ensure_sandbox", attributes={"replica": replica}):
            async with self._lock(replica):
                known = self._sandboxes.get(replica)
                if known is None:
                    known = await self._make_sandbox(client, sandbox)
                else:
                    await self._repair(known)
                return known.view(await self._containers_of(replica))

    async def remove_sandbox(self, replica_id: str) -> None:
        client, tasks = self._connected(), self._started_tasks()
        async with self._lock(replica_id):
            known = self._sandboxes.get(replica_id)
            if known is None:
                return
            # the sandbox's own record goes last: it is what a removal that was cut short is repeated from
            own = labels.sandbox_id(replica_id)
            mine = [record for record in await self._records(client, replica_id) if record.id != own]
            await asyncio.gather(*(tasks.remove(record.id) for record in mine))
            for record in mine:
                self._names.pop(record.id, None)
                self._oom.discard(record.id)
            if not known.host_network:
                await self._networks.remove(replica_id)
            await asyncio.to_thread(self._folders.remove, replica_id)
            await tasks.remove(own)
            del self._sandboxes[replica_id]
            log.info("sandbox.removed", replica=replica_id)

    async def set_serving(self, replica_ids: frozenset[str]) -> None:
        self._connected()
        await self._networks.set_serving(replica_ids)

    # containers

    async def start_container(self, sandbox: Sandbox, container: Container, *, attempt: int) -> ContainerView:
        self._connected()
        replica = sandbox.replica_id
        with tracer.start_as_current_span("runtime.start_container", attributes={"replica": replica}):
            async with self._lock(replica):
                if replica not in self._sandboxes:
                    raise NotFound(f"replica {replica} has no sandbox here")
                container_id = labels.container_id(replica, container.name)
                self._starting.add(container_id)
                try:
                    return await self._start(sandbox, container, container_id, attempt)
                finally:
                    self._starting.discard(container_id)

    async def stop_container(self, replica_id: str, container: str, *, grace_ms: int) -> None:
        record = await self._record(replica_id, container)
        tasks = self._started_tasks()
        task = await tasks.process(record.id)
        if task is None or task.status == process_pb2.STOPPED:
            return
        number = signal_number(labels.stop_signal_of(record.labels))
        await tasks.stop(record.id, number=number, grace_ms=grace_ms)

    def log_path(self, replica_id: str, container: str) -> Path:
        return self._folders.log(replica_id, container)

    async def exec(self, request: ExecRequest) -> ExecSession:
        record = await self._record(request.replica_id, request.container)
        task = await self._started_tasks().process(record.id)
        if task is None or task.status == process_pb2.STOPPED:
            raise FailedPrecondition(
                f"container {request.container} of {request.replica_id} does not run", reason="ContainerNotRunning"
            )
        return await ContainerdExec.start(self._connected(), record, request, self._folders.fifos)

    async def stats(self, replica_id: str, container: str) -> ContainerStats:
        record = await self._record(replica_id, container)
        task = await self._started_tasks().process(record.id)
        if task is None or task.status == process_pb2.STOPPED:
            raise FailedPrecondition(
                f"container {container} of {replica_id} does not run", reason="ContainerNotRunning"
            )
        return await stats.read(self._connected(), record.id)

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        client = self._connected()
        async for container_id, kind in subscribe(client, self._listeners):
            if kind == "oom":
                self._oom.add(container_id)
            names = self._names.get(container_id)
            if names is not None:
                yield RuntimeEvent(names[0], names[1], kind)

    # images

    async def import_image(self, archive: Path, *, reference: str = "") -> Sequence[Image]:
        self._connected()
        return await self._image_store().import_archive(archive, reference=reference)

    async def images(self) -> Sequence[Image]:
        self._connected()
        return sorted(await self._image_store().list(), key=lambda image: image.reference)

    # making and finding things

    def _connected(self) -> Client:
        if self._client is None:
            raise Unavailable("the runtime is not started", reason="RuntimeUnavailable")
        return self._client

    def _image_store(self) -> ImageStore:
        assert self._images is not None
        return self._images

    def _started_tasks(self) -> Tasks:
        self._connected()
        assert self._tasks is not None
        return self._tasks

    async def _snapshotter(self, client: Client) -> str:
        """The one that is configured, if containerd has it; native works everywhere."""
        wanted = self._config.containerd_snapshotter
        request = introspection_pb2.PluginsRequest(filters=["type==io.containerd.snapshotter.v1"])
        answer = await client.call(client.introspection.Plugins, request)
        usable = {plugin.id for plugin in answer.plugins if not plugin.HasField("init_err")}
        if wanted in usable:
            return wanted
        if "native" in usable:
            log.warning("runtime.snapshotter_replaced", wanted=wanted, used="native")
            return "native"
        raise FailedPrecondition(f"containerd has no snapshotter {wanted}", reason="RuntimeUnavailable")

    async def _records(self, client: Client, replica_id: str = "") -> Sequence[containers_pb2.Container]:
        filters = [f'{labels.FILTER}=="{replica_id}"' if replica_id else labels.FILTER]
        request = containers_pb2.ListContainersRequest(filters=filters)
        return [message.container async for message in client.stream(client.containers.ListStream, request)]

    async def _adopt(self, records: Sequence[containers_pb2.Container]) -> None:
        """Takes over what runs: sandboxes, names, networks."""
        sandboxes = [labels.read_sandbox(r.labels) for r in records if labels.CONTAINER not in r.labels]
        self._sandboxes = {sandbox.replica_id: sandbox for sandbox in sandboxes}
        self._names = {
            record.id: (record.labels[labels.REPLICA], record.labels[labels.CONTAINER])
            for record in records
            if labels.CONTAINER in record.labels
        }
        networks: dict[str, tuple[IPv4Address, Sequence[PortBinding]]] = {
            sandbox.replica_id: (IPv4Address(sandbox.address), sandbox.ports)
            for sandbox in sandboxes
            if not sandbox.host_network
        }
        await self._networks.start(networks, owners={sandbox.replica_id: _owner(sandbox) for sandbox in sandboxes})

    async def _remove_strays(self, records: Sequence[containers_pb2.Container]) -> None:
        """What a killed agent left half made or half removed."""
        tasks = self._started_tasks()
        for record in records:
            if record.labels[labels.REPLICA] not in self._sandboxes:
                await tasks.remove(record.id)
                self._names.pop(record.id, None)
                log.info("container.stray_removed", container=record.id)
        for replica in self._folders.known() - set(self._sandboxes):
            await asyncio.to_thread(self._folders.remove, replica)

    async def _make_sandbox(self, client: Client, sandbox: Sandbox) -> labels.SandboxRecord:
        replica = sandbox.replica_id
        if any(container.process for container in sandbox.spec.containers):
            raise InvalidArgument("containerd runs images, not processes of the device", reason="FeatureMissing")
        host_network = bool(sandbox.spec.security_context and sandbox.spec.security_context.host_network)
        ports = tuple(
            PortBinding(port.name, port.container_port, port.host_port, port.protocol)
            for container in sandbox.spec.containers
            for port in container.ports
        )
        address = _HOST_ADDRESS if host_network else str(self._networks.reserve(replica))
        written = labels.sandbox_labels(sandbox, address=address, ports=ports, host_network=host_network)
        record = containers_pb2.Container(
            id=labels.sandbox_id(replica),
            labels=written,
            runtime=containers_pb2.Container.Runtime(name=RUNTIME),
            spec=any_pb2.Any(type_url=SPEC_TYPE, value=b"{}"),
        )
        made = labels.read_sandbox(written)
        request = containers_pb2.CreateContainerRequest(container=record)
        with contextlib.suppress(AlreadyExists):
            await client.call(client.containers.Create, request)
        try:
            await self._repair(made)
        except BaseException:
            await self._started_tasks().remove(record.id)
            if not host_network:
                await self._networks.remove(replica)
            await asyncio.to_thread(self._folders.remove, replica)
            raise
        self._sandboxes[replica] = made
        log.info("sandbox.created", replica=replica, workload=sandbox.workload, address=address)
        return made

    async def _repair(self, known: labels.SandboxRecord) -> None:
        """Makes what a sandbox consists of, where it is not there (any more)."""
        address = "" if known.host_network else known.address
        await asyncio.to_thread(self._folders.make, known.replica_id, address=address)
        if not known.host_network:
            await self._networks.ensure(known.replica_id, known.ports, owner=_owner(known))

    async def _containers_of(self, replica_id: str) -> Sequence[ContainerView]:
        views = []
        for container_id, (replica, _) in list(self._names.items()):
            if replica == replica_id and (view := await self._present(container_id)):
                views.append(view)
        return views

    async def _record(self, replica_id: str, container: str) -> containers_pb2.Container:
        tasks = self._started_tasks()
        record = None
        if replica_id in self._sandboxes:
            record = await tasks.find(labels.container_id(replica_id, container))
        if record is None:
            raise NotFound(f"replica {replica_id} has no container {container} here")
        return record

    async def _present(self, container_id: str) -> ContainerView | None:
        """The container as it is now. The caller holds the replica's lock, or can live with a moment's change."""
        if container_id not in self._names:
            return None
        tasks = self._started_tasks()
        record = await tasks.find(container_id)
        if record is None:
            return None
        return await self._view(record, await tasks.process(container_id))

    async def _look(self, record: containers_pb2.Container, task: process_pb2.Process | None) -> ContainerView | None:
        """As `_present`, for something that was listed. What has just ended is settled under the lock; what has no task
        and did not end is looked at again, because containerd leaves slow shims out of its list."""
        lost = task is None and labels.read_exit(record.labels) is None and record.id not in self._starting
        if lost or (task is not None and task.status == process_pb2.STOPPED):
            async with self._lock(record.labels[labels.REPLICA]):
                return await self._present(record.id)
        return await self._view(record, task)

    async def _view(self, record: containers_pb2.Container, task: process_pb2.Process | None) -> ContainerView:
        starting = record.id in self._starting
        if task is None or task.status == process_pb2.CREATED:
            return labels.container_view(record.labels, starting=starting)
        if task.status == process_pb2.STOPPED:
            if labels.read_exit(record.labels) is None:
                ended = await self._settle(record.id, task)
                return labels.container_view({**record.labels, **labels.exit_labels(ended)})
            await self._started_tasks().delete_task(record.id)
            return labels.container_view(record.labels)
        return labels.container_view(record.labels, pid=task.pid)

    async def _settle(self, container_id: str, task: process_pb2.Process) -> labels.Exit:
        """Writes down how a task ended, then deletes it: its shim goes, its output is complete, and the record
        outlives a reboot. Cut short, it is repeated when the container is next looked at."""
        kills = await asyncio.to_thread(cgroups.oom_kills, spec.cgroup_path(self._config.cgroup_prefix, container_id))
        ended = labels.Exit(
            code=task.exit_status,
            finished_at_ms=task.exited_at.ToMilliseconds(),
            # a child that was killed for memory does not matter to a program that ends well
            oom_killed=task.exit_status != 0 and (kills > 0 or container_id in self._oom),
        )
        tasks = self._started_tasks()
        await tasks.add_labels(container_id, labels.exit_labels(ended))
        await tasks.delete_task(container_id)
        replica, name = self._names.get(container_id, ("", ""))
        log.info("container.exited", replica=replica, container=name, exit_code=ended.code, oom_killed=ended.oom_killed)
        return ended

    async def _start(self, sandbox: Sandbox, container: Container, container_id: str, attempt: int) -> ContainerView:
        present = await self._present(container_id)
        if present is not None and present.state is ContainerState.CREATED:
            await self._started_tasks().remove(container_id)  # a start that was cut short
        elif present is not None and (present.state is ContainerState.RUNNING or present.attempt >= attempt):
            return present
        self._names[container_id] = (sandbox.replica_id, container.name)
        self._oom.discard(container_id)
        images = self._image_store()
        async with self._creating:
            image = await images.resolve(container.image)
            plan = make_plan(
                sandbox,
                container,
                image=image,
                accounts=await images.account_files(image),
                host=self._host,
                network_namespace=self._namespace_of(sandbox.replica_id),
                folders=self._folders,
                node_name=self._node_name,
                attempt=attempt,
                now_ms=self._clock.now_ms(),
            )
            try:
                pid = await self._started_tasks().start(plan)
            except FailedPrecondition as error:
                if error.reason == "ImageMissing":
                    images.forget(image.digest)
                raise
        log.info(
            "container.started",
            replica=sandbox.replica_id,
            container=container.name,
            attempt=attempt,
            image=image.digest,
        )
        return labels.container_view(plan.labels, pid=pid)

    def _namespace_of(self, replica_id: str) -> Path | None:
        if self._sandboxes[replica_id].host_network:
            return None
        return self._networks.namespace_path(replica_id)

    def _lock(self, replica_id: str) -> asyncio.Lock:
        lock = self._locks.get(replica_id)
        if lock is None:
            lock = self._locks[replica_id] = asyncio.Lock()
        return lock


def _owner(sandbox: labels.SandboxRecord) -> str:
    """Whose replicas share a host port: a workload's."""
    return f"{sandbox.namespace}/{sandbox.workload}"
