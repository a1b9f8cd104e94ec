"""Workloads of type system: one replica on each matching node.

A replica belongs to its node: it does not move. An outdated one is stopped first and replaced once it is gone,
`maxUnavailable` nodes at a time (at least one). While the rollout is paused, a node without a replica gets one of the
stable generation, unless one of the new generation has just failed there.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloudless.coordinator.core.reconcile.census import Deadlines, must_leave, next_attempt, owner_evicts
from cloudless.coordinator.core.reconcile.draft import ENTRIES_MAX, Draft
from cloudless.coordinator.core.reconcile.rollout import Course, follow
from cloudless.coordinator.core.scheduler.kinds import eligible_nodes, matching_nodes
from cloudless.core.model import Replica, ReplicaPhase, WorkloadRevision

_ENDED = (ReplicaPhase.FAILED, ReplicaPhase.SUCCEEDED)


def plan_system(draft: Draft, deadlines: Deadlines) -> None:
    census, record = draft.census, draft.record
    matching = set(matching_nodes(draft.state, record.spec))
    eligible = eligible_nodes(draft.state, record.spec, namespace=record.metadata.namespace)
    course = _course(draft, deadlines, eligible)
    if course.rolls_back:
        return  # the next plan is for the generation that this one makes
    for replica in census.failed:
        draft.stop(replica, "Failed")
    staying: list[Replica] = []
    settled = (
        *census.current,
        *census.leaving,
        *census.outdated,
        *census.outdated_leaving,
        *census.away,
        *census.succeeded,
        *census.backing_off,
        *census.outdated_backing_off,
    )
    taken: set[str] = set()
    for replica in sorted(settled, key=lambda r: (r.assigned_at_ms, r.id)):
        node = draft.state.nodes[replica.node_id]
        if replica.node_id not in matching or must_leave(node, record):
            evicted = "Evicted" if owner_evicts(node) else "NoLongerMatches"
            draft.stop(replica, "NodeDraining" if node.draining else evicted)
        elif replica.node_id in taken:
            draft.stop(replica, "Surplus")
        else:
            staying.append(replica)
            taken.add(replica.node_id)
    if not course.holds:
        taken |= _replace_outdated(draft, staying, eligible)
    taken |= {r.node_id for r in census.stopping if r.status.phase not in _ENDED}
    _fill(draft, course, [node_id for node_id in eligible if node_id not in taken])


def _course(draft: Draft, deadlines: Deadlines, eligible: Sequence[str]) -> Course:
    """How far the rollout is: wanted is an available replica of the new generation on each node that takes work."""
    census = draft.census
    wanted = set(eligible)
    here = {r.node_id for r in census.current if r.id in census.available}
    outdated = (*census.outdated, *census.outdated_backing_off, *census.outdated_pending)
    return follow(draft, deadlines, desired=len(wanted), available=len(here & wanted), outdated=len(outdated))


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
        if replica.status.phase not in _ENDED:
            nodes.add(replica.node_id)
    return nodes


def _is_current(draft: Draft, replica: Replica) -> bool:
    return replica.generation == draft.record.generation


def _fill(draft: Draft, course: Course, targets: Sequence[str]) -> None:
    """One replica for each target: of the present generation, or of the stable one while the rollout is held."""
    stable = course.stable if course.holds else None
    mine = {r.node_id for r in draft.census.failed if _is_current(draft, r)}
    newest = [node_id for node_id in targets if stable is None or node_id in mine]
    _fill_with(draft, newest, draft.census.pending, None)
    held = [r for r in draft.census.outdated_pending if stable is not None and r.generation == stable.generation]
    for replica in draft.census.outdated_pending:
        if replica not in held:
            draft.stop(replica, "Replaced")
    _fill_with(draft, [node_id for node_id in targets if node_id not in newest], held, stable)


def _fill_with(
    draft: Draft, targets: Sequence[str], waiting: Sequence[Replica], revision: WorkloadRevision | None
) -> None:
    """First those that are pending, which belong to no node yet, then new ones."""
    pending = sorted(waiting, key=lambda r: (r.created_at_ms, r.id))
    for replica in pending[len(targets) :]:
        draft.stop(replica, "Surplus")
    if not targets:
        return
    generation = draft.record.generation if revision is None else revision.generation
    attempts = {r.node_id: next_attempt(r, draft.record) for r in draft.census.failed if r.generation == generation}
    board = draft.board_of(revision, ignoring=draft.census.failed)
    for position, node_id in enumerate(targets[:ENTRIES_MAX]):
        decision = board.place_on(node_id)
        if position < len(pending):
            draft.place_pending(pending[position], decision, only_on=node_id)
        else:
            draft.place_new(decision, attempts.get(node_id, 0), generation=generation, only_on=node_id)
