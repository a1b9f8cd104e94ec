"""What each entry may say of the runs of jobs and crons, held against what replicas reported."""

from __future__ import annotations

from typing import Final

from cloudless.coordinator.core import commands, runs
from cloudless.coordinator.core.state import State, WorkloadKey
from cloudless.core.model import JobRun, NodeState, Replica, ReplicaPhase, RunPhase, WorkloadRecord
from cloudless.core.spec import ConcurrencyPolicy, WorkloadType

_ENDED: Final = (ReplicaPhase.SUCCEEDED, ReplicaPhase.FAILED, ReplicaPhase.LOST)


class RunChecks:
    """Workloads that were deleted and made again begin anew: `created_at_ms` tells them apart."""

    def __init__(self) -> None:
        self._succeeded: dict[tuple[WorkloadKey, int, int], set[str]] = {}  # workload, its creation, run: replica ids
        self._decided: dict[tuple[WorkloadKey, int], set[int]] = {}  # due times
        self._ended: set[str] = set()  # replicas that nothing runs of any more, whatever is left to clean up

    def check(self, command: commands.Command, planned_on: State, before: State, state: State) -> None:
        """After an entry that changed the state; `planned_on` is what a plan was made on."""
        if isinstance(command, commands.ReportReplicas):
            for reported in command.replicas:
                self._reported(state.replicas.get(reported.replica_id), state)
        elif isinstance(command, commands.ApplyPlan):
            key = (command.namespace, command.workload)
            record, was = state.workloads.get(key), before.workloads.get(key)
            if record is not None and was is not None and record.spec.type in runs.RUN_TYPES and not record.deleting:
                self._plan(key, was, record, (planned_on, before, state))

    def _reported(self, replica: Replica | None, state: State) -> None:
        if replica is None or not replica.run or replica.status.phase not in _ENDED:
            return
        self._ended.add(replica.id)
        if replica.status.phase is not ReplicaPhase.SUCCEEDED:
            return
        key = (replica.namespace, replica.workload)
        record = state.workloads[key]
        self._succeeded.setdefault((key, record.created_at_ms, replica.run), set()).add(replica.id)

    def _plan(
        self, key: WorkloadKey, was: WorkloadRecord, record: WorkloadRecord, states: tuple[State, State, State]
    ) -> None:
        known = {run.number: run for run in was.runs}
        for run in record.runs:
            earlier = known.get(run.number)
            if earlier is None:
                self._begun(key, record, run)
            if run.phase is RunPhase.SUCCEEDED and (earlier is None or earlier.phase is not RunPhase.SUCCEEDED):
                self._completed(key, record, run)
            if runs.is_unfinished(run):
                self._parallelism(key, record, run, states)
        self._alone(key, was, record)

    def _begun(self, key: WorkloadKey, record: WorkloadRecord, run: JobRun) -> None:
        """Each due time has one run."""
        assert run.number > 0, f"{key[1]}: a run without a number"
        if run.manual or not run.scheduled_at_ms:
            return
        decided = self._decided.setdefault((key, record.created_at_ms), set())
        assert run.scheduled_at_ms not in decided, f"{key[1]}: what is due at {run.scheduled_at_ms} has two runs"
        assert run.scheduled_at_ms % 60_000 == 0, f"{key[1]}: nothing is due at {run.scheduled_at_ms}"
        decided.add(run.scheduled_at_ms)

    def _completed(self, key: WorkloadKey, record: WorkloadRecord, run: JobRun) -> None:
        """A run succeeds when so many replicas of it did, as their nodes said."""
        wanted = runs.completion_of(record.spec).completions
        reported = self._succeeded.get((key, record.created_at_ms, run.number), set())
        assert len(reported) >= wanted, f"{key[1]}: run {run.number} succeeded with {len(reported)} of {wanted}"
        assert run.succeeded <= len(reported), (
            f"{key[1]}: run {run.number} counts {run.succeeded} successes, and {len(reported)} replicas reported one"
        )

    def _parallelism(
        self, key: WorkloadKey, record: WorkloadRecord, run: JobRun, states: tuple[State, State, State]
    ) -> None:
        """A plan begins no replica beyond `parallelism` and `completions`. Those on nodes that were not ready when it
        was made count for lost: their work may be done twice."""
        planned_on, before, state = states
        completion = runs.completion_of(record.spec)
        out_of_reach = {n for n in planned_on.nodes if planned_on.nodes[n].state is not NodeState.READY}
        now, earlier = (self._running(s, key, run.number, out_of_reach) for s in (state, before))
        most = max(earlier, min(completion.parallelism, completion.completions))
        assert now <= most, (
            f"{key[1]}: {now} replicas of run {run.number}, and {completion.parallelism} may run at once"
        )

    @staticmethod
    def _alone(key: WorkloadKey, was: WorkloadRecord, record: WorkloadRecord) -> None:
        """Runs go on beside each other only where `concurrency` is `Allow`."""
        schedule = record.spec.schedule
        if record.spec.type is WorkloadType.CRON and schedule and schedule.concurrency is ConcurrencyPolicy.ALLOW:
            return
        now, earlier = (sum(runs.is_unfinished(r) and r.started_at_ms > 0 for r in x.runs) for x in (record, was))
        assert now <= max(1, earlier), f"{key[1]}: {now} runs at once"

    def _running(self, state: State, key: WorkloadKey, run: int, out_of_reach: set[str]) -> int:
        return sum(
            r.run == run
            and bool(r.node_id)
            and r.status.phase not in _ENDED
            and r.id not in self._ended
            and r.node_id not in out_of_reach
            for r in state.replicas_of(*key)
        )
