"""Defaults: the numbers, and what they depend on."""

from __future__ import annotations

import pytest

from cloudless.core import defaults
from cloudless.core.spec import (
    Backoff,
    Container,
    ContainerPort,
    HttpProbe,
    Metadata,
    Probe,
    Protocol,
    ResourceAmounts,
    Resources,
    RestartPolicy,
    Rollout,
    RolloutStrategy,
    TcpProbe,
    WorkloadSpec,
    WorkloadType,
)

MIB = 2**20


def container(value: Container) -> Container:
    return defaults.apply(Metadata(), WorkloadSpec(containers=(value,)))[1].containers[0]


def test_an_empty_workload() -> None:
    metadata, spec = defaults.apply(Metadata(name="web"), WorkloadSpec())
    assert metadata.namespace == "default"
    assert (spec.type, spec.termination.grace_period_ms) == (WorkloadType.SERVICE, 10_000)
    assert (spec.replicas, spec.priority) == (0, 0), "zero is a proper wish; the manifest reader has these defaults"
    backoff = spec.restart_policy.backoff
    assert (backoff.initial_ms, backoff.max_ms, backoff.reset_ms) == (1000, 300_000, 600_000)
    assert spec.disruption.offline_grace_ms == 30_000
    assert spec.disruption.lease_duration_ms == 24 * 3_600_000


@pytest.mark.parametrize(
    ("stated", "requests", "limits"),
    [
        (Resources(), (50, 64 * MIB), (0, 128 * MIB, 256)),
        (Resources(ResourceAmounts(250, 100 * MIB)), (250, 100 * MIB), (0, 200 * MIB, 256)),
        (Resources(limits=ResourceAmounts(500, 32 * MIB, pids=9)), (500, 32 * MIB), (500, 32 * MIB, 9)),
        (Resources(ResourceAmounts(pids=999)), (50, 64 * MIB), (0, 128 * MIB, 999)),
        (Resources(ResourceAmounts(memory_bytes=2**62)), (50, 2**62), (0, 2**63 - 1, 256)),
    ],
)
def test_resources(stated: Resources, requests: tuple[int, int], limits: tuple[int, int, int]) -> None:
    filled = container(Container(resources=stated)).resources
    assert (filled.requests.cpu_millis, filled.requests.memory_bytes) == requests
    assert (filled.limits.cpu_millis, filled.limits.memory_bytes, filled.limits.pids) == limits


def test_probes_and_ports() -> None:
    filled = container(
        Container(
            ports=(ContainerPort(container_port=80), ContainerPort(container_port=53, protocol=Protocol.UDP)),
            liveness_probe=Probe(http=HttpProbe(port="80")),
            readiness_probe=Probe(tcp=TcpProbe(port="80"), period_ms=500, failure_threshold=9),
        )
    )
    assert [port.protocol for port in filled.ports] == [Protocol.TCP, Protocol.UDP]
    assert filled.startup_probe is None
    assert filled.liveness_probe == Probe(
        http=HttpProbe(path="/", port="80", scheme="HTTP"),
        period_ms=10_000,
        timeout_ms=1000,
        success_threshold=1,
        failure_threshold=3,
    )
    assert filled.readiness_probe is not None
    assert (filled.readiness_probe.period_ms, filled.readiness_probe.failure_threshold) == (500, 9)


@pytest.mark.parametrize(
    ("stated", "surge"),
    [
        (Rollout(), 1),
        (Rollout(max_surge=3), 3),
        (Rollout(max_unavailable=1), 0),
        (Rollout(strategy=RolloutStrategy.RECREATE), 0),
    ],
)
def test_a_rollout_can_always_move(stated: Rollout, surge: int) -> None:
    filled = defaults.apply(Metadata(), WorkloadSpec(rollout=stated))[1].rollout
    assert filled.max_surge == surge
    assert filled.max_surge or filled.max_unavailable or filled.strategy is RolloutStrategy.RECREATE


@pytest.mark.parametrize(
    ("stated", "filled"),
    [
        (Backoff(), (1000, 300_000)),
        (Backoff(initial_ms=600_000), (600_000, 600_000)),
        (Backoff(max_ms=10), (10, 10)),
        (Backoff(5, 7), (5, 7)),
    ],
)
def test_the_first_backoff_is_never_above_the_longest(stated: Backoff, filled: tuple[int, int]) -> None:
    spec = WorkloadSpec(restart_policy=RestartPolicy(backoff=stated))
    backoff = defaults.apply(Metadata(), spec)[1].restart_policy.backoff
    assert (backoff.initial_ms, backoff.max_ms) == filled
