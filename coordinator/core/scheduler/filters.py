"""Filters: each says of a node why it cannot take a replica, or nothing.

A filter is a pure function of facets of a node (`facets`); those that a spec gives no cause for are left out. Every
filter looks at every node, so that an explanation is complete: the first failing one is a node's main obstacle, the
others are what would come next. Room and company (`company`) depend on what is placed already, and come after these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloudless.coordinator.core import amounts
from cloudless.coordinator.core.scheduler.facets import PRESSURE, VALUE
from cloudless.core import quantity
from cloudless.core.model import NodeState, Taint
from cloudless.core.spec import ResourceAmounts, TaintEffect, Toleration, WorkloadSpec

_RUNTIMES_FOR_IMAGES: Final = ("containerd", "fake")
_RUNTIMES_FOR_PROCESSES: Final = ("process", "fake")
_RUNTIME_OF_CLASS: Final = {"runc": ("containerd", "fake"), "process": ("process", "fake")}

Check = Callable[[Any], str | None]


@dataclass(frozen=True, slots=True)
class Part:
    """`check` returns the reason against a value of the facet, or None. With `equals` it objects, always in the same
    words, to every value but that one."""

    facet: str
    check: Check
    equals: str | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """A node fails it by the first of the parts that objects."""

    name: str
    parts: tuple[Part, ...]


def static_filters(spec: WorkloadSpec, namespace: str) -> tuple[Filter, ...]:
    """The filters whose answer does not change while replicas are placed."""
    return (*condition_filters(namespace), Filter("pressure", (Part(PRESSURE, _pressure),)), *kind_filters(spec))


def condition_filters(namespace: str | None) -> tuple[Filter, ...]:
    """Whether a node takes new work at present, as far as the log knows. Without a namespace, owners' words about
    namespaces are left out."""
    return (
        Filter("ready", (Part("state", _ready),)),
        Filter("cordoned", (Part("cordon", _cordoned),)),
        Filter("owner", (Part("owner", _owner(namespace)),)),
    )


def kind_filters(spec: WorkloadSpec) -> tuple[Filter, ...]:
    """Whether a node is of the kind that the spec asks for."""
    return tuple(_kind_filters(spec))


def _kind_filters(spec: WorkloadSpec) -> Iterator[Filter]:
    placement = spec.placement
    yield Filter("taints", (Part("taints", _taints(placement.tolerations)),))
    if placement.node_selector:
        wanted = sorted(placement.node_selector.items())
        yield Filter("selector", tuple(Part(VALUE + key, _equals(key, value), value) for key, value in wanted))
    if placement.required and (placement.regions or placement.zones):
        yield Filter("locality", (Part("place", _locality(placement.regions, placement.zones)),))
    yield Filter("runtime", (Part("runtimes", _runtime(spec)),))
    needed = sorted(_needed_features(spec))
    if needed:
        yield Filter("features", (Part("features", _features(needed)),))


# -- condition --------------------------------------------------------------------------------------------


def _ready(state: NodeState | None) -> str | None:
    if state is NodeState.READY:
        return None
    return "never connected" if state in (None, NodeState.ENROLLING) else f"node is {state}"


def _cordoned(cordon: tuple[bool, bool]) -> str | None:
    draining, cordoned = cordon
    if draining:
        return "draining"
    return "cordoned" if cordoned else None


def _owner(namespace: str | None) -> Check:
    def check(terms: tuple[bool, str, tuple[str, ...]] | None) -> str | None:
        if terms is None:
            return None
        accepting, reason, namespaces = terms
        if not accepting:
            return f"its owner admits no work now: {reason or 'NotAccepting'}"
        if namespaces and namespace is not None and namespace not in namespaces:
            return f"its owner admits only the namespaces {', '.join(namespaces)}"
        return None

    return check


def _pressure(pressure: tuple[str, ...]) -> str | None:
    return f"under pressure: {', '.join(pressure)}" if pressure else None


# -- kind -------------------------------------------------------------------------------------------------


def tolerates(tolerations: Sequence[Toleration], taint: Taint) -> bool:
    """Whether one of the tolerations covers the taint (the rule of Kubernetes)."""
    for t in tolerations:
        if t.effect not in (None, taint.effect) or (t.key and t.key != taint.key):
            continue
        if t.operator == "Exists" or (t.key and t.value == taint.value):
            return True
    return False


def untolerated(tolerations: Sequence[Toleration], taints: Sequence[Taint]) -> list[Taint]:
    """The taints that keep a replica with these tolerations away."""
    return [
        taint
        for taint in taints
        if taint.effect is not TaintEffect.PREFER_NO_SCHEDULE and not tolerates(tolerations, taint)
    ]


def _taints(tolerations: tuple[Toleration, ...]) -> Check:
    def check(taints: tuple[Taint, ...]) -> str | None:
        for taint in untolerated(tolerations, taints):
            value = f"={taint.value}" if taint.value else ""
            return f"taint {taint.key}{value}:{taint.effect} is not tolerated"
        return None

    return check


def _equals(key: str, wanted: str) -> Check:
    def check(value: str | None) -> str | None:
        return None if value == wanted else f"node selector asks for {key}={wanted}"

    return check


def _locality(regions: tuple[str, ...], zones: tuple[str, ...]) -> Check:
    def check(place: tuple[str, str]) -> str | None:
        region, zone = place
        if regions and region not in regions:
            return f"not in the required regions {', '.join(regions)}"
        if zones and zone not in zones:
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

    def check(runtimes: Any) -> str | None:
        for reason, names in needs.items():
            found = [r for r in runtimes if r.name in names]
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
    def check(value: Any) -> str | None:
        features = {f.name: f for f in value}
        for name in needed:
            found = features.get(name)
            if found is None or not found.available:
                detail = f": {found.detail}" if found is not None and found.detail else ""
                return f"{name} is not available{detail}"
        return None

    return check


# -- room -------------------------------------------------------------------------------------------------

FORMAT: Final[dict[str, Callable[[int], str]]] = {
    "cpu_millis": quantity.format_cpu,
    "memory_bytes": quantity.format_bytes,
    "storage_bytes": quantity.format_bytes,
    "egress_bps": quantity.format_bitrate,
    "pids": str,
}


@dataclass(frozen=True, slots=True)
class Room:
    """The filter of one resource that a replica asks for."""

    resource: str
    row: int  # its place among `amounts.ACCOUNTED`
    ask: int

    @property
    def name(self) -> str:
        return self.resource.partition("_")[0]

    @property
    def always(self) -> bool:
        """Whether a device that states none of it has none."""
        return self.resource in amounts.ALWAYS_LIMITED

    def lacks(self, *, used: int, capacity: int) -> bool:
        return self.ask > capacity - used and (capacity > 0 or self.always)

    def reason(self, *, free: int, nodes: int) -> str:
        """In words, for nodes of which none has more free than `free`."""
        write = FORMAT[self.resource]
        least = "" if nodes == 1 else "at most "
        return f"insufficient {self.name}: asks {write(self.ask)}, free {least}{write(max(0, free))}"


def rooms(fragment: ResourceAmounts) -> tuple[Room, ...]:
    """One filter for each resource that a replica asks for."""
    asked = ((name, row, getattr(fragment, name)) for row, name in enumerate(amounts.ACCOUNTED))
    return tuple(Room(name, row, ask) for name, row, ask in asked if ask)


def host_port_reason(taken: Sequence[tuple[int, str]]) -> str:
    """The words against a node where these of the ports asked for are held, of which there is at least one."""
    port, protocol = min(taken)
    return f"host port {port}/{protocol} is taken"
