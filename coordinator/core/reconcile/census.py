"""A workload's replicas sorted by condition: what the deciders look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cloudless.coordinator.core.scheduler.filters import tolerates
from cloudless.coordinator.core.state import State
from cloudless.core.model import Node, NodeState, Replica, ReplicaPhase, WorkloadRecord
from cloudless.core.spec import Backoff, TaintEffect

# After a node came back, what is recorded of its replicas is from before; its fresh report arrives within this.
SETTLE_MS: Final = 3_000

_ATTEMPTS_MAX: Final = 32  # more would not lengthen any delay
_DEFAULT_BACKOFF: Final = Backoff(initial_ms=1_000, max_ms=5 * 60_000, reset_ms=10 * 60_000)


@dataclass(slots=True)
class Deadlines:
    """Collects the times at which a decision may change by itself."""

    now_ms: int
    earliest_ms: int | None = None

    def passed(self, at_ms: int) -> bool:
        """Whether the time has come; if not, the workload is to be looked at again then."""
        if at_ms <= self.now_ms:
            return True
        self.earliest_ms = at_ms if self.earliest_ms is None else min(at_ms, self.earliest_ms)
        return False


@dataclass(slots=True)
class Census:
    """Each replica of the workload is in exactly one of the lists; each list is ordered by id."""

    lost: list[Replica] = field(default_factory=list)  # on a node that is lost; to be given up
    given_up: list[Replica] = field(default_factory=list)  # already marked lost
    stopping: list[Replica] = field(default_factory=list)
    pending: list[Replica] = field(default_factory=list)  # of the present generation, placed nowhere
    outdated_pending: list[Replica] = field(default_factory=list)
    failed: list[Replica] = field(default_factory=list)  # ended in failure, to be replaced now
    backing_off: list[Replica] = field(default_factory=list)  # ended in failure, to be replaced later
    succeeded: list[Replica] = field(default_factory=list)
    away: list[Replica] = field(default_factory=list)  # on a node that has been unreachable for too long
    current: list[Replica] = field(default_factory=list)  # of the present generation, to stay where they are
    leaving: list[Replica] = field(default_factory=list)  # of the present generation, to move off their node
    outdated: list[Replica] = field(default_factory=list)  # of an older generation, on a node within reach
    outdated_leaving: list[Replica] = field(default_factory=list)  # of an older generation, to move off their node
    outdated_backing_off: list[Replica] = field(default_factory=list)  # of an older one, ended in failure; for later
    ready: set[str] = field(default_factory=set)  # ids that serve now
    available: set[str] = field(default_factory=set)  # ids that have served for as long as a rollout asks
    unsettled: set[str] = field(default_factory=set)  # ids of which nothing fresh is known
    moves: dict[str, Replica] = field(default_factory=dict)  # id of one that leaves for a better node: its successor


def take(state: State, record: WorkloadRecord, deadlines: Deadlines) -> Census:
    census = Census()
    for replica in state.replicas_of(record.metadata.namespace, record.metadata.name):
        node = state.nodes.get(replica.node_id)
        if replica.status.phase is ReplicaPhase.LOST:
            census.given_up.append(replica)
        elif node is not None and node.state is NodeState.LOST:
            census.lost.append(replica)
        elif replica.stopping:
            census.stopping.append(replica)
        elif node is None:
            current = replica.generation == record.generation
            (census.pending if current else census.outdated_pending).append(replica)
        else:
            _placed(census, replica, node, record, deadlines)
    _follow_moves(census)
    return census


def _follow_moves(census: Census) -> None:
    """One that is to be moved leaves its node for as long as its successor is there to stay; when that fails or goes
    away, it stays after all, and nothing more is needed."""
    successors = [replica for replica in census.current if replica.replaces]
    if not successors:
        return
    staying = {replica.id for replica in census.current}
    census.moves = {r.replaces: r for r in successors if r.replaces in staying}
    if census.moves:
        moved = [r for r in census.current if r.id in census.moves]
        census.current = [r for r in census.current if r.id not in census.moves]
        census.leaving = sorted((*census.leaving, *moved), key=lambda r: r.id)


def _placed(census: Census, replica: Replica, node: Node, record: WorkloadRecord, deadlines: Deadlines) -> None:
    phase = replica.status.phase
    outdated = replica.generation != record.generation
    if phase is ReplicaPhase.FAILED:
        if deadlines.passed(retry_at_ms(replica, record)):
            census.failed.append(replica)
        else:
            (census.outdated_backing_off if outdated else census.backing_off).append(replica)
        return
    if phase is ReplicaPhase.SUCCEEDED:
        census.succeeded.append(replica)
        return
    if node.state is not NodeState.READY:
        census.unsettled.add(replica.id)
        if deadlines.passed(node.state_since_ms + record.spec.disruption.offline_grace_ms):
            census.away.append(replica)
            return
    elif replica.assigned_at_ms < node.state_since_ms and not deadlines.passed(node.state_since_ms + SETTLE_MS):
        census.unsettled.add(replica.id)
    elif phase is ReplicaPhase.READY:
        census.ready.add(replica.id)
        if deadlines.passed(replica.phase_since_ms + record.spec.rollout.min_ready_ms):
            census.available.add(replica.id)
    if must_leave(node, record):
        (census.outdated_leaving if outdated else census.leaving).append(replica)
    else:
        (census.outdated if outdated else census.current).append(replica)


def owner_evicts(node: Node) -> bool:
    """Whether the device's owner wants it to run nothing now; the device stops what is left on it by itself."""
    return node.device.owner is not None and node.device.owner.evicting


def must_leave(node: Node, record: WorkloadRecord) -> bool:
    """Whether the node no longer keeps the workload's replicas: it drains, its owner wants it back, or it has a
    NoExecute taint for them."""
    return (
        node.draining
        or owner_evicts(node)
        or any(
            taint.effect is TaintEffect.NO_EXECUTE and not tolerates(record.spec.placement.tolerations, taint)
            for taint in node.taints
        )
    )


def _backoff(record: WorkloadRecord) -> Backoff:
    stated = record.spec.restart_policy.backoff
    return Backoff(
        initial_ms=stated.initial_ms or _DEFAULT_BACKOFF.initial_ms,
        max_ms=stated.max_ms or _DEFAULT_BACKOFF.max_ms,
        reset_ms=stated.reset_ms or _DEFAULT_BACKOFF.reset_ms,
    )


def retry_at_ms(failed: Replica, record: WorkloadRecord) -> int:
    """When a failed replica may be replaced: the first one at once, then after a delay that doubles with each
    failure in a row, so that what fails wherever it is put does not keep the fabric busy."""
    attempts = next_attempt(failed, record) - 1
    if attempts <= 0:
        return failed.phase_since_ms
    backoff = _backoff(record)
    return failed.phase_since_ms + min(backoff.max_ms, backoff.initial_ms << (attempts - 1))


def next_attempt(failed: Replica, record: WorkloadRecord) -> int:
    """How many failures in a row the replacement of a failed replica follows."""
    lived_ms = failed.phase_since_ms - failed.assigned_at_ms
    before = 0 if lived_ms >= _backoff(record).reset_ms else failed.attempt
    return min(before + 1, _ATTEMPTS_MAX)
