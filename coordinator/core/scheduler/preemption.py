"""Which replicas of lower priority make room for one that fits nowhere, with the least harm.

Nodes are looked at in the order of how little room they lack, until enough of them would do. Among these the choice
breaks no `minAvailable` if it can be helped, then stops the fewest replicas, of the lowest priority, the youngest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np

from cloudless.coordinator.core import amounts
from cloudless.coordinator.core.port_sharing import may_share
from cloudless.coordinator.core.priority import PRIORITY_GAP
from cloudless.coordinator.core.scheduler.filters import rooms
from cloudless.coordinator.core.scheduler.plan import Board
from cloudless.coordinator.core.scheduler.score import Weights
from cloudless.coordinator.core.scheduler.table import CAPACITY, Ints
from cloudless.coordinator.core.state import State, WorkloadKey
from cloudless.core.model import NodeState, NodeUsage, Replica, ReplicaPhase, WorkloadRecord

_NODES_WEIGHED: Final = 64  # nodes that would do, of which the one with the least harm is taken
_TRIED_IN_PAIRS: Final = 24  # replicas of a node of which every two are tried

_GONE: Final = (ReplicaPhase.LOST, ReplicaPhase.PENDING)


@dataclass(frozen=True, slots=True)
class Preemption:
    """`replica_ids` stop on the node, in order, so that one replica has room there; `summary` says so to people.
    `breaks_min_available`: workloads that come below their `minAvailable` by it."""

    node_id: str
    replica_ids: tuple[str, ...]
    summary: str
    breaks_min_available: tuple[WorkloadKey, ...] = ()


def victims(
    state: State,
    record: WorkloadRecord,
    *,
    weights: Weights,
    usage: Mapping[str, NodeUsage],
    now_ms: int,
    ignoring: Collection[str] = (),
    stopping: Collection[str] = (),
    ahead: int = 0,
) -> Preemption | None:
    """What to stop so that one replica of the workload's present spec, which fits nowhere, has room.

    Only replicas of workloads whose priority is lower by `PRIORITY_GAP` or more, and only where everything but room and
    host ports is as the spec asks. None when not even all of them would be enough; and when what is stopping already
    will leave room for it, so that nothing is stopped twice for one replica: `room_to_come` says where. `stopping` are
    ids of replicas that are to stop beside those that do so in the state, `ahead` is how many replicas of the workload
    will have been given room before this one. `ignoring` as for `plan.place`. Stopping a victim is up to the caller.
    """
    search = _Search(state, record, weights, usage, now_ms, ignoring, stopping)
    return None if search.room_to_come(ahead + 1) else search.least_harm()


def room_to_come(
    state: State,
    record: WorkloadRecord,
    *,
    weights: Weights,
    usage: Mapping[str, NodeUsage],
    now_ms: int,
    ignoring: Collection[str] = (),
    stopping: Collection[str] = (),
    ahead: int = 0,
) -> str:
    """In words, where a replica that fits nowhere now will fit once what is stopping has stopped; empty: nowhere."""
    search = _Search(state, record, weights, usage, now_ms, ignoring, stopping)
    nodes = search.room_to_come(ahead + 1)
    return f"waits for replicas that are stopping on {', '.join(nodes)}" if nodes else ""


class _Search:
    def __init__(
        self,
        state: State,
        record: WorkloadRecord,
        weights: Weights,
        usage: Mapping[str, NodeUsage],
        now_ms: int,
        ignoring: Collection[str],
        stopping: Collection[str],
    ) -> None:
        self._state = state
        self._record = record
        self._me = (record.metadata.namespace, record.metadata.name)
        self._stopping = frozenset(stopping)
        self._fragment = amounts.fragment_of(record.spec)
        self._ports = amounts.host_ports_of(record.spec)
        board = Board(state, record, weights=weights, usage=usage, now_ms=now_ms, ignoring=ignoring)
        self._shares = board.shares_ports
        self._table = board.table
        self._rooms = rooms(self._fragment)
        found = board.verdicts.only("host_ports", *(room.name for room in self._rooms))
        self._rows: Ints = found[:0] if board.feasible else found  # nothing but room is missing there
        self._available: dict[WorkloadKey, int] = {}
        self._promised: Counter[int] = Counter()  # by row: how many replicas will go where something is stopping

    def room_to_come(self, count: int) -> list[str]:
        """The nodes, as many as are needed, on which what is stopping will leave room for so many replicas."""
        found: list[str] = []
        for row in self._rows.tolist():
            node_id = self._table.ids[row]
            leaving = [r for r in self._state.replicas_on(node_id) if self._leaves(r)]
            fits = self._fit_after(row, leaving, count) if leaving else 0
            if fits:
                found.append(node_id)
                self._promised[row] = fits
                count -= fits
                if count <= 0:
                    return found
        return []

    def least_harm(self) -> Preemption | None:
        lower = {
            key
            for key in self._state.replicas_by_workload
            if self._state.workloads[key].spec.priority <= self._record.spec.priority - PRIORITY_GAP
        }
        if not lower:
            return None
        best: tuple[tuple[object, ...], str, list[Replica]] | None = None
        weighed = 0
        for row in self._nearest().tolist():
            node_id = self._table.ids[row]
            here = self._state.replicas_on(node_id)
            leaving = [r for r in here if self._leaves(r)]
            removable = [r for r in here if _key(r) in lower and not self._leaves(r) and r.status.phase not in _GONE]
            chosen = self._choose(row, leaving, removable)
            if not chosen:
                continue
            rank = (*self._harm(chosen), node_id)
            if best is None or rank < best[0]:
                best = (rank, node_id, chosen)
            weighed += 1
            if weighed >= _NODES_WEIGHED:
                break
        return None if best is None else self._preemption(best[1], best[2])

    def _preemption(self, node_id: str, chosen: list[Replica]) -> Preemption:
        priorities = sorted({self._priority(replica) for replica in chosen})
        which = f"a replica of {chosen[0].workload}" if len(chosen) == 1 else f"{len(chosen)} replicas"
        summary = (
            f"{which} with priority {', '.join(map(str, priorities))} stops on {node_id} "
            f"for {self._me[1]} with priority {self._record.spec.priority}"
        )
        return Preemption(node_id, tuple(replica.id for replica in chosen), summary, tuple(self._broken(chosen)))

    # -- what fits ----------------------------------------------------------------------------------------

    def _leaves(self, replica: Replica) -> bool:
        return replica.stopping or replica.id in self._stopping

    def _nearest(self) -> Ints:
        """The rows, those first that lack the least in relation to what is asked for."""
        lacking = np.zeros(len(self._rows))
        for room in self._rooms:
            capacity = self._table.facts[CAPACITY][room.row][self._rows]
            short = room.ask - (capacity - self._table.used[room.row][self._rows])
            if not room.always:
                short = np.where(capacity > 0, short, 0)
            lacking += np.maximum(short, 0) / room.ask
        found: Ints = self._rows[np.argsort(lacking, kind="stable")]
        return found

    def _free(self, row: int, without: Iterable[Replica]) -> list[int]:
        """What would be free of each resource asked for, in the order of `_rooms`; of those that are limited."""
        capacity, used = self._table.facts[CAPACITY][:, row].tolist(), self._table.used[:, row].tolist()
        freed = amounts.total(replica.fragment for replica in without)
        return [
            capacity[room.row] - used[room.row] + getattr(freed, room.resource)
            for room in self._rooms
            if room.always or capacity[room.row] > 0
        ]

    def _asked(self, row: int) -> list[int]:
        capacity = self._table.facts[CAPACITY][:, row].tolist()
        return [room.ask for room in self._rooms if room.always or capacity[room.row] > 0]

    def _fits(self, row: int, without: Sequence[Replica]) -> bool:
        free, asked = self._free(row, without), self._asked(row)
        needed = 1 + self._promised[row]
        if (needed > 1 and self._one_at_most(row)) or not self._ports_free(row, without):
            return False
        return all(have >= ask * needed for have, ask in zip(free, asked, strict=True))

    def _fit_after(self, row: int, without: Sequence[Replica], count: int) -> int:
        """How many of `count` replicas would fit."""
        if not self._ports_free(row, without):
            return 0
        pairs = zip(self._free(row, without), self._asked(row), strict=True)
        return min(1 if self._one_at_most(row) else count, *(max(0, have) // ask for have, ask in pairs), count)

    def _one_at_most(self, row: int) -> bool:
        """Whether the host ports are for one replica alone."""
        return bool(self._ports) and not self._shares(self._table.ids[row])

    def _ports_free(self, row: int, without: Iterable[Replica]) -> bool:
        if not self._ports:
            return True
        gone = {replica.id for replica in without}
        sharing = self._shares(self._table.ids[row])
        for replica in self._state.replicas_on(self._table.ids[row]):
            spec = self._state.spec_of(replica)
            if replica.id in gone or spec is None or replica.status.phase is ReplicaPhase.LOST:
                continue
            if sharing and _key(replica) == self._me and may_share(spec):
                continue
            if not self._ports.isdisjoint(amounts.host_ports_of(spec)):
                return False
        return True

    # -- the least harm -----------------------------------------------------------------------------------

    def _choose(self, row: int, leaving: list[Replica], removable: list[Replica]) -> list[Replica]:
        """The replicas of one node whose end does the least harm; empty where not even all are enough."""
        if not removable or not self._fits(row, [*leaving, *removable]):
            return []
        singles = [[replica] for replica in removable if self._fits(row, [*leaving, replica])]
        unbroken = [single for single in singles if not self._broken(single)]
        if unbroken:
            return min(unbroken, key=self._harm)
        pairs: list[list[Replica]] = []
        if len(removable) <= _TRIED_IN_PAIRS:
            pairs = [list(pair) for pair in combinations(removable, 2) if self._fits(row, [*leaving, *pair])]
        spared = self._spared(row, leaving, removable)
        return min([*singles, *pairs, spared], key=self._harm)

    def _spared(self, row: int, leaving: list[Replica], removable: list[Replica]) -> list[Replica]:
        """All that may go, less those that need not, the most harmful first."""
        chosen = list(removable)
        for replica in sorted(removable, key=lambda r: self._harm([r]), reverse=True):
            rest = [other for other in chosen if other is not replica]
            if rest and self._fits(row, [*leaving, *rest]):
                chosen = rest
        return chosen

    def _harm(self, chosen: Sequence[Replica]) -> tuple[int, int, int, int, int, str]:
        priorities = [self._priority(replica) for replica in chosen]
        youngest = -sum(replica.assigned_at_ms for replica in chosen)
        broken = len(self._broken(chosen))
        return broken, len(chosen), max(priorities), sum(priorities), youngest, min(replica.id for replica in chosen)

    def _broken(self, chosen: Iterable[Replica]) -> list[WorkloadKey]:
        """The workloads that would come below their `minAvailable`, or further below it."""
        ending = Counter(_key(replica) for replica in chosen if self._serves(replica))
        return [
            key
            for key, count in sorted(ending.items())
            if self._serving(key) - count < self._state.workloads[key].spec.rollout.min_available
        ]

    def _serving(self, key: WorkloadKey) -> int:
        """How many replicas of the workload serve and are to go on."""
        if key not in self._available:
            ids = self._state.replicas_by_workload.get(key, ())
            self._available[key] = sum(self._serves(self._state.replicas[i]) for i in ids)
        return self._available[key]

    def _serves(self, replica: Replica) -> bool:
        node = self._state.nodes.get(replica.node_id)
        ready = replica.status.phase is ReplicaPhase.READY and not self._leaves(replica)
        return ready and node is not None and node.state is NodeState.READY

    def _priority(self, replica: Replica) -> int:
        return self._state.workloads[_key(replica)].spec.priority


def _key(replica: Replica) -> WorkloadKey:
    return replica.namespace, replica.workload
