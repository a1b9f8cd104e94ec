"""TokenService: join tokens. The JWT is made for the answer and never stored."""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

import dataclasses
from typing import Any

from cloudless.api.v1 import control_pb2, control_pb2_grpc, types_pb2
from cloudless.api.v1.convert import to_proto
from cloudless.coordinator.core.commands import CreateToken, RevokeToken
from cloudless.coordinator.core.requests import token_violations
from cloudless.coordinator.rpc import listing
from cloudless.coordinator.rpc.call import current
from cloudless.coordinator.rpc.kinds import TOKENS
from cloudless.coordinator.rpc.services.backend import Backend, derived_id, refuse_violations, required
from cloudless.core.model import JoinToken


class Tokens(control_pb2_grpc.TokenServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def CreateToken(self, request: Any, context: Any) -> Any:
        backend = self._backend
        now_ms = backend.clock.now_ms()
        asked = JoinToken(
            node_pattern=request.node_pattern,
            region=request.region,
            zone=request.zone,
            labels=dict(request.labels),
            max_uses=request.max_uses,
        )
        refuse_violations(token_violations(asked, ttl_ms=request.ttl_ms))
        token = dataclasses.replace(
            asked,
            id=derived_id("jt"),
            node_pattern=asked.node_pattern or "*",
            max_uses=asked.max_uses or 1,
            created_at_ms=now_ms,
            expires_at_ms=now_ms + (request.ttl_ms or backend.config.identity.token_ttl_ms),
            created_by=current().caller.actor,
        )
        await backend.write(CreateToken(token=token))
        # A repeat under the same request id finds the token of the first time, and signs the same claims.
        stored = backend.state.tokens.get(token.id, token)
        jwt = backend.signer.sign(
            stored,
            trust_domain=backend.trust_domain,
            root_sha256=backend.authority.root_sha256,
            endpoints=backend.enroll_addresses,
        )
        return control_pb2.CreateTokenResponse(token=to_proto(stored, types_pb2.JoinToken), jwt=jwt)

    async def ListTokens(self, request: Any, context: Any) -> Any:
        snapshot = self._backend.store.snapshot
        page = listing.page(
            TOKENS,
            snapshot.state,
            index=snapshot.index,
            query=listing.unfiltered(),
            page_size=request.page_size,
            page_token=request.page_token,
            render=lambda token: to_proto(token, types_pb2.JoinToken),
        )
        return control_pb2.ListTokensResponse(tokens=page.items, next_page_token=page.next_page_token)

    async def RevokeToken(self, request: Any, context: Any) -> Any:
        token = listing.by_prefix(TOKENS, self._backend.state, required(request.id, "id"))
        await self._backend.write(RevokeToken(token_id=token.id))
        return control_pb2.RevokeTokenResponse()
