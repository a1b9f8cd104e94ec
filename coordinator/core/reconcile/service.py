"""Workloads of type service: so many replicas, wherever they fit.

Replicas of an older generation and those that must leave their node are replaced in the same way: a replacement
starts first (of older ones within `maxSurge`), and the old one stops once enough others are available. Failed
replicas are replaced after a delay; those on nodes that are out of reach for longer than `offlineGrace` at once,
and when such a node returns with its replica still running, `onReconnect` says which copy stays.

While a new generation is on its way, what fails of the old ones is restored in the stable generation as long as the
new one does not serve in its place: a version that never works costs no availability, whatever else happens.
"""

from __future__ import annotations

from collections.abc import Iterable

from cloudless.coordinator.core.reconcile.census import Census, Deadlines, next_attempt
from cloudless.coordinator.core.reconcile.draft import Draft
from cloudless.coordinator.core.reconcile.rebalance import note_failures, rebalance
from cloudless.coordinator.core.reconcile.retiring import (
    DRAIN_PATIENCE_MS,
    Serving,
    release,
    remove_surplus,
    retire,
    why,
)
from cloudless.coordinator.core.reconcile.rollout import Course, follow
from cloudless.coordinator.core.reconcile.targets import Targets, bounds, targets
from cloudless.core.model import Replica, ReplicaPhase
from cloudless.core.replacing import replace
from cloudless.core.spec import RolloutStrategy

__all__ = ["DRAIN_PATIENCE_MS", "bounds", "plan_service"]


def plan_service(draft: Draft, deadlines: Deadlines, *, rebalancing: bool = True) -> None:
    """With `rebalancing`, replicas of workloads that ask for it may be moved where they are better off."""
    census, record = draft.census, draft.record
    course = _course(draft, deadlines)
    if course.rolls_back:
        return  # the next plan is for the generation that this one makes
    for replica in (*_of_older(census.succeeded, record.generation), *_of_older(census.away, record.generation)):
        draft.stop(replica, "Replaced")
    for replica in census.failed:
        draft.stop(replica, "Failed")
    note_failures(draft, deadlines)
    if record.spec.rollout.strategy is RolloutStrategy.RECREATE:
        course = _without_hold(course) if not _outdated(census) else course
        if not course.holds and _recreate(draft):
            return  # never two copies of one replica: the new ones wait until the last old one is gone
    finished = [r for r in census.succeeded if r.generation == record.generation]
    held = [*census.current, *census.backing_off, *finished]
    aim = targets(
        record,
        course,
        held=len(held) + len(census.pending),
        gone=_gone(draft, held),
        old=len(census.outdated) + len(census.outdated_backing_off) + len(census.outdated_pending),
        available=_available(census),
    )
    serving = Serving(census)
    missing = aim.new - len(held) - len(census.pending)
    if missing < 0:
        remove_surplus(draft, serving, held, -missing, floor=aim.floor)
    old, old_pending = _kept_old(draft, course, aim)
    room = aim.total - len(held) - min(len(census.pending), max(0, aim.new - len(held))) - len(old) - len(old_pending)
    room -= _place_old(draft, course, old_pending, wanted=aim.old - len(old), room=room)
    retried = [next_attempt(r, record) for r in census.failed if r.generation == record.generation]
    fresh = max(0, min(missing, room))
    attempts = [*sorted(retried, reverse=True), *([0] * fresh)][:fresh]
    draft.place_all(_kept_pending(draft, aim.new - len(held)), attempts, ignoring=_going(census))
    release(draft, deadlines, aim, serving)
    retire(draft, course, aim, serving, old)
    if rebalancing:
        rebalance(draft, deadlines)


def _course(draft: Draft, deadlines: Deadlines) -> Course:
    census = draft.census
    outdated = _outdated(census) + len(census.outdated_pending)
    return follow(draft, deadlines, desired=draft.record.spec.replicas, available=_available(census), outdated=outdated)


def _outdated(census: Census) -> int:
    return len(census.outdated) + len(census.outdated_leaving) + len(census.outdated_backing_off)


def _available(census: Census) -> int:
    return sum(r.id in census.available for r in (*census.current, *census.leaving))


def _gone(draft: Draft, held: list[Replica]) -> int:
    """How many replicas of the present generation failed or were lost, and have no replacement yet. One that is out of
    reach stays on record; what was created since then replaces it."""
    census, record = draft.census, draft.record
    present = record.generation
    gone = sum(r.generation == present and not r.stopping for r in (*census.failed, *census.lost))
    away = [draft.state.nodes[r.node_id].state_since_ms for r in census.away if r.generation == present]
    if not away:
        return gone
    since_ms = min(away) + record.spec.disruption.offline_grace_ms
    return gone + max(0, len(away) - sum(r.created_at_ms >= since_ms for r in (*held, *census.pending)))


def _going(census: Census) -> list[Replica]:
    """What is on its way out, and does not count when places for others are chosen."""
    return [*census.failed, *census.away, *census.leaving, *census.outdated, *census.outdated_leaving]


def _without_hold(course: Course) -> Course:
    """Recreate stops everything first: once that is done, there is nothing left to hold on to."""
    return replace(course, stable=None)


def _recreate(draft: Draft) -> bool:
    """Stops what is to go; whether something still runs of it."""
    census = draft.census
    going = [*census.outdated, *census.outdated_leaving, *census.outdated_backing_off, *census.leaving]
    for replica in (*census.outdated_pending, *going):
        draft.stop(replica, why(draft, replica))
    return bool(going) or any(map(_still_runs, census.stopping))


def _of_older(replicas: Iterable[Replica], generation: int) -> list[Replica]:
    return [replica for replica in replicas if replica.generation != generation]


def _still_runs(stopping: Replica) -> bool:
    return stopping.status.phase not in (ReplicaPhase.FAILED, ReplicaPhase.SUCCEEDED)


def _kept_pending(draft: Draft, room: int) -> list[Replica]:
    """The oldest pending replicas, as many as are wanted beside those that are held."""
    pending = sorted(draft.census.pending, key=lambda r: (r.created_at_ms, r.id))
    return pending[: max(0, room)]


def _kept_old(draft: Draft, course: Course, aim: Targets) -> tuple[list[Replica], list[Replica]]:
    """The replicas of older generations that count: those that serve or may come to, and of those that are placed
    nowhere as many as are wanted. The rest is stopped: what serves nobody and is not what a rollout goes back to."""
    census = draft.census
    stable = course.stable.generation if course.stable is not None else None
    old = []
    for replica in (*census.outdated, *census.outdated_backing_off):
        of_use = replica.id in census.ready or replica.id in census.unsettled
        if of_use or replica.generation == stable or course.holds:
            old.append(replica)
        else:
            draft.stop(replica, "Replaced")
    pending = sorted(census.outdated_pending, key=lambda r: (r.created_at_ms, r.id))
    kept = [r for r in pending if r.generation == stable][: max(0, aim.old - len(old))]
    for replica in pending:
        if replica not in kept:
            draft.stop(replica, "Replaced")
    return old, kept


def _place_old(draft: Draft, course: Course, pending: list[Replica], *, wanted: int, room: int) -> int:
    """Restores replicas of the stable generation; how many new ones that makes."""
    census, stable = draft.census, course.stable
    if stable is None or (not pending and wanted <= 0):
        return 0
    failed = [next_attempt(r, draft.record) for r in census.failed if r.generation == stable.generation]
    fresh = max(0, min(wanted - len(pending), room))
    attempts = [*sorted(failed, reverse=True), *([0] * fresh)][:fresh]
    leaving = (*census.failed, *census.away, *census.leaving, *census.outdated_leaving)
    draft.place_all(pending, attempts, leaving, revision=stable)
    return fresh
