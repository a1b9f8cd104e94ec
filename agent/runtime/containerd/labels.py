"""What an agent needs to know after a restart, written on containerd's records. Pure.

A sandbox is a record without a task; each of its containers is a record beside it. Ids are readable where they can be
(`web-1`, `web-1.main`) and a digest otherwise; only the labels are ever read back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence

from cloudless.agent.runtime.base import ContainerState, ContainerView, Sandbox, SandboxView
from cloudless.core.model import PortBinding
from cloudless.core.spec import Protocol
from cloudless.errors import InvalidArgument

_PREFIX = "cloudless.dev/"
REPLICA = _PREFIX + "replica"
CONTAINER = _PREFIX + "container"  # absent on the sandbox's own record
_NAMESPACE = _PREFIX + "namespace"
_WORKLOAD = _PREFIX + "workload"
_GENERATION = _PREFIX + "generation"
_ADDRESS = _PREFIX + "address"
_PORTS = _PREFIX + "ports"
_HOST_NETWORK = _PREFIX + "host-network"
_ATTEMPT = _PREFIX + "attempt"
_IMAGE_DIGEST = _PREFIX + "image-digest"
_STOP_SIGNAL = _PREFIX + "stop-signal"
_STARTED_AT_MS = _PREFIX + "started-at-ms"
_FINISHED_AT_MS = _PREFIX + "finished-at-ms"
_EXIT_CODE = _PREFIX + "exit-code"
_OOM_KILLED = _PREFIX + "oom-killed"

FILTER = f'labels."{REPLICA}"'  # containerd's filter syntax: everything that has the label
# the exit code of what was lost with its task, as by a power cut: nobody saw it end
LOST_EXIT_CODE = 255

# identifiers.Validate of containerd: at most 76 characters, separators single and inside
_IDENTIFIER = re.compile(r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*")
_IDENTIFIER_MAX = 76
_REPLICA_ID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,126}[A-Za-z0-9])?")


@dataclasses.dataclass(frozen=True, slots=True)
class SandboxRecord:
    """A sandbox as its record tells."""

    replica_id: str
    namespace: str
    workload: str
    generation: int
    address: str
    ports: tuple[PortBinding, ...]
    host_network: bool

    def view(self, containers: Sequence[ContainerView] = ()) -> SandboxView:
        return SandboxView(
            replica_id=self.replica_id,
            namespace=self.namespace,
            workload=self.workload,
            generation=self.generation,
            address=self.address,
            ports=self.ports,
            containers=tuple(sorted(containers, key=lambda container: container.name)),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Exit:
    """How an attempt ended."""

    code: int
    finished_at_ms: int
    oom_killed: bool


def check_replica_id(replica_id: str) -> str:
    """The id, which becomes part of paths. Raises InvalidArgument."""
    if not _REPLICA_ID.fullmatch(replica_id):
        raise InvalidArgument(f"{replica_id!r} is not a replica id", reason="BadReplicaId")
    return replica_id


def sandbox_id(replica_id: str) -> str:
    return _identifier(replica_id, readable="." not in replica_id)


def container_id(replica_id: str, container: str) -> str:
    """Distinct for every pair: neither part of a readable id has a dot."""
    return _identifier(f"{replica_id}.{container}", readable="." not in replica_id and "." not in container)


def sandbox_labels(
    sandbox: Sandbox, *, address: str, ports: Sequence[PortBinding], host_network: bool
) -> dict[str, str]:
    return {
        REPLICA: sandbox.replica_id,
        _NAMESPACE: sandbox.namespace,
        _WORKLOAD: sandbox.workload,
        _GENERATION: str(sandbox.generation),
        _ADDRESS: address,
        _PORTS: _write_ports(ports),
        _HOST_NETWORK: str(host_network).lower(),
    }


def container_labels(
    replica_id: str, container: str, *, attempt: int, image_digest: str, started_at_ms: int, stop_signal: str
) -> dict[str, str]:
    return {
        REPLICA: replica_id,
        CONTAINER: container,
        _ATTEMPT: str(attempt),
        _IMAGE_DIGEST: image_digest,
        _STARTED_AT_MS: str(started_at_ms),
        _STOP_SIGNAL: stop_signal,
    }


def exit_labels(ended: Exit) -> dict[str, str]:
    """Added once an attempt has ended; the next attempt's labels replace them."""
    return {
        _EXIT_CODE: str(ended.code),
        _FINISHED_AT_MS: str(ended.finished_at_ms),
        _OOM_KILLED: str(ended.oom_killed).lower(),
    }


def read_sandbox(labels: Mapping[str, str]) -> SandboxRecord:
    return SandboxRecord(
        replica_id=labels[REPLICA],
        namespace=labels.get(_NAMESPACE, ""),
        workload=labels.get(_WORKLOAD, ""),
        generation=_integer(labels, _GENERATION),
        address=labels.get(_ADDRESS, ""),
        ports=_read_ports(labels.get(_PORTS, "")),
        host_network=labels.get(_HOST_NETWORK) == "true",
    )


def read_exit(labels: Mapping[str, str]) -> Exit | None:
    if _EXIT_CODE not in labels:
        return None
    return Exit(_integer(labels, _EXIT_CODE), _integer(labels, _FINISHED_AT_MS), labels.get(_OOM_KILLED) == "true")


def attempt_of(labels: Mapping[str, str]) -> int:
    return _integer(labels, _ATTEMPT)


def stop_signal_of(labels: Mapping[str, str]) -> str:
    return labels.get(_STOP_SIGNAL, "")


def container_view(labels: Mapping[str, str], *, pid: int | None = None, starting: bool = False) -> ContainerView:
    """A container as its record tells; `pid` is that of its running task (0: not known just now), None without one.
    Neither running nor starting nor ended by record: its task was lost."""
    started = _integer(labels, _STARTED_AT_MS)
    view = ContainerView(
        replica_id=labels[REPLICA],
        name=labels.get(CONTAINER, ""),
        state=ContainerState.CREATED,
        attempt=attempt_of(labels),
        image_digest=labels.get(_IMAGE_DIGEST, ""),
    )
    if pid is not None:
        return dataclasses.replace(view, state=ContainerState.RUNNING, pid=pid, started_at_ms=started)
    ended = read_exit(labels)
    if ended is None and starting:
        return view
    ended = ended or Exit(LOST_EXIT_CODE, started, False)
    return dataclasses.replace(
        view,
        state=ContainerState.EXITED,
        exit_code=ended.code,
        oom_killed=ended.oom_killed,
        started_at_ms=started,
        finished_at_ms=max(started, ended.finished_at_ms),
    )


def _identifier(text: str, *, readable: bool) -> str:
    if readable and len(text) <= _IDENTIFIER_MAX and _IDENTIFIER.fullmatch(text):
        return text
    return "c-" + hashlib.sha256(text.encode()).hexdigest()[:40]


def _integer(labels: Mapping[str, str], key: str) -> int:
    text = labels.get(key, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _write_ports(ports: Sequence[PortBinding]) -> str:
    return ",".join(
        f"{port.name}/{port.container_port}/{port.host_port}/{port.protocol.value if port.protocol else ''}"
        for port in ports
    )


def _read_ports(text: str) -> tuple[PortBinding, ...]:
    ports = []
    for part in filter(None, text.split(",")):
        name, inner, outer, protocol = part.split("/")
        ports.append(PortBinding(name, int(inner), int(outer), Protocol(protocol) if protocol else None))
    return tuple(ports)
