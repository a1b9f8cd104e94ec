"""PlanningService: why things are as they are, and what would happen. Changes nothing."""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cloudless.api.v1 import control_pb2, types_pb2
from cloudless.api.v1.convert import to_proto
from cloudless.coordinator.core.commands import PutWorkload
from cloudless.coordinator.core.online_hours import likely_online
from cloudless.coordinator.core.scheduler.plan import place
from cloudless.coordinator.core.scheduler.remedies import would_fit_if
from cloudless.coordinator.core.scheduler.score import Weights
from cloudless.coordinator.core.state import State
from cloudless.coordinator.core.what_if import Forecast, WhatIf
from cloudless.coordinator.rpc import listing
from cloudless.coordinator.rpc.access import namespace_or_default
from cloudless.coordinator.rpc.kinds import REPLICAS
from cloudless.coordinator.rpc.services.backend import Backend, required
from cloudless.coordinator.rpc.services.workloads import puts_of
from cloudless.coordinator.weighing import weights_of
from cloudless.core.model import Node, NodeState, NodeUsage, Replica, WorkloadRecord
from cloudless.errors import InvalidArgument, NotFound

AWAY_BELOW: Final = 0.5  # a device that is online less often than this at that hour is taken to be away
_HOUR_MS: Final = 3_600_000
_AT_ONCE: Final = 2  # forecasts that are computed at the same time


@dataclass(frozen=True, slots=True)
class _Ground:
    """What a question is answered on: nothing of it changes meanwhile."""

    state: State
    index: int
    now_ms: int
    weights: Weights
    usage: Mapping[str, NodeUsage]

    def what_if(self, *, at_ms: int = 0) -> WhatIf:
        return WhatIf(self.state, index=self.index, now_ms=at_ms or self.now_ms, weights=self.weights, usage=self.usage)


class Planning:
    """Answers are computed in threads: a large fabric must not stop its coordinator for a question."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._weights = weights_of(backend.config.scheduler)
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def ExplainPlacement(self, request: Any, context: Any) -> Any:
        ground = self._ground()
        namespace, name = namespace_or_default(request.namespace), required(request.name, "name")
        record = ground.state.workloads.get((namespace, name))
        if record is None:
            raise NotFound(f"workload {name!r} was not found in namespace {namespace}", reason="WorkloadNotFound")
        replica = self._replica(ground.state, record, request.replica_id) if request.replica_id else None
        async with self._turns:
            return await asyncio.to_thread(_explain, ground, record, replica)

    async def PlanWorkloads(self, request: Any, context: Any) -> Any:
        puts = puts_of(request)
        ground = self._ground()
        async with self._turns:
            forecast = await asyncio.to_thread(_plan, ground, puts)
        return control_pb2.PlanWorkloadsResponse(changes=_changes(forecast), workloads=_outlooks(forecast))

    async def Simulate(self, request: Any, context: Any) -> Any:
        ground = self._ground()
        if request.at_ms < 0:
            raise InvalidArgument(f"at_ms is {request.at_ms}", reason="BadTime", remedy="give a time after 1970")
        away = _away(ground, request.drop_nodes, request.drop_zones, request.at_ms)
        async with self._turns:
            forecast = await asyncio.to_thread(_without, ground, away, request.at_ms)
        return control_pb2.SimulateResponse(
            changes=_changes(forecast), workloads=_outlooks(forecast), nodes_away=sorted(away)
        )

    def _ground(self) -> _Ground:
        snapshot = self._backend.store.snapshot
        usage = self._backend.hub.usages()
        return _Ground(snapshot.state, snapshot.index, self._backend.store.now_ms(), self._weights, usage)

    @staticmethod
    def _replica(state: State, record: WorkloadRecord, text: str) -> Replica:
        """By id or unique prefix, of this workload. Raises NotFound, InvalidArgument."""
        found = listing.by_prefix(REPLICAS, state, text, namespace=record.metadata.namespace)
        if found.workload != record.metadata.name:
            raise NotFound(
                f"replica {found.id} is one of workload {found.workload}, not of {record.metadata.name}",
                reason="ReplicaNotFound",
            )
        return found


def _explain(ground: _Ground, record: WorkloadRecord, replica: Replica | None) -> Any:
    arguments: dict[str, Any] = {"weights": ground.weights, "usage": ground.usage, "now_ms": ground.now_ms}
    decision = place(ground.state, record, 1, **arguments)[0]
    answer = control_pb2.ExplainPlacementResponse(decision=to_proto(decision, types_pb2.PlacementDecision))
    if replica is not None:
        answer.recorded.CopyFrom(to_proto(replica.placement, types_pb2.PlacementDecision))
    for name in ("locality", "reliability", "cost", "utilization", "network"):
        answer.weights[name] = getattr(ground.weights, name)
    if not decision.node_id:
        for fit in would_fit_if(ground.state, record, **arguments):
            answer.remedies.add(change=fit.change, node_id=fit.node_id, path=fit.path)
    return answer


def _plan(ground: _Ground, puts: list[PutWorkload]) -> Forecast:
    what_if = ground.what_if()
    for put in puts:
        what_if.apply(put)
        what_if.ask_for((put.metadata.namespace, put.metadata.name))
    return what_if.forecast()


def _without(ground: _Ground, away: set[str], at_ms: int) -> Forecast:
    what_if = ground.what_if(at_ms=at_ms)
    what_if.drop_nodes(away)
    return what_if.forecast()


def _away(ground: _Ground, nodes: Any, zones: Any, at_ms: int) -> set[str]:
    """Ids of the nodes that would not be there. Raises NotFound for a node or zone that there is not."""
    known = ground.state.nodes
    for name in nodes:
        if name not in known:
            raise NotFound(f"node {name[:80]!r} was not found", reason="NodeNotFound")
    for zone in zones:
        if not any(zone in (node.zone, f"{node.region}/{node.zone}") for node in known.values()):
            have = ", ".join(sorted({node.zone for node in known.values() if node.zone})) or "none"
            raise NotFound(f"no node is in zone {zone[:80]!r}", reason="ZoneNotFound", remedy=f"there are: {have}")
    away = {*nodes}
    for node in known.values():
        if node.state not in (NodeState.READY, NodeState.UNREACHABLE):
            continue
        if node.zone in zones or f"{node.region}/{node.zone}" in zones or (at_ms and _usually_away(node, at_ms)):
            away.add(node.id)
    return away


def _usually_away(node: Node, at_ms: int) -> bool:
    share = likely_online(node.presence, at_ms, _HOUR_MS)
    return share is not None and share < AWAY_BELOW


def _changes(forecast: Forecast) -> list[Any]:
    return [
        control_pb2.PlannedChange(
            namespace=step.namespace,
            workload=step.workload,
            replica_id=step.replica_id,
            change=step.change,
            from_node=step.from_node,
            to_node=step.to_node,
            reason=step.reason,
        )
        for step in forecast.steps
    ]


def _outlooks(forecast: Forecast) -> list[Any]:
    return [
        control_pb2.WorkloadOutlook(
            namespace=row.namespace,
            name=row.name,
            desired=row.desired,
            placed_before=row.placed_before,
            placed_after=row.placed_after,
            min_available=row.min_available,
            message=row.message,
        )
        for row in forecast.outlooks
    ]
