"""One container's life in containerd: record, snapshot, task; start, stop, end, removal.

Order matters. The record comes before its snapshot, because the record is what keeps the snapshot from the garbage
collector. The task goes before the record, because a record deleted above a live task leaves its shim without an owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import any_pb2

from cloudless.agent.runtime.base import COMMAND_NOT_EXECUTABLE, COMMAND_NOT_FOUND
from cloudless.agent.runtime.containerd.api import (
    containers_pb2,
    process_pb2,
    runc_options_pb2,
    snapshots_pb2,
    tasks_pb2,
)
from cloudless.agent.runtime.containerd.client import TASK_TIMEOUT_S, Client
from cloudless.errors import (
    AlreadyExists,
    CloudlessError,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
)

SPEC_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
PROCESS_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Process"
_OPTIONS_TYPE = "containerd.runc.v1.Options"
RUNTIME = "io.containerd.runc.v2"
_SHIM_SOCKETS = Path("/run/containerd/s")  # compiled into the shim
_KILL_WAIT_S = 30.0
_CLEANUP_ROUNDS, _CLEANUP_ROUND_S = 50, 0.1
# what the OCI runtimes say when the workload itself is at fault: program, working directory, user
_WORKLOAD_AT_FAULT = re.compile(
    r'exec: ".*|executable file not found|exec format error|chdir to cwd|mkdir .*: (not a dir|read-only)'
)
# of those, what is said of the program itself
_PROGRAM = re.compile(r'exec: "|executable file not found')
_NOT_FOUND = re.compile(r"executable file not found|no such file or directory|not a directory")
_NOT_EXECUTABLE = re.compile(r"permission denied|is a directory")
START_FAILED = "StartFailed"
_FAILURE_PREFIX = re.compile(r"^.*(OCI runtime \w+ failed: )(runc create failed: )?")


@dataclass(frozen=True, slots=True)
class Plan:
    """All that one start needs."""

    container_id: str
    labels: Mapping[str, str]
    image: str
    chain_id: str
    spec: Mapping[str, Any]
    log: Path
    binary: str  # of the OCI runtime; empty: the shim's default
    attempt: int

    @property
    def snapshot_key(self) -> str:
        return f"{self.container_id}-{self.attempt}"


class Tasks:
    """Event loop only. Calls for one container must not overlap; that is the caller's lock."""

    def __init__(self, client: Client, *, snapshotter: str) -> None:
        self._client = client
        self._snapshotter = snapshotter

    async def start(self, plan: Plan) -> int:
        """Starts a container that has no task; returns its pid. Leaves nothing behind when it fails. Raises
        InvalidArgument (CommandNotFound, CommandNotExecutable, StartFailed) where the workload is at fault,
        FailedPrecondition where the node is."""
        await self._record(plan)
        try:
            mounts = await self._prepare(plan)
            await asyncio.to_thread(_make_log, plan.log)
            create = tasks_pb2.CreateTaskRequest(
                container_id=plan.container_id,
                rootfs=mounts,
                stdout=str(plan.log),
                stderr=_another_spelling(plan.log),
                options=_options(plan.binary),
            )
            await self._create(create)
            start = tasks_pb2.StartRequest(container_id=plan.container_id)
            return int((await self._client.call(self._client.tasks.Start, start, timeout=TASK_TIMEOUT_S)).pid)
        except Internal as error:
            await self._give_up(plan.container_id)
            raise start_failure(error.message) from None
        except NotFound as error:  # the parent snapshot: the image was deleted meanwhile
            await self._give_up(plan.container_id)
            raise FailedPrecondition(
                f"the image {plan.image} is not unpacked: {error.message}", reason="ImageMissing"
            ) from None
        except BaseException:
            await self._give_up(plan.container_id)
            raise

    async def find(self, container_id: str) -> containers_pb2.Container | None:
        request = containers_pb2.GetContainerRequest(id=container_id)
        try:
            answer: Any = await self._client.call(self._client.containers.Get, request)
        except NotFound:
            return None
        record: containers_pb2.Container = answer.container
        return record

    async def process(self, container_id: str) -> process_pb2.Process | None:
        """The container's task; None: it has none."""
        try:
            answer: Any = await self._client.call(
                self._client.tasks.Get, tasks_pb2.GetRequest(container_id=container_id)
            )
        except NotFound:
            return None
        found: process_pb2.Process = answer.process
        return found

    async def add_labels(self, container_id: str, labels: Mapping[str, str]) -> None:
        request = containers_pb2.UpdateContainerRequest(
            container=containers_pb2.Container(id=container_id, labels=dict(labels))
        )
        request.update_mask.paths.extend(f"labels.{name}" for name in labels)
        await self._client.call(self._client.containers.Update, request)

    async def stop(self, container_id: str, *, number: int, grace_ms: int) -> None:
        """Asks the task to end, then kills it; returns once it has exited. One that is gone has exited."""
        if grace_ms > 0:
            await self._signal(container_id, number, everyone=False)
            if await self._exited(container_id, timeout_s=grace_ms / 1000):
                return
        await self._signal(container_id, signal.SIGKILL, everyone=True)
        if not await self._exited(container_id, timeout_s=_KILL_WAIT_S):
            raise DeadlineExceeded(f"{container_id} does not end, even though it was killed")

    async def delete_task(self, container_id: str) -> None:
        """Deletes a task that has exited, with its cgroup, once its output is written. Repeatable."""
        request = tasks_pb2.DeleteTaskRequest(container_id=container_id)
        with contextlib.suppress(NotFound):
            await self._client.call(self._client.tasks.Delete, request, timeout=TASK_TIMEOUT_S)

    async def remove(self, container_id: str) -> None:
        """Kills and deletes task, record and snapshot. Repeatable; what is gone is no error."""
        task = await self.process(container_id)
        if task is not None:
            if task.status != process_pb2.STOPPED:
                await self.stop(container_id, number=signal.SIGKILL, grace_ms=0)
            await self.delete_task(container_id)
        record = await self.find(container_id)
        if record is None:
            return
        with contextlib.suppress(NotFound):
            request = containers_pb2.DeleteContainerRequest(id=container_id)
            await self._client.call(self._client.containers.Delete, request)
        if record.snapshot_key:
            await self.remove_snapshot(record.snapshotter, record.snapshot_key)
        # a shim that was killed leaves it behind, and containerd does not look
        await asyncio.to_thread(self._shim_socket(container_id).unlink, missing_ok=True)

    def _shim_socket(self, container_id: str) -> Path:
        """As the shim names it: the digest of daemon, namespace and container."""
        name = "/".join((self._client.address, self._client.namespace, container_id))
        return _SHIM_SOCKETS / hashlib.sha256(name.encode()).hexdigest()

    async def remove_snapshot(self, snapshotter: str, key: str) -> None:
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=snapshotter, key=key)
        with contextlib.suppress(NotFound):
            await self._client.call(self._client.snapshots.Remove, request)

    async def _record(self, plan: Plan) -> None:
        """Writes the container's record, over the one of an earlier attempt."""
        container = containers_pb2.Container(
            id=plan.container_id,
            labels=dict(plan.labels),
            image=plan.image,
            runtime=containers_pb2.Container.Runtime(name=RUNTIME, options=_options(plan.binary)),
            spec=any_pb2.Any(type_url=SPEC_TYPE, value=json.dumps(plan.spec, separators=(",", ":")).encode()),
            snapshotter=self._snapshotter,
            snapshot_key=plan.snapshot_key,
        )
        create = containers_pb2.CreateContainerRequest(container=container)
        try:
            await self._client.call(self._client.containers.Create, create)
        except AlreadyExists:
            earlier = await self.find(plan.container_id)
            update = containers_pb2.UpdateContainerRequest(container=container)
            update.update_mask.paths.extend(("labels", "image", "spec", "snapshotkey"))
            await self._client.call(self._client.containers.Update, update)
            if earlier is not None and earlier.snapshot_key not in ("", plan.snapshot_key):
                await self.remove_snapshot(earlier.snapshotter, earlier.snapshot_key)

    async def _prepare(self, plan: Plan) -> Sequence[Any]:
        request = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=self._snapshotter, key=plan.snapshot_key, parent=plan.chain_id
        )
        try:
            answer: Any = await self._client.call(self._client.snapshots.Prepare, request)
        except AlreadyExists:  # of a start that was cut short: nothing ran on it
            await self.remove_snapshot(self._snapshotter, plan.snapshot_key)
            answer = await self._client.call(self._client.snapshots.Prepare, request)
        mounts: Sequence[Any] = answer.mounts
        return mounts

    async def _create(self, request: tasks_pb2.CreateTaskRequest) -> None:
        for _ in range(_CLEANUP_ROUNDS):
            try:
                await self._client.call(self._client.tasks.Create, request, timeout=TASK_TIMEOUT_S)
            except AlreadyExists:  # containerd is not done yet with what a killed shim left
                with contextlib.suppress(CloudlessError):
                    await self.delete_task(request.container_id)
                await asyncio.sleep(_CLEANUP_ROUND_S)
            else:
                return
        raise Unavailable(f"containerd still cleans up after {request.container_id}", reason="TaskEnding")

    async def _give_up(self, container_id: str) -> None:
        # containerd may be away just now; the next start or removal of this replica finds what is left
        with contextlib.suppress(CloudlessError):
            await self.remove(container_id)

    async def _signal(self, container_id: str, number: int, *, everyone: bool) -> None:
        request = tasks_pb2.KillRequest(container_id=container_id, signal=number, all=everyone)
        try:
            await self._client.call(self._client.tasks.Kill, request)
        except NotFound:  # already ended
            return
        except CloudlessError:
            if not await self._ended(container_id):
                raise

    async def _exited(self, container_id: str, *, timeout_s: float) -> bool:
        """False: it still runs after that time."""
        try:
            request = tasks_pb2.WaitRequest(container_id=container_id)
            await self._client.call(self._client.tasks.Wait, request, timeout=timeout_s)
        except NotFound:
            return True
        except DeadlineExceeded:
            return False
        except CloudlessError:
            # somebody else deleted the task meanwhile, and its shim closed the line
            if not await self._ended(container_id):
                raise
        return True

    async def _ended(self, container_id: str) -> bool:
        """What decides when a call about a task fails: a shim that goes away has many words for it."""
        task = await self.process(container_id)
        return task is None or task.status == process_pb2.STOPPED


def _make_log(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640))


def _another_spelling(path: Path) -> str:
    """The same file under another name. The shim (1.6 to 2.x) opens one name only once and closes it when stdout
    ends, which loses what is left of stderr: the last words of one crash in ten. Under two names it opens the file
    twice, each time to append. The scheme `file://` would use stdout's name for both."""
    return f"{path.parent}/./{path.name}"


def start_failure(message: str) -> CloudlessError:
    """Why a process could not be started, and whose fault it is."""
    text = _FAILURE_PREFIX.sub("", message).removesuffix(": unknown")
    if _WORKLOAD_AT_FAULT.search(text):
        return InvalidArgument(f"cannot start: {text}", reason=_fault(text))
    return FailedPrecondition(f"cannot start: {text}", reason=START_FAILED)


def _fault(text: str) -> str:
    if "exec format error" in text:
        return COMMAND_NOT_EXECUTABLE
    if not _PROGRAM.search(text):
        return START_FAILED
    if _NOT_EXECUTABLE.search(text):
        return COMMAND_NOT_EXECUTABLE
    return COMMAND_NOT_FOUND if _NOT_FOUND.search(text) else START_FAILED


def _options(binary: str) -> any_pb2.Any | None:
    if not binary:
        return None
    # Any.Pack() would add a prefix that containerd does not find
    return any_pb2.Any(type_url=_OPTIONS_TYPE, value=runc_options_pb2.Options(binary_name=binary).SerializeToString())
