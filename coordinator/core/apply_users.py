"""People and programs, and what they may do."""

from __future__ import annotations

import dataclasses

from cloudless.coordinator.core.commands import PutUser, RevokeUser
from cloudless.coordinator.core.outcome import ApplyResult
from cloudless.coordinator.core.transition import Transition
from cloudless.core.labels import is_dns_label
from cloudless.core.model import Severity, User
from cloudless.errors import FailedPrecondition, InvalidArgument, NotFound


def put_user(t: Transition, command: PutUser) -> ApplyResult:
    user = command.user
    if not is_dns_label(user.name):
        raise InvalidArgument(f"{user.name!r} is no user name", reason="BadUserName")
    if any(binding.role is None or not binding.namespace for binding in user.bindings):
        raise InvalidArgument("each binding needs a role and a namespace (or *)", reason="BadRoleBinding")
    before = t.state.users.get(user.name)
    if before is None:
        t.put_user(User(user.name, user.bindings, created_at_ms=t.now_ms))
        _tell(t, "security.user_created", user)
        return t.accepted("created")
    if before.revoked:
        # Certificates of the revoked user may still be about; they must not come back to life.
        raise FailedPrecondition(
            f"user {user.name} was revoked", reason="UserRevoked", remedy="create the user under another name"
        )
    if before.bindings == user.bindings:
        return t.accepted("unchanged", revision=before.revision)
    t.put_user(dataclasses.replace(before, bindings=user.bindings))
    _tell(t, "security.user_updated", user)
    return t.accepted("updated")


def revoke_user(t: Transition, command: RevokeUser) -> ApplyResult:
    user = t.state.users.get(command.name)
    if user is None:
        raise NotFound(f"user {command.name} does not exist", reason="UserUnknown")
    if user.revoked:
        return t.accepted("unchanged", revision=user.revision)
    t.put_user(dataclasses.replace(user, revoked=True))
    t.emit("security.cert_revoked", f"user/{user.name}", "may do nothing any more", severity=Severity.WARNING)
    return t.accepted("updated")


def _tell(t: Transition, event_type: str, user: User) -> None:
    roles = ", ".join(f"{binding.role} in {binding.namespace}" for binding in user.bindings) or "no roles"
    t.emit(event_type, f"user/{user.name}", roles)
