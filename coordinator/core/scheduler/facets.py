"""What filters look at of a node: facets, each of which has few different values among many nodes.

A filter judges a value, not a node. With many nodes each value is judged once, and the answer is looked up for
every node that has it; the reasons are the same as if each node had been asked.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from cloudless.coordinator.core.scheduler import topology
from cloudless.core.model import Node, NodeUsage

VALUE: Final = "value/"  # of a key, as a node selector compares it: value/arch
DOMAIN: Final = "domain/"  # the place along a topology key: domain/zone
PRESSURE: Final = "pressure"  # the only one that live use decides


def _owner(node: Node) -> Hashable:
    terms = node.device.owner
    return None if terms is None else (terms.accepting, terms.not_accepting_reason, terms.namespaces)


_READERS: Final[dict[str, Callable[[Node], Hashable]]] = {
    "state": lambda node: node.state,
    "cordon": lambda node: (node.draining, node.cordoned),
    "owner": _owner,
    "taints": lambda node: node.taints,
    "runtimes": lambda node: node.device.runtimes,
    "features": lambda node: node.device.features,
    "place": lambda node: (node.region, node.zone),
}


def reader(facet: str) -> Callable[[Node], Hashable]:
    """How to read a facet other than `PRESSURE` of a node. Raises KeyError for a name that is no facet."""
    if facet.startswith(VALUE):
        key = facet.removeprefix(VALUE)
        return lambda node: topology.value_of(node, key)
    if facet.startswith(DOMAIN):
        key = facet.removeprefix(DOMAIN)
        return lambda node: topology.domain_of(node, key)
    return _READERS[facet]


def value(facet: str, node: Node, usage: NodeUsage | None) -> Hashable:
    """The facet's value of one node."""
    if facet == PRESSURE:
        return pressure(usage)
    return reader(facet)(node)


def pressure(usage: NodeUsage | None) -> tuple[str, ...]:
    return () if usage is None else usage.pressure
