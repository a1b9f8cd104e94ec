"""Places replicas of one workload, one after another, on a working copy of the nodes."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final

from cloudless.coordinator.core import amounts
from cloudless.coordinator.core.scheduler import explain, filters, score, topology
from cloudless.coordinator.core.scheduler.filters import Candidate, Filter
from cloudless.coordinator.core.scheduler.score import Preferences, Spread, Weights
from cloudless.coordinator.core.state import State
from cloudless.core.model import (
    CandidateScore,
    FilterRejection,
    NodeUsage,
    PlacementDecision,
    ReplicaPhase,
    WorkloadRecord,
)

CANDIDATES_SHOWN: Final = 5


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
    are about to be replaced: they do not count for spread and anti-affinity (their fragments still do, until they
    are gone). A decision without a node says why in its summary and rejections, which cover every node. Nothing
    is reserved by this.
    """
    board = Board(state, record, weights=weights, usage=usage, now_ms=now_ms, ignoring=ignoring)
    return [board.place() for _ in range(count)]


class Board:
    """The working copy: every node with what is used of it, and how good it is for this workload."""

    def __init__(
        self,
        state: State,
        record: WorkloadRecord,
        *,
        weights: Weights,
        usage: Mapping[str, NodeUsage],
        now_ms: int,
        ignoring: Collection[str] = (),
    ) -> None:
        self._record = record
        self._spec = record.spec
        self._weights = weights
        self._usage = usage
        self._now_ms = now_ms
        self._fragment = amounts.fragment_of(record.spec)
        self._ports = amounts.host_ports_of(record.spec)
        self._candidates = [self._candidate(state, node_id) for node_id in sorted(state.nodes)]
        self._count_own(state, ignoring)
        self._own_counts: list[tuple[str, Counter[str]]] = []  # by topology key, of the workload itself
        self._static = filters.static_filters(self._spec)
        self._dynamic = self._dynamic_filters(state, ignoring)
        self._filters = (*self._static, *self._dynamic)
        self._static_failing = {c.node.id: _failing(self._static, c) for c in self._candidates}
        self._soft = self._preferences(state, ignoring)
        self._fixed: dict[str, tuple[float, float, float, float]] = {}  # terms that placing does not change
        self._base: dict[str, float] = {}  # S of each feasible candidate as of now
        for candidate in self._candidates:
            self._check(candidate)
        self._rejections: tuple[FilterRejection, ...] | None = None
        self._obstacles = ""
        self._nowhere: PlacementDecision | None = None

    def place(self) -> PlacementDecision:
        """Puts one replica on the best node of the working copy, or says why there is none."""
        if self._nowhere is not None:
            return self._nowhere  # nothing was placed since, so nothing is different
        feasible = [c for c in self._candidates if not c.failing]
        if self._rejections is None:
            self._rejections = explain.rejections(self._filters, self._candidates)
            self._obstacles = explain.obstacles(self._candidates)
        if not feasible:
            self._nowhere = self._decision("", (), f"no node fits: {self._obstacles or 'there are no nodes'}")
            return self._nowhere
        ranked = heapq.nsmallest(CANDIDATES_SHOWN, [(-self._total(c), c.node.id, c) for c in feasible])
        chosen = ranked[0][2]
        shown = tuple(self._score(c) for _, _, c in ranked)
        others = f"; {self._obstacles}" if self._obstacles else ""
        summary = f"placed on {chosen.node.id}: score {shown[0].total:.3f}, best of {len(feasible)}{others}"
        decision = self._decision(chosen.node.id, shown, summary)
        self._take(chosen)
        return decision

    def place_on(self, node_id: str) -> PlacementDecision:
        """Puts one replica on this node of the working copy, or says why it cannot be there."""
        chosen = next((c for c in self._candidates if c.node.id == node_id), None)
        if chosen is None or chosen.failing:
            rejected = [] if chosen is None else [chosen]
            why = explain.obstacles(rejected) or "it was removed"
            rejections = explain.rejections(self._filters, rejected)
            return PlacementDecision(
                rejections=rejections,
                nodes_considered=1,
                decided_at_ms=self._now_ms,
                summary=f"cannot run on its node: {why}",
            )
        shown = self._score(chosen)
        self._take(chosen)
        return PlacementDecision(
            node_id=node_id,
            candidates=(shown,),
            nodes_considered=1,
            decided_at_ms=self._now_ms,
            summary=f"placed on {node_id}, as on each matching node",
        )

    def _decision(self, node_id: str, shown: tuple[CandidateScore, ...], summary: str) -> PlacementDecision:
        return PlacementDecision(
            node_id=node_id,
            candidates=shown,
            rejections=self._rejections or (),
            nodes_considered=len(self._candidates),
            decided_at_ms=self._now_ms,
            summary=summary,
        )

    # -- set-up -------------------------------------------------------------------------------------------

    def _candidate(self, state: State, node_id: str) -> Candidate:
        ports = state.host_ports_on(node_id) if self._ports else set()
        return Candidate(state.nodes[node_id], state.reserved.get(node_id, amounts.NOTHING), ports)

    def _count_own(self, state: State, ignoring: Collection[str]) -> None:
        own = self._counts(state, "node", ignoring)
        for candidate in self._candidates:
            candidate.own = own[candidate.node.id]

    def _counts(self, state: State, topology_key: str, ignoring: Collection[str], workload: str = "") -> Counter[str]:
        name = self._record.metadata.name
        return topology.replicas_by_domain(
            state,
            namespace=self._record.metadata.namespace,
            workload=workload or name,
            topology_key=topology_key,
            generation=self._record.generation if workload in ("", name) else None,
            ignoring=ignoring,
        )

    def _dynamic_filters(self, state: State, ignoring: Collection[str]) -> tuple[Filter, ...]:
        found = list(filters.room_filters(self._fragment))
        if self._ports:
            found.append(filters.host_port_filter(self._ports))
        name = self._record.metadata.name
        for term in self._spec.placement.anti_affinity:
            if term.required:
                counts = self._counts(state, term.topology_key, ignoring, term.workload)
                found.append(filters.anti_affinity_filter(term, workload=name, counts=counts))
                if term.workload in ("", name):
                    self._own_counts.append((term.topology_key, counts))
        self._exclusive = bool(self._own_counts)
        return tuple(found)

    def _preferences(self, state: State, ignoring: Collection[str]) -> Preferences:
        placement = self._spec.placement
        name = self._record.metadata.name
        eligible = [c.node for c in self._candidates if not self._static_failing[c.node.id]]
        spread = []
        for constraint in placement.spread:
            counts = self._counts(state, constraint.topology_key, ignoring)
            places = frozenset(topology.domain_of(node, constraint.topology_key) for node in eligible)
            spread.append(Spread(constraint, counts, places))
            self._own_counts.append((constraint.topology_key, counts))
        apart = []
        for term in placement.anti_affinity:
            if not term.required:
                counts = self._counts(state, term.topology_key, ignoring, term.workload)
                apart.append((term, counts))
                if term.workload in ("", name):
                    self._own_counts.append((term.topology_key, counts))
        failed = frozenset(
            r.node_id
            for r in state.replicas_of(self._record.metadata.namespace, name)
            if r.status.phase is ReplicaPhase.FAILED
        )
        return Preferences(self._spec, spread, apart, failed)

    # -- while placing ------------------------------------------------------------------------------------

    def _check(self, candidate: Candidate) -> None:
        candidate.failing = (*self._static_failing[candidate.node.id], *_failing(self._dynamic, candidate))

    def _take(self, chosen: Candidate) -> None:
        chosen.used = amounts.plus(chosen.used, self._fragment)
        chosen.ports |= self._ports
        chosen.own += 1
        self._base.pop(chosen.node.id, None)
        for key, counts in self._own_counts:
            counts[topology.domain_of(chosen.node, key)] += 1
        for spread in self._soft.spread:
            spread.recount()
        for candidate in self._candidates if self._exclusive else (chosen,):
            before = candidate.failing
            self._check(candidate)
            if candidate.failing != before:
                self._rejections = None

    def _terms(self, candidate: Candidate) -> tuple[float, float, float, float]:
        found = self._fixed.get(candidate.node.id)
        if found is None:
            node, usage = candidate.node, self._usage.get(candidate.node.id)
            found = (
                score.locality(node, usage, self._spec),
                score.reliability(node, now_ms=self._now_ms),
                score.cost(node, usage),
                score.network_penalty(node, usage),
            )
            self._fixed[candidate.node.id] = found
        return found

    def _total(self, candidate: Candidate) -> float:
        base = self._base.get(candidate.node.id)
        if base is None:
            locality, reliability, cost, network = self._terms(candidate)
            base = score.formula(
                locality=locality,
                reliability=reliability,
                cost=cost,
                utilization=score.utilization(candidate, self._fragment, wanted=self._spec.replicas),
                network=network,
                weights=self._weights,
            )
            self._base[candidate.node.id] = base
        return base - self._soft.weight * self._soft.penalty(candidate.node)

    def _score(self, candidate: Candidate) -> CandidateScore:
        locality, reliability, cost, network = self._terms(candidate)
        shown = score.terms(
            locality=locality,
            reliability=reliability,
            cost=cost,
            utilization=score.utilization(candidate, self._fragment, wanted=self._spec.replicas),
            network=network,
            preference=self._soft.penalty(candidate.node),
            preference_weight=self._soft.weight,
            weights=self._weights,
        )
        return CandidateScore(candidate.node.id, self._total(candidate), shown)


def _failing(checks: tuple[Filter, ...], candidate: Candidate) -> tuple[tuple[str, str], ...]:
    return tuple((f.name, reason) for f in checks if (reason := f.check(candidate)) is not None)
