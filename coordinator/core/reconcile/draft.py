"""A plan being drawn up: bounded, and free of entries that would change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from cloudless.coordinator.core.commands import ApplyPlan, PlannedReplica, PlannedStop
from cloudless.coordinator.core.reconcile.census import Census
from cloudless.coordinator.core.reconcile.ids import new_ids
from cloudless.coordinator.core.scheduler.explain import compact
from cloudless.coordinator.core.scheduler.plan import Board
from cloudless.coordinator.core.scheduler.score import Weights
from cloudless.coordinator.core.state import State
from cloudless.core.model import NodeUsage, PlacementDecision, Replica, WorkloadRecord

ENTRIES_MAX: Final = 200  # of placements, of stops and of given-up replicas each


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
        self._stops: list[PlannedStop] = []
        self._lost: list[str] = []

    def give_up(self, replicas: Iterable[Replica]) -> None:
        self._lost += [replica.id for replica in replicas]

    def stop(self, replica: Replica, reason: str) -> None:
        """`reason` is a CamelCase word."""
        self._stops.append(PlannedStop(replica.id, reason))

    def board(self, ignoring: Iterable[Replica]) -> Board:
        """A working copy of the nodes to place on."""
        return Board(
            self.state,
            self.record,
            weights=self._weights,
            usage=self._usage,
            now_ms=self.now_ms,
            ignoring={replica.id for replica in ignoring},
        )

    @property
    def room(self) -> int:
        """How many more replicas this plan may place."""
        return ENTRIES_MAX - len(self._placed)

    def place_pending(self, replica: Replica, decision: PlacementDecision) -> None:
        """A replica that is placed nowhere yet; left out when it stays so for the same reasons."""
        if decision.node_id or decision.summary != replica.placement.summary:
            self._placed.append(PlannedReplica(replica.id, self.record.generation, compact(decision), replica.attempt))

    def place_new(self, decision: PlacementDecision, attempt: int) -> None:
        self._placed.append(PlannedReplica(next(self._ids), self.record.generation, compact(decision), attempt))

    def place_all(self, pending: Sequence[Replica], attempts: Sequence[int], ignoring: Iterable[Replica]) -> None:
        """Places what is pending, then one new replica for each of `attempts`."""
        if not pending and not attempts:
            return
        board = self.board(ignoring)
        for replica in pending:
            if self.room <= 0:
                return
            self.place_pending(replica, board.place())
        for attempt in attempts[: max(0, self.room)]:
            self.place_new(board.place(), attempt)

    def command(self) -> ApplyPlan:
        return ApplyPlan(
            namespace=self.record.metadata.namespace,
            workload=self.record.metadata.name,
            replicas=tuple(self._placed[:ENTRIES_MAX]),
            stops=tuple(self._stops[:ENTRIES_MAX]),
            lost=tuple(self._lost[:ENTRIES_MAX]),
        )
