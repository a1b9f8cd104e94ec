from cloudless.api.v1 import spec_pb2 as _spec_pb2
from cloudless.api.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RaftEntry(_message.Message):
    __slots__ = ("schema", "request_id", "issued_at_ms", "actor", "no_op", "create_token", "revoke_token", "enroll_node", "renew_certificate", "update_node", "remove_node", "report_node", "put_workload", "scale_workload", "delete_workload", "apply_plan", "report_replicas", "put_user", "revoke_user", "restart_workload", "enroll_coordinator", "announce_coordinator", "remove_coordinator", "record_event", "control_rollout", "start_run")
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    NO_OP_FIELD_NUMBER: _ClassVar[int]
    CREATE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REVOKE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ENROLL_NODE_FIELD_NUMBER: _ClassVar[int]
    RENEW_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_NODE_FIELD_NUMBER: _ClassVar[int]
    REMOVE_NODE_FIELD_NUMBER: _ClassVar[int]
    REPORT_NODE_FIELD_NUMBER: _ClassVar[int]
    PUT_WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    SCALE_WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    DELETE_WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    APPLY_PLAN_FIELD_NUMBER: _ClassVar[int]
    REPORT_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    PUT_USER_FIELD_NUMBER: _ClassVar[int]
    REVOKE_USER_FIELD_NUMBER: _ClassVar[int]
    RESTART_WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    ENROLL_COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCE_COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    REMOVE_COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    RECORD_EVENT_FIELD_NUMBER: _ClassVar[int]
    CONTROL_ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    START_RUN_FIELD_NUMBER: _ClassVar[int]
    schema: int
    request_id: str
    issued_at_ms: int
    actor: str
    no_op: NoOp
    create_token: CreateToken
    revoke_token: RevokeToken
    enroll_node: EnrollNode
    renew_certificate: RenewCertificate
    update_node: UpdateNode
    remove_node: RemoveNode
    report_node: ReportNode
    put_workload: PutWorkload
    scale_workload: ScaleWorkload
    delete_workload: DeleteWorkload
    apply_plan: ApplyPlan
    report_replicas: ReportReplicas
    put_user: PutUser
    revoke_user: RevokeUser
    restart_workload: RestartWorkload
    enroll_coordinator: EnrollCoordinator
    announce_coordinator: AnnounceCoordinator
    remove_coordinator: RemoveCoordinator
    record_event: RecordEvent
    control_rollout: ControlRollout
    start_run: StartRun
    def __init__(self, schema: _Optional[int] = ..., request_id: _Optional[str] = ..., issued_at_ms: _Optional[int] = ..., actor: _Optional[str] = ..., no_op: _Optional[_Union[NoOp, _Mapping]] = ..., create_token: _Optional[_Union[CreateToken, _Mapping]] = ..., revoke_token: _Optional[_Union[RevokeToken, _Mapping]] = ..., enroll_node: _Optional[_Union[EnrollNode, _Mapping]] = ..., renew_certificate: _Optional[_Union[RenewCertificate, _Mapping]] = ..., update_node: _Optional[_Union[UpdateNode, _Mapping]] = ..., remove_node: _Optional[_Union[RemoveNode, _Mapping]] = ..., report_node: _Optional[_Union[ReportNode, _Mapping]] = ..., put_workload: _Optional[_Union[PutWorkload, _Mapping]] = ..., scale_workload: _Optional[_Union[ScaleWorkload, _Mapping]] = ..., delete_workload: _Optional[_Union[DeleteWorkload, _Mapping]] = ..., apply_plan: _Optional[_Union[ApplyPlan, _Mapping]] = ..., report_replicas: _Optional[_Union[ReportReplicas, _Mapping]] = ..., put_user: _Optional[_Union[PutUser, _Mapping]] = ..., revoke_user: _Optional[_Union[RevokeUser, _Mapping]] = ..., restart_workload: _Optional[_Union[RestartWorkload, _Mapping]] = ..., enroll_coordinator: _Optional[_Union[EnrollCoordinator, _Mapping]] = ..., announce_coordinator: _Optional[_Union[AnnounceCoordinator, _Mapping]] = ..., remove_coordinator: _Optional[_Union[RemoveCoordinator, _Mapping]] = ..., record_event: _Optional[_Union[RecordEvent, _Mapping]] = ..., control_rollout: _Optional[_Union[ControlRollout, _Mapping]] = ..., start_run: _Optional[_Union[StartRun, _Mapping]] = ...) -> None: ...

class NoOp(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CreateToken(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: _types_pb2.JoinToken
    def __init__(self, token: _Optional[_Union[_types_pb2.JoinToken, _Mapping]] = ...) -> None: ...

class RevokeToken(_message.Message):
    __slots__ = ("token_id",)
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    def __init__(self, token_id: _Optional[str] = ...) -> None: ...

class EnrollNode(_message.Message):
    __slots__ = ("token_id", "node_id", "public_key_sha256", "certificate_serial", "certificate_expires_at_ms")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_SHA256_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_SERIAL_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    node_id: str
    public_key_sha256: str
    certificate_serial: str
    certificate_expires_at_ms: int
    def __init__(self, token_id: _Optional[str] = ..., node_id: _Optional[str] = ..., public_key_sha256: _Optional[str] = ..., certificate_serial: _Optional[str] = ..., certificate_expires_at_ms: _Optional[int] = ...) -> None: ...

class RenewCertificate(_message.Message):
    __slots__ = ("node_id", "public_key_sha256", "certificate_serial", "certificate_expires_at_ms")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_SHA256_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_SERIAL_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    public_key_sha256: str
    certificate_serial: str
    certificate_expires_at_ms: int
    def __init__(self, node_id: _Optional[str] = ..., public_key_sha256: _Optional[str] = ..., certificate_serial: _Optional[str] = ..., certificate_expires_at_ms: _Optional[int] = ...) -> None: ...

class UpdateNode(_message.Message):
    __slots__ = ("node_id", "cordoned", "draining", "set_labels", "remove_labels", "set_taints", "remove_taints")
    class SetLabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CORDONED_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    SET_LABELS_FIELD_NUMBER: _ClassVar[int]
    REMOVE_LABELS_FIELD_NUMBER: _ClassVar[int]
    SET_TAINTS_FIELD_NUMBER: _ClassVar[int]
    REMOVE_TAINTS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    cordoned: bool
    draining: bool
    set_labels: _containers.ScalarMap[str, str]
    remove_labels: _containers.RepeatedScalarFieldContainer[str]
    set_taints: _containers.RepeatedCompositeFieldContainer[_types_pb2.Taint]
    remove_taints: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node_id: _Optional[str] = ..., cordoned: bool = ..., draining: bool = ..., set_labels: _Optional[_Mapping[str, str]] = ..., remove_labels: _Optional[_Iterable[str]] = ..., set_taints: _Optional[_Iterable[_Union[_types_pb2.Taint, _Mapping]]] = ..., remove_taints: _Optional[_Iterable[str]] = ...) -> None: ...

class RemoveNode(_message.Message):
    __slots__ = ("node_id", "force")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    force: bool
    def __init__(self, node_id: _Optional[str] = ..., force: bool = ...) -> None: ...

class ReportNode(_message.Message):
    __slots__ = ("node_id", "state", "reason", "device", "clock_skew_ms", "reliability", "presence")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_SKEW_MS_FIELD_NUMBER: _ClassVar[int]
    RELIABILITY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    state: _types_pb2.NodeState
    reason: str
    device: _types_pb2.DeviceInfo
    clock_skew_ms: int
    reliability: _types_pb2.NodeReliability
    presence: _types_pb2.NodePresence
    def __init__(self, node_id: _Optional[str] = ..., state: _Optional[_Union[_types_pb2.NodeState, str]] = ..., reason: _Optional[str] = ..., device: _Optional[_Union[_types_pb2.DeviceInfo, _Mapping]] = ..., clock_skew_ms: _Optional[int] = ..., reliability: _Optional[_Union[_types_pb2.NodeReliability, _Mapping]] = ..., presence: _Optional[_Union[_types_pb2.NodePresence, _Mapping]] = ...) -> None: ...

class PutWorkload(_message.Message):
    __slots__ = ("metadata", "spec", "expected_revision")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    metadata: _spec_pb2.Metadata
    spec: _spec_pb2.WorkloadSpec
    expected_revision: int
    def __init__(self, metadata: _Optional[_Union[_spec_pb2.Metadata, _Mapping]] = ..., spec: _Optional[_Union[_spec_pb2.WorkloadSpec, _Mapping]] = ..., expected_revision: _Optional[int] = ...) -> None: ...

class ScaleWorkload(_message.Message):
    __slots__ = ("namespace", "name", "replicas")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    replicas: int
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., replicas: _Optional[int] = ...) -> None: ...

class DeleteWorkload(_message.Message):
    __slots__ = ("namespace", "name")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class RestartWorkload(_message.Message):
    __slots__ = ("namespace", "name")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class PlannedReplica(_message.Message):
    __slots__ = ("replica_id", "generation", "placement", "attempt", "run", "shares_host_ports", "replaces")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    SHARES_HOST_PORTS_FIELD_NUMBER: _ClassVar[int]
    REPLACES_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    generation: int
    placement: _types_pb2.PlacementDecision
    attempt: int
    run: int
    shares_host_ports: bool
    replaces: str
    def __init__(self, replica_id: _Optional[str] = ..., generation: _Optional[int] = ..., placement: _Optional[_Union[_types_pb2.PlacementDecision, _Mapping]] = ..., attempt: _Optional[int] = ..., run: _Optional[int] = ..., shares_host_ports: bool = ..., replaces: _Optional[str] = ...) -> None: ...

class PlannedStop(_message.Message):
    __slots__ = ("replica_id", "reason")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    reason: str
    def __init__(self, replica_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ApplyPlan(_message.Message):
    __slots__ = ("namespace", "workload", "planned_at_index", "replicas", "stops", "lost", "rollout", "runs", "scheduled_until_ms", "preemptions", "roll_back", "expired")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    PLANNED_AT_INDEX_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    STOPS_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULED_UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIONS_FIELD_NUMBER: _ClassVar[int]
    ROLL_BACK_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    workload: str
    planned_at_index: int
    replicas: _containers.RepeatedCompositeFieldContainer[PlannedReplica]
    stops: _containers.RepeatedCompositeFieldContainer[PlannedStop]
    lost: _containers.RepeatedScalarFieldContainer[str]
    rollout: _types_pb2.RolloutProgress
    runs: _containers.RepeatedCompositeFieldContainer[_types_pb2.JobRun]
    scheduled_until_ms: int
    preemptions: _containers.RepeatedCompositeFieldContainer[PlannedStop]
    roll_back: bool
    expired: bool
    def __init__(self, namespace: _Optional[str] = ..., workload: _Optional[str] = ..., planned_at_index: _Optional[int] = ..., replicas: _Optional[_Iterable[_Union[PlannedReplica, _Mapping]]] = ..., stops: _Optional[_Iterable[_Union[PlannedStop, _Mapping]]] = ..., lost: _Optional[_Iterable[str]] = ..., rollout: _Optional[_Union[_types_pb2.RolloutProgress, _Mapping]] = ..., runs: _Optional[_Iterable[_Union[_types_pb2.JobRun, _Mapping]]] = ..., scheduled_until_ms: _Optional[int] = ..., preemptions: _Optional[_Iterable[_Union[PlannedStop, _Mapping]]] = ..., roll_back: bool = ..., expired: bool = ...) -> None: ...

class ControlRollout(_message.Message):
    __slots__ = ("namespace", "name", "action", "to_generation")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    TO_GENERATION_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    action: _types_pb2.RolloutAction
    to_generation: int
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., action: _Optional[_Union[_types_pb2.RolloutAction, str]] = ..., to_generation: _Optional[int] = ...) -> None: ...

class StartRun(_message.Message):
    __slots__ = ("namespace", "name")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class ReportedReplica(_message.Message):
    __slots__ = ("replica_id", "status", "gone")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    status: _types_pb2.ReplicaStatus
    gone: bool
    def __init__(self, replica_id: _Optional[str] = ..., status: _Optional[_Union[_types_pb2.ReplicaStatus, _Mapping]] = ..., gone: bool = ...) -> None: ...

class ReportReplicas(_message.Message):
    __slots__ = ("node_id", "replicas")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    replicas: _containers.RepeatedCompositeFieldContainer[ReportedReplica]
    def __init__(self, node_id: _Optional[str] = ..., replicas: _Optional[_Iterable[_Union[ReportedReplica, _Mapping]]] = ...) -> None: ...

class PutUser(_message.Message):
    __slots__ = ("user",)
    USER_FIELD_NUMBER: _ClassVar[int]
    user: _types_pb2.User
    def __init__(self, user: _Optional[_Union[_types_pb2.User, _Mapping]] = ...) -> None: ...

class RevokeUser(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class EnrollCoordinator(_message.Message):
    __slots__ = ("token_id", "coordinator_id", "public_key_sha256", "certificate_serial", "version", "log_schema")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_ID_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_SHA256_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_SERIAL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LOG_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    coordinator_id: str
    public_key_sha256: str
    certificate_serial: str
    version: str
    log_schema: int
    def __init__(self, token_id: _Optional[str] = ..., coordinator_id: _Optional[str] = ..., public_key_sha256: _Optional[str] = ..., certificate_serial: _Optional[str] = ..., version: _Optional[str] = ..., log_schema: _Optional[int] = ...) -> None: ...

class AnnounceCoordinator(_message.Message):
    __slots__ = ("coordinator_id", "version", "log_schema", "api_addresses", "enroll_addresses", "member_address")
    COORDINATOR_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LOG_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    API_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    ENROLL_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    coordinator_id: str
    version: str
    log_schema: int
    api_addresses: _containers.RepeatedScalarFieldContainer[str]
    enroll_addresses: _containers.RepeatedScalarFieldContainer[str]
    member_address: str
    def __init__(self, coordinator_id: _Optional[str] = ..., version: _Optional[str] = ..., log_schema: _Optional[int] = ..., api_addresses: _Optional[_Iterable[str]] = ..., enroll_addresses: _Optional[_Iterable[str]] = ..., member_address: _Optional[str] = ...) -> None: ...

class RemoveCoordinator(_message.Message):
    __slots__ = ("coordinator_id",)
    COORDINATOR_ID_FIELD_NUMBER: _ClassVar[int]
    coordinator_id: str
    def __init__(self, coordinator_id: _Optional[str] = ...) -> None: ...

class RecordEvent(_message.Message):
    __slots__ = ("type", "severity", "resource", "namespace", "description", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    type: str
    severity: _types_pb2.Severity
    resource: str
    namespace: str
    description: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, type: _Optional[str] = ..., severity: _Optional[_Union[_types_pb2.Severity, str]] = ..., resource: _Optional[str] = ..., namespace: _Optional[str] = ..., description: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ApplyResult(_message.Message):
    __slots__ = ("accepted", "code", "message", "revision", "changed", "reason", "remedy")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    accepted: bool
    code: str
    message: str
    revision: int
    changed: str
    reason: str
    remedy: str
    def __init__(self, accepted: bool = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., revision: _Optional[int] = ..., changed: _Optional[str] = ..., reason: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class RememberedResult(_message.Message):
    __slots__ = ("request_id", "index", "result")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    index: int
    result: ApplyResult
    def __init__(self, request_id: _Optional[str] = ..., index: _Optional[int] = ..., result: _Optional[_Union[ApplyResult, _Mapping]] = ...) -> None: ...

class WorkloadRecord(_message.Message):
    __slots__ = ("metadata", "spec", "generation", "revision", "created_at_ms", "updated_at_ms", "deleting", "history", "rollout", "runs", "scheduled_until_ms", "last_run")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    DELETING_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULED_UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_RUN_FIELD_NUMBER: _ClassVar[int]
    metadata: _spec_pb2.Metadata
    spec: _spec_pb2.WorkloadSpec
    generation: int
    revision: int
    created_at_ms: int
    updated_at_ms: int
    deleting: bool
    history: _containers.RepeatedCompositeFieldContainer[_types_pb2.WorkloadRevision]
    rollout: _types_pb2.RolloutProgress
    runs: _containers.RepeatedCompositeFieldContainer[_types_pb2.JobRun]
    scheduled_until_ms: int
    last_run: int
    def __init__(self, metadata: _Optional[_Union[_spec_pb2.Metadata, _Mapping]] = ..., spec: _Optional[_Union[_spec_pb2.WorkloadSpec, _Mapping]] = ..., generation: _Optional[int] = ..., revision: _Optional[int] = ..., created_at_ms: _Optional[int] = ..., updated_at_ms: _Optional[int] = ..., deleting: bool = ..., history: _Optional[_Iterable[_Union[_types_pb2.WorkloadRevision, _Mapping]]] = ..., rollout: _Optional[_Union[_types_pb2.RolloutProgress, _Mapping]] = ..., runs: _Optional[_Iterable[_Union[_types_pb2.JobRun, _Mapping]]] = ..., scheduled_until_ms: _Optional[int] = ..., last_run: _Optional[int] = ...) -> None: ...

class StateSnapshot(_message.Message):
    __slots__ = ("schema", "index", "term", "trust_domain", "nodes", "workloads", "replicas", "tokens", "users", "events", "results", "coordinators")
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    COORDINATORS_FIELD_NUMBER: _ClassVar[int]
    schema: int
    index: int
    term: int
    trust_domain: str
    nodes: _containers.RepeatedCompositeFieldContainer[_types_pb2.Node]
    workloads: _containers.RepeatedCompositeFieldContainer[WorkloadRecord]
    replicas: _containers.RepeatedCompositeFieldContainer[_types_pb2.Replica]
    tokens: _containers.RepeatedCompositeFieldContainer[_types_pb2.JoinToken]
    users: _containers.RepeatedCompositeFieldContainer[_types_pb2.User]
    events: _containers.RepeatedCompositeFieldContainer[_types_pb2.Event]
    results: _containers.RepeatedCompositeFieldContainer[RememberedResult]
    coordinators: _containers.RepeatedCompositeFieldContainer[_types_pb2.Coordinator]
    def __init__(self, schema: _Optional[int] = ..., index: _Optional[int] = ..., term: _Optional[int] = ..., trust_domain: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[_types_pb2.Node, _Mapping]]] = ..., workloads: _Optional[_Iterable[_Union[WorkloadRecord, _Mapping]]] = ..., replicas: _Optional[_Iterable[_Union[_types_pb2.Replica, _Mapping]]] = ..., tokens: _Optional[_Iterable[_Union[_types_pb2.JoinToken, _Mapping]]] = ..., users: _Optional[_Iterable[_Union[_types_pb2.User, _Mapping]]] = ..., events: _Optional[_Iterable[_Union[_types_pb2.Event, _Mapping]]] = ..., results: _Optional[_Iterable[_Union[RememberedResult, _Mapping]]] = ..., coordinators: _Optional[_Iterable[_Union[_types_pb2.Coordinator, _Mapping]]] = ...) -> None: ...
