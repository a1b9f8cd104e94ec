"""ClusterService: the state of the coordinator and a count of what it holds."""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from cloudless import __version__
from cloudless.api.v1 import control_pb2, control_pb2_grpc
from cloudless.coordinator.core.snapshot import state_hash
from cloudless.coordinator.core.state import State
from cloudless.coordinator.core.views import workload_status
from cloudless.coordinator.rpc.services.backend import Backend
from cloudless.core.model import NodeState


@dataclass(frozen=True, slots=True)
class _Counts:
    """What takes a walk through the whole state as of `index`."""

    index: int = -1
    digest: str = ""
    replicas_ready: int = 0
    replicas_desired: int = 0


def _count(state: State, index: int) -> _Counts:
    """In a thread: the state is immutable."""
    statuses = [workload_status(state, record) for record in state.workloads.values()]
    ready, desired = sum(status.ready for status in statuses), sum(status.desired for status in statuses)
    return _Counts(index, state_hash(state), ready, desired)


class Cluster(control_pb2_grpc.ClusterServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._counted = _Counts()
        self._counting = asyncio.Lock()

    async def GetStatus(self, request: Any, context: Any) -> Any:
        backend = self._backend
        # One at a time, and once for each state: everybody may ask, and it walks all that there is.
        async with self._counting:
            snapshot = backend.store.snapshot
            if self._counted.index != snapshot.index:
                self._counted = await asyncio.to_thread(_count, snapshot.state, snapshot.index)
        state, counts = snapshot.state, self._counted
        weights = backend.config.scheduler
        return control_pb2.GetStatusResponse(
            version=__version__,
            coordinator_id=backend.config.id,
            trust_domain=backend.trust_domain,
            commit_index=snapshot.index,
            applied_index=snapshot.index,
            term=snapshot.term,
            state_hash=counts.digest,
            nodes_ready=sum(node.state is NodeState.READY for node in state.nodes.values()),
            nodes_total=len(state.nodes),
            workloads=len(state.workloads),
            replicas_ready=counts.replicas_ready,
            replicas_desired=counts.replicas_desired,
            score_weights={
                "locality": weights.weight_locality,
                "reliability": weights.weight_reliability,
                "cost": weights.weight_cost,
                "utilization": weights.weight_utilization,
                "network_penalty": weights.weight_network,
            },
            store_engine=backend.config.store.engine,
            wall_clock_ms=backend.clock.now_ms(),
        )
