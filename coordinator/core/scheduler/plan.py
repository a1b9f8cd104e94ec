"""Places replicas of one workload, one after another, on a working copy of the nodes."""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Mapping
from typing import Final

import numpy as np

from cloudless.coordinator.core import amounts, port_sharing
from cloudless.coordinator.core.scheduler import columns, explain, filters, neighbours, score
from cloudless.coordinator.core.scheduler.company import Term, company
from cloudless.coordinator.core.scheduler.neighbours import Neighbours
from cloudless.coordinator.core.scheduler.relations import relations_of
from cloudless.coordinator.core.scheduler.score import Weights
from cloudless.coordinator.core.scheduler.table import COST, NETWORK, Bools, Floats, Ints, table_of
from cloudless.coordinator.core.scheduler.verdicts import Verdict, Verdicts, judge, judge_room
from cloudless.coordinator.core.state import State
from cloudless.coordinator.core.versions import schema_of_all
from cloudless.core.model import CandidateScore, NodeUsage, PlacementDecision, Taint, WorkloadRecord
from cloudless.core.spec import ResourceAmounts, TaintEffect

CANDIDATES_SHOWN: Final = 5
_FRONT: Final = 64  # of the best nodes are kept in order
_REORDERED: Final = 8  # nodes at most that find their place among the best one by one


def place(
    state: State,
    record: WorkloadRecord,
    count: int,
    *,
    weights: Weights,
    usage: Mapping[str, NodeUsage],
    now_ms: int,
    ignoring: Collection[str] = (),
) -> list[PlacementDecision]:
    """Where `count` more replicas of the workload's present spec would go.

    `usage` is what nodes report live, by node id, for as many as are known. `ignoring` are ids of replicas that
    are about to be replaced: they do not count for spread and affinity (their fragments still do, until they
    are gone). A decision without a node says why in its summary and rejections, which cover every node. Nothing
    is reserved by this.
    """
    board = Board(state, record, weights=weights, usage=usage, now_ms=now_ms, ignoring=ignoring, ids_max=None)
    return [board.place() for _ in range(count)]


class Board:
    """The working copy: what every filter says of every node, and how good each is for this workload.

    With `ids_max`, each rejection names that many nodes at most (and counts all); None: every one.
    """

    def __init__(
        self,
        state: State,
        record: WorkloadRecord,
        *,
        weights: Weights,
        usage: Mapping[str, NodeUsage],
        now_ms: int,
        ignoring: Collection[str] = (),
        ids_max: int | None = explain.NODE_IDS_STORED,
    ) -> None:
        self._spec = record.spec
        self._weights = weights
        self._now_ms = now_ms
        self._fragment = amounts.fragment_of(record.spec)
        self._ports = amounts.host_ports_of(record.spec)
        self.table = table = table_of(state, usage)
        around = company(state, record, relations_of(state), ignoring=ignoring)
        static = judge(table, filters.static_filters(record.spec, record.metadata.namespace))
        self._terms = self._neighbours(around.terms, static)
        companies = neighbours.verdicts(self._terms, nodes=len(table))
        rooms = [judge_room(table, room) for room in filters.rooms(self._fragment)]
        self.me = (record.metadata.namespace, record.metadata.name)
        self._sharing = port_sharing.may_share(record.spec) and schema_of_all(state) >= port_sharing.SCHEMA
        self._port_verdict = self._judge_ports(state)
        ports = [] if self._port_verdict is None else [self._port_verdict]
        self.verdicts = Verdicts(table, (*static, *rooms, *ports, *(v for v, _ in companies)), ids_max=ids_max)
        self._blocked: Bools = self.verdicts.blocked()
        self.feasible = len(table) - int(np.count_nonzero(self._blocked))
        # What changes with each replica that is placed, beside the node that it is placed on.
        self._moving_verdicts = [(v, terms) for v, terms in companies if any(t.term.own for t in terms)]
        self._soft = [each for each in self._terms if not each.term.required]
        self._moving_points = any(each.term.own for each in self._soft)
        self._preference_weight = score.preference_weight(len(self._soft))
        self._set_scores(around.own, around.failed_on)
        self._used: dict[int, ResourceAmounts] = {}  # of the nodes that were placed on
        self._scores: dict[int, tuple[float, float, CandidateScore]] = {}
        self._front: list[tuple[float, int]] = []  # the best nodes in order, as (-total, row)
        self._cutoff: tuple[float, int] | None = None  # all others come after it; None: there are no others
        self._stale = True  # the best nodes are to be looked for anew
        self._moved = False  # and so is what all nodes are like
        self._nowhere: PlacementDecision | None = None

    def place(self) -> PlacementDecision:
        """Puts one replica on the best node of the working copy, or says why there is none."""
        if self._nowhere is not None:
            return self._nowhere  # nothing was placed since, so nothing is different
        self._catch_up()
        rejections, obstacles = self.verdicts.rejections(), self.verdicts.obstacles()
        considered = len(self.table)
        if not self.feasible:
            summary = f"no node fits: {obstacles or 'there are no nodes'}"
            self._nowhere = PlacementDecision("", (), rejections, considered, self._now_ms, summary)
            return self._nowhere
        if self._stale or (len(self._front) < CANDIDATES_SHOWN and self._cutoff is not None):
            self._refill()
        ranked = self._front[:CANDIDATES_SHOWN]
        shown = tuple(self._score(row) for _, row in ranked)
        node_id = shown[0].node_id
        others = f"; {obstacles}" if obstacles else ""
        summary = f"placed on {node_id}: score {shown[0].total:.3f}, best of {self.feasible}{others}"
        self._take(ranked[0][1])
        return PlacementDecision(node_id, shown, rejections, considered, self._now_ms, summary)

    def shares_ports(self, node_id: str) -> bool:
        """Whether a replica may share its host ports on that node with others of its workload."""
        row = self.table.index.get(node_id) if self._sharing else None
        return row is not None and port_sharing.can_share(self.table.nodes[row])

    def place_on(self, node_id: str) -> PlacementDecision:
        """Puts one replica on this node of the working copy, or says why it cannot be there."""
        self._catch_up()
        row = self.table.index.get(node_id)
        if row is None or self._blocked[row]:
            against = [] if row is None else self.verdicts.at(row)
            why = explain.obstacles({against[0].name: 1}) if against else "it was removed"
            return PlacementDecision(
                rejections=() if row is None else self.verdicts.rejections_at(row),
                nodes_considered=1,
                decided_at_ms=self._now_ms,
                summary=f"cannot run on its node: {why}",
            )
        shown = self._score(row)
        self._take(row)
        return PlacementDecision(
            node_id=node_id,
            candidates=(shown,),
            nodes_considered=1,
            decided_at_ms=self._now_ms,
            summary=f"placed on {node_id}, as on each matching node",
        )

    # -- set-up -------------------------------------------------------------------------------------------

    def _neighbours(self, terms: list[Term], static: list[Verdict]) -> list[Neighbours]:
        if not terms:
            return []
        eligible = np.ones(len(self.table), np.bool_)
        for verdict in static:
            eligible &= verdict.codes == 0
        rows = np.flatnonzero(eligible)
        return [Neighbours(self.table, term, eligible=rows) for term in terms]

    def _judge_ports(self, state: State) -> Verdict | None:
        if not self._ports:
            return None
        codes, reasons = np.zeros(len(self.table), np.int32), []
        mine: set[str] = set()  # the nodes that own replicas are on
        if self._sharing:
            mine = {state.replicas[each].node_id for each in state.replicas_by_workload.get(self.me, ())}
        for row, taken in self.table.holders(state, self._ports).items():
            node_id = self.table.ids[row]
            if node_id in mine and self.shares_ports(node_id):
                taken = sorted(self._ports & state.host_ports_on(node_id, sharing=self.me))
                if not taken:
                    continue
            reason = filters.host_port_reason(taken)
            if reason not in reasons:
                reasons.append(reason)
            codes[row] = reasons.index(reason) + 1
        return Verdict("host_ports", codes, reasons)

    def _set_scores(self, own: Mapping[str, int], failed_on: Collection[str]) -> None:
        table, weights = self.table, self._weights
        self._own: Ints = np.zeros(len(table), np.int64)
        for node_id, count in own.items():
            self._own[table.index[node_id]] = count
        self._locality = columns.locality(table, self._spec.placement)
        self._reliability = columns.reliability(table, now_ms=self._now_ms)
        self._utilization = columns.utilization(table, self._fragment, own=self._own, wanted=self._spec.replicas)
        self._base: Floats = (
            weights.locality * self._locality
            + weights.reliability * self._reliability
            + weights.cost * table.judged[COST]
            + weights.utilization * self._utilization
            - weights.network * table.judged[NETWORK]
        )
        failed: Floats = np.zeros(len(table))
        for node_id in failed_on:
            failed[table.index[node_id]] = score.points(1)
        self._failed = failed
        taints = table.facet("taints")
        points = [score.points(self._avoided(value)) for value in taints.values]
        self._tainted: Floats = np.array(points, np.float64)[taints.codes] if any(points) else np.zeros(len(table))
        self._weigh()

    def _avoided(self, taints: tuple[Taint, ...]) -> int:
        """How many taints ask to avoid the node, if there is another."""
        tolerations = self._spec.placement.tolerations
        return sum(
            taint.effect is TaintEffect.PREFER_NO_SCHEDULE and not filters.tolerates(tolerations, taint)
            for taint in taints
        )

    def _weigh(self) -> None:
        """The preference term of all nodes, and with it their totals."""
        points: Floats = np.zeros(len(self.table))
        for each in self._soft:
            points = points + each.points()
        self._preference: Floats = (points + self._failed + self._tainted) / self._preference_weight
        self._totals: Floats = self._base - self._preference_weight * self._preference

    def _weigh_at(self, rows: Ints) -> None:
        """As `_weigh`, of these nodes."""
        points: Floats = np.zeros(len(rows))
        for each in self._soft:
            points = points + each.points_at(rows)
        self._preference[rows] = (points + self._failed[rows] + self._tainted[rows]) / self._preference_weight
        self._totals[rows] = self._base[rows] - self._preference_weight * self._preference[rows]

    # -- while placing ------------------------------------------------------------------------------------

    def _refill(self) -> None:
        totals = np.where(self._blocked, -np.inf, self._totals)
        self._front = _best(totals, min(_FRONT, self.feasible))
        self._cutoff = self._front[-1] if self.feasible > len(self._front) else None
        self._stale = False

    def _take(self, row: int) -> None:
        self._nowhere = None
        used = self._used.get(row)
        if used is None:
            used = ResourceAmounts(*self.table.used[:, row].tolist())
        self._used[row] = used = amounts.plus(used, self._fragment)
        self._own[row] += 1
        fits = self.verdicts.take(row)
        if self._port_verdict is not None and not self.shares_ports(self.table.ids[row]):
            fits = False
            self._close_ports(self._port_verdict, row)
        self._rescore(row, used)
        concerned = [each.take(row) for each in self._terms]
        if not fits:
            self._blocked[row] = True
            self.feasible -= 1
            self.verdicts.fell(row)
        if self._moving_verdicts:
            self._moved = True
        elif self._moving_points:
            self._weigh_after(concerned)
        else:
            self._reorder(row, fits=fits)

    def _weigh_after(self, concerned: list[Ints | None]) -> None:
        """The nodes that share a place with the one that was placed on are others now, as a rule few; else all are."""
        rows: set[int] = set()
        for each in concerned:
            if each is None or len(rows) + len(each) > _REORDERED:
                self._moved = True
                return
            rows.update(each.tolist())
        self._weigh_at(np.array(sorted(rows), np.int64))
        for row in sorted(rows):
            self._reorder(row, fits=not self._blocked[row])

    def _close_ports(self, verdict: Verdict, row: int) -> None:
        reason = filters.host_port_reason(sorted(self._ports))
        if reason not in verdict.reasons:
            verdict.reasons.append(reason)
        verdict.codes[row] = verdict.reasons.index(reason) + 1
        verdict.rows = None

    def _rescore(self, row: int, used: ResourceAmounts) -> None:
        capacity = self.table.nodes[row].device.capacity
        value = score.utilization(used, self._fragment, capacity, own=int(self._own[row]), wanted=self._spec.replicas)
        self._utilization[row] = value
        self._base[row] = score.formula(
            locality=float(self._locality[row]),
            reliability=float(self._reliability[row]),
            cost=float(self.table.judged[COST, row]),
            utilization=value,
            network=float(self.table.judged[NETWORK, row]),
            weights=self._weights,
        )
        self._totals[row] = self._base[row] - self._preference_weight * self._preference[row]

    def _reorder(self, row: int, *, fits: bool) -> None:
        """This node is another one now."""
        position = next((i for i, (_, at) in enumerate(self._front) if at == row), None)
        if position is not None:
            del self._front[position]
        if fits:
            entry = (-float(self._totals[row]), row)
            if self._cutoff is None or entry <= self._cutoff:
                insort(self._front, entry)

    def _catch_up(self) -> None:
        """After a replica was placed that any node may have become another one by."""
        if not self._moved:
            return
        self._moved = False
        others = False
        for verdict, terms in self._moving_verdicts:
            codes = neighbours.judge(terms, nodes=len(self.table))
            if not np.array_equal(codes, verdict.codes):
                self.verdicts.replaced(verdict, codes)
                others = True
        if others:
            self._blocked = self.verdicts.blocked()
            self.feasible = len(self.table) - int(np.count_nonzero(self._blocked))
        if self._moving_points:
            self._weigh()
        self._stale = True

    def _score(self, row: int) -> CandidateScore:
        utilization, preference = float(self._utilization[row]), float(self._preference[row])
        known = self._scores.get(row)
        if known is not None and known[:2] == (utilization, preference):
            return known[2]
        shown = score.terms(
            locality=float(self._locality[row]),
            reliability=float(self._reliability[row]),
            cost=float(self.table.judged[COST, row]),
            utilization=utilization,
            network=float(self.table.judged[NETWORK, row]),
            preference=preference,
            preference_weight=self._preference_weight,
            weights=self._weights,
        )
        made = CandidateScore(self.table.ids[row], float(self._totals[row]), shown)
        self._scores[row] = (utilization, preference, made)
        return made


def _best(values: Floats, count: int) -> list[tuple[float, int]]:
    """The rows of the `count` highest values as (-value, row), best first; the first rows among equals."""
    if not count:
        return []
    if count < len(values):
        least = np.partition(values, len(values) - count)[len(values) - count]
        above = np.flatnonzero(values > least)
        rows = np.concatenate((above, np.flatnonzero(values == least)[: count - len(above)]))
    else:
        rows = np.arange(len(values))
    return sorted(zip((-values[rows]).tolist(), rows.tolist(), strict=True))
