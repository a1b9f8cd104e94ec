"""WorkloadService: reads and watches of replicas."""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from cloudless.api.v1 import control_pb2, types_pb2
from cloudless.api.v1.convert import to_proto
from cloudless.coordinator.rpc import listing, watching
from cloudless.coordinator.rpc.access import namespace_or_default
from cloudless.coordinator.rpc.call import current
from cloudless.coordinator.rpc.kinds import REPLICAS
from cloudless.coordinator.rpc.services.backend import Backend, required
from cloudless.core.model import Replica


class Replicas:
    """Handlers of WorkloadService that concern replicas."""

    _backend: Backend

    async def GetReplica(self, request: Any, context: Any) -> Any:
        return control_pb2.GetReplicaResponse(replica=_to_proto(self._replica(request.namespace, request.id)))

    async def ListReplicas(self, request: Any, context: Any) -> Any:
        snapshot = self._backend.store.snapshot
        page = listing.page(
            REPLICAS,
            snapshot.state,
            index=snapshot.index,
            query=_query(request),
            page_size=request.options.page_size,
            page_token=request.options.page_token,
            render=_to_proto,
        )
        return control_pb2.ListReplicasResponse(
            replicas=page.items,
            next_page_token=page.next_page_token,
            revision=page.revision,
        )

    async def WatchReplicas(self, request: Any, context: Any) -> AsyncIterator[Any]:
        messages = watching.watch(self._backend.store, REPLICAS, _query(request), from_revision=request.from_revision)
        async for message in messages:
            answer = control_pb2.WatchReplicasResponse(revision=message.revision)
            if isinstance(message, watching.Present):
                answer.replica.CopyFrom(_to_proto(message.item))
            elif isinstance(message, watching.Gone):
                answer.deleted_id = str(message.key)
            else:
                answer.synced = True
            yield answer

    def _replica(self, namespace: str, text: str) -> Replica:
        """By id or unique prefix, within a namespace. Raises NotFound, InvalidArgument."""
        return listing.by_prefix(
            REPLICAS, self._backend.state, required(text, "replica id"), namespace=namespace_or_default(namespace)
        )


def _to_proto(replica: Replica) -> Any:
    return to_proto(replica, types_pb2.Replica)


def _query(request: Any) -> listing.Query[Replica]:
    return listing.query(
        current(),
        request.options,
        where=_where(request.workload, request.node_id),
        asked=json.dumps([request.workload, request.node_id]),
    )


def _where(workload: str, node_id: str) -> Callable[[Replica], bool]:
    return lambda replica: (
        (not workload or replica.workload == workload) and (not node_id or replica.node_id == node_id)
    )
