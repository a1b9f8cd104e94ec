"""Join tokens: who may become a node."""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from cloudless.coordinator.core.commands import CreateToken, RevokeToken
from cloudless.coordinator.core.outcome import ApplyResult
from cloudless.coordinator.core.transition import Transition
from cloudless.core.model import Severity
from cloudless.errors import AlreadyExists, InvalidArgument, NotFound

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
    if not _PATTERN.fullmatch(token.node_pattern):
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
        dataclasses.replace(
            token,
            uses=0,
            used_by=(),
            revoked=False,
            created_at_ms=t.now_ms,
            created_by=token.created_by or t.actor,
        )
    )
    t.emit(
        "security.token_created",
        f"token/{token.id}",
        f"admits {token.max_uses} node(s) named {token.node_pattern}",
        metadata={"node_pattern": token.node_pattern, "max_uses": str(token.max_uses)},
    )
    return t.accepted("created")


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
    t.put_token(dataclasses.replace(token, revoked=True))
    t.emit("security.token_revoked", f"token/{token.id}", "admits no more nodes", severity=Severity.WARNING)
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
