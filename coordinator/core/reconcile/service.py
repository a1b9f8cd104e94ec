"""Workloads of type service: so many replicas, wherever they fit.

Replicas of an older generation and those that must leave their node are replaced in the same way: a replacement
starts first (of older ones within `maxSurge`), and the old one stops once enough others are available. Failed
replicas are replaced after a delay; those on nodes that are out of reach for longer than `offlineGrace` at once,
and when such a node returns with its replica still running, `onReconnect` says which copy stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from cloudless.coordinator.core.reconcile.census import Deadlines, next_attempt
from cloudless.coordinator.core.reconcile.draft import Draft
from cloudless.core.model import NodeState, Replica, ReplicaPhase
from cloudless.core.spec import ReconnectRule, Rollout, RolloutStrategy

# How long a drain waits for room elsewhere before it stops a replica that has no replacement.
DRAIN_PATIENCE_MS: Final = 10_000


def plan_service(draft: Draft, deadlines: Deadlines) -> None:
    census, record = draft.census, draft.record
    desired, generation = record.spec.replicas, record.generation
    for replica in (*census.outdated_pending, *_of_older(census.succeeded, generation)):
        draft.stop(replica, "Replaced")
    for replica in _of_older(census.away, generation):
        draft.stop(replica, "Replaced")
    for replica in census.failed:
        draft.stop(replica, "Failed")
    recreate = record.spec.rollout.strategy is RolloutStrategy.RECREATE
    if recreate:
        for replica in (*census.outdated, *census.leaving):
            draft.stop(replica, _why(draft, replica))
    finished = [r for r in census.succeeded if r.generation == generation]
    held = [*census.current, *census.backing_off, *finished]
    missing = desired - len(held) - len(census.pending)
    if missing < 0:
        _remove_surplus(draft, held, -missing)
    if recreate and (census.outdated or census.leaving or any(map(_still_runs, census.stopping))):
        return  # never two copies of one replica: the new ones wait until the last old one is gone
    surge, floor = bounds(record.spec.rollout, desired)
    if census.outdated:
        allowed = desired + surge - len(held) - len(census.pending) - len(census.outdated)
        missing = min(missing, allowed)
    retried = [next_attempt(r, record) for r in census.failed if r.generation == generation]
    attempts = [*sorted(retried, reverse=True), *([0] * max(0, missing))][: max(0, missing)]
    pending = _kept_pending(draft, desired - len(held))
    draft.place_all(
        sorted(pending, key=lambda r: (r.created_at_ms, r.id)),
        attempts,
        ignoring=(*census.failed, *census.away, *census.leaving, *census.outdated),
    )
    _retire(draft, deadlines, floor=floor, desired=desired)


def bounds(rollout: Rollout, desired: int) -> tuple[int, int]:
    """How many replicas a rollout may add, and how many must stay available.

    A rollout that may neither add nor take away could not proceed; it may then add one.
    """
    floor = min(desired, max(desired - max(0, rollout.max_unavailable), rollout.min_available))
    surge = max(0, rollout.max_surge)
    if surge == 0 and floor >= desired:
        surge = 1
    return surge, floor


def _of_older(replicas: Iterable[Replica], generation: int) -> list[Replica]:
    return [replica for replica in replicas if replica.generation != generation]


def _still_runs(stopping: Replica) -> bool:
    return stopping.status.phase not in (ReplicaPhase.FAILED, ReplicaPhase.SUCCEEDED)


def _kept_pending(draft: Draft, room: int) -> list[Replica]:
    """The oldest pending replicas, as many as are wanted beside those that are held."""
    pending = sorted(draft.census.pending, key=lambda r: (r.created_at_ms, r.id))
    return pending[: max(0, room)]


def _remove_surplus(draft: Draft, held: list[Replica], surplus: int) -> None:
    """Stops the least useful replicas: pending ones, those that ended, those that are not ready.

    Among equals the reconnect rule decides when one of them is on a node that had been away, and else the newest
    on the fullest node goes.
    """
    census = draft.census
    pending = sorted(census.pending, key=lambda r: (r.created_at_ms, r.id), reverse=True)
    for replica in pending[:surplus]:
        draft.stop(replica, "Surplus")
    surplus -= min(surplus, len(pending))
    if surplus == 0:
        return
    if any(r.id in census.unsettled and _node_is_ready(draft, r) for r in held):
        return  # what has just come back may be the copy to keep; its report is awaited
    on_node = Counter(r.node_id for r in held)
    returned = any(r.assigned_at_ms < draft.state.nodes[r.node_id].state_since_ms for r in held)
    keep_newest = returned and draft.record.spec.disruption.on_reconnect is ReconnectRule.KEEP_NEWEST

    def usefulness(replica: Replica) -> tuple[int, int, int, str]:
        if replica.status.phase in (ReplicaPhase.FAILED, ReplicaPhase.SUCCEEDED):
            rank = 0
        else:
            rank = 3 if replica.id in census.available else 2 if replica.id in census.ready else 1
        age = replica.assigned_at_ms if keep_newest else -replica.assigned_at_ms
        return rank, 0 if returned else -on_node[replica.node_id], age, replica.id

    for _ in range(surplus):
        victim = min(held, key=usefulness)
        held.remove(victim)
        on_node[victim.node_id] -= 1
        draft.stop(victim, "Surplus")


def _node_is_ready(draft: Draft, replica: Replica) -> bool:
    node = draft.state.nodes.get(replica.node_id)
    return node is not None and node.state is NodeState.READY


def _retire(draft: Draft, deadlines: Deadlines, *, floor: int, desired: int) -> None:
    """Stops outdated and leaving replicas, as far as enough others are available."""
    census = draft.census
    going = [*census.outdated, *census.leaving]
    serving = sum(r.id in census.available for r in census.current) + sum(r.id in census.ready for r in going)
    for replica in going:
        if replica.id not in census.ready and replica.id not in census.unsettled:
            draft.stop(replica, _why(draft, replica))  # it serves nobody
    for replica in sorted(census.outdated, key=lambda r: (r.generation, -r.assigned_at_ms, r.id)):
        if replica.id in census.ready and serving > floor:
            draft.stop(replica, "Replaced")
            serving -= 1
    leaving_floor = max(0, desired - len(census.backing_off))  # what keeps failing must not hold up a drain
    if census.leaving and _nowhere_to_go(draft, deadlines):
        leaving_floor = min(desired, max(0, draft.record.spec.rollout.min_available))
    for replica in census.leaving:
        if replica.id in census.ready and serving > leaving_floor:
            draft.stop(replica, _why(draft, replica))
            serving -= 1


def _nowhere_to_go(draft: Draft, deadlines: Deadlines) -> bool:
    """Whether a replacement has waited for room for so long that the drain goes on without it."""
    return any(
        deadlines.passed(replica.phase_since_ms + DRAIN_PATIENCE_MS)
        for replica in draft.census.pending
        if replica.placement.summary
    )


def _why(draft: Draft, replica: Replica) -> str:
    if replica.generation != draft.record.generation:
        return "Replaced"
    node = draft.state.nodes.get(replica.node_id)
    return "NodeDraining" if node is not None and node.draining else "Evicted"
