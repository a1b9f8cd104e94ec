"""Host ports that replicas of one workload may share on a node.

An agent with the feature leads connections to a shared port to each ready replica in turn, so that a rolling update may
start the next replica beside the one that it replaces. Only the runtime of images can: a process binds the port itself.
Replicas of different workloads never share.
"""

from __future__ import annotations

from typing import Final

from cloudless.coordinator.core import amounts
from cloudless.core.model import Node
from cloudless.core.spec import WorkloadSpec

FEATURE: Final = "containerd.shared-host-ports"
SCHEMA: Final = 3  # of the log entries that say that a replica shares


def can_share(node: Node) -> bool:
    """Whether the node's agent has said that it can."""
    return any(feature.name == FEATURE and feature.available for feature in node.device.features)


def may_share(spec: WorkloadSpec) -> bool:
    """Whether replicas of this spec take host ports that they may share."""
    return bool(amounts.host_ports_of(spec)) and all(container.image for container in spec.containers)
