from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkloadType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKLOAD_TYPE_UNSPECIFIED: _ClassVar[WorkloadType]
    WORKLOAD_TYPE_SERVICE: _ClassVar[WorkloadType]
    WORKLOAD_TYPE_SYSTEM: _ClassVar[WorkloadType]
    WORKLOAD_TYPE_JOB: _ClassVar[WorkloadType]
    WORKLOAD_TYPE_CRON: _ClassVar[WorkloadType]

class Protocol(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROTOCOL_UNSPECIFIED: _ClassVar[Protocol]
    PROTOCOL_TCP: _ClassVar[Protocol]
    PROTOCOL_UDP: _ClassVar[Protocol]

class RestartPolicyKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESTART_POLICY_KIND_UNSPECIFIED: _ClassVar[RestartPolicyKind]
    RESTART_POLICY_KIND_ALWAYS: _ClassVar[RestartPolicyKind]
    RESTART_POLICY_KIND_ON_FAILURE: _ClassVar[RestartPolicyKind]
    RESTART_POLICY_KIND_NEVER: _ClassVar[RestartPolicyKind]

class TaintEffect(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TAINT_EFFECT_UNSPECIFIED: _ClassVar[TaintEffect]
    TAINT_EFFECT_NO_SCHEDULE: _ClassVar[TaintEffect]
    TAINT_EFFECT_PREFER_NO_SCHEDULE: _ClassVar[TaintEffect]
    TAINT_EFFECT_NO_EXECUTE: _ClassVar[TaintEffect]

class RolloutStrategy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_STRATEGY_UNSPECIFIED: _ClassVar[RolloutStrategy]
    ROLLOUT_STRATEGY_ROLLING_UPDATE: _ClassVar[RolloutStrategy]
    ROLLOUT_STRATEGY_RECREATE: _ClassVar[RolloutStrategy]
    ROLLOUT_STRATEGY_CANARY: _ClassVar[RolloutStrategy]
    ROLLOUT_STRATEGY_BLUE_GREEN: _ClassVar[RolloutStrategy]

class ReconnectRule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECONNECT_RULE_UNSPECIFIED: _ClassVar[ReconnectRule]
    RECONNECT_RULE_KEEP_OLDEST: _ClassVar[ReconnectRule]
    RECONNECT_RULE_KEEP_NEWEST: _ClassVar[ReconnectRule]

class ConcurrencyPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONCURRENCY_POLICY_UNSPECIFIED: _ClassVar[ConcurrencyPolicy]
    CONCURRENCY_POLICY_ALLOW: _ClassVar[ConcurrencyPolicy]
    CONCURRENCY_POLICY_FORBID: _ClassVar[ConcurrencyPolicy]
    CONCURRENCY_POLICY_REPLACE: _ClassVar[ConcurrencyPolicy]

class MissedRuns(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MISSED_RUNS_UNSPECIFIED: _ClassVar[MissedRuns]
    MISSED_RUNS_SKIP: _ClassVar[MissedRuns]
    MISSED_RUNS_RUN_ONCE: _ClassVar[MissedRuns]
    MISSED_RUNS_RUN_ALL: _ClassVar[MissedRuns]
WORKLOAD_TYPE_UNSPECIFIED: WorkloadType
WORKLOAD_TYPE_SERVICE: WorkloadType
WORKLOAD_TYPE_SYSTEM: WorkloadType
WORKLOAD_TYPE_JOB: WorkloadType
WORKLOAD_TYPE_CRON: WorkloadType
PROTOCOL_UNSPECIFIED: Protocol
PROTOCOL_TCP: Protocol
PROTOCOL_UDP: Protocol
RESTART_POLICY_KIND_UNSPECIFIED: RestartPolicyKind
RESTART_POLICY_KIND_ALWAYS: RestartPolicyKind
RESTART_POLICY_KIND_ON_FAILURE: RestartPolicyKind
RESTART_POLICY_KIND_NEVER: RestartPolicyKind
TAINT_EFFECT_UNSPECIFIED: TaintEffect
TAINT_EFFECT_NO_SCHEDULE: TaintEffect
TAINT_EFFECT_PREFER_NO_SCHEDULE: TaintEffect
TAINT_EFFECT_NO_EXECUTE: TaintEffect
ROLLOUT_STRATEGY_UNSPECIFIED: RolloutStrategy
ROLLOUT_STRATEGY_ROLLING_UPDATE: RolloutStrategy
ROLLOUT_STRATEGY_RECREATE: RolloutStrategy
ROLLOUT_STRATEGY_CANARY: RolloutStrategy
ROLLOUT_STRATEGY_BLUE_GREEN: RolloutStrategy
RECONNECT_RULE_UNSPECIFIED: ReconnectRule
RECONNECT_RULE_KEEP_OLDEST: ReconnectRule
RECONNECT_RULE_KEEP_NEWEST: ReconnectRule
CONCURRENCY_POLICY_UNSPECIFIED: ConcurrencyPolicy
CONCURRENCY_POLICY_ALLOW: ConcurrencyPolicy
CONCURRENCY_POLICY_FORBID: ConcurrencyPolicy
CONCURRENCY_POLICY_REPLACE: ConcurrencyPolicy
MISSED_RUNS_UNSPECIFIED: MissedRuns
MISSED_RUNS_SKIP: MissedRuns
MISSED_RUNS_RUN_ONCE: MissedRuns
MISSED_RUNS_RUN_ALL: MissedRuns

class ResourceAmounts(_message.Message):
    __slots__ = ("cpu_millis", "memory_bytes", "storage_bytes", "egress_bps", "pids")
    CPU_MILLIS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    EGRESS_BPS_FIELD_NUMBER: _ClassVar[int]
    PIDS_FIELD_NUMBER: _ClassVar[int]
    cpu_millis: int
    memory_bytes: int
    storage_bytes: int
    egress_bps: int
    pids: int
    def __init__(self, cpu_millis: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., storage_bytes: _Optional[int] = ..., egress_bps: _Optional[int] = ..., pids: _Optional[int] = ...) -> None: ...

class Resources(_message.Message):
    __slots__ = ("requests", "limits")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    requests: ResourceAmounts
    limits: ResourceAmounts
    def __init__(self, requests: _Optional[_Union[ResourceAmounts, _Mapping]] = ..., limits: _Optional[_Union[ResourceAmounts, _Mapping]] = ...) -> None: ...

class EnvVar(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class ContainerPort(_message.Message):
    __slots__ = ("name", "container_port", "protocol", "host_port")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_PORT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    HOST_PORT_FIELD_NUMBER: _ClassVar[int]
    name: str
    container_port: int
    protocol: Protocol
    host_port: int
    def __init__(self, name: _Optional[str] = ..., container_port: _Optional[int] = ..., protocol: _Optional[_Union[Protocol, str]] = ..., host_port: _Optional[int] = ...) -> None: ...

class HttpProbe(_message.Message):
    __slots__ = ("path", "port", "scheme", "headers")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PATH_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    path: str
    port: str
    scheme: str
    headers: _containers.ScalarMap[str, str]
    def __init__(self, path: _Optional[str] = ..., port: _Optional[str] = ..., scheme: _Optional[str] = ..., headers: _Optional[_Mapping[str, str]] = ...) -> None: ...

class TcpProbe(_message.Message):
    __slots__ = ("port",)
    PORT_FIELD_NUMBER: _ClassVar[int]
    port: str
    def __init__(self, port: _Optional[str] = ...) -> None: ...

class ExecProbe(_message.Message):
    __slots__ = ("command",)
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    command: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, command: _Optional[_Iterable[str]] = ...) -> None: ...

class GrpcProbe(_message.Message):
    __slots__ = ("port", "service")
    PORT_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    port: str
    service: str
    def __init__(self, port: _Optional[str] = ..., service: _Optional[str] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("http", "tcp", "exec", "grpc", "initial_delay_ms", "period_ms", "timeout_ms", "success_threshold", "failure_threshold")
    HTTP_FIELD_NUMBER: _ClassVar[int]
    TCP_FIELD_NUMBER: _ClassVar[int]
    EXEC_FIELD_NUMBER: _ClassVar[int]
    GRPC_FIELD_NUMBER: _ClassVar[int]
    INITIAL_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    PERIOD_MS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    FAILURE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    http: HttpProbe
    tcp: TcpProbe
    exec: ExecProbe
    grpc: GrpcProbe
    initial_delay_ms: int
    period_ms: int
    timeout_ms: int
    success_threshold: int
    failure_threshold: int
    def __init__(self, http: _Optional[_Union[HttpProbe, _Mapping]] = ..., tcp: _Optional[_Union[TcpProbe, _Mapping]] = ..., exec: _Optional[_Union[ExecProbe, _Mapping]] = ..., grpc: _Optional[_Union[GrpcProbe, _Mapping]] = ..., initial_delay_ms: _Optional[int] = ..., period_ms: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., success_threshold: _Optional[int] = ..., failure_threshold: _Optional[int] = ...) -> None: ...

class Capabilities(_message.Message):
    __slots__ = ("drop", "add")
    DROP_FIELD_NUMBER: _ClassVar[int]
    ADD_FIELD_NUMBER: _ClassVar[int]
    drop: _containers.RepeatedScalarFieldContainer[str]
    add: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, drop: _Optional[_Iterable[str]] = ..., add: _Optional[_Iterable[str]] = ...) -> None: ...

class SecurityProfile(_message.Message):
    __slots__ = ("type",)
    TYPE_FIELD_NUMBER: _ClassVar[int]
    type: str
    def __init__(self, type: _Optional[str] = ...) -> None: ...

class SecurityContext(_message.Message):
    __slots__ = ("run_as_non_root", "run_as_user", "run_as_group", "read_only_root_filesystem", "capabilities", "privileged", "host_network", "seccomp_profile", "app_armor_profile", "runtime_class_name")
    RUN_AS_NON_ROOT_FIELD_NUMBER: _ClassVar[int]
    RUN_AS_USER_FIELD_NUMBER: _ClassVar[int]
    RUN_AS_GROUP_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_ROOT_FILESYSTEM_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    PRIVILEGED_FIELD_NUMBER: _ClassVar[int]
    HOST_NETWORK_FIELD_NUMBER: _ClassVar[int]
    SECCOMP_PROFILE_FIELD_NUMBER: _ClassVar[int]
    APP_ARMOR_PROFILE_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    run_as_non_root: bool
    run_as_user: int
    run_as_group: int
    read_only_root_filesystem: bool
    capabilities: Capabilities
    privileged: bool
    host_network: bool
    seccomp_profile: SecurityProfile
    app_armor_profile: SecurityProfile
    runtime_class_name: str
    def __init__(self, run_as_non_root: bool = ..., run_as_user: _Optional[int] = ..., run_as_group: _Optional[int] = ..., read_only_root_filesystem: bool = ..., capabilities: _Optional[_Union[Capabilities, _Mapping]] = ..., privileged: bool = ..., host_network: bool = ..., seccomp_profile: _Optional[_Union[SecurityProfile, _Mapping]] = ..., app_armor_profile: _Optional[_Union[SecurityProfile, _Mapping]] = ..., runtime_class_name: _Optional[str] = ...) -> None: ...

class Container(_message.Message):
    __slots__ = ("name", "image", "process", "command", "args", "working_dir", "env", "ports", "resources", "startup_probe", "liveness_probe", "readiness_probe", "security_context")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    WORKING_DIR_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    STARTUP_PROBE_FIELD_NUMBER: _ClassVar[int]
    LIVENESS_PROBE_FIELD_NUMBER: _ClassVar[int]
    READINESS_PROBE_FIELD_NUMBER: _ClassVar[int]
    SECURITY_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    image: str
    process: _containers.RepeatedScalarFieldContainer[str]
    command: _containers.RepeatedScalarFieldContainer[str]
    args: _containers.RepeatedScalarFieldContainer[str]
    working_dir: str
    env: _containers.RepeatedCompositeFieldContainer[EnvVar]
    ports: _containers.RepeatedCompositeFieldContainer[ContainerPort]
    resources: Resources
    startup_probe: Probe
    liveness_probe: Probe
    readiness_probe: Probe
    security_context: SecurityContext
    def __init__(self, name: _Optional[str] = ..., image: _Optional[str] = ..., process: _Optional[_Iterable[str]] = ..., command: _Optional[_Iterable[str]] = ..., args: _Optional[_Iterable[str]] = ..., working_dir: _Optional[str] = ..., env: _Optional[_Iterable[_Union[EnvVar, _Mapping]]] = ..., ports: _Optional[_Iterable[_Union[ContainerPort, _Mapping]]] = ..., resources: _Optional[_Union[Resources, _Mapping]] = ..., startup_probe: _Optional[_Union[Probe, _Mapping]] = ..., liveness_probe: _Optional[_Union[Probe, _Mapping]] = ..., readiness_probe: _Optional[_Union[Probe, _Mapping]] = ..., security_context: _Optional[_Union[SecurityContext, _Mapping]] = ...) -> None: ...

class Toleration(_message.Message):
    __slots__ = ("key", "operator", "value", "effect")
    KEY_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    key: str
    operator: str
    value: str
    effect: TaintEffect
    def __init__(self, key: _Optional[str] = ..., operator: _Optional[str] = ..., value: _Optional[str] = ..., effect: _Optional[_Union[TaintEffect, str]] = ...) -> None: ...

class Affinity(_message.Message):
    __slots__ = ("workload", "match_labels", "topology_key", "required", "weight")
    class MatchLabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    MATCH_LABELS_FIELD_NUMBER: _ClassVar[int]
    TOPOLOGY_KEY_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    workload: str
    match_labels: _containers.ScalarMap[str, str]
    topology_key: str
    required: bool
    weight: int
    def __init__(self, workload: _Optional[str] = ..., match_labels: _Optional[_Mapping[str, str]] = ..., topology_key: _Optional[str] = ..., required: bool = ..., weight: _Optional[int] = ...) -> None: ...

class AntiAffinity(_message.Message):
    __slots__ = ("workload", "topology_key", "required", "match_labels", "weight")
    class MatchLabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    TOPOLOGY_KEY_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    MATCH_LABELS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    workload: str
    topology_key: str
    required: bool
    match_labels: _containers.ScalarMap[str, str]
    weight: int
    def __init__(self, workload: _Optional[str] = ..., topology_key: _Optional[str] = ..., required: bool = ..., match_labels: _Optional[_Mapping[str, str]] = ..., weight: _Optional[int] = ...) -> None: ...

class SpreadConstraint(_message.Message):
    __slots__ = ("topology_key", "max_skew", "required")
    TOPOLOGY_KEY_FIELD_NUMBER: _ClassVar[int]
    MAX_SKEW_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    topology_key: str
    max_skew: int
    required: bool
    def __init__(self, topology_key: _Optional[str] = ..., max_skew: _Optional[int] = ..., required: bool = ...) -> None: ...

class Placement(_message.Message):
    __slots__ = ("regions", "zones", "required", "node_selector", "tolerations", "anti_affinity", "spread", "affinity")
    class NodeSelectorEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    ZONES_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    NODE_SELECTOR_FIELD_NUMBER: _ClassVar[int]
    TOLERATIONS_FIELD_NUMBER: _ClassVar[int]
    ANTI_AFFINITY_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    AFFINITY_FIELD_NUMBER: _ClassVar[int]
    regions: _containers.RepeatedScalarFieldContainer[str]
    zones: _containers.RepeatedScalarFieldContainer[str]
    required: bool
    node_selector: _containers.ScalarMap[str, str]
    tolerations: _containers.RepeatedCompositeFieldContainer[Toleration]
    anti_affinity: _containers.RepeatedCompositeFieldContainer[AntiAffinity]
    spread: _containers.RepeatedCompositeFieldContainer[SpreadConstraint]
    affinity: _containers.RepeatedCompositeFieldContainer[Affinity]
    def __init__(self, regions: _Optional[_Iterable[str]] = ..., zones: _Optional[_Iterable[str]] = ..., required: bool = ..., node_selector: _Optional[_Mapping[str, str]] = ..., tolerations: _Optional[_Iterable[_Union[Toleration, _Mapping]]] = ..., anti_affinity: _Optional[_Iterable[_Union[AntiAffinity, _Mapping]]] = ..., spread: _Optional[_Iterable[_Union[SpreadConstraint, _Mapping]]] = ..., affinity: _Optional[_Iterable[_Union[Affinity, _Mapping]]] = ...) -> None: ...

class Backoff(_message.Message):
    __slots__ = ("initial_ms", "max_ms", "reset_ms")
    INITIAL_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_MS_FIELD_NUMBER: _ClassVar[int]
    RESET_MS_FIELD_NUMBER: _ClassVar[int]
    initial_ms: int
    max_ms: int
    reset_ms: int
    def __init__(self, initial_ms: _Optional[int] = ..., max_ms: _Optional[int] = ..., reset_ms: _Optional[int] = ...) -> None: ...

class RestartPolicy(_message.Message):
    __slots__ = ("policy", "max_retries", "backoff")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    MAX_RETRIES_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_FIELD_NUMBER: _ClassVar[int]
    policy: RestartPolicyKind
    max_retries: int
    backoff: Backoff
    def __init__(self, policy: _Optional[_Union[RestartPolicyKind, str]] = ..., max_retries: _Optional[int] = ..., backoff: _Optional[_Union[Backoff, _Mapping]] = ...) -> None: ...

class CanaryStep(_message.Message):
    __slots__ = ("weight", "pause_ms")
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PAUSE_MS_FIELD_NUMBER: _ClassVar[int]
    weight: int
    pause_ms: int
    def __init__(self, weight: _Optional[int] = ..., pause_ms: _Optional[int] = ...) -> None: ...

class Canary(_message.Message):
    __slots__ = ("steps",)
    STEPS_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[CanaryStep]
    def __init__(self, steps: _Optional[_Iterable[_Union[CanaryStep, _Mapping]]] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("strategy", "max_surge", "max_unavailable", "min_available", "min_ready_ms", "progress_deadline_ms", "auto_rollback", "canary")
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    MAX_SURGE_FIELD_NUMBER: _ClassVar[int]
    MAX_UNAVAILABLE_FIELD_NUMBER: _ClassVar[int]
    MIN_AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    MIN_READY_MS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    AUTO_ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    strategy: RolloutStrategy
    max_surge: int
    max_unavailable: int
    min_available: int
    min_ready_ms: int
    progress_deadline_ms: int
    auto_rollback: bool
    canary: Canary
    def __init__(self, strategy: _Optional[_Union[RolloutStrategy, str]] = ..., max_surge: _Optional[int] = ..., max_unavailable: _Optional[int] = ..., min_available: _Optional[int] = ..., min_ready_ms: _Optional[int] = ..., progress_deadline_ms: _Optional[int] = ..., auto_rollback: bool = ..., canary: _Optional[_Union[Canary, _Mapping]] = ...) -> None: ...

class Disruption(_message.Message):
    __slots__ = ("offline_grace_ms", "on_reconnect", "lease_duration_ms")
    OFFLINE_GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    ON_RECONNECT_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    offline_grace_ms: int
    on_reconnect: ReconnectRule
    lease_duration_ms: int
    def __init__(self, offline_grace_ms: _Optional[int] = ..., on_reconnect: _Optional[_Union[ReconnectRule, str]] = ..., lease_duration_ms: _Optional[int] = ...) -> None: ...

class PreStop(_message.Message):
    __slots__ = ("exec", "http", "sleep_ms")
    EXEC_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    SLEEP_MS_FIELD_NUMBER: _ClassVar[int]
    exec: ExecProbe
    http: HttpProbe
    sleep_ms: int
    def __init__(self, exec: _Optional[_Union[ExecProbe, _Mapping]] = ..., http: _Optional[_Union[HttpProbe, _Mapping]] = ..., sleep_ms: _Optional[int] = ...) -> None: ...

class Termination(_message.Message):
    __slots__ = ("grace_period_ms", "pre_stop")
    GRACE_PERIOD_MS_FIELD_NUMBER: _ClassVar[int]
    PRE_STOP_FIELD_NUMBER: _ClassVar[int]
    grace_period_ms: int
    pre_stop: PreStop
    def __init__(self, grace_period_ms: _Optional[int] = ..., pre_stop: _Optional[_Union[PreStop, _Mapping]] = ...) -> None: ...

class Schedule(_message.Message):
    __slots__ = ("cron", "time_zone", "concurrency", "missed", "history", "suspend")
    CRON_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    SUSPEND_FIELD_NUMBER: _ClassVar[int]
    cron: str
    time_zone: str
    concurrency: ConcurrencyPolicy
    missed: MissedRuns
    history: int
    suspend: bool
    def __init__(self, cron: _Optional[str] = ..., time_zone: _Optional[str] = ..., concurrency: _Optional[_Union[ConcurrencyPolicy, str]] = ..., missed: _Optional[_Union[MissedRuns, str]] = ..., history: _Optional[int] = ..., suspend: bool = ...) -> None: ...

class Completion(_message.Message):
    __slots__ = ("parallelism", "completions", "ttl_after_finished_ms", "active_deadline_ms")
    PARALLELISM_FIELD_NUMBER: _ClassVar[int]
    COMPLETIONS_FIELD_NUMBER: _ClassVar[int]
    TTL_AFTER_FINISHED_MS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    parallelism: int
    completions: int
    ttl_after_finished_ms: int
    active_deadline_ms: int
    def __init__(self, parallelism: _Optional[int] = ..., completions: _Optional[int] = ..., ttl_after_finished_ms: _Optional[int] = ..., active_deadline_ms: _Optional[int] = ...) -> None: ...

class WorkloadSpec(_message.Message):
    __slots__ = ("type", "replicas", "priority", "containers", "placement", "restart_policy", "rollout", "disruption", "termination", "security_context", "schedule", "completion")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    RESTART_POLICY_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    DISRUPTION_FIELD_NUMBER: _ClassVar[int]
    TERMINATION_FIELD_NUMBER: _ClassVar[int]
    SECURITY_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_FIELD_NUMBER: _ClassVar[int]
    type: WorkloadType
    replicas: int
    priority: int
    containers: _containers.RepeatedCompositeFieldContainer[Container]
    placement: Placement
    restart_policy: RestartPolicy
    rollout: Rollout
    disruption: Disruption
    termination: Termination
    security_context: SecurityContext
    schedule: Schedule
    completion: Completion
    def __init__(self, type: _Optional[_Union[WorkloadType, str]] = ..., replicas: _Optional[int] = ..., priority: _Optional[int] = ..., containers: _Optional[_Iterable[_Union[Container, _Mapping]]] = ..., placement: _Optional[_Union[Placement, _Mapping]] = ..., restart_policy: _Optional[_Union[RestartPolicy, _Mapping]] = ..., rollout: _Optional[_Union[Rollout, _Mapping]] = ..., disruption: _Optional[_Union[Disruption, _Mapping]] = ..., termination: _Optional[_Union[Termination, _Mapping]] = ..., security_context: _Optional[_Union[SecurityContext, _Mapping]] = ..., schedule: _Optional[_Union[Schedule, _Mapping]] = ..., completion: _Optional[_Union[Completion, _Mapping]] = ...) -> None: ...

class Metadata(_message.Message):
    __slots__ = ("name", "namespace", "labels", "annotations")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class AnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    namespace: str
    labels: _containers.ScalarMap[str, str]
    annotations: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., namespace: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., annotations: _Optional[_Mapping[str, str]] = ...) -> None: ...
