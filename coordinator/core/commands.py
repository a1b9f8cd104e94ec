"""The commands of the replicated log: one frozen class per field of `RaftEntry.command`, by the field's name.

An entry's bytes are its proto message. Times, ids and random numbers are made by the proposer and travel inside
the command, because apply may look at nothing else.

An entry says the schema in which its command appeared, so that members of different versions agree on what each of
them understands: see `core.versions`, which keeps a command out of the log until every member knows it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from google.protobuf.message import DecodeError

from cloudless.api.v1 import convert, log_pb2
from cloudless.core.model import (
    DeviceInfo,
    JobRun,
    JoinToken,
    NodePresence,
    NodeReliability,
    NodeState,
    PlacementDecision,
    ReplicaStatus,
    RolloutAction,
    RolloutProgress,
    Severity,
    Taint,
    User,
)
from cloudless.core.quick import quick_frozen
from cloudless.core.spec import Metadata, RolloutStrategy, WorkloadSpec, WorkloadType

SCHEMA: Final = 3  # the newest that this software understands


@dataclass(frozen=True, slots=True)
class NoOp:
    """Changes nothing. Begins a leader's term."""


@dataclass(frozen=True, slots=True)
class CreateToken:
    """Admits as many nodes as the token says. `uses`, `used_by`, `revoked` and `revision` are the log's own."""

    token: JoinToken = JoinToken()


@dataclass(frozen=True, slots=True)
class RevokeToken:
    token_id: str = ""


@dataclass(frozen=True, slots=True)
class EnrollNode:
    """Counts one use of the token and admits the node, or refuses both."""

    token_id: str = ""
    node_id: str = ""
    public_key_sha256: str = ""
    certificate_serial: str = ""
    certificate_expires_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class RenewCertificate:
    """A certificate was signed for a known node, which proved who it is with the one that it had."""

    node_id: str = ""
    public_key_sha256: str = ""
    certificate_serial: str = ""
    certificate_expires_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class UpdateNode:
    """Operator's settings of a node. None and empty mean: as it is. Draining cordons; uncordoning ends a drain.

    A taint replaces the one of the same key and effect; `remove_taints` names keys.
    """

    node_id: str = ""
    cordoned: bool | None = None
    draining: bool | None = None
    set_labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    remove_labels: tuple[str, ...] = ()
    set_taints: tuple[Taint, ...] = ()
    remove_taints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RemoveNode:
    """Forgets a node. Refused while replicas are assigned to it, unless `force`, which forgets them too."""

    node_id: str = ""
    force: bool = False


@dataclass(frozen=True, slots=True)
class ReportNode:
    """A transition of a node. A state of None and a device of None mean: as it is."""

    node_id: str = ""
    state: NodeState | None = None
    reason: str = ""
    device: DeviceInfo | None = None
    clock_skew_ms: int | None = None
    reliability: NodeReliability | None = None
    presence: NodePresence | None = None


@dataclass(frozen=True, slots=True)
class PutWorkload:
    """Creates or replaces a workload; defaults are filled in. `expected_revision` of 0: it must not exist."""

    metadata: Metadata = Metadata()
    spec: WorkloadSpec = WorkloadSpec()
    expected_revision: int | None = None


@dataclass(frozen=True, slots=True)
class ScaleWorkload:
    namespace: str = ""
    name: str = ""
    replicas: int = 0


@dataclass(frozen=True, slots=True)
class DeleteWorkload:
    """Stops all replicas; the workload is gone when the last of them is."""

    namespace: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class RestartWorkload:
    """Replaces every replica, by the rollout's rule, without a change of the spec."""

    namespace: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class PlannedReplica:
    """A new replica or a pending one, and where it goes. A placement without a node leaves it pending."""

    replica_id: str = ""
    generation: int = 0
    placement: PlacementDecision = PlacementDecision()
    attempt: int = 0
    run: int = 0
    shares_host_ports: bool = False  # with others of its workload, on a node that can
    replaces: str = ""  # of a new one: the id of the replica whose place it takes


@dataclass(frozen=True, slots=True)
class PlannedStop:
    replica_id: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ApplyPlan:
    """What the reconcile loop decided for one workload.

    Everything is checked again when it is applied: what still fits is committed, the rest stays pending.
    `planned_at_index` is the log index of the snapshot that the plan was made on; with it, no available replica
    is stopped when another one ceased to be available since. 0 leaves that check out.
    """

    namespace: str = ""
    workload: str = ""
    planned_at_index: int = 0
    replicas: tuple[PlannedReplica, ...] = ()
    stops: tuple[PlannedStop, ...] = ()
    lost: tuple[str, ...] = ()
    rollout: RolloutProgress | None = None
    runs: tuple[JobRun, ...] = ()
    scheduled_until_ms: int = 0
    preemptions: tuple[PlannedStop, ...] = ()
    roll_back: bool = False
    expired: bool = False


@dataclass(frozen=True, slots=True)
class ControlRollout:
    """What people say to a rollout. `to_generation` of an undo: 0 is the one before the present one."""

    namespace: str = ""
    name: str = ""
    action: RolloutAction | None = None
    to_generation: int = 0


@dataclass(frozen=True, slots=True)
class StartRun:
    """A run of a job or cron by hand."""

    namespace: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class ReportedReplica:
    replica_id: str = ""
    status: ReplicaStatus = ReplicaStatus()
    gone: bool = False


@dataclass(frozen=True, slots=True)
class ReportReplicas:
    """What a node says of its replicas. The proposer has checked that it is that node."""

    node_id: str = ""
    replicas: tuple[ReportedReplica, ...] = ()


@dataclass(frozen=True, slots=True)
class PutUser:
    """Creates a user or replaces its bindings."""

    user: User = User()


@dataclass(frozen=True, slots=True)
class RevokeUser:
    name: str = ""


@dataclass(frozen=True, slots=True)
class EnrollCoordinator:
    """Counts one use of the token and admits the coordinator, or refuses both.

    `log_schema` is the newest schema of entries that its software understands.
    """

    token_id: str = ""
    coordinator_id: str = ""
    public_key_sha256: str = ""
    certificate_serial: str = ""
    version: str = ""
    log_schema: int = 0


@dataclass(frozen=True, slots=True)
class AnnounceCoordinator:
    """What a running coordinator says of itself, at each start. Creates its record where there is none."""

    coordinator_id: str = ""
    version: str = ""
    log_schema: int = 0
    api_addresses: tuple[str, ...] = ()
    enroll_addresses: tuple[str, ...] = ()
    member_address: str = ""


@dataclass(frozen=True, slots=True)
class RemoveCoordinator:
    """It is no member any more; its id is never used again."""

    coordinator_id: str = ""


@dataclass(frozen=True, slots=True)
class RecordEvent:
    """Something that happened outside the log and belongs into the event stream: a refused member, a restore.

    `type` begins with `security.` or `cluster.`. No severity stands for info.
    """

    type: str = ""
    severity: Severity | None = None
    resource: str = ""
    namespace: str = ""
    description: str = ""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


Command: TypeAlias = (
    NoOp
    | CreateToken
    | RevokeToken
    | EnrollNode
    | RenewCertificate
    | UpdateNode
    | RemoveNode
    | ReportNode
    | PutWorkload
    | ScaleWorkload
    | DeleteWorkload
    | RestartWorkload
    | ApplyPlan
    | ReportReplicas
    | PutUser
    | RevokeUser
    | EnrollCoordinator
    | AnnounceCoordinator
    | RemoveCoordinator
    | RecordEvent
    | ControlRollout
    | StartRun
)

# The oneof field of each command; a field's number is the command's permanent tag.
BY_FIELD: Final[Mapping[str, type[Any]]] = {
    "no_op": NoOp,
    "create_token": CreateToken,
    "revoke_token": RevokeToken,
    "enroll_node": EnrollNode,
    "renew_certificate": RenewCertificate,
    "update_node": UpdateNode,
    "remove_node": RemoveNode,
    "report_node": ReportNode,
    "put_workload": PutWorkload,
    "scale_workload": ScaleWorkload,
    "delete_workload": DeleteWorkload,
    "apply_plan": ApplyPlan,
    "report_replicas": ReportReplicas,
    "put_user": PutUser,
    "revoke_user": RevokeUser,
    "restart_workload": RestartWorkload,
    "enroll_coordinator": EnrollCoordinator,
    "announce_coordinator": AnnounceCoordinator,
    "remove_coordinator": RemoveCoordinator,
    "record_event": RecordEvent,
    "control_rollout": ControlRollout,
    "start_run": StartRun,
}
FIELD_OF: Final[Mapping[type[Any], str]] = {cls: field for field, cls in BY_FIELD.items()}


# The schema in which each command appeared.
SINCE: Final[Mapping[type[Any], int]] = dict.fromkeys(FIELD_OF, 1) | {
    EnrollCoordinator: 2,
    AnnounceCoordinator: 2,
    RemoveCoordinator: 2,
    RecordEvent: 2,
    ControlRollout: 3,
    StartRun: 3,
}

# What makes several coordinators possible is understood wherever there are several: software that knows none of it
# (schema 1) is always alone. `versions` rests on these and cannot hold them back.
FOUNDATION: Final = frozenset({CreateToken, EnrollCoordinator, AnnounceCoordinator, RemoveCoordinator})


def schema_of(command: Command) -> int:
    """The oldest schema that understands all that this command says."""
    match command:
        case CreateToken() if command.token.coordinator_id:
            return 2  # an older one would take it for a token of nodes
        case PutWorkload() if _says_more(command.spec):
            return 3
        case ApplyPlan() if command.rollout or command.runs or command.preemptions or _decides_more(command):
            return 3
        case ReportNode() if _tells_more(command):
            return 3
    return SINCE[type(command)]


def _says_more(spec: WorkloadSpec) -> bool:
    """Whether the spec has a part that schema 2 would lose."""
    placement, rollout = spec.placement, spec.rollout
    return bool(
        spec.type in (WorkloadType.JOB, WorkloadType.CRON)
        or spec.schedule
        or spec.completion
        or spec.termination.pre_stop
        or rollout.canary
        or rollout.strategy in (RolloutStrategy.CANARY, RolloutStrategy.BLUE_GREEN)
        or placement.affinity
        or (placement.anti_affinity and any(term.match_labels or term.weight for term in placement.anti_affinity))
        or (placement.spread and any(term.required for term in placement.spread))
    )


def _tells_more(report: ReportNode) -> bool:
    told = report.clock_skew_ms is not None or report.reliability or report.presence
    return bool(told or (report.device and report.device.owner))


def _decides_more(plan: ApplyPlan) -> bool:
    return bool(
        plan.scheduled_until_ms
        or plan.roll_back
        or plan.expired
        or any(r.run or r.shares_host_ports or r.replaces for r in plan.replicas)
    )


@quick_frozen
class Entry:
    """One entry of the log.

    `schema` is what an entry that was read says; `encode` writes the one that the command needs, so that a member of
    an older version reads every command that it knows. `request_id` names the proposal: a repeat gets the first
    answer; empty: it is never repeated. `issued_at_ms` is the proposer's wall clock and the only time that apply
    sees. `actor` is `user/alice`, `node/n1` or `system/reconciler`.
    """

    schema: int
    request_id: str
    issued_at_ms: int
    actor: str
    command: Command


def encode(entry: Entry) -> bytes:
    """The entry's bytes for the log. Raises ValueError when a number does not fit its field."""
    message = log_pb2.RaftEntry(
        schema=schema_of(entry.command), request_id=entry.request_id, issued_at_ms=entry.issued_at_ms, actor=entry.actor
    )
    part = getattr(message, FIELD_OF[type(entry.command)])
    part.SetInParent()  # a command without fields is a command, too
    convert.fill(entry.command, part)
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def decode(data: bytes, *, known: int = SCHEMA) -> Entry:
    """The entry that `data` holds. Raises ValueError for bytes that are no entry of a schema up to `known`."""
    try:
        message = log_pb2.RaftEntry.FromString(data)
    except DecodeError as error:
        raise ValueError(f"not a log entry: {error}") from None
    field = message.WhichOneof("command")
    cls = BY_FIELD.get(field) if field is not None else None
    limit = SCHEMA if cls in FOUNDATION else min(known, SCHEMA)
    if not 1 <= message.schema <= limit:
        raise ValueError(f"log entry has schema {message.schema}, this version knows 1 to {limit}")
    if field is None or cls is None:
        raise ValueError("log entry holds no command of this version")
    command: Command = convert.from_proto(getattr(message, field), cls)
    if message.schema < schema_of(command):
        raise ValueError(f"log entry has schema {message.schema}, which has no such {cls.__name__}")
    return Entry(message.schema, message.request_id, message.issued_at_ms, message.actor, command)
