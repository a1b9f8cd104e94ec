"""What a user asks for: the workload spec of the manifest as immutable domain objects.

Field for field the shape of `proto/cloudless/api/v1/spec.proto`, which `cloudless.api.v1.convert` maps by
name. Integers are canonical: milli-CPUs, bytes, bits per second, milliseconds. A manifest writes them as
quantities; the `quantity` metadata says under which key. Zero, an empty string and None mean "not stated"
until `cloudless.core.defaults` fills them in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from cloudless.core.fields import quantity


class WorkloadType(StrEnum):
    """Values are the words of the manifest; names are those of the proto enum."""

    SERVICE = "service"
    SYSTEM = "system"
    JOB = "job"
    CRON = "cron"


class Protocol(StrEnum):
    TCP = "TCP"
    UDP = "UDP"


class RestartPolicyKind(StrEnum):
    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


class TaintEffect(StrEnum):
    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class RolloutStrategy(StrEnum):
    ROLLING_UPDATE = "RollingUpdate"
    RECREATE = "Recreate"
    CANARY = "Canary"
    BLUE_GREEN = "BlueGreen"


class ReconnectRule(StrEnum):
    KEEP_OLDEST = "KeepOldest"
    KEEP_NEWEST = "KeepNewest"


class ConcurrencyPolicy(StrEnum):
    ALLOW = "Allow"
    FORBID = "Forbid"
    REPLACE = "Replace"


class MissedRuns(StrEnum):
    SKIP = "Skip"
    RUN_ONCE = "RunOnce"
    RUN_ALL = "RunAll"


@dataclass(frozen=True, slots=True)
class ResourceAmounts:
    cpu_millis: int = quantity("cpu", key="cpu")
    memory_bytes: int = quantity("bytes", key="memory")
    storage_bytes: int = quantity("bytes", key="storage")
    egress_bps: int = quantity("bitrate", key="egress")
    pids: int = 0


@dataclass(frozen=True, slots=True)
class Resources:
    requests: ResourceAmounts = ResourceAmounts()
    limits: ResourceAmounts = ResourceAmounts()


@dataclass(frozen=True, slots=True)
class EnvVar:
    name: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class ContainerPort:
    name: str = ""
    container_port: int = 0
    protocol: Protocol | None = None
    host_port: int = 0


@dataclass(frozen=True, slots=True)
class HttpProbe:
    path: str = ""
    port: str = quantity("port", key="port", default="")
    scheme: str = ""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TcpProbe:
    port: str = quantity("port", key="port", default="")


@dataclass(frozen=True, slots=True)
class ExecProbe:
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GrpcProbe:
    port: str = quantity("port", key="port", default="")
    service: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """Exactly one of http, tcp, exec, grpc is set."""

    http: HttpProbe | None = None
    tcp: TcpProbe | None = None
    exec: ExecProbe | None = None
    grpc: GrpcProbe | None = None
    initial_delay_ms: int = quantity("duration", key="initialDelay")
    period_ms: int = quantity("duration", key="period")
    timeout_ms: int = quantity("duration", key="timeout")
    success_threshold: int = 0
    failure_threshold: int = 0


@dataclass(frozen=True, slots=True)
class Capabilities:
    drop: tuple[str, ...] = ()
    add: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SecurityProfile:
    type: str = ""


@dataclass(frozen=True, slots=True)
class SecurityContext:
    """None means: not stated here; a container's value overrides the workload's."""

    run_as_non_root: bool | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    read_only_root_filesystem: bool | None = None
    capabilities: Capabilities | None = None
    privileged: bool | None = None
    host_network: bool | None = None
    seccomp_profile: SecurityProfile | None = None
    app_armor_profile: SecurityProfile | None = None
    runtime_class_name: str = ""


@dataclass(frozen=True, slots=True)
class Container:
    """Exactly one of `image` (an OCI image) and `process` (an argv on the device itself) is set."""

    name: str = ""
    image: str = ""
    process: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[EnvVar, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    resources: Resources = Resources()
    startup_probe: Probe | None = None
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    security_context: SecurityContext | None = None


@dataclass(frozen=True, slots=True)
class Toleration:
    key: str = ""
    operator: str = ""
    value: str = ""
    effect: TaintEffect | None = None


@dataclass(frozen=True, slots=True)
class Affinity:
    """To be where replicas of these workloads of the same namespace are: of the one that is named, or of those whose
    labels match."""

    workload: str = ""
    match_labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    topology_key: str = ""
    required: bool = False
    weight: int = 0


@dataclass(frozen=True, slots=True)
class AntiAffinity:
    workload: str = ""
    topology_key: str = ""
    required: bool = False
    match_labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    weight: int = 0


@dataclass(frozen=True, slots=True)
class SpreadConstraint:
    topology_key: str = ""
    max_skew: int = 0
    required: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    regions: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    required: bool = False
    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    anti_affinity: tuple[AntiAffinity, ...] = ()
    spread: tuple[SpreadConstraint, ...] = ()
    affinity: tuple[Affinity, ...] = ()


@dataclass(frozen=True, slots=True)
class Backoff:
    initial_ms: int = quantity("duration", key="initial")
    max_ms: int = quantity("duration", key="max")
    reset_ms: int = quantity("duration", key="reset")


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    policy: RestartPolicyKind | None = None
    max_retries: int = 0
    backoff: Backoff = Backoff()


MANUAL: int = -1  # the pause of a canary step that lasts until it is promoted


@dataclass(frozen=True, slots=True)
class CanaryStep:
    """`weight`: percent of the replicas that are new. `pause_ms`: MANUAL waits for `rollout promote`."""

    weight: int = 0
    pause_ms: int = quantity("pause", key="pause")


@dataclass(frozen=True, slots=True)
class Canary:
    steps: tuple[CanaryStep, ...] = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    strategy: RolloutStrategy | None = None
    max_surge: int = 0
    max_unavailable: int = 0
    min_available: int = 0
    min_ready_ms: int = quantity("duration", key="minReady")
    progress_deadline_ms: int = quantity("duration", key="progressDeadline")
    auto_rollback: bool = False
    canary: Canary | None = None


@dataclass(frozen=True, slots=True)
class Disruption:
    offline_grace_ms: int = quantity("duration", key="offlineGrace")
    on_reconnect: ReconnectRule | None = None
    lease_duration_ms: int = quantity("duration", key="leaseDuration")


@dataclass(frozen=True, slots=True)
class PreStop:
    """Exactly one is set. Its time counts as part of the grace period."""

    exec: ExecProbe | None = None
    http: HttpProbe | None = None
    sleep_ms: int = quantity("duration", key="sleep")


@dataclass(frozen=True, slots=True)
class Termination:
    grace_period_ms: int = quantity("duration", key="gracePeriod")
    pre_stop: PreStop | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a workload of type cron runs. `history`: finished runs that are kept."""

    cron: str = ""
    time_zone: str = ""
    concurrency: ConcurrencyPolicy | None = None
    missed: MissedRuns | None = None
    history: int = 0
    suspend: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """What a run of type job or cron is. No active deadline and no TTL where they are 0."""

    parallelism: int = 0
    completions: int = 0
    ttl_after_finished_ms: int = quantity("duration", key="ttlAfterFinished")
    active_deadline_ms: int = quantity("duration", key="activeDeadline")


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    type: WorkloadType | None = None
    replicas: int = 0
    priority: int = 0
    containers: tuple[Container, ...] = ()
    placement: Placement = Placement()
    restart_policy: RestartPolicy = RestartPolicy()
    rollout: Rollout = Rollout()
    disruption: Disruption = Disruption()
    termination: Termination = Termination()
    security_context: SecurityContext | None = None
    schedule: Schedule | None = None
    completion: Completion | None = None


@dataclass(frozen=True, slots=True)
class Metadata:
    name: str = ""
    namespace: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)
