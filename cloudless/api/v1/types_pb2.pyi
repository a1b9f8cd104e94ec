from cloudless.api.v1 import spec_pb2 as _spec_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DeviceClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEVICE_CLASS_UNSPECIFIED: _ClassVar[DeviceClass]
    DEVICE_CLASS_PHONE: _ClassVar[DeviceClass]
    DEVICE_CLASS_LAPTOP: _ClassVar[DeviceClass]
    DEVICE_CLASS_DESKTOP: _ClassVar[DeviceClass]
    DEVICE_CLASS_SERVER: _ClassVar[DeviceClass]
    DEVICE_CLASS_GATEWAY: _ClassVar[DeviceClass]
    DEVICE_CLASS_VPS: _ClassVar[DeviceClass]

class NodeState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_STATE_UNSPECIFIED: _ClassVar[NodeState]
    NODE_STATE_ENROLLING: _ClassVar[NodeState]
    NODE_STATE_READY: _ClassVar[NodeState]
    NODE_STATE_UNREACHABLE: _ClassVar[NodeState]
    NODE_STATE_LOST: _ClassVar[NodeState]

class ReplicaPhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPLICA_PHASE_UNSPECIFIED: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_PENDING: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_ASSIGNED: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_PREPARING: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_STARTING: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_RUNNING: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_READY: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_STOPPING: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_SUCCEEDED: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_FAILED: _ClassVar[ReplicaPhase]
    REPLICA_PHASE_LOST: _ClassVar[ReplicaPhase]

class WorkloadPhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKLOAD_PHASE_UNSPECIFIED: _ClassVar[WorkloadPhase]
    WORKLOAD_PHASE_PENDING: _ClassVar[WorkloadPhase]
    WORKLOAD_PHASE_PROGRESSING: _ClassVar[WorkloadPhase]
    WORKLOAD_PHASE_AVAILABLE: _ClassVar[WorkloadPhase]
    WORKLOAD_PHASE_DEGRADED: _ClassVar[WorkloadPhase]
    WORKLOAD_PHASE_FAILED: _ClassVar[WorkloadPhase]
    WORKLOAD_PHASE_TERMINATING: _ClassVar[WorkloadPhase]

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_VIEWER: _ClassVar[Role]
    ROLE_OPERATOR: _ClassVar[Role]
    ROLE_ADMIN: _ClassVar[Role]

class Severity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEVERITY_UNSPECIFIED: _ClassVar[Severity]
    SEVERITY_INFO: _ClassVar[Severity]
    SEVERITY_WARNING: _ClassVar[Severity]
    SEVERITY_ERROR: _ClassVar[Severity]

class RolloutAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_ACTION_UNSPECIFIED: _ClassVar[RolloutAction]
    ROLLOUT_ACTION_PAUSE: _ClassVar[RolloutAction]
    ROLLOUT_ACTION_RESUME: _ClassVar[RolloutAction]
    ROLLOUT_ACTION_PROMOTE: _ClassVar[RolloutAction]
    ROLLOUT_ACTION_UNDO: _ClassVar[RolloutAction]

class RolloutPhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_PHASE_UNSPECIFIED: _ClassVar[RolloutPhase]
    ROLLOUT_PHASE_PROGRESSING: _ClassVar[RolloutPhase]
    ROLLOUT_PHASE_PAUSED: _ClassVar[RolloutPhase]
    ROLLOUT_PHASE_AWAITING_PROMOTION: _ClassVar[RolloutPhase]
    ROLLOUT_PHASE_COMPLETE: _ClassVar[RolloutPhase]
    ROLLOUT_PHASE_FAILED: _ClassVar[RolloutPhase]
    ROLLOUT_PHASE_ROLLED_BACK: _ClassVar[RolloutPhase]

class RunPhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_PHASE_UNSPECIFIED: _ClassVar[RunPhase]
    RUN_PHASE_RUNNING: _ClassVar[RunPhase]
    RUN_PHASE_SUCCEEDED: _ClassVar[RunPhase]
    RUN_PHASE_FAILED: _ClassVar[RunPhase]
    RUN_PHASE_SKIPPED: _ClassVar[RunPhase]
DEVICE_CLASS_UNSPECIFIED: DeviceClass
DEVICE_CLASS_PHONE: DeviceClass
DEVICE_CLASS_LAPTOP: DeviceClass
DEVICE_CLASS_DESKTOP: DeviceClass
DEVICE_CLASS_SERVER: DeviceClass
DEVICE_CLASS_GATEWAY: DeviceClass
DEVICE_CLASS_VPS: DeviceClass
NODE_STATE_UNSPECIFIED: NodeState
NODE_STATE_ENROLLING: NodeState
NODE_STATE_READY: NodeState
NODE_STATE_UNREACHABLE: NodeState
NODE_STATE_LOST: NodeState
REPLICA_PHASE_UNSPECIFIED: ReplicaPhase
REPLICA_PHASE_PENDING: ReplicaPhase
REPLICA_PHASE_ASSIGNED: ReplicaPhase
REPLICA_PHASE_PREPARING: ReplicaPhase
REPLICA_PHASE_STARTING: ReplicaPhase
REPLICA_PHASE_RUNNING: ReplicaPhase
REPLICA_PHASE_READY: ReplicaPhase
REPLICA_PHASE_STOPPING: ReplicaPhase
REPLICA_PHASE_SUCCEEDED: ReplicaPhase
REPLICA_PHASE_FAILED: ReplicaPhase
REPLICA_PHASE_LOST: ReplicaPhase
WORKLOAD_PHASE_UNSPECIFIED: WorkloadPhase
WORKLOAD_PHASE_PENDING: WorkloadPhase
WORKLOAD_PHASE_PROGRESSING: WorkloadPhase
WORKLOAD_PHASE_AVAILABLE: WorkloadPhase
WORKLOAD_PHASE_DEGRADED: WorkloadPhase
WORKLOAD_PHASE_FAILED: WorkloadPhase
WORKLOAD_PHASE_TERMINATING: WorkloadPhase
ROLE_UNSPECIFIED: Role
ROLE_VIEWER: Role
ROLE_OPERATOR: Role
ROLE_ADMIN: Role
SEVERITY_UNSPECIFIED: Severity
SEVERITY_INFO: Severity
SEVERITY_WARNING: Severity
SEVERITY_ERROR: Severity
ROLLOUT_ACTION_UNSPECIFIED: RolloutAction
ROLLOUT_ACTION_PAUSE: RolloutAction
ROLLOUT_ACTION_RESUME: RolloutAction
ROLLOUT_ACTION_PROMOTE: RolloutAction
ROLLOUT_ACTION_UNDO: RolloutAction
ROLLOUT_PHASE_UNSPECIFIED: RolloutPhase
ROLLOUT_PHASE_PROGRESSING: RolloutPhase
ROLLOUT_PHASE_PAUSED: RolloutPhase
ROLLOUT_PHASE_AWAITING_PROMOTION: RolloutPhase
ROLLOUT_PHASE_COMPLETE: RolloutPhase
ROLLOUT_PHASE_FAILED: RolloutPhase
ROLLOUT_PHASE_ROLLED_BACK: RolloutPhase
RUN_PHASE_UNSPECIFIED: RunPhase
RUN_PHASE_RUNNING: RunPhase
RUN_PHASE_SUCCEEDED: RunPhase
RUN_PHASE_FAILED: RunPhase
RUN_PHASE_SKIPPED: RunPhase

class Taint(_message.Message):
    __slots__ = ("key", "value", "effect")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    effect: _spec_pb2.TaintEffect
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ..., effect: _Optional[_Union[_spec_pb2.TaintEffect, str]] = ...) -> None: ...

class Feature(_message.Message):
    __slots__ = ("name", "available", "detail")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    name: str
    available: bool
    detail: str
    def __init__(self, name: _Optional[str] = ..., available: bool = ..., detail: _Optional[str] = ...) -> None: ...

class RuntimeInfo(_message.Message):
    __slots__ = ("name", "version", "available", "detail")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    available: bool
    detail: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., available: bool = ..., detail: _Optional[str] = ...) -> None: ...

class DeviceInfo(_message.Message):
    __slots__ = ("device_class", "arch", "os", "kernel", "hostname", "agent_version", "capacity", "iops_class", "gpus", "power_source", "metered", "runtimes", "features", "addresses", "labels", "owner")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    ARCH_FIELD_NUMBER: _ClassVar[int]
    OS_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    IOPS_CLASS_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    POWER_SOURCE_FIELD_NUMBER: _ClassVar[int]
    METERED_FIELD_NUMBER: _ClassVar[int]
    RUNTIMES_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    device_class: DeviceClass
    arch: str
    os: str
    kernel: str
    hostname: str
    agent_version: str
    capacity: _spec_pb2.ResourceAmounts
    iops_class: str
    gpus: int
    power_source: str
    metered: bool
    runtimes: _containers.RepeatedCompositeFieldContainer[RuntimeInfo]
    features: _containers.RepeatedCompositeFieldContainer[Feature]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.ScalarMap[str, str]
    owner: OwnerTerms
    def __init__(self, device_class: _Optional[_Union[DeviceClass, str]] = ..., arch: _Optional[str] = ..., os: _Optional[str] = ..., kernel: _Optional[str] = ..., hostname: _Optional[str] = ..., agent_version: _Optional[str] = ..., capacity: _Optional[_Union[_spec_pb2.ResourceAmounts, _Mapping]] = ..., iops_class: _Optional[str] = ..., gpus: _Optional[int] = ..., power_source: _Optional[str] = ..., metered: bool = ..., runtimes: _Optional[_Iterable[_Union[RuntimeInfo, _Mapping]]] = ..., features: _Optional[_Iterable[_Union[Feature, _Mapping]]] = ..., addresses: _Optional[_Iterable[str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., owner: _Optional[_Union[OwnerTerms, _Mapping]] = ...) -> None: ...

class OwnerTerms(_message.Message):
    __slots__ = ("share_percent", "hours", "battery_floor_percent", "battery_resume_percent", "allow_metered", "namespaces", "accepting", "not_accepting_reason", "evicting")
    SHARE_PERCENT_FIELD_NUMBER: _ClassVar[int]
    HOURS_FIELD_NUMBER: _ClassVar[int]
    BATTERY_FLOOR_PERCENT_FIELD_NUMBER: _ClassVar[int]
    BATTERY_RESUME_PERCENT_FIELD_NUMBER: _ClassVar[int]
    ALLOW_METERED_FIELD_NUMBER: _ClassVar[int]
    NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    ACCEPTING_FIELD_NUMBER: _ClassVar[int]
    NOT_ACCEPTING_REASON_FIELD_NUMBER: _ClassVar[int]
    EVICTING_FIELD_NUMBER: _ClassVar[int]
    share_percent: int
    hours: _containers.RepeatedScalarFieldContainer[str]
    battery_floor_percent: int
    battery_resume_percent: int
    allow_metered: bool
    namespaces: _containers.RepeatedScalarFieldContainer[str]
    accepting: bool
    not_accepting_reason: str
    evicting: bool
    def __init__(self, share_percent: _Optional[int] = ..., hours: _Optional[_Iterable[str]] = ..., battery_floor_percent: _Optional[int] = ..., battery_resume_percent: _Optional[int] = ..., allow_metered: bool = ..., namespaces: _Optional[_Iterable[str]] = ..., accepting: bool = ..., not_accepting_reason: _Optional[str] = ..., evicting: bool = ...) -> None: ...

class NodeUsage(_message.Message):
    __slots__ = ("cpu_millis", "memory_bytes", "storage_bytes", "battery_percent", "power_source", "metered", "rtt_us", "pressure")
    CPU_MILLIS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    BATTERY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    POWER_SOURCE_FIELD_NUMBER: _ClassVar[int]
    METERED_FIELD_NUMBER: _ClassVar[int]
    RTT_US_FIELD_NUMBER: _ClassVar[int]
    PRESSURE_FIELD_NUMBER: _ClassVar[int]
    cpu_millis: int
    memory_bytes: int
    storage_bytes: int
    battery_percent: int
    power_source: str
    metered: bool
    rtt_us: int
    pressure: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, cpu_millis: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., storage_bytes: _Optional[int] = ..., battery_percent: _Optional[int] = ..., power_source: _Optional[str] = ..., metered: bool = ..., rtt_us: _Optional[int] = ..., pressure: _Optional[_Iterable[str]] = ...) -> None: ...

class NodeReliability(_message.Message):
    __slots__ = ("available_permille", "losses_milli", "failed_starts_milli", "updated_at_ms", "first_ready_at_ms")
    AVAILABLE_PERMILLE_FIELD_NUMBER: _ClassVar[int]
    LOSSES_MILLI_FIELD_NUMBER: _ClassVar[int]
    FAILED_STARTS_MILLI_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    FIRST_READY_AT_MS_FIELD_NUMBER: _ClassVar[int]
    available_permille: int
    losses_milli: int
    failed_starts_milli: int
    updated_at_ms: int
    first_ready_at_ms: int
    def __init__(self, available_permille: _Optional[int] = ..., losses_milli: _Optional[int] = ..., failed_starts_milli: _Optional[int] = ..., updated_at_ms: _Optional[int] = ..., first_ready_at_ms: _Optional[int] = ...) -> None: ...

class NodePresence(_message.Message):
    __slots__ = ("online_permille", "updated_at_ms")
    ONLINE_PERMILLE_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    online_permille: _containers.RepeatedScalarFieldContainer[int]
    updated_at_ms: int
    def __init__(self, online_permille: _Optional[_Iterable[int]] = ..., updated_at_ms: _Optional[int] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("id", "region", "zone", "labels", "taints", "cordoned", "draining", "state", "state_reason", "state_since_ms", "device", "public_key_sha256", "certificate_serial", "certificate_expires_at_ms", "enrolled_at_ms", "revision", "token_id", "reliability", "presence", "clock_skew_ms")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TAINTS_FIELD_NUMBER: _ClassVar[int]
    CORDONED_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    STATE_SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_SHA256_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_SERIAL_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    ENROLLED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    RELIABILITY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_SKEW_MS_FIELD_NUMBER: _ClassVar[int]
    id: str
    region: str
    zone: str
    labels: _containers.ScalarMap[str, str]
    taints: _containers.RepeatedCompositeFieldContainer[Taint]
    cordoned: bool
    draining: bool
    state: NodeState
    state_reason: str
    state_since_ms: int
    device: DeviceInfo
    public_key_sha256: str
    certificate_serial: str
    certificate_expires_at_ms: int
    enrolled_at_ms: int
    revision: int
    token_id: str
    reliability: NodeReliability
    presence: NodePresence
    clock_skew_ms: int
    def __init__(self, id: _Optional[str] = ..., region: _Optional[str] = ..., zone: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., taints: _Optional[_Iterable[_Union[Taint, _Mapping]]] = ..., cordoned: bool = ..., draining: bool = ..., state: _Optional[_Union[NodeState, str]] = ..., state_reason: _Optional[str] = ..., state_since_ms: _Optional[int] = ..., device: _Optional[_Union[DeviceInfo, _Mapping]] = ..., public_key_sha256: _Optional[str] = ..., certificate_serial: _Optional[str] = ..., certificate_expires_at_ms: _Optional[int] = ..., enrolled_at_ms: _Optional[int] = ..., revision: _Optional[int] = ..., token_id: _Optional[str] = ..., reliability: _Optional[_Union[NodeReliability, _Mapping]] = ..., presence: _Optional[_Union[NodePresence, _Mapping]] = ..., clock_skew_ms: _Optional[int] = ...) -> None: ...

class ScoreTerm(_message.Message):
    __slots__ = ("name", "value", "weight")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    weight: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., weight: _Optional[float] = ...) -> None: ...

class CandidateScore(_message.Message):
    __slots__ = ("node_id", "total", "terms")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    total: float
    terms: _containers.RepeatedCompositeFieldContainer[ScoreTerm]
    def __init__(self, node_id: _Optional[str] = ..., total: _Optional[float] = ..., terms: _Optional[_Iterable[_Union[ScoreTerm, _Mapping]]] = ...) -> None: ...

class FilterRejection(_message.Message):
    __slots__ = ("filter", "reason", "node_ids", "node_count")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NODE_IDS_FIELD_NUMBER: _ClassVar[int]
    NODE_COUNT_FIELD_NUMBER: _ClassVar[int]
    filter: str
    reason: str
    node_ids: _containers.RepeatedScalarFieldContainer[str]
    node_count: int
    def __init__(self, filter: _Optional[str] = ..., reason: _Optional[str] = ..., node_ids: _Optional[_Iterable[str]] = ..., node_count: _Optional[int] = ...) -> None: ...

class PlacementDecision(_message.Message):
    __slots__ = ("node_id", "candidates", "rejections", "nodes_considered", "decided_at_ms", "summary")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    NODES_CONSIDERED_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    candidates: _containers.RepeatedCompositeFieldContainer[CandidateScore]
    rejections: _containers.RepeatedCompositeFieldContainer[FilterRejection]
    nodes_considered: int
    decided_at_ms: int
    summary: str
    def __init__(self, node_id: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[CandidateScore, _Mapping]]] = ..., rejections: _Optional[_Iterable[_Union[FilterRejection, _Mapping]]] = ..., nodes_considered: _Optional[int] = ..., decided_at_ms: _Optional[int] = ..., summary: _Optional[str] = ...) -> None: ...

class ContainerStatus(_message.Message):
    __slots__ = ("name", "state", "reason", "exit_code", "restart_count", "started_at_ms", "finished_at_ms", "ready", "image_digest", "last_reason", "last_exit_code", "message", "retry_at_ms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    RESTART_COUNT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    IMAGE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    LAST_REASON_FIELD_NUMBER: _ClassVar[int]
    LAST_EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AT_MS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    reason: str
    exit_code: int
    restart_count: int
    started_at_ms: int
    finished_at_ms: int
    ready: bool
    image_digest: str
    last_reason: str
    last_exit_code: int
    message: str
    retry_at_ms: int
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., exit_code: _Optional[int] = ..., restart_count: _Optional[int] = ..., started_at_ms: _Optional[int] = ..., finished_at_ms: _Optional[int] = ..., ready: bool = ..., image_digest: _Optional[str] = ..., last_reason: _Optional[str] = ..., last_exit_code: _Optional[int] = ..., message: _Optional[str] = ..., retry_at_ms: _Optional[int] = ...) -> None: ...

class PortBinding(_message.Message):
    __slots__ = ("name", "container_port", "host_port", "protocol")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_PORT_FIELD_NUMBER: _ClassVar[int]
    HOST_PORT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    name: str
    container_port: int
    host_port: int
    protocol: _spec_pb2.Protocol
    def __init__(self, name: _Optional[str] = ..., container_port: _Optional[int] = ..., host_port: _Optional[int] = ..., protocol: _Optional[_Union[_spec_pb2.Protocol, str]] = ...) -> None: ...

class ReplicaStatus(_message.Message):
    __slots__ = ("phase", "reason", "message", "address", "containers", "ports", "runtime", "since_ms", "restart_count")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    RESTART_COUNT_FIELD_NUMBER: _ClassVar[int]
    phase: ReplicaPhase
    reason: str
    message: str
    address: str
    containers: _containers.RepeatedCompositeFieldContainer[ContainerStatus]
    ports: _containers.RepeatedCompositeFieldContainer[PortBinding]
    runtime: str
    since_ms: int
    restart_count: int
    def __init__(self, phase: _Optional[_Union[ReplicaPhase, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., address: _Optional[str] = ..., containers: _Optional[_Iterable[_Union[ContainerStatus, _Mapping]]] = ..., ports: _Optional[_Iterable[_Union[PortBinding, _Mapping]]] = ..., runtime: _Optional[str] = ..., since_ms: _Optional[int] = ..., restart_count: _Optional[int] = ...) -> None: ...

class Replica(_message.Message):
    __slots__ = ("id", "workload", "namespace", "generation", "node_id", "stopping", "stop_reason", "status", "placement", "fragment", "created_at_ms", "assigned_at_ms", "revision", "phase_since_ms", "attempt", "run", "replaces")
    ID_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    STOPPING_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    ASSIGNED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PHASE_SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    REPLACES_FIELD_NUMBER: _ClassVar[int]
    id: str
    workload: str
    namespace: str
    generation: int
    node_id: str
    stopping: bool
    stop_reason: str
    status: ReplicaStatus
    placement: PlacementDecision
    fragment: _spec_pb2.ResourceAmounts
    created_at_ms: int
    assigned_at_ms: int
    revision: int
    phase_since_ms: int
    attempt: int
    run: int
    replaces: str
    def __init__(self, id: _Optional[str] = ..., workload: _Optional[str] = ..., namespace: _Optional[str] = ..., generation: _Optional[int] = ..., node_id: _Optional[str] = ..., stopping: bool = ..., stop_reason: _Optional[str] = ..., status: _Optional[_Union[ReplicaStatus, _Mapping]] = ..., placement: _Optional[_Union[PlacementDecision, _Mapping]] = ..., fragment: _Optional[_Union[_spec_pb2.ResourceAmounts, _Mapping]] = ..., created_at_ms: _Optional[int] = ..., assigned_at_ms: _Optional[int] = ..., revision: _Optional[int] = ..., phase_since_ms: _Optional[int] = ..., attempt: _Optional[int] = ..., run: _Optional[int] = ..., replaces: _Optional[str] = ...) -> None: ...

class WorkloadRevision(_message.Message):
    __slots__ = ("generation", "spec", "created_at_ms", "change_cause", "completed_at_ms")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    CHANGE_CAUSE_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    generation: int
    spec: _spec_pb2.WorkloadSpec
    created_at_ms: int
    change_cause: str
    completed_at_ms: int
    def __init__(self, generation: _Optional[int] = ..., spec: _Optional[_Union[_spec_pb2.WorkloadSpec, _Mapping]] = ..., created_at_ms: _Optional[int] = ..., change_cause: _Optional[str] = ..., completed_at_ms: _Optional[int] = ...) -> None: ...

class RolloutProgress(_message.Message):
    __slots__ = ("generation", "stable_generation", "phase", "started_at_ms", "progressed_at_ms", "step", "step_since_ms", "paused", "promoted", "message", "available", "moves_failed", "move_failed_at_ms")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STABLE_GENERATION_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    PROGRESSED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEP_SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    PROMOTED_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    MOVES_FAILED_FIELD_NUMBER: _ClassVar[int]
    MOVE_FAILED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    generation: int
    stable_generation: int
    phase: RolloutPhase
    started_at_ms: int
    progressed_at_ms: int
    step: int
    step_since_ms: int
    paused: bool
    promoted: bool
    message: str
    available: int
    moves_failed: int
    move_failed_at_ms: int
    def __init__(self, generation: _Optional[int] = ..., stable_generation: _Optional[int] = ..., phase: _Optional[_Union[RolloutPhase, str]] = ..., started_at_ms: _Optional[int] = ..., progressed_at_ms: _Optional[int] = ..., step: _Optional[int] = ..., step_since_ms: _Optional[int] = ..., paused: bool = ..., promoted: bool = ..., message: _Optional[str] = ..., available: _Optional[int] = ..., moves_failed: _Optional[int] = ..., move_failed_at_ms: _Optional[int] = ...) -> None: ...

class JobRun(_message.Message):
    __slots__ = ("number", "generation", "scheduled_at_ms", "started_at_ms", "finished_at_ms", "phase", "succeeded", "failed", "reason", "manual")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SCHEDULED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MANUAL_FIELD_NUMBER: _ClassVar[int]
    number: int
    generation: int
    scheduled_at_ms: int
    started_at_ms: int
    finished_at_ms: int
    phase: RunPhase
    succeeded: int
    failed: int
    reason: str
    manual: bool
    def __init__(self, number: _Optional[int] = ..., generation: _Optional[int] = ..., scheduled_at_ms: _Optional[int] = ..., started_at_ms: _Optional[int] = ..., finished_at_ms: _Optional[int] = ..., phase: _Optional[_Union[RunPhase, str]] = ..., succeeded: _Optional[int] = ..., failed: _Optional[int] = ..., reason: _Optional[str] = ..., manual: bool = ...) -> None: ...

class Workload(_message.Message):
    __slots__ = ("metadata", "spec", "generation", "revision", "created_at_ms", "updated_at_ms", "deleting", "status", "rollout", "runs", "next_run_at_ms")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    DELETING_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_RUN_AT_MS_FIELD_NUMBER: _ClassVar[int]
    metadata: _spec_pb2.Metadata
    spec: _spec_pb2.WorkloadSpec
    generation: int
    revision: int
    created_at_ms: int
    updated_at_ms: int
    deleting: bool
    status: WorkloadStatus
    rollout: RolloutProgress
    runs: _containers.RepeatedCompositeFieldContainer[JobRun]
    next_run_at_ms: int
    def __init__(self, metadata: _Optional[_Union[_spec_pb2.Metadata, _Mapping]] = ..., spec: _Optional[_Union[_spec_pb2.WorkloadSpec, _Mapping]] = ..., generation: _Optional[int] = ..., revision: _Optional[int] = ..., created_at_ms: _Optional[int] = ..., updated_at_ms: _Optional[int] = ..., deleting: bool = ..., status: _Optional[_Union[WorkloadStatus, _Mapping]] = ..., rollout: _Optional[_Union[RolloutProgress, _Mapping]] = ..., runs: _Optional[_Iterable[_Union[JobRun, _Mapping]]] = ..., next_run_at_ms: _Optional[int] = ...) -> None: ...

class WorkloadStatus(_message.Message):
    __slots__ = ("phase", "desired", "ready", "running", "pending", "updated", "message")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    DESIRED_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    phase: WorkloadPhase
    desired: int
    ready: int
    running: int
    pending: int
    updated: int
    message: str
    def __init__(self, phase: _Optional[_Union[WorkloadPhase, str]] = ..., desired: _Optional[int] = ..., ready: _Optional[int] = ..., running: _Optional[int] = ..., pending: _Optional[int] = ..., updated: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class JoinToken(_message.Message):
    __slots__ = ("id", "node_pattern", "region", "zone", "labels", "max_uses", "uses", "created_at_ms", "expires_at_ms", "revoked", "created_by", "used_by", "revision", "coordinator_id")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NODE_PATTERN_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MAX_USES_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    USED_BY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    node_pattern: str
    region: str
    zone: str
    labels: _containers.ScalarMap[str, str]
    max_uses: int
    uses: int
    created_at_ms: int
    expires_at_ms: int
    revoked: bool
    created_by: str
    used_by: _containers.RepeatedScalarFieldContainer[str]
    revision: int
    coordinator_id: str
    def __init__(self, id: _Optional[str] = ..., node_pattern: _Optional[str] = ..., region: _Optional[str] = ..., zone: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., max_uses: _Optional[int] = ..., uses: _Optional[int] = ..., created_at_ms: _Optional[int] = ..., expires_at_ms: _Optional[int] = ..., revoked: bool = ..., created_by: _Optional[str] = ..., used_by: _Optional[_Iterable[str]] = ..., revision: _Optional[int] = ..., coordinator_id: _Optional[str] = ...) -> None: ...

class Coordinator(_message.Message):
    __slots__ = ("id", "version", "schema", "api_addresses", "enroll_addresses", "member_address", "public_key_sha256", "certificate_serial", "joined_at_ms", "removed", "revision")
    ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    API_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    ENROLL_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_SHA256_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_SERIAL_FIELD_NUMBER: _ClassVar[int]
    JOINED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    id: str
    version: str
    schema: int
    api_addresses: _containers.RepeatedScalarFieldContainer[str]
    enroll_addresses: _containers.RepeatedScalarFieldContainer[str]
    member_address: str
    public_key_sha256: str
    certificate_serial: str
    joined_at_ms: int
    removed: bool
    revision: int
    def __init__(self, id: _Optional[str] = ..., version: _Optional[str] = ..., schema: _Optional[int] = ..., api_addresses: _Optional[_Iterable[str]] = ..., enroll_addresses: _Optional[_Iterable[str]] = ..., member_address: _Optional[str] = ..., public_key_sha256: _Optional[str] = ..., certificate_serial: _Optional[str] = ..., joined_at_ms: _Optional[int] = ..., removed: bool = ..., revision: _Optional[int] = ...) -> None: ...

class RoleBinding(_message.Message):
    __slots__ = ("role", "namespace")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    role: Role
    namespace: str
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., namespace: _Optional[str] = ...) -> None: ...

class User(_message.Message):
    __slots__ = ("name", "bindings", "created_at_ms", "revoked", "revision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BINDINGS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    bindings: _containers.RepeatedCompositeFieldContainer[RoleBinding]
    created_at_ms: int
    revoked: bool
    revision: int
    def __init__(self, name: _Optional[str] = ..., bindings: _Optional[_Iterable[_Union[RoleBinding, _Mapping]]] = ..., created_at_ms: _Optional[int] = ..., revoked: bool = ..., revision: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("index", "sequence", "type", "severity", "time_ms", "request_id", "actor", "resource", "namespace", "description", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    index: int
    sequence: int
    type: str
    severity: Severity
    time_ms: int
    request_id: str
    actor: str
    resource: str
    namespace: str
    description: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, index: _Optional[int] = ..., sequence: _Optional[int] = ..., type: _Optional[str] = ..., severity: _Optional[_Union[Severity, str]] = ..., time_ms: _Optional[int] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ..., resource: _Optional[str] = ..., namespace: _Optional[str] = ..., description: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...
