"""NodeService: the nodes as the log knows them, with what their agents last said."""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from cloudless.api.v1 import control_pb2, control_pb2_grpc
from cloudless.api.v1.convert import fill, from_proto
from cloudless.coordinator.core.commands import RemoveNode, UpdateNode
from cloudless.coordinator.core.requests import node_violations
from cloudless.coordinator.core.state import State
from cloudless.coordinator.core.views import node_reserved
from cloudless.coordinator.rpc import listing, watching
from cloudless.coordinator.rpc.call import current
from cloudless.coordinator.rpc.kinds import NODES
from cloudless.coordinator.rpc.services.backend import Backend, refuse_violations, required
from cloudless.core.model import Node, Taint

NOT_CONNECTED_MS = -1


class Nodes(control_pb2_grpc.NodeServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def GetNode(self, request: Any, context: Any) -> Any:
        state = self._backend.state
        return control_pb2.GetNodeResponse(node=self._view(state, _find(state, request.id)))

    async def ListNodes(self, request: Any, context: Any) -> Any:
        snapshot = self._backend.store.snapshot
        page = listing.page(
            NODES,
            snapshot.state,
            index=snapshot.index,
            query=listing.query(current(), request.options),
            page_size=request.options.page_size,
            page_token=request.options.page_token,
            render=lambda node: self._view(snapshot.state, node),
        )
        return control_pb2.ListNodesResponse(
            nodes=page.items,
            next_page_token=page.next_page_token,
            revision=page.revision,
        )

    async def WatchNodes(self, request: Any, context: Any) -> AsyncIterator[Any]:
        query = listing.query(current(), request.options)
        messages = watching.watch(self._backend.store, NODES, query, from_revision=request.from_revision)
        async for message in messages:
            answer = control_pb2.WatchNodesResponse(revision=message.revision)
            if isinstance(message, watching.Present):
                answer.node.CopyFrom(self._view(message.state, message.item))
            elif isinstance(message, watching.Gone):
                answer.deleted_id = str(message.key)
            else:
                answer.synced = True
            yield answer

    async def UpdateNode(self, request: Any, context: Any) -> Any:
        node = _find(self._backend.state, request.id)
        update = UpdateNode(
            node_id=node.id,
            cordoned=request.cordoned if request.HasField("cordoned") else None,
            draining=request.draining if request.HasField("draining") else None,
            set_labels=dict(request.set_labels),
            remove_labels=tuple(request.remove_labels),
            set_taints=tuple(from_proto(taint, Taint) for taint in request.set_taints),
            remove_taints=tuple(request.remove_taints),
        )
        refuse_violations(node_violations(update))
        await self._backend.write(update)
        state = self._backend.state
        return control_pb2.UpdateNodeResponse(node=self._view(state, _find(state, node.id)))

    async def RemoveNode(self, request: Any, context: Any) -> Any:
        node = _find(self._backend.state, request.id)
        await self._backend.write(RemoveNode(node_id=node.id, force=request.force))
        return control_pb2.RemoveNodeResponse()

    def _view(self, state: State, node: Node) -> Any:
        view = control_pb2.NodeView(
            heartbeat_age_ms=NOT_CONNECTED_MS, replicas=len(state.replicas_by_node.get(node.id, ()))
        )
        fill(node, view.node)
        fill(node_reserved(state, node.id), view.reserved)
        live = self._backend.hub.live(node.id)
        if live is not None:
            if live.usage is not None:
                view.usage.SetInParent()
                fill(live.usage, view.usage)
            view.heartbeat_age_ms = live.heartbeat_age_ms
            view.clock_skew_ms = live.clock_skew_ms
        return view


def _find(state: State, text: str) -> Node:
    return listing.by_prefix(NODES, state, required(text, "id"))
