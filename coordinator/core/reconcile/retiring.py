"""Which replicas of a service stop, and when: never so many that fewer than the floor stay available."""

from __future__ import annotations

from collections import Counter
from heapq import heapify, heappop, heappush
from typing import Final

from cloudless.coordinator.core.reconcile.census import Census, Deadlines, owner_evicts
from cloudless.coordinator.core.reconcile.draft import ENTRIES_MAX, Draft
from cloudless.coordinator.core.reconcile.rebalance import note_success
from cloudless.coordinator.core.reconcile.rollout import Course
from cloudless.coordinator.core.reconcile.targets import Targets
from cloudless.core.model import NodeState, Replica, ReplicaPhase
from cloudless.core.spec import ReconnectRule

# How long a drain waits for room elsewhere before it stops a replica that has no replacement.
DRAIN_PATIENCE_MS: Final = 10_000
REBALANCED: Final = "Rebalanced"  # why a replica stops whose place was taken on a better node


class Serving:
    """The replicas that serve while a plan is drawn up: those that it stops count no more.

    A replica of the present generation counts once it is available; one that is to go, as long as it is ready.
    """

    def __init__(self, census: Census) -> None:
        staying = {r.id for r in census.current if r.id in census.available}
        going = (*census.outdated, *census.outdated_leaving, *census.leaving)
        self._ids = staying | {r.id for r in going if r.id in census.ready}

    def __contains__(self, replica: Replica) -> bool:
        return replica.id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def may_lose(self, replica: Replica, *, floor: int) -> bool:
        """Whether at least `floor` serve without it."""
        return replica.id not in self._ids or len(self._ids) - 1 >= floor

    def without(self, replica: Replica) -> None:
        self._ids.discard(replica.id)


def remove_surplus(draft: Draft, serving: Serving, held: list[Replica], surplus: int, *, floor: int) -> None:
    """Stops the least useful replicas: pending ones, those that ended, those that are not ready.

    Among equals the reconnect rule decides when one of them is on a node that had been away, and else the newest
    on the fullest node goes. What is stopped leaves `held`.
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
    since_ms = {r.id: draft.state.nodes[r.node_id].state_since_ms for r in held}
    returned = {r.id for r in held if r.assigned_at_ms < since_ms[r.id]}  # their node went away and came back
    keep_newest = bool(returned) and draft.record.spec.disruption.on_reconnect is ReconnectRule.KEEP_NEWEST

    def usefulness(replica: Replica) -> tuple[int, int, int, int, str]:
        if replica.status.phase in (ReplicaPhase.FAILED, ReplicaPhase.SUCCEEDED):
            rank = 0
        else:
            rank = 3 if replica.id in census.available else 2 if replica.id in census.ready else 1
        age = replica.assigned_at_ms if keep_newest else -replica.assigned_at_ms
        # The copy to give up for a newer one is that which came back last, and none that was never away.
        back = -since_ms[replica.id] if keep_newest and replica.id in returned else 0
        return rank, 0 if returned else -on_node[replica.node_id], back, age, replica.id

    # The usefulness of a replica only grows while others of its node go: a key that is out of date is too low.
    by_id = {replica.id: replica for replica in held}
    least = [usefulness(replica) for replica in held]
    heapify(least)
    gone: set[str] = set()
    while least and len(gone) < min(surplus, ENTRIES_MAX):  # the next plan stops more
        key = heappop(least)
        victim = by_id[key[-1]]
        now = usefulness(victim)
        if now != key:
            heappush(least, now)
            continue
        if not serving.may_lose(victim, floor=floor):
            break
        gone.add(victim.id)
        on_node[victim.node_id] -= 1
        serving.without(victim)
        draft.stop(victim, "Surplus")
    held[:] = [replica for replica in held if replica.id not in gone]


def _node_is_ready(draft: Draft, replica: Replica) -> bool:
    node = draft.state.nodes.get(replica.node_id)
    return node is not None and node.state is NodeState.READY


def retire(draft: Draft, course: Course, aim: Targets, serving: Serving, old: list[Replica]) -> None:
    """Stops replicas of older generations that are more than shall stay: first those that serve nobody, of which only
    so many are waited for as would be restored; then those that serve, as far as the floor allows."""
    census = draft.census
    stable = course.stable.generation if course.stable is not None else 0
    left = len(old)
    # The version that is known to work goes last, and of each version the newest replica goes first.
    order = sorted(old, key=lambda r: (r.generation == stable, r.generation, -r.assigned_at_ms, r.id))
    for replica in order:
        idle = replica.id not in census.ready and replica.id not in census.unsettled
        if idle and left > max(aim.keep, aim.old):
            draft.stop(replica, "Replaced")
            left -= 1
    for replica in order:
        # What would be restored at once is kept, even while others that leave their node still serve beside it.
        enough = left > max(aim.keep, aim.old)
        if enough and replica.id in census.ready and serving.may_lose(replica, floor=aim.floor):
            draft.stop(replica, "Replaced")
            serving.without(replica)
            left -= 1


def release(draft: Draft, deadlines: Deadlines, aim: Targets, serving: Serving) -> None:
    """Stops replicas that leave their node, as far as enough others are available.

    A drain waits for a replacement of each, and where there is no room for one no longer than `DRAIN_PATIENCE_MS`:
    then it goes on, down to `minAvailable`. Where the device's owner evicts, the device stops them anyway, so that
    nothing is gained by waiting. During a rollout what that may cost is accepted of a drain, too.
    """
    census, record = draft.census, draft.record
    desired = record.spec.replicas
    least = min(desired, max(0, record.spec.rollout.min_available))
    floor = max(least, desired - len(census.backing_off))  # what keeps failing holds a drain up for no more than that
    if census.outdated or census.outdated_leaving:
        floor = min(floor, aim.floor)
    nowhere = _without_room(draft)
    waited_since_ms = min((replica.phase_since_ms for replica in nowhere), default=deadlines.now_ms)
    patient = not nowhere or not deadlines.passed(waited_since_ms + DRAIN_PATIENCE_MS)
    for replica in (*census.outdated_leaving, *census.leaving):
        if replica.id in census.moves:
            continue
        if replica.id not in census.ready:
            if replica.id not in census.unsettled:
                draft.stop(replica, why(draft, replica))  # it serves nobody
            continue
        node = draft.state.nodes.get(replica.node_id)
        waits = patient and not (nowhere and node is not None and owner_evicts(node))
        if serving.may_lose(replica, floor=floor if waits else min(floor, least)):
            draft.stop(replica, why(draft, replica))
            serving.without(replica)
    _release_moved(draft, serving, floor=floor)


def _release_moved(draft: Draft, serving: Serving, *, floor: int) -> None:
    """Stops replicas whose successor on a better node is available. There is no hurry with these: nothing but that
    makes them go."""
    census = draft.census
    for replica in census.leaving:
        successor = census.moves.get(replica.id)
        if successor is None or successor.id not in census.available or replica.id in census.unsettled:
            continue
        if serving.may_lose(replica, floor=floor):
            draft.stop(replica, why(draft, replica))
            serving.without(replica)
            note_success(draft)


def _without_room(draft: Draft) -> list[Replica]:
    """The replacements that were found to fit nowhere."""
    waiting = (*draft.census.pending, *draft.census.outdated_pending)
    return [replica for replica in waiting if replica.placement.summary]


def why(draft: Draft, replica: Replica) -> str:
    """The reason for which a replica that is to go is stopped: a CamelCase word."""
    node = draft.state.nodes.get(replica.node_id)
    if node is not None and node.draining:
        return "NodeDraining"
    if replica.generation != draft.record.generation:
        return "Replaced"
    return REBALANCED if replica.id in draft.census.moves else "Evicted"
