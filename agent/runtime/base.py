"""The Runtime protocol: how an agent runs replicas, whatever the device has for it.

A *sandbox* is what one replica owns on the node: its network, its containers, its logs. Its id is the replica
id. Every implementation (containerd, process, fake) passes `test/conformance/test_runtime.py`.

All calls are idempotent: `ensure_*` of what exists changes nothing, removing what is gone succeeds. State that
must survive the agent (what runs, under which spec) lives in the runtime itself: `list` after a restart tells
all, so that the agent adopts what runs. Events may be missed (there is no replay): after `events` (re)connects,
list and compare.

Errors: `FailedPrecondition(reason="ImageMissing" | "RuntimeUnavailable" | "FeatureMissing")` when waiting or
another node would help; `InvalidArgument` when the spec can never start here; `NotFound` for an unknown replica
or container; `Unavailable` when the runtime does not answer: repeat.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from cloudless.core.model import Feature, PortBinding, RuntimeInfo
from cloudless.core.spec import Container, WorkloadSpec


class ContainerState(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What one replica is to run. `spec` has its defaults filled in."""

    replica_id: str
    namespace: str
    workload: str
    generation: int
    spec: WorkloadSpec


@dataclass(frozen=True, slots=True)
class ContainerView:
    """One container as the runtime sees it now. Times are wall clock ms, 0: not (yet)."""

    replica_id: str
    name: str
    state: ContainerState
    attempt: int  # 0 for the first start; grows with each restart; survives the agent
    pid: int = 0
    exit_code: int = 0  # 128 + n for signal n
    oom_killed: bool = False
    started_at_ms: int = 0
    finished_at_ms: int = 0
    image_digest: str = ""


@dataclass(frozen=True, slots=True)
class SandboxView:
    """A replica's sandbox found on the node."""

    replica_id: str
    namespace: str
    workload: str
    generation: int
    address: str  # its own IPv4 address, or 127.0.0.1 where it has no network of its own
    ports: tuple[PortBinding, ...] = ()
    containers: tuple[ContainerView, ...] = ()


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """Something changed in this replica: look again. Level-triggered; carries no state."""

    replica_id: str
    container: str = ""
    kind: str = ""  # start, exit, oom; for logs only


@dataclass(frozen=True, slots=True)
class ContainerStats:
    cpu_usage_us: int  # cumulative CPU time
    memory_bytes: int
    pids: int


@dataclass(frozen=True, slots=True)
class Image:
    reference: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ExecRequest:
    replica_id: str
    container: str
    command: Sequence[str]
    tty: bool = False
    stdin: bool = False
    columns: int = 80
    rows: int = 24
    env: Mapping[str, str] = field(default_factory=dict)


class ExecSession(Protocol):
    """A process inside a container. Runs under the same limits and restrictions as the container.

    `output` yields (is_stderr, bytes) until both ends closed; with a TTY all is stdout. `close` kills the
    process if it still runs and frees everything; safe to call twice.
    """

    def output(self) -> AsyncIterator[tuple[bool, bytes]]: ...
    async def write_stdin(self, data: bytes) -> None: ...
    async def close_stdin(self) -> None: ...
    async def resize(self, *, columns: int, rows: int) -> None: ...
    async def signal(self, number: int) -> None: ...
    async def wait(self) -> int:
        """The exit code, 128 + n for signal n."""
        ...

    async def close(self) -> None: ...


# Reasons of the InvalidArgument for a program that cannot be executed: as shells tell 127 from 126.
COMMAND_NOT_FOUND: Final = "CommandNotFound"
COMMAND_NOT_EXECUTABLE: Final = "CommandNotExecutable"


class Runtime(Protocol):
    name: str  # containerd, process, fake

    async def start(self) -> None:
        """Connects and prepares (namespaces, bridge, folders). Repeatable."""
        ...

    async def close(self) -> None:
        """Disconnects; leaves what runs running."""
        ...

    async def describe(self) -> tuple[RuntimeInfo, tuple[Feature, ...]]:
        """What this runtime is and can enforce on this device, and why not more. Never raises."""
        ...

    async def list(self) -> Sequence[SandboxView]:
        """Every sandbox of this agent, with the present state of its containers."""
        ...

    async def ensure_sandbox(self, sandbox: Sandbox) -> SandboxView:
        """Makes the replica's network and folders; no container is started. An existing one is returned."""
        ...

    async def start_container(self, sandbox: Sandbox, container: Container, *, attempt: int) -> ContainerView:
        """Starts one container of the sandbox, replacing an exited earlier attempt. A running container is
        left alone and returned. Output is appended to `log_path`."""
        ...

    async def stop_container(self, replica_id: str, container: str, *, grace_ms: int) -> None:
        """SIGTERM, then SIGKILL after `grace_ms`; returns once it has exited. The exited container and its
        exit code stay visible until the sandbox is removed or it is started again."""
        ...

    async def remove_sandbox(self, replica_id: str) -> None:
        """Kills what still runs and deletes everything: containers, snapshots, cgroups, network, logs."""
        ...

    async def set_serving(self, replica_ids: frozenset[str]) -> None:
        """From now on only these replicas get new connections through their host ports; the others keep those that
        they have. Until it was called, all do. Where a runtime forwards nothing (a process listens on the port by
        itself) this does nothing. Repeatable; ids that are not here do not matter."""
        ...

    def log_path(self, replica_id: str, container: str) -> Path:
        """The file that holds stdout and stderr of all attempts, appended as they come."""
        ...

    async def exec(self, request: ExecRequest) -> ExecSession: ...

    async def stats(self, replica_id: str, container: str) -> ContainerStats: ...

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """Ends or raises Unavailable when the connection is lost; call again."""
        ...

    async def import_image(self, archive: Path, *, reference: str = "") -> Sequence[Image]:
        """Imports an OCI archive (tar of an OCI layout, or `docker save`). `reference` names an image whose
        archive does not. Raises FailedPrecondition where the runtime has no images, InvalidArgument for a
        broken archive (nothing is left of it)."""
        ...

    async def images(self) -> Sequence[Image]: ...
