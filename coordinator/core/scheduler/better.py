"""Whether another node has become clearly better for a replica than its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cloudless.coordinator.core.scheduler.plan import Board
from cloudless.coordinator.core.scheduler.score import Weights
from cloudless.coordinator.core.state import State
from cloudless.core.model import CandidateScore, NodeUsage, PlacementDecision, Replica, WorkloadRecord
from cloudless.core.replacing import replace

# By how much the score of another node must exceed that of a replica's own. A move costs a start, the connections that
# are open, and room for two meanwhile; it must not be made for what comes and goes. A node that has just been away is
# worth 0.13 less than before, a round trip that grows from 1 ms to 25 ms 0.09. A broken preference is worth at least 1
# (times its weight).
MARGIN: Final = 0.15

# Filters that ask where a replica should be, and which its own node may break by now. The others say whether a node
# takes more work (cordoned, under pressure, full): what is there stays for them.
_WISHES: Final = frozenset({"selector", "locality", "affinity", "anti_affinity", "spread"})


def better_place(
    state: State,
    record: WorkloadRecord,
    replica: Replica,
    *,
    weights: Weights,
    usage: Mapping[str, NodeUsage],
    now_ms: int,
) -> PlacementDecision | None:
    """Where a placed replica of the present generation would be clearly better; None: its own node is good enough.

    Every node is judged as if the replica were nowhere. The other node must score better by `MARGIN` and break no
    preference that the own one honours, or be one where the replica may be while it may not where it is.
    """
    without = state.without_replica(replica.id)

    def board() -> Board:
        return Board(without, record, weights=weights, usage=usage, now_ms=now_ms)

    best = board().place()
    if best.node_id in ("", replica.node_id):
        return None
    there = best.candidates[0]
    here = next((shown for shown in best.candidates if shown.node_id == replica.node_id), None)
    if here is None:
        own = board().place_on(replica.node_id)
        if not own.node_id:
            broken = [rejected.reason for rejected in own.rejections if rejected.filter in _WISHES]
            if not broken:
                return None
            why = f"may not stay on {replica.node_id}: {broken[0]}; {there.node_id} scores {there.total:.3f}"
            return replace(best, summary=f"{why}, best of those that may")
        here = own.candidates[0]
        best = replace(best, candidates=(*best.candidates, here))
    if there.total - here.total < MARGIN or _penalty(there) > _penalty(here):
        return None
    fewer = ", which breaks fewer preferences" if _penalty(there) < _penalty(here) else ""
    told = f"{there.node_id} scores {there.total:.3f} against {here.total:.3f} of {replica.node_id}{fewer}"
    return replace(best, summary=told)


def _penalty(shown: CandidateScore) -> float:
    """What the preferences count that the node breaks."""
    return next((term.value * term.weight for term in shown.terms if term.name == "preference"), 0.0)
