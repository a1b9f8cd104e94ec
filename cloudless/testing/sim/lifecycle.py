"""What each entry of the reconciler may do to services, system workloads and others' replicas.

The checks know nothing of how the reconciler decides; they hold what there is after an entry against what was there
before it and when it was planned. Where a replica counts:

- *staying*: not told to stop, and placed nowhere yet or on a node that is ready and keeps it. Replicas on nodes that
  are out of reach, drain, are tainted NoExecute or wanted back by their owner are there beside those that replace them.
- *ready*: reported ready, not told to stop, on a node that is ready.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloudless.config import SchedulerConfig
from cloudless.coordinator.core import amounts, commands, rollouts
from cloudless.coordinator.core.reconcile.census import must_leave
from cloudless.coordinator.core.reconcile.rollout import step_of, stepwise, weighed
from cloudless.coordinator.core.reconcile.targets import bounds
from cloudless.coordinator.core.scheduler.kinds import eligible_nodes
from cloudless.coordinator.core.scheduler.plan import place
from cloudless.coordinator.core.state import State, WorkloadKey
from cloudless.coordinator.weighing import weights_of
from cloudless.core.model import NodeState, Replica, ReplicaPhase, RolloutPhase, WorkloadRecord
from cloudless.core.spec import RolloutStrategy, WorkloadSpec, WorkloadType

_MOVED: Final = ("NodeDraining", "Evicted")  # reasons of stops that make a node empty
_PREEMPTION_GAP: Final = 10
_WEIGHTS: Final = weights_of(SchedulerConfig())


@dataclass(slots=True)
class _Paused:
    """A rollout that people hold: of which generation, and how many replicas of it there were then."""

    generation: int
    new: int


class Lifecycle:
    """`counts`: of what happened, for people. `pressed`: whether a node is short of something now."""

    def __init__(self, counts: Counter[str], pressed: Callable[[str], bool]) -> None:
        self._counts = counts
        self._pressed = pressed
        self._paused: dict[WorkloadKey, _Paused] = {}
        self._given_up: dict[WorkloadKey, tuple[int, WorkloadSpec]] = {}  # rolled back: generation and template

    def check(self, command: commands.Command, planned_on: State, before: State, state: State) -> None:
        """After an entry that changed the state; `planned_on` is what a plan was made on."""
        match command:
            case commands.ApplyPlan():
                self._plan(command, planned_on, before, state)
            case commands.PutWorkload():
                self._given_up.pop((command.metadata.namespace, command.metadata.name), None)
            case (
                commands.DeleteWorkload(namespace=namespace, name=name)
                | commands.RestartWorkload(namespace=namespace, name=name)
                | commands.ControlRollout(namespace=namespace, name=name)
            ):
                if not isinstance(command, commands.ControlRollout) or state.workloads[namespace, name].generation > (
                    before.workloads[namespace, name].generation
                ):
                    self._given_up.pop((namespace, name), None)
        self._hold(command, state)

    def _hold(self, command: commands.Command, state: State) -> None:
        """Notes which rollouts are paused."""
        key = _key_of(command)
        record = state.workloads.get(key) if key else None
        if key is None:
            return
        if record is None or record.rollout is None or not record.rollout.paused:
            self._paused.pop(key, None)
            return
        known = self._paused.get(key)
        if known is None or known.generation != record.generation:
            mine = [r for r in state.replicas_of(*key) if r.generation == record.generation and not r.stopping]
            self._paused[key] = _Paused(record.generation, len(mine))

    # -- plans --------------------------------------------------------------------------------------------

    def _plan(self, plan: commands.ApplyPlan, planned_on: State, before: State, state: State) -> None:
        key = (plan.namespace, plan.workload)
        was, record = before.workloads.get(key), state.workloads.get(key)
        self._preemptions(plan, planned_on, before, state)
        if was is None or record is None or record.deleting:
            return
        if self._generations(key, plan, was, record, before, state):
            return
        if record.spec.type is WorkloadType.SERVICE:
            self._total(key, was, record, before, state)
            self._floor(key, plan, record, planned_on, before, state)
            self._new_ones(key, plan, record, before, state)
        elif record.spec.type is WorkloadType.SYSTEM:
            self._one_each(key, before, state)
            self._floor_of_system(key, plan, record, planned_on, before, state)

    def _generations(
        self,
        key: WorkloadKey,
        plan: commands.ApplyPlan,
        was: WorkloadRecord,
        record: WorkloadRecord,
        before: State,
        state: State,
    ) -> bool:
        """The fabric makes a new generation only to roll back, only of what had been complete, and what it gave up it
        does not try again. Returns whether this entry rolled back."""
        given_up = self._given_up.get(key)
        if given_up is not None:
            _, template = given_up
            assert amounts.template_of(record.spec) != template, f"{_name(key)}: what was rolled back is tried again"
            fresh = [
                r.id
                for r in state.replicas_of(*key)
                if r.generation == given_up[0] and r.id not in before.replicas and not r.stopping
            ]
            assert not fresh, f"{_name(key)}: {fresh} are of generation {given_up[0]}, which was rolled back"
        if record.generation == was.generation:
            return False
        self._counts["rolled back"] += 1
        assert plan.roll_back, f"{_name(key)}: a plan made generation {record.generation}"
        assert record.rollout is not None, f"{_name(key)}: rolled back without a word"
        assert was.rollout is None or was.rollout.phase is not RolloutPhase.ROLLED_BACK, (
            f"{_name(key)}: generation {was.generation}, which was itself rolled back to, is rolled back"
        )
        assert was.rollout is None or not was.rollout.paused, f"{_name(key)}: rolled back while it is paused"
        stable = rollouts.revision_of(was, record.rollout.stable_generation)
        assert stable is not None, f"{_name(key)}: rolled back to generation {record.rollout.stable_generation}"
        same = amounts.template_of(stable.spec) == amounts.template_of(record.spec)
        assert same, f"{_name(key)}: generation {record.generation} is not the stable one {stable.generation}"
        template = amounts.template_of(was.spec)
        if template != amounts.template_of(record.spec):  # a restart that failed has the template of the stable one
            self._given_up[key] = (was.generation, template)
        return True

    def _total(
        self, key: WorkloadKey, was: WorkloadRecord, record: WorkloadRecord, before: State, state: State
    ) -> None:
        """At most `replicas` + `maxSurge` stay (where a rollout could neither add nor take away, one more; `BlueGreen`:
        twice `replicas`), or as many as there were."""
        surge, _ = bounds(record.spec.rollout, record.spec.replicas)
        if record.spec.rollout.strategy is RolloutStrategy.BLUE_GREEN:
            surge = max(surge, record.spec.replicas)
        now, earlier = len(staying(state, record)), len(staying(before, was))
        most = max(earlier, record.spec.replicas + surge)
        assert now <= most, f"{_name(key)}: {now} replicas stay, of {record.spec.replicas} wanted and {surge} more"

    def _floor(
        self,
        key: WorkloadKey,
        plan: commands.ApplyPlan,
        record: WorkloadRecord,
        planned_on: State,
        before: State,
        state: State,
    ) -> None:
        """A plan leaves at least so many ready, or as many as there were:

        - `replicas` - `maxUnavailable`, and `minAvailable` if that is more, while every node keeps what it has;
        - `replicas`, where a plan only empties nodes, all of which are in reach, no rollout is under way, nothing
          fails, and everything that is wanted has a place;
        - else `minAvailable`: a drain without room for replacements is past its patience, an owner takes a device back.

        `Recreate` stops everything first. What failed or was lost by itself is not the plan's doing: it was not ready
        before it. Nor does it count what became ready since the state that the plan was made on.
        """
        spec = record.spec
        if spec.rollout.strategy is RolloutStrategy.RECREATE:
            return
        was_ready, now_ready = ready(before, key) & ready(planned_on, key), ready(state, key)
        if len(now_ready) >= len(was_ready):
            return
        _, floor = bounds(spec.rollout, spec.replicas)
        others = [r for r in planned_on.replicas_of(*key) if not r.stopping]
        if all(_keeps(s, n, record) for s in (planned_on, state) for n in s.nodes):
            least = floor
        elif self._merely_moves(plan) and not _troubled(planned_on, others, record) and _all_in_reach(planned_on):
            least = spec.replicas
        else:
            least = min(spec.replicas, spec.rollout.min_available)
        assert len(now_ready) >= min(len(was_ready), least), (
            f"{_name(key)}: a plan leaves {len(now_ready)} of {len(was_ready)} ready replicas, and {least} have to "
            f"stay: it stops {[(stop.replica_id, stop.reason) for stop in plan.stops]}"
        )

    @staticmethod
    def _merely_moves(plan: commands.ApplyPlan) -> bool:
        return all(stop.reason in _MOVED for stop in plan.stops)

    def _new_ones(
        self, key: WorkloadKey, plan: commands.ApplyPlan, record: WorkloadRecord, before: State, state: State
    ) -> None:
        """While people hold a rollout no more replicas are of the new generation than were, and nothing that serves is
        replaced, but for what is more than `replicas` and the surge; a canary's step has no more than its weight."""
        progress = record.rollout
        recreates = record.spec.rollout.strategy is RolloutStrategy.RECREATE
        if progress is None or progress.generation != record.generation or rollouts.is_complete(progress):
            return
        if rollouts.stable_revision(record, progress) is None:
            return
        new = sum(r.generation == record.generation for r in staying(state, record))
        had = sum(r.generation == record.generation for r in staying(before, record))
        paused = self._paused.get(key)
        if progress.paused and paused is not None and not recreates:
            most = max(had, paused.new)
            assert new <= most, f"{_name(key)}: {new} replicas are of generation {record.generation}, which is paused"
            surge, _ = bounds(record.spec.rollout, record.spec.replicas)
            if len(staying(before, record)) <= record.spec.replicas + surge:
                serving = ready(before, key) & {r.id for r in staying(before, record)}
                replaced = [s.replica_id for s in plan.stops if s.reason == "Replaced" and s.replica_id in serving]
                assert not replaced, f"{_name(key)}: {replaced} are replaced by a rollout that is paused"
        step = step_of(record.spec.rollout, progress)
        if not progress.paused and step is not None and stepwise(record, progress):
            most = max(had, weighed(step, record.spec.replicas))
            assert new <= most, f"{_name(key)}: {new} replicas are new at a step of {step.weight} %"

    # -- type system --------------------------------------------------------------------------------------

    def _one_each(self, key: WorkloadKey, before: State, state: State) -> None:
        """A node has one replica of a system workload, or as many as it had."""
        now, earlier = _by_node(state, key), _by_node(before, key)
        for node_id, count in now.items():
            assert count <= max(1, earlier.get(node_id, 0)), f"{_name(key)}: {count} replicas on {node_id}"

    def _floor_of_system(
        self,
        key: WorkloadKey,
        plan: commands.ApplyPlan,
        record: WorkloadRecord,
        planned_on: State,
        before: State,
        state: State,
    ) -> None:
        """A rollout stops replicas that serve on `maxUnavailable` nodes at a time (at least one)."""
        was_ready, now_ready = ready(before, key), ready(state, key)
        replaced = {s.replica_id for s in plan.stops if s.reason == "Replaced"} & (was_ready - now_ready)
        if not replaced:
            return
        nodes = len(eligible_nodes(planned_on, record.spec, namespace=key[0]))
        floor = nodes - max(1, record.spec.rollout.max_unavailable)
        assert len(now_ready) >= floor, f"{_name(key)}: {len(now_ready)} ready, and {floor} have to be: {replaced} stop"

    # -- preemption ---------------------------------------------------------------------------------------

    def _preemptions(self, plan: commands.ApplyPlan, planned_on: State, before: State, state: State) -> None:
        """Only replicas of clearly lower priority make room, and what `minAvailable` needs only if, when the plan was
        made, the end of no other single replica would have done."""
        record = before.workloads.get((plan.namespace, plan.workload))
        taken: dict[WorkloadKey, int] = {}
        for planned in plan.preemptions:
            replica, after = before.replicas.get(planned.replica_id), state.replicas.get(planned.replica_id)
            if record is None or replica is None or replica.stopping or after is None or not after.stopping:
                continue
            self._counts["preempted"] += 1
            other = before.workloads[replica.namespace, replica.workload]
            assert record.spec.priority - other.spec.priority >= _PREEMPTION_GAP, (
                f"{replica.id} of {replica.workload} with priority {other.spec.priority} makes room for "
                f"{plan.workload} with {record.spec.priority}"
            )
            taken[replica.namespace, replica.workload] = taken.get((replica.namespace, replica.workload), 0) + 1
        for key in taken:
            was = ready(planned_on, key) & ready(before, key)
            least = min(len(was), before.workloads[key].spec.rollout.min_available)
            left = len(ready(state, key))
            if left >= least:
                continue
            self._counts["minAvailable preempted"] += 1
            knowing = len(ready(planned_on, key) - {stop.replica_id for stop in plan.preemptions}) < least
            assert knowing, (
                f"{_name(key)}: room for {plan.workload} leaves {left} ready replicas, and {least} have to stay"
            )
            if record is not None and len(plan.preemptions) == 1 and len(plan.replicas) == 1:
                self._unavoidable(key, plan, record, planned_on)

    def _unavoidable(
        self, key: WorkloadKey, plan: commands.ApplyPlan, record: WorkloadRecord, planned_on: State
    ) -> None:
        if plan.replicas[0].generation != record.generation or record.spec.type is WorkloadType.SYSTEM:
            return
        for replica in planned_on.replicas.values():
            theirs = (replica.namespace, replica.workload)
            other = planned_on.workloads[theirs].spec
            if not replica.node_id or replica.stopping or record.spec.priority - other.priority < _PREEMPTION_GAP:
                continue
            serving = ready(planned_on, theirs)
            if replica.id in serving and len(serving) - 1 < other.rollout.min_available:
                continue
            if self._pressed(replica.node_id):
                continue
            without = planned_on.without_replica(replica.id)
            now_ms = max(node.state_since_ms for node in planned_on.nodes.values())
            found = place(without, record, 1, weights=_WEIGHTS, usage={}, now_ms=now_ms)
            fits = any(decision.node_id == replica.node_id for decision in found)
            assert not fits, f"{_name(key)} needs what makes room for {plan.workload}, and {replica.id} would have done"


def staying(state: State, record: WorkloadRecord) -> list[Replica]:
    """See the module."""
    replicas = state.replicas_of(record.metadata.namespace, record.metadata.name)
    return [r for r in replicas if not r.stopping and (not r.node_id or _keeps(state, r.node_id, record))]


def ready(state: State, key: WorkloadKey) -> set[str]:
    """See the module."""
    return {
        r.id
        for r in state.replicas_of(*key)
        if r.status.phase is ReplicaPhase.READY
        and not r.stopping
        and (node := state.nodes.get(r.node_id)) is not None
        and node.state is NodeState.READY
    }


def _keeps(state: State, node_id: str, record: WorkloadRecord) -> bool:
    node = state.nodes.get(node_id)
    return node is not None and node.state is NodeState.READY and not must_leave(node, record)


def _all_in_reach(state: State) -> bool:
    return all(node.state is NodeState.READY for node in state.nodes.values())


def _troubled(state: State, replicas: list[Replica], record: WorkloadRecord) -> bool:
    """Whether a drain may cost more than it should: what is wanted has no place or fails, or a rollout is under way."""
    return any(
        not r.node_id or r.status.phase is ReplicaPhase.FAILED or r.generation != record.generation for r in replicas
    )


def _by_node(state: State, key: WorkloadKey) -> dict[str, int]:
    counts: dict[str, int] = {}
    for replica in state.replicas_of(*key):
        if replica.node_id and not replica.stopping:
            counts[replica.node_id] = counts.get(replica.node_id, 0) + 1
    return counts


def _key_of(command: commands.Command) -> WorkloadKey | None:
    match command:
        case commands.ApplyPlan():
            return command.namespace, command.workload
        case commands.PutWorkload():
            return command.metadata.namespace, command.metadata.name
        case commands.ControlRollout() | commands.RestartWorkload() | commands.DeleteWorkload():
            return command.namespace, command.name
    return None


def _name(key: WorkloadKey) -> str:
    return f"workload {key[1]}"
