"""Workloads of type job and cron: runs that come to an end.

A job has one run for each generation, a cron one for each due time (`cron`), and people start some by hand. A run
keeps up to `parallelism` replicas going until `completions` have succeeded. One that fails for good (its node has
restarted it in place before) is replaced after a delay that grows; more failures than `maxRetries`, restarts included,
or more time than `activeDeadline` end the run. A node that is lost is nobody's failure: what ran there runs elsewhere.

A node that drains keeps what it runs to its end; only NoExecute taints and an owner who wants the device back stop it.
Replicas that ended are kept for their logs, and hold no resources, until their run leaves the history.

Work may be done twice: a node that is away for longer than `offlineGrace` may have finished what is begun again
elsewhere. When it returns in time, `onReconnect` says which copy goes on.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from cloudless.coordinator.core import runs as of_runs
from cloudless.coordinator.core.reconcile.census import Deadlines, next_attempt, retry_at_ms
from cloudless.coordinator.core.reconcile.cron import due_runs
from cloudless.coordinator.core.reconcile.draft import ENTRIES_MAX, Draft
from cloudless.coordinator.core.scheduler.filters import tolerates
from cloudless.coordinator.core.scheduler.plan import Board
from cloudless.core.model import JobRun, Node, NodeState, Replica, ReplicaPhase, RunPhase
from cloudless.core.replacing import replace
from cloudless.core.spec import ConcurrencyPolicy, ReconnectRule, TaintEffect, WorkloadType

RESULTS_KEPT: Final = 10  # replicas of one run that ended, the newest ones


def plan_runs(draft: Draft, deadlines: Deadlines) -> None:
    """Decides about every run of the workload, and about its replicas."""
    _Runs(draft, deadlines).plan()


class _Runs:
    """The workload's runs as they become while the plan is drawn up."""

    def __init__(self, draft: Draft, deadlines: Deadlines) -> None:
        self._draft, self._deadlines = draft, deadlines
        self._state, self._record, self._now_ms = draft.state, draft.record, draft.now_ms
        self._spec = draft.record.spec
        self._completion = of_runs.completion_of(self._spec)
        self._runs: dict[int, JobRun] = {run.number: run for run in draft.record.runs}
        self._until_ms = 0
        self._held: defaultdict[int, list[Replica]] = defaultdict(list)  # by run; what is to stay, or to be placed
        self._stopping: list[Replica] = []  # told to stop before, or now
        self._stops = 0
        self._board: Board | None = None

    def plan(self) -> None:
        self._sort()
        self._begin()
        self._supersede()
        for number in sorted(self._runs):
            run = self._runs[number]
            if of_runs.is_unfinished(run) and (run.started_at_ms or self._may_start(run)):
                run = self._runs[number] = replace(run, started_at_ms=run.started_at_ms or self._now_ms)
                self._advance(run)
        for number in sorted(self._runs):
            if not of_runs.is_unfinished(self._runs[number]):
                self._clear(number)
        before = {run.number: run for run in self._record.runs}
        changed = [run for number, run in sorted(self._runs.items()) if run != before.get(number)]
        self._draft.note_runs(changed, scheduled_until_ms=self._until_ms, expired=not changed and self._expired())

    # -- what there is ------------------------------------------------------------------------------------

    def _sort(self) -> None:
        for replica in self._state.replicas_of(self._record.metadata.namespace, self._record.metadata.name):
            if replica.status.phase is ReplicaPhase.LOST:
                continue
            if replica.stopping:
                self._stopping.append(replica)
            elif replica.run not in self._runs:
                self._stop(replica, "RunForgotten")
            elif not replica.node_id and replica.generation != self._record.generation:
                self._stop(replica, "Replaced")
            else:
                self._held[replica.run].append(replica)

    def _stop(self, replica: Replica, reason: str) -> bool:
        """Whether this plan still has room for it."""
        if self._stops >= ENTRIES_MAX:
            return False
        self._stops += 1
        self._draft.stop(replica, reason)
        if replica.node_id:
            self._stopping.append(replica)
        if replica in self._held[replica.run]:
            self._held[replica.run].remove(replica)
        return True

    def _forget(self, run: JobRun, replica: Replica, reason: str) -> JobRun:
        """Stops a replica that ended; its run remembers how."""
        if not self._stop(replica, reason) or not of_runs.is_unfinished(run):
            return run
        succeeded = replica.status.phase is ReplicaPhase.SUCCEEDED
        failed = run.failed + of_runs.failures_of(replica)
        return replace(run, succeeded=run.succeeded + succeeded, failed=failed)

    def _node_of(self, replica: Replica) -> Node | None:
        return self._state.nodes.get(replica.node_id)

    def _is_away(self, replica: Replica) -> bool:
        """Whether nobody waits for its node any longer."""
        node = self._node_of(replica)
        if node is None or node.state is NodeState.LOST:
            return True
        if node.state is NodeState.READY:
            return False
        return self._deadlines.passed(node.state_since_ms + self._spec.disruption.offline_grace_ms)

    def _may_run(self, replica: Replica) -> bool:
        return replica.status.phase not in of_runs.ENDED and bool(replica.node_id) and not self._is_away(replica)

    # -- which runs there are -----------------------------------------------------------------------------

    def _begin(self) -> None:
        record = self._record
        if record.spec.type is WorkloadType.CRON:
            begun, self._until_ms = due_runs(record, self._deadlines)
            self._runs.update((run.number, run) for run in begun)
        elif not record.runs or record.runs[-1].generation != record.generation:
            number = record.last_run + 1
            self._runs[number] = JobRun(number, record.generation, phase=RunPhase.RUNNING)

    def _supersede(self) -> None:
        """Ends runs whose place another one takes: an older generation of a job, all but the newest with Replace."""
        unfinished = [run for _, run in sorted(self._runs.items()) if of_runs.is_unfinished(run)]
        if self._spec.type is WorkloadType.JOB:
            over = [run for run in unfinished if run.generation != self._record.generation]
        elif self._spec.schedule and self._spec.schedule.concurrency is ConcurrencyPolicy.REPLACE:
            over = unfinished[:-1]
        else:
            over = []
        for run in over:
            self._finish(run, RunPhase.FAILED, "Replaced")

    def _may_start(self, run: JobRun) -> bool:
        """Whether nothing of another run is left that it would run beside."""
        schedule = self._spec.schedule
        if self._spec.type is WorkloadType.CRON and schedule and schedule.concurrency is ConcurrencyPolicy.ALLOW:
            return True
        if any(of_runs.is_unfinished(other) for number, other in self._runs.items() if number < run.number):
            return False
        others = [r for number, held in sorted(self._held.items()) if number != run.number for r in held]
        others += [replica for replica in self._stopping if replica.run != run.number]
        return not any(self._may_run(replica) for replica in others)

    def _finish(self, run: JobRun, phase: RunPhase, reason: str = "") -> None:
        succeeded, failed = of_runs.tally(run, self._held[run.number])
        self._runs[run.number] = replace(
            run, phase=phase, reason=reason, succeeded=succeeded, failed=failed, finished_at_ms=self._now_ms
        )

    def _expired(self) -> bool:
        """Whether the job is to be deleted: it ended for long enough."""
        ttl_ms = self._completion.ttl_after_finished_ms
        if self._spec.type is not WorkloadType.JOB or ttl_ms <= 0 or not self._runs:
            return False
        if any(map(of_runs.is_unfinished, self._runs.values())):
            return False
        return self._deadlines.passed(max(run.finished_at_ms for run in self._runs.values()) + ttl_ms)

    # -- one run ------------------------------------------------------------------------------------------

    def _advance(self, run: JobRun) -> None:
        number, completion = run.number, self._completion
        succeeded, failed = of_runs.tally(run, self._held[number])
        if succeeded >= completion.completions:
            return self._finish(run, RunPhase.SUCCEEDED)
        if failed > of_runs.retries_of(self._spec):
            return self._finish(run, RunPhase.FAILED, "BackoffLimitExceeded")
        limit_ms = completion.active_deadline_ms
        if limit_ms > 0 and self._deadlines.passed(run.started_at_ms + limit_ms):
            return self._finish(run, RunPhase.FAILED, "DeadlineExceeded")
        run, attempts = self._retry(self._release(run))
        self._runs[number] = run
        for replica in list(self._held[number]):
            node = self._node_of(replica)
            if replica.status.phase not in of_runs.ENDED and node is not None and self._must_stop(node):
                self._stop(replica, "Evicted")
        wanted = min(completion.parallelism, completion.completions - succeeded)
        held = [replica for replica in self._held[number] if self._takes_a_place(replica)]
        if len(held) > wanted:
            self._remove_surplus(held, len(held) - wanted)
        self._place(number, attempts, wanted=wanted, held=len(held))
        return None

    def _release(self, run: JobRun) -> JobRun:
        """Forgets what ended where it cannot be kept, and what is too much to keep."""
        done = [r for r in self._held[run.number] if r.status.phase is ReplicaPhase.SUCCEEDED]
        done.sort(key=lambda r: (r.phase_since_ms, r.id), reverse=True)
        for position, replica in enumerate(done):
            if position >= RESULTS_KEPT:
                run = self._forget(run, replica, "RunGoesOn")
            elif self._is_leaving(replica):
                run = self._forget(run, replica, "NodeDraining")
        return run

    def _retry(self, run: JobRun) -> tuple[JobRun, list[int]]:
        """Forgets failed replicas whose time has come; the attempts of those that take their place."""
        attempts = []
        for replica in [r for r in self._held[run.number] if r.status.phase is ReplicaPhase.FAILED]:
            if self._deadlines.passed(retry_at_ms(replica, self._record)):
                run = self._forget(run, replica, "Failed")
                attempts.append(next_attempt(replica, self._record))
        return run, sorted(attempts, reverse=True)

    def _must_stop(self, node: Node) -> bool:
        """Whether not even what already runs may stay. A drain alone waits for its end."""
        owner = node.device.owner
        return (owner is not None and owner.evicting) or any(
            taint.effect is TaintEffect.NO_EXECUTE and not tolerates(self._spec.placement.tolerations, taint)
            for taint in node.taints
        )

    def _is_leaving(self, replica: Replica) -> bool:
        node = self._node_of(replica)
        return node is None or node.state is NodeState.LOST or node.draining or self._must_stop(node)

    def _takes_a_place(self, replica: Replica) -> bool:
        """Whether a placed replica runs, as far as anybody knows, or waits to be tried again."""
        if not replica.node_id or replica.status.phase is ReplicaPhase.SUCCEEDED:
            return False
        return replica.status.phase is ReplicaPhase.FAILED or not self._is_away(replica)

    def _remove_surplus(self, held: list[Replica], surplus: int) -> None:
        """A node came back with what had been replaced, or fewer are wanted."""
        nodes = self._state.nodes
        if any(r.id in self._draft.census.unsettled and nodes[r.node_id].state is NodeState.READY for r in held):
            return  # what it reports next may be that it is done
        keep_newest = self._spec.disruption.on_reconnect is ReconnectRule.KEEP_NEWEST

        def usefulness(replica: Replica) -> tuple[bool, bool, int, str]:
            age = replica.assigned_at_ms if keep_newest else -replica.assigned_at_ms
            reachable = nodes[replica.node_id].state is NodeState.READY
            return replica.status.phase is not ReplicaPhase.FAILED, reachable, age, replica.id

        for replica in sorted(held, key=usefulness)[:surplus]:
            self._runs[replica.run] = self._forget(self._runs[replica.run], replica, "Surplus")

    def _place(self, number: int, attempts: list[int], *, wanted: int, held: int) -> None:
        """New replicas for what is missing. One that still stops keeps its place until it is gone."""
        pending = sorted((r for r in self._held[number] if not r.node_id), key=lambda r: (r.created_at_ms, r.id))
        for replica in pending[max(0, wanted - held) :]:
            self._stop(replica, "Surplus")
        pending = pending[: max(0, wanted - held)]
        still = sum(r.run == number and self._may_run(r) for r in self._stopping)
        free = wanted - held - still
        for replica in pending[: max(0, free)]:
            if self._draft.room <= 0:
                return
            self._draft.place_pending(replica, self._nodes().place())
        missing = max(0, free - len(pending))
        for attempt in [*attempts, *([0] * missing)][:missing]:
            if self._draft.room <= 0:
                return
            self._draft.place_new(self._nodes().place(), attempt, run=number)

    def _nodes(self) -> Board:
        if self._board is None:
            self._board = self._draft.board(())
        return self._board

    def _clear(self, number: int) -> None:
        """Stops what a finished run left, except for its results."""
        run = self._runs[number]
        held = sorted(self._held[number], key=lambda r: (r.phase_since_ms, r.id), reverse=True)
        results = [replica for replica in held if of_runs.is_result(replica)]
        for replica in held:
            if replica not in results:
                self._stop(replica, run.reason or "RunEnded")
        for position, replica in enumerate(results):
            if position >= RESULTS_KEPT:
                self._stop(replica, "RunEnded")
            elif self._is_leaving(replica):
                self._stop(replica, "NodeDraining")
