"""TokenService: join tokens. The JWT is made for the answer and never stored."""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from cloudless.api.v1 import control_pb2, control_pb2_grpc, types_pb2
from cloudless.api.v1.convert import to_proto
from cloudless.coordinator.core.commands import CreateToken, RevokeToken
from cloudless.coordinator.rpc import listing
from cloudless.coordinator.rpc.call import current
from cloudless.coordinator.rpc.kinds import TOKENS
from cloudless.coordinator.rpc.services.backend import Backend, derived_id, refuse_violations, required
from cloudless.core.labels import is_label_value
from cloudless.core.model import JoinToken
from cloudless.core.validation import Violation, validate_labels

TTL_MS_MIN: Final = 1_000
TTL_MS_MAX: Final = 366 * 24 * 3_600_000
USES_MAX: Final = 100_000
PATTERN_LENGTH_MAX: Final = 63
_PATTERN_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-*?")


class Tokens(control_pb2_grpc.TokenServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def CreateToken(self, request: Any, context: Any) -> Any:
        backend = self._backend
        refuse_violations(_violations(request))
        now_ms = backend.clock.now_ms()
        token = JoinToken(
            id=derived_id("jt"),
            node_pattern=request.node_pattern or "*",
            region=request.region,
            zone=request.zone,
            labels=dict(request.labels),
            max_uses=request.max_uses or 1,
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


def _violations(request: Any) -> Iterator[Violation]:
    pattern = request.node_pattern
    if len(pattern) > PATTERN_LENGTH_MAX or not _PATTERN_CHARACTERS.issuperset(pattern):
        yield Violation(
            "node_pattern",
            f"{pattern[:80]!r} is not a pattern over node names",
            "use a-z, 0-9 and -, with * for any text and ? for any one character, at most 63 characters",
        )
    for name in ("region", "zone"):
        if not is_label_value(getattr(request, name)):
            yield Violation(name, f"{getattr(request, name)[:80]!r} is not a label value")
    yield from validate_labels(request.labels, "labels")
    if request.ttl_ms and not TTL_MS_MIN <= request.ttl_ms <= TTL_MS_MAX:
        yield Violation("ttl", "the life of a token is out of range", "use 1s to 366 days")
    if not 0 <= request.max_uses <= USES_MAX:
        yield Violation("max_uses", f"{request.max_uses} is out of range", f"use 1 to {USES_MAX}")
