"""Filters: each says of a node why it cannot take a replica, or nothing.

A filter is a pure function of one candidate; those that a spec gives no cause for are left out. Every filter
looks at every node, so that an explanation is complete: the first failing one is a node's main obstacle, the
others are what would come next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from cloudless.coordinator.core import amounts
from cloudless.coordinator.core.scheduler import topology
from cloudless.coordinator.core.state import State
from cloudless.core import quantity
from cloudless.core.model import Node, NodeState, Taint
from cloudless.core.spec import AntiAffinity, ResourceAmounts, TaintEffect, Toleration, WorkloadSpec

_RUNTIMES_FOR_IMAGES: Final = ("containerd", "fake")
_RUNTIMES_FOR_PROCESSES: Final = ("process", "fake")
_RUNTIME_OF_CLASS: Final = {"runc": ("containerd", "fake"), "process": ("process", "fake")}


@dataclass(slots=True)
class Candidate:
    """A node on the working copy of one planning run. `used` and `ports` grow as replicas are put on it."""

    node: Node
    used: ResourceAmounts
    ports: set[tuple[int, str]] = field(default_factory=set)  # host ports taken; filled only if the spec has some
    own: int = 0  # replicas of the workload itself that stay on it
    failing: tuple[tuple[str, str], ...] = ()  # (filter, reason), in the filters' order; empty: feasible


Check = Callable[[Candidate], str | None]
Describe = Callable[[Sequence[Candidate]], str]


@dataclass(frozen=True, slots=True)
class Filter:
    """`check` returns the reason against a candidate, or None. Candidates with equal reasons are reported
    together; `describe` words the reason anew for all of them where it depends on each node's amounts."""

    name: str
    check: Check
    describe: Describe | None = None


def static_filters(spec: WorkloadSpec) -> tuple[Filter, ...]:
    """The filters whose answer does not change while replicas are placed."""
    return (Filter("ready", _ready), Filter("cordoned", _cordoned), *_matching_filters(spec))


def _matching_filters(spec: WorkloadSpec) -> Iterator[Filter]:
    placement = spec.placement
    yield Filter("taints", _taints(placement.tolerations))
    if placement.node_selector:
        yield Filter("selector", _selector(dict(placement.node_selector)))
    if placement.required and (placement.regions or placement.zones):
        yield Filter("locality", _locality(placement.regions, placement.zones))
    yield Filter("runtime", _runtime(spec))
    needed = sorted(_needed_features(spec))
    if needed:
        yield Filter("features", _features(needed))


def matching_nodes(state: State, spec: WorkloadSpec) -> list[str]:
    """Ids of the nodes that are of the kind that the spec asks for, whatever their present condition."""
    return _passing(state, tuple(_matching_filters(spec)))


def eligible_nodes(state: State, spec: WorkloadSpec) -> list[str]:
    """Ids of the nodes that match the spec, are ready and take new work, whether or not there is room."""
    return _passing(state, static_filters(spec))


def _passing(state: State, filters: tuple[Filter, ...]) -> list[str]:
    found = []
    for node_id in sorted(state.nodes):
        candidate = Candidate(state.nodes[node_id], amounts.NOTHING)
        if all(f.check(candidate) is None for f in filters):
            found.append(node_id)
    return found


# -- condition --------------------------------------------------------------------------------------------


def _ready(c: Candidate) -> str | None:
    state = c.node.state
    if state is NodeState.READY:
        return None
    return "never connected" if state in (None, NodeState.ENROLLING) else f"node is {state}"


def _cordoned(c: Candidate) -> str | None:
    if c.node.draining:
        return "draining"
    return "cordoned" if c.node.cordoned else None


# -- kind -------------------------------------------------------------------------------------------------


def tolerates(tolerations: Sequence[Toleration], taint: Taint) -> bool:
    """Whether one of the tolerations covers the taint (the rule of Kubernetes)."""
    for t in tolerations:
        if t.effect not in (None, taint.effect) or (t.key and t.key != taint.key):
            continue
        if t.operator == "Exists" or (t.key and t.value == taint.value):
            return True
    return False


def _taints(tolerations: tuple[Toleration, ...]) -> Check:
    def check(c: Candidate) -> str | None:
        for taint in c.node.taints:
            if taint.effect is not TaintEffect.PREFER_NO_SCHEDULE and not tolerates(tolerations, taint):
                value = f"={taint.value}" if taint.value else ""
                return f"taint {taint.key}{value}:{taint.effect} is not tolerated"
        return None

    return check


def _selector(selector: dict[str, str]) -> Check:
    wanted = sorted(selector.items())

    def check(c: Candidate) -> str | None:
        for key, value in wanted:
            if topology.value_of(c.node, key) != value:
                return f"node selector asks for {key}={value}"
        return None

    return check


def _locality(regions: tuple[str, ...], zones: tuple[str, ...]) -> Check:
    def check(c: Candidate) -> str | None:
        if regions and c.node.region not in regions:
            return f"not in the required regions {', '.join(regions)}"
        if zones and c.node.zone not in zones:
            return f"not in the required zones {', '.join(zones)}"
        return None

    return check


def _runtime(spec: WorkloadSpec) -> Check:
    needs: dict[str, tuple[str, ...]] = {}
    for container in spec.containers:
        if container.process:
            needs["no runtime for processes"] = _RUNTIMES_FOR_PROCESSES
        else:
            needs["no runtime for images"] = _RUNTIMES_FOR_IMAGES
        for context in (container.security_context, spec.security_context):
            if context is not None and context.runtime_class_name:
                name = context.runtime_class_name
                needs[f"no runtime class {name}"] = _RUNTIME_OF_CLASS.get(name, (name,))
                break

    def check(c: Candidate) -> str | None:
        for reason, names in needs.items():
            found = [r for r in c.node.device.runtimes if r.name in names]
            if any(r.available for r in found):
                continue
            detail = next((r.detail for r in found if r.detail), "")
            return f"{reason}: {detail}" if detail else reason
        return None

    return check


def _needed_features(spec: WorkloadSpec) -> set[str]:
    needed = set()
    for context in (spec.security_context, *(c.security_context for c in spec.containers)):
        if context is None:
            continue
        for name, profile in (("seccomp", context.seccomp_profile), ("apparmor", context.app_armor_profile)):
            if profile is not None and profile.type not in ("", "Unconfined"):
                needed.add(name)
    return needed


def _features(needed: list[str]) -> Check:
    def check(c: Candidate) -> str | None:
        features = {f.name: f for f in c.node.device.features}
        for name in needed:
            found = features.get(name)
            if found is None or not found.available:
                detail = f": {found.detail}" if found is not None and found.detail else ""
                return f"{name} is not available{detail}"
        return None

    return check


# -- room -------------------------------------------------------------------------------------------------

_FORMAT: Final[dict[str, Callable[[int], str]]] = {
    "cpu_millis": quantity.format_cpu,
    "memory_bytes": quantity.format_bytes,
    "storage_bytes": quantity.format_bytes,
    "egress_bps": quantity.format_bitrate,
    "pids": str,
}


def room_filters(fragment: ResourceAmounts) -> tuple[Filter, ...]:
    """One filter for each resource that a replica asks for."""
    return tuple(_room(name, getattr(fragment, name)) for name in amounts.ACCOUNTED if getattr(fragment, name))


def _room(resource: str, ask: int) -> Filter:
    word = resource.partition("_")[0]
    write = _FORMAT[resource]
    always = resource in amounts.ALWAYS_LIMITED
    insufficient = f"insufficient {word}"

    def check(c: Candidate) -> str | None:
        capacity: int = getattr(c.node.device.capacity, resource)
        if getattr(c.used, resource) + ask <= capacity or not (capacity or always):
            return None
        return insufficient

    def describe(rejected: Sequence[Candidate]) -> str:
        free = [max(0, getattr(c.node.device.capacity, resource) - getattr(c.used, resource)) for c in rejected]
        return f"{insufficient}: asks {write(ask)}, free {'' if len(free) == 1 else 'at most '}{write(max(free))}"

    return Filter(word, check, describe)


def host_port_filter(ports: frozenset[tuple[int, str]]) -> Filter:
    wanted = sorted(ports)

    def check(c: Candidate) -> str | None:
        return next((f"host port {p}/{proto} is taken" for p, proto in wanted if (p, proto) in c.ports), None)

    return Filter("host_ports", check)


# -- company ----------------------------------------------------------------------------------------------


def anti_affinity_filter(term: AntiAffinity, *, workload: str, counts: Counter[str]) -> Filter:
    """`counts` is how many replicas of the term's workload each place holds; it is read at every check, so that
    the caller may let it grow."""

    def check(c: Candidate) -> str | None:
        if not counts[topology.domain_of(c.node, term.topology_key)]:
            return None
        return f"anti-affinity: {term.workload or workload} is in the same {term.topology_key}"

    return Filter("anti_affinity", check)
