"""The commands of the replicated log: one frozen class per field of `RaftEntry.command`, by the field's name.

An entry's bytes are its proto message. Times, ids and random numbers are made by the proposer and travel inside
the command, because apply may look at nothing else.
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
    JoinToken,
    NodeState,
    PlacementDecision,
    ReplicaStatus,
    Taint,
    User,
)
from cloudless.core.spec import Metadata, WorkloadSpec

SCHEMA: Final = 1


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
}
FIELD_OF: Final[Mapping[type[Any], str]] = {cls: field for field, cls in BY_FIELD.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log.

    `request_id` names the proposal: a repeat gets the first answer; empty: it is never repeated. `issued_at_ms`
    is the proposer's wall clock and the only time that apply sees. `actor` is `user/alice`, `node/n1` or
    `system/reconciler`.
    """

    schema: int
    request_id: str
    issued_at_ms: int
    actor: str
    command: Command


def encode(entry: Entry) -> bytes:
    """The entry's bytes for the log. Raises ValueError when a number does not fit its field."""
    message = log_pb2.RaftEntry(
        schema=entry.schema, request_id=entry.request_id, issued_at_ms=entry.issued_at_ms, actor=entry.actor
    )
    part = getattr(message, FIELD_OF[type(entry.command)])
    part.SetInParent()  # a command without fields is a command, too
    convert.fill(entry.command, part)
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def decode(data: bytes) -> Entry:
    """The entry that `data` holds. Raises ValueError for bytes that are no entry of this version."""
    try:
        message = log_pb2.RaftEntry.FromString(data)
    except DecodeError as error:
        raise ValueError(f"not a log entry: {error}") from None
    if message.schema != SCHEMA:
        raise ValueError(f"log entry has schema {message.schema}, this version knows {SCHEMA}")
    field = message.WhichOneof("command")
    if field is None:
        raise ValueError("log entry holds no command of this version")
    command: Command = convert.from_proto(getattr(message, field), BY_FIELD[field])
    return Entry(message.schema, message.request_id, message.issued_at_ms, message.actor, command)
