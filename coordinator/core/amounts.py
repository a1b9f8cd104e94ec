"""Arithmetic on resource amounts, and what one replica of a spec reserves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cloudless.core.replacing import replace
from cloudless.core.spec import Disruption, ResourceAmounts, Rollout, WorkloadSpec

NOTHING: Final = ResourceAmounts()
_MAX: Final = 2**63 - 1  # what the log can hold; sums stop there

# Resources of which a device that states none has none. It may leave the others unstated, which means unlimited.
ALWAYS_LIMITED: Final = ("cpu_millis", "memory_bytes")
ACCOUNTED: Final = ("cpu_millis", "memory_bytes", "storage_bytes", "egress_bps", "pids")


def plus(left: ResourceAmounts, right: ResourceAmounts) -> ResourceAmounts:
    return ResourceAmounts(
        min(left.cpu_millis + right.cpu_millis, _MAX),
        min(left.memory_bytes + right.memory_bytes, _MAX),
        min(left.storage_bytes + right.storage_bytes, _MAX),
        min(left.egress_bps + right.egress_bps, _MAX),
        min(left.pids + right.pids, _MAX),
    )


def minus(left: ResourceAmounts, right: ResourceAmounts) -> ResourceAmounts | None:
    """What is left, or None where `left` is a sum that stopped at its limit and cannot be taken apart."""
    if _MAX in (left.cpu_millis, left.memory_bytes, left.storage_bytes, left.egress_bps, left.pids):
        return None
    return ResourceAmounts(
        left.cpu_millis - right.cpu_millis,
        left.memory_bytes - right.memory_bytes,
        left.storage_bytes - right.storage_bytes,
        left.egress_bps - right.egress_bps,
        left.pids - right.pids,
    )


def total(amounts: Iterable[ResourceAmounts]) -> ResourceAmounts:
    result = NOTHING
    for amount in amounts:
        result = plus(result, amount)
    return result


def has_negative(amounts: ResourceAmounts) -> bool:
    return (
        amounts.cpu_millis < 0
        or amounts.memory_bytes < 0
        or amounts.storage_bytes < 0
        or amounts.egress_bps < 0
        or amounts.pids < 0
    )


def exceeded(wanted: ResourceAmounts, capacity: ResourceAmounts) -> tuple[str, ...]:
    """The names of the resources of which `wanted` is more than `capacity`, in order.

    A capacity of zero means none of CPU and memory, and "not stated, hence not limited" of everything else.
    """
    return tuple(
        name
        for name in ACCOUNTED
        if (want := getattr(wanted, name)) > (have := getattr(capacity, name))
        and want
        and (have or name in ALWAYS_LIMITED)
    )


def fragment_of(spec: WorkloadSpec) -> ResourceAmounts:
    """What one replica reserves: the sum over its containers of what they request.

    A container that states only a limit requests that limit, except for pids, where a limit guards against a
    runaway process and says nothing about normal use. Egress is reserved as requested.
    """
    amounts = []
    for container in spec.containers:
        requests, limits = container.resources.requests, container.resources.limits
        amounts.append(
            ResourceAmounts(
                cpu_millis=requests.cpu_millis or limits.cpu_millis,
                memory_bytes=requests.memory_bytes or limits.memory_bytes,
                storage_bytes=requests.storage_bytes or limits.storage_bytes,
                egress_bps=requests.egress_bps or limits.egress_bps,
                pids=requests.pids,
            )
        )
    return total(amounts)


def template_of(spec: WorkloadSpec) -> WorkloadSpec:
    """The part of a spec that replicas run. Two specs with equal templates need no replacement of replicas.

    Left out is what only the coordinator acts on: how many replicas, in which order they are replaced, their
    priority, what happens when a node goes away, when runs are due and what they are.
    """
    return replace(
        spec, replicas=0, priority=0, rollout=Rollout(), disruption=Disruption(), schedule=None, completion=None
    )


def host_ports_of(spec: WorkloadSpec) -> frozenset[tuple[int, str]]:
    """The ports of the node itself that one replica takes, as (port, protocol)."""
    return frozenset(
        (port.host_port, port.protocol or "TCP")
        for container in spec.containers
        for port in container.ports
        if port.host_port
    )
