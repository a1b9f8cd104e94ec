"""ClusterService: the state of the coordinator and a count of what it holds."""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

import asyncio
from typing import Any

from cloudless import __version__
from cloudless.api.v1 import control_pb2, control_pb2_grpc
from cloudless.coordinator.core.snapshot import state_hash
from cloudless.coordinator.core.views import workload_view
from cloudless.coordinator.rpc.services.backend import Backend
from cloudless.core.model import NodeState


class Cluster(control_pb2_grpc.ClusterServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def GetStatus(self, request: Any, context: Any) -> Any:
        backend = self._backend
        snapshot = backend.store.snapshot
        state = snapshot.state
        # Both walk the whole (immutable) state.
        digest = await asyncio.to_thread(state_hash, state)
        statuses = [workload_view(state, record).status for record in state.workloads.values()]
        weights = backend.config.scheduler
        return control_pb2.GetStatusResponse(
            version=__version__,
            coordinator_id=backend.config.id,
            trust_domain=backend.trust_domain,
            commit_index=snapshot.index,
            applied_index=snapshot.index,
            term=snapshot.term,
            state_hash=digest,
            nodes_ready=sum(node.state is NodeState.READY for node in state.nodes.values()),
            nodes_total=len(state.nodes),
            workloads=len(state.workloads),
            replicas_ready=sum(status.ready for status in statuses),
            replicas_desired=sum(status.desired for status in statuses),
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
