"""Where a node is, in the words of a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cloudless.core.model import Node

_NODE_KEYS: Final = ("node", "hostname")


def built_in(node: Node, key: str) -> str | None:
    """The value of a key that every node has without a label; None for other keys."""
    match key:
        case "node" | "hostname":
            return node.id
        case "zone":
            return node.zone
        case "region":
            return node.region
        case "arch":
            return node.device.arch
        case "os":
            return node.device.os
        case "class":
            return node.device.device_class or ""
    if key.startswith("feature/"):
        name = key.removeprefix("feature/")
        return "true" if any(f.name == name and f.available for f in node.device.features) else "false"
    return None


def value_of(node: Node, key: str) -> str | None:
    """What a node selector compares; None when the node has nothing of this key. An administrator's label wins over a
    built-in key, and that over the device's own labels: no device moves itself to another zone."""
    label = node.labels.get(key)
    if label is None:
        label = built_in(node, key)
    return node.device.labels.get(key) if label is None else label


def labels_of(node: Node) -> Mapping[str, str]:
    """The labels that a node is listed by: the device's own under those of administrators."""
    return {**node.device.labels, **node.labels} if node.device.labels else node.labels


def domain_of(node: Node, topology_key: str) -> str:
    """The place of a node along a topology key. Nodes without a value share one place: they may be together."""
    if topology_key in _NODE_KEYS:
        return node.id
    if topology_key == "zone":
        return f"{node.region}/{node.zone}"  # zones of two regions may have the same name
    return value_of(node, topology_key) or ""
