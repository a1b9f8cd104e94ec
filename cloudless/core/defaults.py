"""Defaults of a workload: what a field means that its author left out.

`apply` runs in the coordinator on every write, so that the stored spec is complete and `get -o yaml` shows what
holds. It is idempotent. A zero reads as "not stated" in each field that has a default here; two fields where
zero is a proper wish, `replicas` and `priority`, are therefore defaulted where the manifest is read: a manifest
without them is decoded onto `STARTING_SPEC`.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, Final, TypeVar

from cloudless.core.job_rules import RUN_RETRIES
from cloudless.core.leases import LEASE_MS
from cloudless.core.replacing import replace
from cloudless.core.spec import (
    Affinity,
    AntiAffinity,
    Backoff,
    Completion,
    ConcurrencyPolicy,
    Container,
    ContainerPort,
    Disruption,
    HttpProbe,
    Metadata,
    MissedRuns,
    Placement,
    Probe,
    Protocol,
    ReconnectRule,
    ResourceAmounts,
    Resources,
    RestartPolicy,
    RestartPolicyKind,
    Rollout,
    RolloutStrategy,
    Schedule,
    SpreadConstraint,
    Termination,
    Toleration,
    WorkloadSpec,
    WorkloadType,
)
from cloudless.core.violations import DURATION_MS_MAX

NAMESPACE: Final = "default"
CPU_REQUEST_MILLIS: Final = 50
MEMORY_REQUEST_BYTES: Final = 64 * 2**20
MEMORY_LIMIT_FACTOR: Final = 2  # a container may grow to twice its request unless its limit says otherwise
PIDS_LIMIT: Final = 256
AMOUNT_MAX: Final = 2**63 - 1

PROBE: Final = Probe(period_ms=10_000, timeout_ms=1000, success_threshold=1, failure_threshold=3)
HTTP_PROBE: Final = HttpProbe(path="/", scheme="HTTP")
BACKOFF: Final = Backoff(initial_ms=1000, max_ms=5 * 60_000, reset_ms=10 * 60_000)
ROLLOUT: Final = Rollout(strategy=RolloutStrategy.ROLLING_UPDATE, max_surge=1, progress_deadline_ms=10 * 60_000)
_ROLLOUT_WITHOUT_SURGE: Final = replace(ROLLOUT, max_surge=0)
DISRUPTION: Final = Disruption(
    offline_grace_ms=30_000, on_reconnect=ReconnectRule.KEEP_OLDEST, lease_duration_ms=LEASE_MS
)
TERMINATION: Final = Termination(grace_period_ms=10_000)
COMPLETION: Final = Completion(parallelism=1, completions=1)
SCHEDULE: Final = Schedule(time_zone="UTC", concurrency=ConcurrencyPolicy.FORBID, missed=MissedRuns.RUN_ONCE, history=3)

T = TypeVar("T")

STARTING_SPEC: Final = WorkloadSpec(replicas=1, priority=50)


def apply(metadata: Metadata, spec: WorkloadSpec) -> tuple[Metadata, WorkloadSpec]:
    """The same workload with each unstated field filled in. Total: takes specs that do not validate, too."""
    return metadata_of(metadata), spec_of(spec)


def metadata_of(metadata: Metadata) -> Metadata:
    """The part of `apply` that is about the metadata."""
    return metadata if metadata.namespace else replace(metadata, namespace=NAMESPACE)


def spec_of(spec: WorkloadSpec) -> WorkloadSpec:
    """The part of `apply` that is about the spec."""
    filled = replace(
        spec,
        type=spec.type or WorkloadType.SERVICE,
        containers=tuple(map(_container, spec.containers)),
        placement=_placement(spec.placement),
        restart_policy=_restart_policy(spec.restart_policy),
        rollout=_rollout(spec.rollout),
        disruption=_unstated(spec.disruption, DISRUPTION),
        termination=_termination(spec.termination),
    )
    return _of_runs(spec, filled) if spec.type in (WorkloadType.JOB, WorkloadType.CRON) else filled


def _of_runs(spec: WorkloadSpec, filled: WorkloadSpec) -> WorkloadSpec:
    """A job and a cron restart on failure, a bounded number of times, and have no rollout to fill in."""
    policy = filled.restart_policy
    return replace(
        filled,
        rollout=spec.rollout,
        restart_policy=replace(
            policy,
            policy=spec.restart_policy.policy or RestartPolicyKind.ON_FAILURE,
            max_retries=policy.max_retries or RUN_RETRIES,
        ),
        schedule=_unstated(spec.schedule, SCHEDULE) if spec.schedule else None,
        completion=_unstated(spec.completion or Completion(), COMPLETION),
    )


def _unstated(value: T, default: T) -> T:
    """`value` with each of its fields that is zero, empty or None taken from `default`."""
    if value == default:
        return value
    cls: Any = type(value)
    changes = {}
    for name in _names(cls):
        if not getattr(value, name) and (stated := getattr(default, name)):
            changes[name] = stated
    return replace(value, **changes) if changes else value


@cache
def _names(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


def _container(container: Container) -> Container:
    return replace(
        container,
        ports=tuple(map(_port, container.ports)),
        resources=_resources(container.resources),
        startup_probe=_probe(container.startup_probe),
        liveness_probe=_probe(container.liveness_probe),
        readiness_probe=_probe(container.readiness_probe),
    )


def _port(port: ContainerPort) -> ContainerPort:
    return port if port.protocol else replace(port, protocol=Protocol.TCP)


def _resources(resources: Resources) -> Resources:
    """A limit without a request reserves the limit; memory and processes are always limited, CPU only if asked."""
    requests, limits = resources.requests, resources.limits
    requests = _unstated(
        requests,
        ResourceAmounts(
            cpu_millis=limits.cpu_millis or CPU_REQUEST_MILLIS,
            memory_bytes=limits.memory_bytes or MEMORY_REQUEST_BYTES,
        ),
    )
    limits = _unstated(
        limits,
        ResourceAmounts(
            memory_bytes=min(requests.memory_bytes * MEMORY_LIMIT_FACTOR, AMOUNT_MAX),
            pids=max(PIDS_LIMIT, requests.pids),
        ),
    )
    return Resources(requests, limits)


def _probe(probe: Probe | None) -> Probe | None:
    if probe is None:
        return None
    filled = _unstated(probe, PROBE)
    return replace(filled, http=_unstated(filled.http, HTTP_PROBE)) if filled.http else filled


def _placement(placement: Placement) -> Placement:
    if not (placement.tolerations or placement.affinity or placement.anti_affinity or placement.spread):
        return placement
    return replace(
        placement,
        tolerations=tuple(_unstated(toleration, Toleration(operator="Equal")) for toleration in placement.tolerations),
        affinity=tuple(_unstated(term, Affinity(topology_key="node")) for term in placement.affinity),
        anti_affinity=tuple(_unstated(term, AntiAffinity(topology_key="node")) for term in placement.anti_affinity),
        spread=tuple(_unstated(term, SpreadConstraint(max_skew=1)) for term in placement.spread),
    )


def _restart_policy(policy: RestartPolicy) -> RestartPolicy:
    """A stated end of the backoff moves the other end's default, so that the first is never above the longest."""
    stated = policy.backoff
    ends = replace(
        BACKOFF,
        initial_ms=min(BACKOFF.initial_ms, stated.max_ms or BACKOFF.initial_ms),
        max_ms=max(BACKOFF.max_ms, stated.initial_ms),
    )
    return replace(policy, policy=policy.policy or RestartPolicyKind.ALWAYS, backoff=_unstated(stated, ends))


def _termination(termination: Termination) -> Termination:
    filled = _unstated(termination, TERMINATION)
    hook = filled.pre_stop
    if hook is None or hook.http is None:
        return filled
    return replace(filled, pre_stop=replace(hook, http=_unstated(hook.http, HTTP_PROBE)))


def _rollout(rollout: Rollout) -> Rollout:
    """A surge of one unless the author bounds the rollout by `maxUnavailable`, or recreates. The deadline allows for
    the time that a replica must be ready."""
    no_surge = rollout.max_unavailable or rollout.strategy is RolloutStrategy.RECREATE
    ready_ms = min(max(0, rollout.min_ready_ms), DURATION_MS_MAX - ROLLOUT.progress_deadline_ms)
    unstated = _ROLLOUT_WITHOUT_SURGE if no_surge else ROLLOUT
    return _unstated(rollout, replace(unstated, progress_deadline_ms=ROLLOUT.progress_deadline_ms + ready_ms))
