"""What the fabric knows: nodes, replicas, tokens, users and events, as immutable domain objects.

Field for field the shape of `proto/cloudless/api/v1/types.proto`. Times are milliseconds since the epoch,
taken from the log entry that caused the change. `revision` is the index of the log entry that last changed
the object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from cloudless.core.quick import quick_frozen
from cloudless.core.spec import Metadata, Protocol, ResourceAmounts, TaintEffect, WorkloadSpec


class DeviceClass(StrEnum):
    PHONE = "phone"
    LAPTOP = "laptop"
    DESKTOP = "desktop"
    SERVER = "server"
    GATEWAY = "gateway"
    VPS = "vps"


class NodeState(StrEnum):
    ENROLLING = "Enrolling"
    READY = "Ready"
    UNREACHABLE = "Unreachable"
    LOST = "Lost"


class ReplicaPhase(StrEnum):
    PENDING = "Pending"
    ASSIGNED = "Assigned"
    PREPARING = "Preparing"
    STARTING = "Starting"
    RUNNING = "Running"
    READY = "Ready"
    STOPPING = "Stopping"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    LOST = "Lost"


class WorkloadPhase(StrEnum):
    PENDING = "Pending"
    PROGRESSING = "Progressing"
    AVAILABLE = "Available"
    DEGRADED = "Degraded"
    FAILED = "Failed"
    TERMINATING = "Terminating"


class RolloutPhase(StrEnum):
    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    AWAITING_PROMOTION = "AwaitingPromotion"
    COMPLETE = "Complete"
    FAILED = "Failed"
    ROLLED_BACK = "RolledBack"


class RolloutAction(StrEnum):
    PAUSE = "Pause"
    RESUME = "Resume"
    PROMOTE = "Promote"
    UNDO = "Undo"


class RunPhase(StrEnum):
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SKIPPED = "Skipped"


class Role(StrEnum):
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Taint:
    key: str = ""
    value: str = ""
    effect: TaintEffect | None = None


@dataclass(frozen=True, slots=True)
class Feature:
    name: str = ""
    available: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    name: str = ""
    version: str = ""
    available: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class OwnerTerms:
    """What the device's owner lets the fabric do with it. Percentages and hours of 0 and () are not stated.

    `accepting`: it takes work now, and else `not_accepting_reason` is a CamelCase word. `evicting`: it must run
    nothing now, so that what is there moves away.
    """

    share_percent: int = 0
    hours: tuple[str, ...] = ()
    battery_floor_percent: int = 0
    battery_resume_percent: int = 0
    allow_metered: bool = False
    namespaces: tuple[str, ...] = ()
    accepting: bool = False
    not_accepting_reason: str = ""
    evicting: bool = False


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    device_class: DeviceClass | None = None
    arch: str = ""
    os: str = ""
    kernel: str = ""
    hostname: str = ""
    agent_version: str = ""
    capacity: ResourceAmounts = ResourceAmounts()
    iops_class: str = ""
    gpus: int = 0
    power_source: str = ""
    metered: bool = False
    runtimes: tuple[RuntimeInfo, ...] = ()
    features: tuple[Feature, ...] = ()
    addresses: tuple[str, ...] = ()
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)  # stated by the device; `Node.labels` win
    owner: OwnerTerms | None = None  # None: an agent that knows of none; it accepts all


@dataclass(frozen=True, slots=True)
class NodeUsage:
    cpu_millis: int = 0
    memory_bytes: int = 0
    storage_bytes: int = 0
    battery_percent: int = 0
    power_source: str = ""
    metered: bool = False
    rtt_us: int = 0
    pressure: tuple[str, ...] = ()  # memory, disk, battery


@dataclass(frozen=True, slots=True)
class NodeReliability:
    """How steady a node has been, as the log saw it; older observations weigh less, half with every week."""

    available_permille: int = 0
    losses_milli: int = 0
    failed_starts_milli: int = 0
    updated_at_ms: int = 0
    first_ready_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class NodePresence:
    """When a device is usually online: 168 hours of the week in UTC, Monday 0 h first; () while nothing is known."""

    online_permille: tuple[int, ...] = ()
    updated_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    id: str = ""
    region: str = ""
    zone: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    cordoned: bool = False
    draining: bool = False
    state: NodeState | None = None
    state_reason: str = ""
    state_since_ms: int = 0
    device: DeviceInfo = DeviceInfo()
    public_key_sha256: str = ""
    certificate_serial: str = ""
    certificate_expires_at_ms: int = 0
    enrolled_at_ms: int = 0
    revision: int = 0
    token_id: str = ""
    reliability: NodeReliability | None = None  # None: nothing is known yet
    presence: NodePresence | None = None
    clock_skew_ms: int = 0


@dataclass(frozen=True, slots=True)
class ScoreTerm:
    name: str = ""
    value: float = 0.0
    weight: float = 0.0


@dataclass(frozen=True, slots=True)
class CandidateScore:
    node_id: str = ""
    total: float = 0.0
    terms: tuple[ScoreTerm, ...] = ()


@dataclass(frozen=True, slots=True)
class FilterRejection:
    filter: str = ""
    reason: str = ""
    node_ids: tuple[str, ...] = ()
    node_count: int = 0


@dataclass(frozen=True, slots=True)
class PlacementDecision:
    node_id: str = ""
    candidates: tuple[CandidateScore, ...] = ()
    rejections: tuple[FilterRejection, ...] = ()
    nodes_considered: int = 0
    decided_at_ms: int = 0
    summary: str = ""


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    name: str = ""
    state: str = ""
    reason: str = ""
    exit_code: int = 0
    restart_count: int = 0
    started_at_ms: int = 0
    finished_at_ms: int = 0
    ready: bool = False
    image_digest: str = ""
    last_reason: str = ""
    last_exit_code: int = 0
    message: str = ""  # of `reason`, for people
    retry_at_ms: int = 0  # waiting: when it is started (again), by the node's clock; 0: not known, or at once


@dataclass(frozen=True, slots=True)
class PortBinding:
    name: str = ""
    container_port: int = 0
    host_port: int = 0
    protocol: Protocol | None = None


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    phase: ReplicaPhase | None = None
    reason: str = ""
    message: str = ""
    address: str = ""
    containers: tuple[ContainerStatus, ...] = ()
    ports: tuple[PortBinding, ...] = ()
    runtime: str = ""
    since_ms: int = 0
    restart_count: int = 0


@dataclass(frozen=True, slots=True)
class Replica:
    id: str = ""
    workload: str = ""
    namespace: str = ""
    generation: int = 0
    node_id: str = ""
    stopping: bool = False
    stop_reason: str = ""
    status: ReplicaStatus = ReplicaStatus()
    placement: PlacementDecision = PlacementDecision()
    fragment: ResourceAmounts = ResourceAmounts()
    created_at_ms: int = 0
    assigned_at_ms: int = 0
    revision: int = 0
    phase_since_ms: int = 0
    attempt: int = 0
    run: int = 0  # of a job or cron: the number of its run
    replaces: str = ""  # the id of the replica whose place it took on a better node, which may be gone


@dataclass(frozen=True, slots=True)
class RolloutProgress:
    """How far the newest generation has come. `stable_generation`: the newest one that was completed, 0: none.
    `step` is the canary's, from 0; `step_since_ms` is 0 until its weight is reached."""

    generation: int = 0
    stable_generation: int = 0
    phase: RolloutPhase | None = None
    started_at_ms: int = 0
    progressed_at_ms: int = 0
    step: int = 0
    step_since_ms: int = 0
    paused: bool = False
    promoted: bool = False
    message: str = ""
    available: int = 0  # the most of its replicas that were available at once
    moves_failed: int = 0  # how many moves to a better node in a row came to nothing
    move_failed_at_ms: int = 0  # when the last of these ended; 0: none


@dataclass(frozen=True, slots=True)
class JobRun:
    """One run of a workload of type job or cron. `reason` is a CamelCase word where it did not simply succeed."""

    number: int = 0
    generation: int = 0
    scheduled_at_ms: int = 0
    started_at_ms: int = 0
    finished_at_ms: int = 0
    phase: RunPhase | None = None
    succeeded: int = 0
    failed: int = 0
    reason: str = ""
    manual: bool = False


@dataclass(frozen=True, slots=True)
class WorkloadStatus:
    phase: WorkloadPhase | None = None
    desired: int = 0
    ready: int = 0
    running: int = 0
    pending: int = 0
    updated: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload as the API shows it; `status` is computed when read."""

    metadata: Metadata = Metadata()
    spec: WorkloadSpec = WorkloadSpec()
    generation: int = 0
    revision: int = 0
    created_at_ms: int = 0
    updated_at_ms: int = 0
    deleting: bool = False
    status: WorkloadStatus = WorkloadStatus()
    rollout: RolloutProgress | None = None
    runs: tuple[JobRun, ...] = ()
    next_run_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class WorkloadRevision:
    generation: int = 0
    spec: WorkloadSpec = WorkloadSpec()
    created_at_ms: int = 0
    change_cause: str = ""
    completed_at_ms: int = 0  # when all replicas were of it for the first time; 0: never, or before this was noted


@quick_frozen
class WorkloadRecord:
    """A workload as the replicated state stores it. `history` is oldest first and holds every generation
    that a replica still runs. `runs` are oldest first; `scheduled_until_ms` is up to when due runs of a cron are
    decided, and `last_run` the highest number that a run was given."""

    metadata: Metadata = Metadata()
    spec: WorkloadSpec = WorkloadSpec()
    generation: int = 0
    revision: int = 0
    created_at_ms: int = 0
    updated_at_ms: int = 0
    deleting: bool = False
    history: tuple[WorkloadRevision, ...] = ()
    rollout: RolloutProgress | None = None  # None: a version that knew of none wrote it
    runs: tuple[JobRun, ...] = ()
    scheduled_until_ms: int = 0
    last_run: int = 0


@dataclass(frozen=True, slots=True)
class JoinToken:
    id: str = ""
    node_pattern: str = ""
    region: str = ""
    zone: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    max_uses: int = 0
    uses: int = 0
    created_at_ms: int = 0
    expires_at_ms: int = 0
    revoked: bool = False
    created_by: str = ""
    used_by: tuple[str, ...] = ()
    revision: int = 0
    coordinator_id: str = ""  # not empty: admits this coordinator, and no node


@dataclass(frozen=True, slots=True)
class Coordinator:
    """A member of the control plane, as the fabric knows it. Who votes is the engine's business."""

    id: str = ""
    version: str = ""
    schema: int = 0  # newest schema of log entries that it understands
    api_addresses: tuple[str, ...] = ()
    enroll_addresses: tuple[str, ...] = ()
    member_address: str = ""
    public_key_sha256: str = ""  # of the key that it joined with; empty: the first member
    certificate_serial: str = ""
    joined_at_ms: int = 0
    removed: bool = False  # its id is never used again
    revision: int = 0


@dataclass(frozen=True, slots=True)
class RoleBinding:
    role: Role | None = None
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class User:
    name: str = ""
    bindings: tuple[RoleBinding, ...] = ()
    created_at_ms: int = 0
    revoked: bool = False
    revision: int = 0


@quick_frozen
class Event:
    index: int = 0
    sequence: int = 0
    type: str = ""
    severity: Severity | None = None
    time_ms: int = 0
    request_id: str = ""
    actor: str = ""
    resource: str = ""
    namespace: str = ""
    description: str = ""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the coordinator wants one node to run, in full: nothing else is needed to start it."""

    replica_id: str = ""
    workload: str = ""
    namespace: str = ""
    generation: int = 0
    spec: WorkloadSpec = WorkloadSpec()
    stopping: bool = False
    stop_reason: str = ""
