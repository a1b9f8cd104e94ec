"""The scheduler, one node after another: what the columns of `coordinator.core.scheduler` are held to.

The same filters and terms, without numpy, caches or anything counted on: every decision looks at everything anew. Made
to be read, and too slow for many nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from cloudless.coordinator.core import amounts, port_sharing
from cloudless.coordinator.core.scheduler import facets, filters, score, topology
from cloudless.coordinator.core.scheduler.company import Term, company
from cloudless.coordinator.core.scheduler.explain import obstacles
from cloudless.coordinator.core.scheduler.plan import CANDIDATES_SHOWN
from cloudless.coordinator.core.scheduler.relations import required_about_others, selects
from cloudless.coordinator.core.scheduler.score import Weights
from cloudless.coordinator.core.state import State, WorkloadKey
from cloudless.coordinator.core.versions import schema_of_all
from cloudless.core.model import (
    CandidateScore,
    FilterRejection,
    Node,
    NodeUsage,
    PlacementDecision,
    WorkloadRecord,
)
from cloudless.core.spec import AntiAffinity, ResourceAmounts, TaintEffect

Failing = tuple[tuple[str, str], ...]  # (filter, reason), in the filters' order


class Looked:
    """What `company` asks about workloads, found by looking at all of them."""

    def __init__(self, state: State) -> None:
        self._state = state

    def matching(self, namespace: str, labels: Mapping[str, str]) -> list[WorkloadKey]:
        return [
            key
            for key, record in sorted(self._state.workloads.items(), key=lambda item: item[0])
            if key[0] == namespace and all(record.metadata.labels.get(k) == v for k, v in labels.items())
        ]

    def repulsions(self, record: WorkloadRecord) -> list[tuple[WorkloadKey, int, AntiAffinity]]:
        me, labels = record.metadata.name, record.metadata.labels
        return [
            (key, generation, term)
            for key, other in sorted(self._state.workloads.items(), key=lambda item: item[0])
            if key[0] == record.metadata.namespace and key[1] != me
            for generation, term in required_about_others(other)
            if selects(term, owner=key[1], name=me, labels=labels)
        ]


@dataclass(slots=True)
class Candidate:
    """A node on the working copy."""

    node: Node
    usage: NodeUsage | None
    used: ResourceAmounts
    ports: set[tuple[int, str]] = field(default_factory=set)
    own: int = 0


class PlainBoard:
    """As `scheduler.plan.Board`."""

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
        self._spec = record.spec
        self._weights = weights
        self._now_ms = now_ms
        self._fragment = amounts.fragment_of(record.spec)
        self._ports = amounts.host_ports_of(record.spec)
        self._all_know = schema_of_all(state) >= port_sharing.SCHEMA
        me = (record.metadata.namespace, record.metadata.name)
        around = company(state, record, Looked(state), ignoring=ignoring)
        self._failed_on = around.failed_on
        self._candidates = [
            Candidate(
                state.nodes[i],
                usage.get(i),
                state.reserved.get(i, amounts.NOTHING),
                state.host_ports_on(i, sharing=me if self._shares(state.nodes[i]) else None),
                around.own[i],
            )
            for i in sorted(state.nodes)
        ]
        self._static = filters.static_filters(record.spec, record.metadata.namespace)
        self._rooms = filters.rooms(self._fragment)
        self._eligible = [c.node for c in self._candidates if all(self._objection(f, c) is None for f in self._static)]
        self._terms = [(term, self._by_place(state, term)) for term in around.terms]
        self._places = {
            key: {topology.domain_of(node, key) for node in self._eligible}
            for key in {term.topology_key for term in around.terms if term.filter == "spread"}
        }
        self._soft = [(term, counts) for term, counts in self._terms if not term.required]
        self._weight = score.preference_weight(len(self._soft))

    def place(self) -> PlacementDecision:
        failing = {c.node.id: self._failing(c) for c in self._candidates}
        rejections = self._rejections(failing)
        why = obstacles(Counter(found[0][0] for found in failing.values() if found))
        feasible = [c for c in self._candidates if not failing[c.node.id]]
        considered = len(self._candidates)
        if not feasible:
            summary = f"no node fits: {why or 'there are no nodes'}"
            return PlacementDecision("", (), rejections, considered, self._now_ms, summary)
        scored = sorted(((self._score(c), c) for c in feasible), key=lambda item: (-item[0].total, item[0].node_id))
        shown = tuple(candidate for candidate, _ in scored[:CANDIDATES_SHOWN])
        best = shown[0]
        others = f"; {why}" if why else ""
        summary = f"placed on {best.node_id}: score {best.total:.3f}, best of {len(feasible)}{others}"
        self._take(scored[0][1])
        return PlacementDecision(best.node_id, shown, rejections, considered, self._now_ms, summary)

    def place_on(self, node_id: str) -> PlacementDecision:
        chosen = next((c for c in self._candidates if c.node.id == node_id), None)
        failing = () if chosen is None else self._failing(chosen)
        if chosen is None or failing:
            why = obstacles({failing[0][0]: 1}) if failing else "it was removed"
            rejections = tuple(
                FilterRejection(name, self._words(name, reason, [chosen]), (node_id,), 1)
                for name, reason in failing
                if chosen is not None
            )
            summary = f"cannot run on its node: {why}"
            return PlacementDecision("", (), rejections, 1, self._now_ms, summary)
        shown = self._score(chosen)
        self._take(chosen)
        summary = f"placed on {node_id}, as on each matching node"
        return PlacementDecision(node_id, (shown,), (), 1, self._now_ms, summary)

    def _shares(self, node: Node) -> bool:
        return self._all_know and port_sharing.may_share(self._spec) and port_sharing.can_share(node)

    def _by_place(self, state: State, term: Term) -> Counter[str]:
        counts: Counter[str] = Counter()
        for node_id, count in term.counts.items():
            counts[topology.domain_of(state.nodes[node_id], term.topology_key)] += count
        return counts

    # -- filters ------------------------------------------------------------------------------------------

    def _failing(self, c: Candidate) -> Failing:
        found = [(f.name, reason) for f in self._static if (reason := self._objection(f, c)) is not None]
        for room in self._rooms:
            if room.lacks(used=getattr(c.used, room.resource), capacity=getattr(c.node.device.capacity, room.resource)):
                found.append((room.name, f"insufficient {room.name}"))
        if taken := self._ports & c.ports:
            found.append(("host_ports", filters.host_port_reason(sorted(taken))))
        for name in ("affinity", "anti_affinity", "spread"):
            broken = [
                term.reason
                for term, counts in self._terms
                if term.required and term.filter == name and self._excess(term, counts, c.node) > 0
            ]
            if broken:
                found.append((name, broken[0]))
        return tuple(found)

    def _objection(self, each: filters.Filter, c: Candidate) -> str | None:
        for part in each.parts:
            reason = part.check(facets.value(part.facet, c.node, c.usage))
            if reason is not None:
                return reason
        return None

    def _rejections(self, failing: Mapping[str, Failing]) -> tuple[FilterRejection, ...]:
        order = [f.name for f in self._static] + [r.name for r in self._rooms]
        order += ["host_ports", "affinity", "anti_affinity", "spread"]
        groups: dict[tuple[str, str], list[Candidate]] = {}
        for c in self._candidates:
            for found in failing[c.node.id]:
                groups.setdefault(found, []).append(c)
        rows = []
        for (name, reason), rejected in sorted(groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1])):
            ids = tuple(c.node.id for c in rejected)
            rows.append(FilterRejection(name, self._words(name, reason, rejected), ids, len(ids)))
        return tuple(rows)

    def _words(self, name: str, reason: str, rejected: list[Candidate]) -> str:
        room = next((room for room in self._rooms if room.name == name), None)
        if room is None:
            return reason
        free = [getattr(c.node.device.capacity, room.resource) - getattr(c.used, room.resource) for c in rejected]
        return room.reason(free=max(free), nodes=len(rejected))

    # -- company ------------------------------------------------------------------------------------------

    def _excess(self, term: Term, counts: Counter[str], node: Node) -> int:
        here = counts[topology.domain_of(node, term.topology_key)]
        if term.filter == "affinity":
            if not counts.total() and (term.own or not term.required):
                return 0
            return int(here == 0)
        if term.filter == "spread":
            places = self._places[term.topology_key]
            return here + 1 - min((counts[place] for place in places), default=0) - term.max_skew
        return here

    def _take(self, chosen: Candidate) -> None:
        chosen.used = amounts.plus(chosen.used, self._fragment)
        if not self._shares(chosen.node):
            chosen.ports |= self._ports
        chosen.own += 1
        for term, counts in self._terms:
            if term.own:
                counts[topology.domain_of(chosen.node, term.topology_key)] += 1

    # -- score --------------------------------------------------------------------------------------------

    def _score(self, c: Candidate) -> CandidateScore:
        points = 0.0
        for term, counts in self._soft:
            points += score.points(self._excess(term, counts, c.node)) * term.weight
        points += score.points(int(c.node.id in self._failed_on))
        tolerations = self._spec.placement.tolerations
        points += score.points(
            sum(
                taint.effect is TaintEffect.PREFER_NO_SCHEDULE and not filters.tolerates(tolerations, taint)
                for taint in c.node.taints
            )
        )
        values = {
            "locality": score.locality(c.node, c.usage, self._spec.placement),
            "reliability": score.reliability(c.node, now_ms=self._now_ms),
            "cost": score.cost(c.node, c.usage),
            "utilization": score.utilization(
                c.used, self._fragment, c.node.device.capacity, own=c.own, wanted=self._spec.replicas
            ),
            "network": score.network_penalty(c.node, c.usage),
        }
        preference = points / self._weight
        total = score.formula(**values, weights=self._weights) - self._weight * preference
        shown = score.terms(**values, preference=preference, preference_weight=self._weight, weights=self._weights)
        return CandidateScore(c.node.id, total, shown)
