"""Workloads of type system: one replica on each matching node.

A replica belongs to its node: it does not move. An outdated one is stopped first and replaced once it is gone,
`maxUnavailable` nodes at a time (at least one).
"""

from __future__ import annotations

from cloudless.coordinator.core.reconcile.census import must_leave, next_attempt
from cloudless.coordinator.core.reconcile.draft import ENTRIES_MAX, Draft
from cloudless.coordinator.core.scheduler.filters import eligible_nodes, matching_nodes
from cloudless.core.model import Replica, ReplicaPhase

_ENDED = (ReplicaPhase.FAILED, ReplicaPhase.SUCCEEDED)


def plan_system(draft: Draft) -> None:
    census, record = draft.census, draft.record
    matching = set(matching_nodes(draft.state, record.spec))
    eligible = eligible_nodes(draft.state, record.spec)
    for replica in census.outdated_pending:
        draft.stop(replica, "Replaced")
    for replica in census.failed:
        draft.stop(replica, "Failed")
    staying: list[Replica] = []
    settled = (*census.current, *census.leaving, *census.outdated, *census.away, *census.succeeded, *census.backing_off)
    taken: set[str] = set()
    for replica in sorted(settled, key=lambda r: (r.assigned_at_ms, r.id)):
        node = draft.state.nodes[replica.node_id]
        if replica.node_id not in matching or must_leave(node, record):
            draft.stop(replica, "NodeDraining" if node.draining else "NoLongerMatches")
        elif replica.node_id in taken:
            draft.stop(replica, "Surplus")
        else:
            staying.append(replica)
            taken.add(replica.node_id)
    taken |= _replace_outdated(draft, staying, eligible)
    taken |= {r.node_id for r in census.stopping if r.status.phase not in _ENDED}
    _fill(draft, [node_id for node_id in eligible if node_id not in taken])


def _replace_outdated(draft: Draft, staying: list[Replica], eligible: list[str]) -> set[str]:
    """Stops outdated replicas within the rollout's bounds. Their nodes stay taken until they are gone."""
    census, rollout = draft.census, draft.record.spec.rollout
    serving = sum(r.id in (census.available if _is_current(draft, r) else census.ready) for r in staying)
    floor = max(len(eligible) - max(1, rollout.max_unavailable), min(rollout.min_available, len(eligible) - 1))
    nodes = set()
    for replica in staying:
        if _is_current(draft, replica):
            continue
        if replica.id in census.ready:
            if serving <= floor:
                continue
            serving -= 1
        elif replica.id in census.unsettled:
            continue
        draft.stop(replica, "Replaced")
        nodes.add(replica.node_id)
    return nodes


def _is_current(draft: Draft, replica: Replica) -> bool:
    return replica.generation == draft.record.generation


def _fill(draft: Draft, targets: list[str]) -> None:
    """One replica for each target: first those that are pending, which belong to no node yet, then new ones."""
    pending = sorted(draft.census.pending, key=lambda r: (r.created_at_ms, r.id))
    for replica in pending[len(targets) :]:
        draft.stop(replica, "Surplus")
    if not targets:
        return
    attempts = {r.node_id: next_attempt(r, draft.record) for r in draft.census.failed if _is_current(draft, r)}
    board = draft.board(ignoring=draft.census.failed)
    for position, node_id in enumerate(targets[:ENTRIES_MAX]):
        decision = board.place_on(node_id)
        if position < len(pending):
            draft.place_pending(pending[position], decision)
        else:
            draft.place_new(decision, attempts.get(node_id, 0))
