"""Is a request of an administrator well formed? Every violation at once, in the words of the request.

Workloads have rules of their own (`cloudless.core.validation`). What the state's invariants rest on is checked again
when an entry is applied.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cloudless.coordinator.core.apply_tokens import USES_MAX
from cloudless.coordinator.core.commands import UpdateNode
from cloudless.coordinator.core.roles import EVERYWHERE
from cloudless.core.labels import is_dns_label, is_label_key, is_label_value
from cloudless.core.model import JoinToken, User
from cloudless.core.validation import Violation, validate_labels, validate_name
from cloudless.identity.spiffe import COORDINATOR, is_name

TTL_MS_MIN: Final = 1_000
TTL_MS_MAX: Final = 366 * 24 * 3_600_000
BINDINGS_MAX: Final = 100
PATTERN_LENGTH_MAX: Final = 63
_PATTERN_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-*?")


def token_violations(token: JoinToken, *, ttl_ms: int) -> Iterator[Violation]:
    """Of a join token to be made; a life or a number of uses of 0, and an empty pattern, stand for the default."""
    pattern = token.node_pattern
    if len(pattern) > PATTERN_LENGTH_MAX or not _PATTERN_CHARACTERS.issuperset(pattern):
        yield Violation(
            "node_pattern",
            f"{pattern[:80]!r} is not a pattern over node names",
            "use a-z, 0-9 and -, with * for any text and ? for any one character, at most 63 characters",
        )
    for name, value in (("region", token.region), ("zone", token.zone)):
        if not is_label_value(value):
            yield Violation(name, f"{value[:80]!r} is not a label value")
    yield from validate_labels(token.labels, "labels")
    yield from _ttl(ttl_ms, "a token")
    if not 0 <= token.max_uses <= USES_MAX:
        yield Violation("max_uses", f"{token.max_uses} is out of range", f"use 1 to {USES_MAX}")


def coordinator_violations(coordinator_id: str, *, ttl_ms: int) -> Iterator[Violation]:
    """Of a coordinator to be added; `ttl_ms` is of its token, 0 for the default."""
    if not is_name(COORDINATOR, coordinator_id):
        yield Violation(
            "id",
            f"{coordinator_id[:80]!r} is no id of a coordinator",
            "use at most 63 letters, digits, dots, dashes and underscores, the first a letter or digit",
        )
    yield from _ttl(ttl_ms, "a token")


def user_violations(user: User, *, ttl_ms: int) -> Iterator[Violation]:
    """Of a user to be created or changed; `ttl_ms` is of the certificate, 0 for the default."""
    yield from validate_name(user.name, "name")
    if len(user.bindings) > BINDINGS_MAX:
        yield Violation("bindings", f"{len(user.bindings)} bindings are too many", f"use at most {BINDINGS_MAX}")
    for number, binding in enumerate(user.bindings):
        if binding.role is None:
            yield Violation(f"bindings[{number}].role", "a role is required", "use viewer, operator or admin")
        if binding.namespace != EVERYWHERE and not is_dns_label(binding.namespace):
            yield Violation(
                f"bindings[{number}].namespace", f"{binding.namespace[:80]!r} is no namespace", "use a name, or *"
            )
    yield from _ttl(ttl_ms, "a certificate")


def node_violations(update: UpdateNode) -> Iterator[Violation]:
    """Of an administrator's settings of a node."""
    yield from validate_labels(update.set_labels, "set_labels")
    for number, taint in enumerate(update.set_taints):
        if not is_label_key(taint.key) or not is_label_value(taint.value) or taint.effect is None:
            yield Violation(
                f"set_taints[{number}]",
                f"{taint.key[:300]}={taint.value[:80]} is no taint",
                "write key=value:NoSchedule, PreferNoSchedule or NoExecute",
            )


def _ttl(ttl_ms: int, what: str) -> Iterator[Violation]:
    if ttl_ms and not TTL_MS_MIN <= ttl_ms <= TTL_MS_MAX:
        yield Violation("ttl", f"the life of {what} is out of range", "use 1s to 366 days")
