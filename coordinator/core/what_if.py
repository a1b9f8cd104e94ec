"""What would happen: the reconciler and the state machine, run on a snapshot until nothing is left to do.

Nothing here decides anything itself. A command is applied to the snapshot as the log would apply it, the workloads that
it concerns are reconciled as the leader would, and each node is taken at its word at once: what is assigned to it is
ready, what it shall stop is gone. Time passes only where a plan waits for it. No move to a better node is begun: these
follow from no question, but from a look at every minute for as long as the fabric runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cloudless.coordinator.core.commands import ApplyPlan, Command, ReportedReplica, ReportReplicas
from cloudless.coordinator.core.machine import APPLY
from cloudless.coordinator.core.outcome import Change
from cloudless.coordinator.core.reconcile import dirty_keys, reconcile
from cloudless.coordinator.core.scheduler.score import Weights
from cloudless.coordinator.core.state import State, WorkloadKey
from cloudless.coordinator.core.transition import Transition
from cloudless.core.model import NodeState, NodeUsage, Replica, ReplicaPhase, ReplicaStatus
from cloudless.core.replacing import replace
from cloudless.core.spec import WorkloadType
from cloudless.errors import CloudlessError, ResourceExhausted

PLANS_MAX: Final = 5_000
HORIZON_MS: Final = 3_600_000  # what waits for longer is left waiting
_ENDED: Final = (ReplicaPhase.FAILED, ReplicaPhase.SUCCEEDED)
_MOVES: Final = frozenset({"NodeLost", "NodeDraining", "Evicted", "NoLongerMatches", "OwnerTerms"})


@dataclass(frozen=True, slots=True)
class Step:
    """One difference. `change` is start, move, stop, preempt or pending; `replica_id` is empty for a new replica."""

    namespace: str
    workload: str
    replica_id: str
    change: str
    from_node: str = ""
    to_node: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Outlook:
    """A workload before and after. `message` says what is wrong, empty when nothing is."""

    namespace: str
    name: str
    desired: int
    placed_before: int
    placed_after: int
    min_available: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class Forecast:
    steps: tuple[Step, ...]
    outlooks: tuple[Outlook, ...]  # of the workloads that something happens to, or that are asked for


class WhatIf:
    """One snapshot and what is done to it. `index` is the snapshot's; `now_ms` the wall clock that it is run at."""

    def __init__(
        self, state: State, *, index: int, now_ms: int, weights: Weights, usage: Mapping[str, NodeUsage]
    ) -> None:
        self._before = state
        self.state = state
        self._index = index
        self._now_ms = now_ms
        self._end_ms = now_ms + HORIZON_MS
        self._weights = weights
        self._usage = usage
        self._queue: deque[WorkloadKey] = deque()
        self._queued: set[WorkloadKey] = set()
        self._wakes: dict[WorkloadKey, int] = {}
        self._reasons: dict[str, str] = {}  # of replicas that were told to stop
        self._asked: set[WorkloadKey] = set()

    def apply(self, command: Command) -> None:
        """Does what the log would do with it. Raises the error of a command that would be refused."""
        self._index += 1
        t = Transition(self.state, index=self._index, now_ms=self._now_ms, actor="system/what-if", request_id="")
        APPLY[type(command)](t, command)
        self.state = t.state
        self._enqueue(sorted(dirty_keys(t.changes, t.state)))
        self._nodes_obey(t.changes)

    def ask_for(self, key: WorkloadKey) -> None:
        """The forecast tells of this workload whether or not something happens to it."""
        self._asked.add(key)

    def drop_nodes(self, node_ids: Iterable[str]) -> None:
        """These nodes are gone, and nobody waits for them any more."""
        for node_id in sorted(node_ids):
            self._index += 1
            node = replace(
                self.state.nodes[node_id],
                state=NodeState.LOST,
                state_reason="what if it were gone",
                state_since_ms=self._now_ms,
                revision=self._index,
            )
            self.state = self.state.with_node(node)
            self._enqueue(sorted(dirty_keys((Change("node", node_id),), self.state)))

    def forecast(self) -> Forecast:
        """Runs until nothing is left to do. Raises ResourceExhausted (ForecastTooLarge)."""
        plans = 0
        while self._queue or self._pass_time():
            key = self._queue.popleft()
            self._queued.discard(key)
            plans += 1
            if plans > PLANS_MAX:
                raise ResourceExhausted(
                    f"more than {PLANS_MAX} plans would follow",
                    reason="ForecastTooLarge",
                    remedy="ask about fewer workloads or nodes at once",
                )
            plan = reconcile(
                self.state,
                *key,
                now_ms=self._now_ms,
                weights=self._weights,
                usage=self._usage,
                id_seed=plans,
                rebalancing=False,
            )
            self._wakes.pop(key, None)
            if plan.wake_at_ms is not None and plan.wake_at_ms <= self._end_ms:
                self._wakes[key] = plan.wake_at_ms
            for command in plan.commands:
                if isinstance(command, ApplyPlan):
                    command = replace(command, planned_at_index=self._index)
                try:
                    self.apply(command)
                except CloudlessError:
                    continue  # as the log would: the next plan decides anew
        return self._compare()

    # -- running ------------------------------------------------------------------------------------------

    def _enqueue(self, keys: Iterable[WorkloadKey]) -> None:
        for key in keys:
            if key not in self._queued and not self._runs_by_clock(key):
                self._queued.add(key)
                self._queue.append(key)

    def _runs_by_clock(self, key: WorkloadKey) -> bool:
        record = self.state.workloads.get(key)
        return record is not None and record.spec.type is WorkloadType.CRON and not record.deleting

    def _pass_time(self) -> bool:
        """To the earliest time that a plan waits for; False when none does."""
        if not self._wakes:
            return False
        key = min(self._wakes, key=lambda k: (self._wakes[k], k))
        self._now_ms = max(self._now_ms, self._wakes.pop(key))
        self._enqueue((key,))
        return True

    def _nodes_obey(self, changes: Iterable[Change]) -> None:
        """What changed replicas lead their nodes to report."""
        by_node: dict[str, list[ReportedReplica]] = {}
        for change in changes:
            replica = self.state.replicas.get(change.key) if change.kind == "replica" else None
            if replica is None or not replica.node_id:
                continue
            if replica.stopping:
                self._reasons[replica.id] = replica.stop_reason
            if self.state.nodes[replica.node_id].state is NodeState.READY:
                report = self._report(replica)
                if report is not None:
                    by_node.setdefault(replica.node_id, []).append(report)
        for node_id in sorted(by_node):
            self.apply(ReportReplicas(node_id, tuple(by_node[node_id])))

    def _report(self, replica: Replica) -> ReportedReplica | None:
        if replica.stopping:
            return ReportedReplica(replica.id, replica.status, gone=True)
        if replica.status.phase is ReplicaPhase.ASSIGNED:
            return ReportedReplica(replica.id, ReplicaStatus(phase=ReplicaPhase.READY, since_ms=self._now_ms))
        return None

    # -- comparing ----------------------------------------------------------------------------------------

    def _compare(self) -> Forecast:
        before, after = self._before, self.state
        touched = {
            (r.namespace, r.workload)
            for r in (*before.replicas.values(), *after.replicas.values())
            if before.replicas.get(r.id) is not after.replicas.get(r.id)
        }
        steps: list[Step] = []
        for key in sorted(touched):
            steps += self._steps_of(key)
        keys = sorted({(s.namespace, s.workload) for s in steps} | self._asked)
        return Forecast(tuple(steps), tuple(outlook(before, after, key) for key in keys))

    def _steps_of(self, key: WorkloadKey) -> list[Step]:
        before = {r.id: r for r in self._before.replicas_of(*key)}
        after = {r.id: r for r in self.state.replicas_of(*key)}
        here = {i for i, r in after.items() if serves(r)}
        gone = [r for i, r in sorted(before.items()) if serves(r) and i not in here]
        # One that waited for a place and got it counts as new, too.
        new = [r for i, r in sorted(after.items()) if i in here and not (i in before and serves(before[i]))]
        steps = []
        for replica in gone:
            reason = self._reasons.get(replica.id, replica.stop_reason) or "Stopped"
            partner = next((n for n in new if reason in _MOVES and n.generation == replica.generation), None)
            if partner is not None:
                new.remove(partner)
                steps.append(Step(*key, replica.id, "move", replica.node_id, partner.node_id, reason))
            else:
                change = "preempt" if reason == "Preempted" else "stop"
                steps.append(Step(*key, replica.id, change, replica.node_id, "", reason))
        for replica in new:
            known = replica.id if replica.id in before else ""
            steps.append(Step(*key, known, "start", "", replica.node_id, replica.placement.summary))
        for replica_id, replica in sorted(after.items()):
            if not replica.node_id:
                known = replica_id if replica_id in before else ""
                steps.append(Step(*key, known, "pending", "", "", replica.placement.summary))
        return steps


def serves(replica: Replica) -> bool:
    """Whether the replica is on a node, to stay."""
    return bool(replica.node_id) and not replica.stopping and replica.status.phase not in (*_ENDED, ReplicaPhase.LOST)


def outlook(before: State, after: State, key: WorkloadKey) -> Outlook:
    """How a workload stands before and after."""
    record = after.workloads.get(key)
    placed_before = sum(map(serves, before.replicas_of(*key)))
    replicas = after.replicas_of(*key)
    placed = sum(map(serves, replicas))
    if record is None or record.deleting:
        return Outlook(*key, 0, placed_before, placed, 0)
    floor = record.spec.rollout.min_available
    if record.spec.type in (WorkloadType.SYSTEM, WorkloadType.JOB, WorkloadType.CRON):
        return Outlook(*key, placed, placed_before, placed, floor)
    desired = record.spec.replicas
    parts = []
    if placed < floor:
        parts.append(f"{placed} of at least {floor} (minAvailable)")
    if placed < desired:
        why = next((r.placement.summary for r in replicas if not r.node_id and r.placement.summary), "")
        missing = desired - placed
        word = "replica fits" if missing == 1 else "replicas fit"
        parts.append(f"{missing} {word} nowhere" + (f": {why}" if why else ""))
    return Outlook(*key, desired, placed_before, placed, floor, "; ".join(parts))
