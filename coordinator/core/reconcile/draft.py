"""A plan being drawn up: bounded, and free of entries that would change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from cloudless.coordinator.core import port_sharing, versions
from cloudless.coordinator.core.commands import ApplyPlan, PlannedReplica, PlannedStop
from cloudless.coordinator.core.priority import PRIORITY_GAP
from cloudless.coordinator.core.reconcile.census import Census
from cloudless.coordinator.core.reconcile.ids import new_ids
from cloudless.coordinator.core.scheduler.better import better_place
from cloudless.coordinator.core.scheduler.explain import compact
from cloudless.coordinator.core.scheduler.plan import Board
from cloudless.coordinator.core.scheduler.preemption import victims
from cloudless.coordinator.core.scheduler.score import Weights
from cloudless.coordinator.core.state import State, spec_of_generation
from cloudless.core.model import (
    JobRun,
    NodeUsage,
    PlacementDecision,
    Replica,
    RolloutProgress,
    WorkloadRecord,
    WorkloadRevision,
)
from cloudless.core.replacing import replace

ENTRIES_MAX: Final = 200  # of placements, of stops and of given-up replicas each
PREEMPTIONS_MAX: Final = 4  # replicas for which a plan makes room at the expense of others
_SCHEMA_OF_PREEMPTIONS: Final = 3


class Draft:
    """What one call of `reconcile` has decided so far."""

    def __init__(
        self,
        state: State,
        record: WorkloadRecord,
        census: Census,
        *,
        weights: Weights,
        usage: Mapping[str, NodeUsage],
        now_ms: int,
        id_seed: int,
    ) -> None:
        self.state = state
        self.record = record
        self.census = census
        self.now_ms = now_ms
        self._weights = weights
        self._usage = usage
        self._ids = new_ids(
            state.replicas, namespace=record.metadata.namespace, name=record.metadata.name, seed=id_seed
        )
        self._placed: list[PlannedReplica] = []
        self._stops: dict[str, PlannedStop] = {}
        self._lost: list[str] = []
        self._rollout: RolloutProgress | None = None
        self._roll_back = False
        self._preemptions: list[PlannedStop] = []
        self._unplaced: list[tuple[int, str]] = []  # generation, and the only node that would do, of what fits nowhere
        self._ignoring: frozenset[str] = frozenset()  # of the newest board
        self._runs: tuple[JobRun, ...] = ()
        self._scheduled_until_ms = 0
        self._expired = False

    def give_up(self, replicas: Iterable[Replica]) -> None:
        self._lost += [replica.id for replica in replicas]

    def stop(self, replica: Replica, reason: str) -> None:
        """`reason` is a CamelCase word; the first one that is given for a replica holds."""
        self._stops.setdefault(replica.id, PlannedStop(replica.id, reason))

    def note_rollout(self, progress: RolloutProgress, *, roll_back: bool = False) -> None:
        """What is to be remembered of the rollout; with `roll_back` the stable generation's spec comes back."""
        if progress != self.record.rollout or roll_back:
            self._rollout, self._roll_back = progress, roll_back

    def note_runs(self, runs: Sequence[JobRun], *, scheduled_until_ms: int = 0, expired: bool = False) -> None:
        """Runs that are new or changed, up to when due ones are decided, and whether the workload's time is over."""
        self._runs, self._scheduled_until_ms, self._expired = tuple(runs), scheduled_until_ms, expired

    def board(self, ignoring: Iterable[Replica]) -> Board:
        """A working copy of the nodes to place on."""
        return self.board_of(None, ignoring)

    def board_of(self, revision: WorkloadRevision | None, ignoring: Iterable[Replica]) -> Board:
        """A working copy of the nodes for replicas of an earlier revision; None: of the present generation."""
        record = self.record
        if revision is not None:
            record = replace(record, spec=revision.spec, generation=revision.generation)
        self._ignoring = frozenset(replica.id for replica in ignoring)
        return Board(
            self.state,
            record,
            weights=self._weights,
            usage=self._usage,
            now_ms=self.now_ms,
            ignoring=self._ignoring,
        )

    @property
    def room(self) -> int:
        """How many more replicas this plan may place."""
        return ENTRIES_MAX - len(self._placed)

    def place_pending(self, replica: Replica, decision: PlacementDecision, *, only_on: str = "") -> None:
        """A replica that is placed nowhere yet; left out when it stays so for the same reasons. `only_on` names the
        one node that would do, where there is but one."""
        if not decision.node_id:
            self._unplaced.append((replica.generation, only_on))
        if decision.node_id or decision.summary != replica.placement.summary:
            self._place(replica.id, replica.generation, decision, replica.attempt, replica.run)

    def place_new(
        self,
        decision: PlacementDecision,
        attempt: int,
        *,
        generation: int | None = None,
        run: int = 0,
        only_on: str = "",
    ) -> None:
        """A new replica, of the present generation unless another is named; `run` is for jobs and crons."""
        generation = generation or self.record.generation
        if not decision.node_id:
            self._unplaced.append((generation, only_on))
        self._place(next(self._ids), generation, decision, attempt, run)

    def move_if_better(self, replica: Replica) -> None:
        """One more replica on a clearly better node, to take the place of this one; nothing where there is none."""
        decision = better_place(
            self.state, self.record, replica, weights=self._weights, usage=self._usage, now_ms=self.now_ms
        )
        if decision is not None:
            self._place(next(self._ids), self.record.generation, decision, 0, 0, replaces=replica.id)

    def _place(
        self,
        replica_id: str,
        generation: int,
        decision: PlacementDecision,
        attempt: int,
        run: int,
        *,
        replaces: str = "",
    ) -> None:
        node = self.state.nodes.get(decision.node_id)
        spec = spec_of_generation(self.record, generation) or self.record.spec
        shares = (
            node is not None
            and port_sharing.may_share(spec)
            and port_sharing.can_share(node)
            and versions.schema_of_all(self.state) >= port_sharing.SCHEMA
        )
        planned = PlannedReplica(replica_id, generation, compact(decision), attempt, run, shares, replaces)
        self._placed.append(planned)

    def make_room(self) -> None:
        """Stops replicas of workloads of clearly lower priority for what was found to fit nowhere, a few at a time:
        what they free leads to the next plan."""
        if not self._unplaced or versions.schema_of_all(self.state) < _SCHEMA_OF_PREEMPTIONS:
            return
        highest = self.record.spec.priority - PRIORITY_GAP
        if not any(other.spec.priority <= highest for other in self.state.workloads.values()):
            return
        stopping = set(self._stops)
        for ahead, (generation, only_on) in enumerate(self._unplaced[:PREEMPTIONS_MAX]):
            found = victims(
                self.state,
                self._record_for(generation, only_on),
                weights=self._weights,
                usage=self._usage,
                now_ms=self.now_ms,
                ignoring=self._ignoring,
                stopping=stopping,
                ahead=0 if only_on else ahead,
            )
            if found is not None:
                self._preemptions += [PlannedStop(replica_id, "Preempted") for replica_id in found.replica_ids]
                stopping.update(found.replica_ids)

    def _record_for(self, generation: int, only_on: str) -> WorkloadRecord:
        spec = spec_of_generation(self.record, generation) or self.record.spec
        if only_on:
            selector = {**spec.placement.node_selector, "node": only_on}
            spec = replace(spec, placement=replace(spec.placement, node_selector=selector))
        return replace(self.record, spec=spec, generation=generation)

    def place_all(
        self,
        pending: Sequence[Replica],
        attempts: Sequence[int],
        ignoring: Iterable[Replica],
        *,
        revision: WorkloadRevision | None = None,
    ) -> None:
        """Places what is pending, then one new replica for each of `attempts`: of the present generation, or of
        `revision`, of which the pending ones then are, too."""
        if not pending and not attempts:
            return
        generation = self.record.generation if revision is None else revision.generation
        board = self.board_of(revision, ignoring)
        for replica in pending:
            if self.room <= 0:
                return
            self.place_pending(replica, board.place())
        for attempt in attempts[: max(0, self.room)]:
            self.place_new(board.place(), attempt, generation=generation)

    def command(self) -> ApplyPlan:
        """The plan as an entry. One that places replicas of an older generation carries the rollout, without which
        no member would."""
        placed = self._placed[:ENTRIES_MAX]
        rollout = self._rollout
        if rollout is None and any(planned.generation != self.record.generation for planned in placed):
            rollout = self.record.rollout
        return ApplyPlan(
            namespace=self.record.metadata.namespace,
            workload=self.record.metadata.name,
            replicas=tuple(placed),
            stops=tuple(self._stops.values())[:ENTRIES_MAX],
            lost=tuple(self._lost[:ENTRIES_MAX]),
            rollout=rollout,
            preemptions=tuple(self._preemptions),
            roll_back=self._roll_back,
            runs=self._runs,
            scheduled_until_ms=self._scheduled_until_ms,
            expired=self._expired,
        )
