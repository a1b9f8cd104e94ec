"""Join tokens: who may become a node, or a coordinator."""

from __future__ import annotations

import re
from typing import Final

from cloudless.coordinator.core.commands import CreateToken, RevokeToken
from cloudless.coordinator.core.outcome import ApplyResult
from cloudless.coordinator.core.state import State
from cloudless.coordinator.core.transition import Transition
from cloudless.core.model import JoinToken, Severity
from cloudless.core.replacing import replace
from cloudless.errors import AlreadyExists, Conflict, InvalidArgument, NotFound, TokenRefused
from cloudless.identity.spiffe import COORDINATOR, is_name

# Tokens that ended this long ago are forgotten, so that they do not pile up: all that ended by the end of a day (UTC)
# together, when the next one is made. Most creations then look at no other token.
_DAY_MS: Final = 24 * 3_600_000
RETENTION_MS: Final = 7 * _DAY_MS
USES_MAX: Final = 100_000

_PATTERN: Final = re.compile(r"[a-z0-9*?-]{1,63}")


def create_token(t: Transition, command: CreateToken) -> ApplyResult:
    token = command.token
    if not token.id:
        raise InvalidArgument("a join token needs an id", reason="TokenIdMissing")
    if token.coordinator_id:
        _check_coordinator_token(t.state, token)
    elif not _PATTERN.fullmatch(token.node_pattern):
        raise InvalidArgument(
            f"{token.node_pattern!r} is no pattern of node names",
            reason="BadNodePattern",
            remedy="use a-z, 0-9 and -, with * for any text and ? for any one character",
        )
    if not 1 <= token.max_uses <= USES_MAX:
        raise InvalidArgument(f"a join token has 1 to {USES_MAX} uses, not {token.max_uses}", reason="BadMaxUses")
    if token.expires_at_ms <= t.now_ms:
        raise InvalidArgument("a join token must expire in the future", reason="BadExpiry")
    if token.id in t.state.tokens:
        raise AlreadyExists(f"join token {token.id} exists", reason="TokenExists")
    _forget_old(t)
    t.put_token(
        replace(
            token,
            uses=0,
            used_by=(),
            revoked=False,
            created_at_ms=t.now_ms,
            created_by=token.created_by or t.actor,
        )
    )
    admits = f"{token.max_uses} node(s) named {token.node_pattern}"
    metadata = {"node_pattern": token.node_pattern, "max_uses": str(token.max_uses)}
    if token.coordinator_id:
        admits, metadata = f"coordinator {token.coordinator_id}", {"coordinator": token.coordinator_id}
    t.emit("security.token_created", f"token/{token.id}", f"admits {admits}", metadata=metadata)
    return t.accepted("created")


def _check_coordinator_token(state: State, token: JoinToken) -> None:
    name = token.coordinator_id
    if not is_name(COORDINATOR, name):
        raise InvalidArgument(f"{name[:80]!r} is no id of a coordinator", reason="BadCoordinatorId")
    if token.node_pattern or token.region or token.zone or token.labels or token.max_uses != 1:
        raise InvalidArgument(
            "a token of a coordinator has one use, and says nothing of nodes", reason="BadCoordinatorToken"
        )
    check_id_unused(state, name)


def check_id_unused(state: State, coordinator_id: str) -> None:
    """Raises Conflict (CoordinatorIdUsed) where a coordinator has or had this id: what it acknowledged under it, no
    other may answer for."""
    before = state.coordinators.get(coordinator_id)
    if before is not None:
        what = "was removed" if before.removed else "exists"
        raise Conflict(
            f"a coordinator {coordinator_id} {what}; an id is used once",
            reason="CoordinatorIdUsed",
            remedy="give the new coordinator an id of its own",
        )


def usable_token(state: State, token_id: str, *, now_ms: int, fresh: str) -> JoinToken:
    """The token, if it may be used once more. `fresh` is the command that makes another one. Raises TokenRefused:
    TokenUnknown, TokenRevoked, TokenExpired, TokenUsedUp."""
    token = state.tokens.get(token_id)
    remedy = f"create a new one: {fresh}"
    if token is None:
        raise TokenRefused("the join token is not known here", reason="TokenUnknown", remedy=remedy)
    if token.revoked:
        raise TokenRefused(f"join token {token.id} was revoked", reason="TokenRevoked", remedy=remedy)
    if now_ms >= token.expires_at_ms:
        raise TokenRefused(f"join token {token.id} has expired", reason="TokenExpired", remedy=remedy)
    if token.uses >= token.max_uses:
        uses = "its one use" if token.max_uses == 1 else f"all its {token.max_uses} uses"
        raise TokenRefused(f"join token {token.id} has had {uses}", reason="TokenUsedUp", remedy=remedy)
    return token


def _forget_old(t: Transition) -> None:
    before_ms = (t.now_ms - RETENTION_MS) // _DAY_MS * _DAY_MS
    if t.state.first_token_end_ms < before_ms:
        t.remove_tokens(sorted(token.id for token in t.state.tokens.values() if token.expires_at_ms < before_ms))


def revoke_token(t: Transition, command: RevokeToken) -> ApplyResult:
    token = t.state.tokens.get(command.token_id)
    if token is None:
        raise NotFound(f"join token {command.token_id} does not exist", reason="TokenUnknown")
    if token.revoked:
        return t.accepted("unchanged", revision=token.revision)
    t.put_token(replace(token, revoked=True))
    description = "admits no coordinator any more" if token.coordinator_id else "admits no more nodes"
    t.emit("security.token_revoked", f"token/{token.id}", description, severity=Severity.WARNING)
    return t.accepted("updated")


def pattern_admits(pattern: str, name: str) -> bool:
    """Whether a node may have this name: `*` stands for any text, `?` for any one character.

    Takes at most len(pattern) * len(name) steps, whatever the pattern: it goes back to the last star only.
    """
    p = n = 0
    star, resume = -1, 0
    while n < len(name):
        if p < len(pattern) and pattern[p] == "*":
            star, resume = p, n
            p += 1
        elif p < len(pattern) and pattern[p] in ("?", name[n]):
            p, n = p + 1, n + 1
        elif star >= 0:
            resume += 1
            p, n = star + 1, resume
        else:
            return False
    return pattern[p:].strip("*") == ""
