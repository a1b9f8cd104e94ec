"""What goes into the log of a node beside its state: how steady it is, when it is online, how its clock goes.

Only where every coordinator understands it (schema 3): an older one would lose it, and hold another state from then on.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

from cloudless.coordinator.core import online_hours, reliability, versions
from cloudless.coordinator.core.commands import ReportNode
from cloudless.coordinator.core.liveness import LEFT
from cloudless.coordinator.core.state import State
from cloudless.core.model import DeviceInfo, Node, NodeState, ReplicaPhase, ReplicaStatus
from cloudless.core.replacing import replace

SCHEMA: Final = 3
REFRESH_MS: Final = 6 * 3_600_000
_SPREAD_MS: Final = 3_600_000
SKEW_STEP_MS: Final = 1_000  # a clock that moved by less is not recorded again
_NOT_STARTED: Final = frozenset({ReplicaPhase.ASSIGNED, ReplicaPhase.PREPARING, ReplicaPhase.STARTING})


def is_understood(state: State) -> bool:
    """Whether every coordinator knows entries that tell of it."""
    return versions.schema_of_all(state) >= SCHEMA


def recordable(device: DeviceInfo, state: State) -> DeviceInfo:
    """The device's description, without what some coordinator would lose."""
    return device if device.owner is None or is_understood(state) else replace(device, owner=None)


def with_health(report: ReportNode, state: State, *, now_ms: int, failed_starts: int = 0) -> ReportNode:
    """The report, with the node's records as they are at `now_ms` (wall clock). A node that is not known has none."""
    node = state.nodes.get(report.node_id)
    if node is None or not is_understood(state):
        return report
    becomes = report.state or node.state or NodeState.ENROLLING
    fell_silent = node.state is NodeState.READY and becomes is NodeState.UNREACHABLE
    record = reliability.observed(
        node,
        now_ms=now_ms,
        state=becomes,
        lost=fell_silent and not report.reason.startswith(LEFT),
        failed_starts=failed_starts,
    )
    presence = online_hours.observed(node, now_ms=now_ms)
    return replace(report, reliability=record, presence=presence)


def skew_to_record(node: Node, skew_ms: int, state: State) -> int | None:
    """How far the node's clock is ahead, where that is news."""
    return skew_ms if abs(skew_ms - node.clock_skew_ms) > SKEW_STEP_MS and is_understood(state) else None


def failed_to_start(was: ReplicaStatus, status: ReplicaStatus) -> bool:
    """Whether the replica ended without having run: an image that cannot be had, a runtime that fails."""
    return status.phase is ReplicaPhase.FAILED and was.phase in _NOT_STARTED


def to_refresh(nodes: Iterable[Node], *, now_ms: int) -> list[str]:
    """The nodes whose records are old though nothing happens to them, the oldest first. Each has a time of its own
    after `REFRESH_MS`, so that nodes that came together do not come up together."""
    due: list[tuple[int, str]] = []
    for node in nodes:
        if node.reliability is None:
            if node.state is NodeState.READY:
                due.append((0, node.id))
            continue
        due_ms = node.reliability.updated_at_ms + REFRESH_MS + zlib.crc32(node.id.encode()) % _SPREAD_MS
        if node.reliability.first_ready_at_ms and now_ms >= due_ms:
            due.append((due_ms, node.id))
    return [node_id for _, node_id in sorted(due)]
