"""Services that ask for it are moved to better nodes, one replica at a time and never in haste.

A workload opts in with the annotation `cloudless.dev/rebalance: "true"`. Where all that it wants is available and
nothing else happens to it, one of its replicas is looked at each minute, each in its turn. If another node is clearly
better (`scheduler.better`), one more replica starts there and takes its place (`core.moves`). What was moved stays for
an hour, so that two workloads of which one wants to be near and the other apart do not chase each other.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from cloudless.coordinator.core import rollouts, versions
from cloudless.coordinator.core.reconcile.census import Census, Deadlines
from cloudless.coordinator.core.reconcile.draft import Draft
from cloudless.coordinator.core.reconcile.targets import bounds
from cloudless.core.annotation_rules import rebalances
from cloudless.core.model import NodeState, Replica, RolloutProgress, WorkloadRecord
from cloudless.core.replacing import replace
from cloudless.core.spec import RolloutStrategy

SCHEMA: Final = 3  # of entries that say what a replica replaces
LOOK_EVERY_MS: Final = 60_000
QUIET_MS: Final = 60_000  # for so long nothing has happened to any of the replicas
STAYS_MS: Final = 3_600_000  # for so long a replica that was moved is not moved again
DEADLINE_MS: Final = 10 * 60_000  # for the new replica to become ready, where the rollout states none
# A look is due at the beginning of the workload's minute. Whatever makes the workload be looked at later in it need
# not lead to another look: that is what makes it one a minute, without a memory of the last one.
_LOOK_WITHIN_MS: Final = 10_000
_FAILURES_MAX: Final = 6  # more do not lengthen the pause any more
_PAUSE_MS_MAX: Final = 3_600_000  # after moves that failed


def rebalance(draft: Draft, deadlines: Deadlines) -> None:
    """Begins a move where one is due and worth it. To be called with a draft that wants nothing else."""
    record = draft.record
    progress = _progress(record)
    if progress is None or not _may_move(draft, progress):
        return
    now_ms = deadlines.now_ms
    shifted_ms = now_ms + crc32("/".join((record.metadata.namespace, record.metadata.name)).encode()) % LOOK_EVERY_MS
    look, into_ms = divmod(shifted_ms, LOOK_EVERY_MS)
    deadlines.passed(now_ms - into_ms + LOOK_EVERY_MS)
    settled = sorted(draft.census.current, key=lambda r: r.id)
    changed_ms = max(max(r.assigned_at_ms, r.phase_since_ms) for r in settled)
    if into_ms >= _LOOK_WITHIN_MS or now_ms < max(changed_ms + QUIET_MS, _retry_at_ms(progress)):
        return
    if versions.schema_of_all(draft.state) < SCHEMA:
        return  # and nobody says when the last member was upgraded
    replica = settled[look % len(settled)]
    if not replica.replaces or now_ms >= replica.assigned_at_ms + STAYS_MS:
        draft.move_if_better(replica)


def note_failures(draft: Draft, deadlines: Deadlines) -> None:
    """Counts moves that came to nothing, and ends one whose new replica does not become ready in time."""
    census = draft.census
    failed = [r for r in census.failed if r.replaces and r.generation == draft.record.generation]
    if failed:
        there = {replica.id for replica in census.current}
        failed = [replica for replica in failed if replica.replaces in there]
    limit_ms = draft.record.spec.rollout.progress_deadline_ms or DEADLINE_MS
    overdue = [
        successor
        for successor in census.moves.values()
        if successor.id not in census.ready
        and successor.id not in census.unsettled
        and deadlines.passed(successor.assigned_at_ms + limit_ms)
    ]
    for replica in overdue:
        draft.stop(replica, "NotReadyInTime")
    progress = _progress(draft.record)
    if progress is not None and (failed or overdue):
        count = min(progress.moves_failed + 1, _FAILURES_MAX)
        draft.note_rollout(replace(progress, moves_failed=count, move_failed_at_ms=draft.now_ms))


def note_success(draft: Draft) -> None:
    """A move came to its end: those that did not before are forgotten."""
    progress = _progress(draft.record)
    if progress is not None and progress.moves_failed:
        draft.note_rollout(replace(progress, moves_failed=0, move_failed_at_ms=0))


def _progress(record: WorkloadRecord) -> RolloutProgress | None:
    """The rollout of the present generation, if it is complete; None: nothing is moved or remembered meanwhile."""
    progress = record.rollout
    if progress is None or progress.generation != record.generation or not rollouts.is_complete(progress):
        return None
    return progress


def _retry_at_ms(progress: RolloutProgress) -> int:
    if not progress.moves_failed:
        return 0
    return progress.move_failed_at_ms + min(_PAUSE_MS_MAX, LOOK_EVERY_MS << min(progress.moves_failed, _FAILURES_MAX))


def _may_move(draft: Draft, progress: RolloutProgress) -> bool:
    record = draft.record
    if not rebalances(record.metadata) or progress.paused:
        return False
    rollout = record.spec.rollout
    if rollout.strategy is RolloutStrategy.RECREATE or not bounds(rollout, record.spec.replicas)[0]:
        return False  # there must never be one more than is wanted
    return _is_settled(draft, draft.census)


def _is_settled(draft: Draft, census: Census) -> bool:
    """Whether every replica that is wanted is available where it is, and there is no other."""
    others = (
        *(census.lost, census.stopping, census.pending, census.outdated_pending, census.failed, census.backing_off),
        *(census.succeeded, census.away, census.leaving, census.outdated, census.outdated_leaving),
        *(census.outdated_backing_off, census.unsettled),
    )
    wanted = draft.record.spec.replicas
    if wanted == 0 or any(others) or len(census.current) != wanted:
        return False
    return all(_is_available(draft, replica) for replica in census.current)


def _is_available(draft: Draft, replica: Replica) -> bool:
    node = draft.state.nodes[replica.node_id]
    return replica.id in draft.census.available and node.state is NodeState.READY
