"""People and programs, and what they may do."""

from __future__ import annotations

from cloudless.coordinator.core import roles
from cloudless.coordinator.core.commands import PutUser, RevokeUser
from cloudless.coordinator.core.outcome import ApplyResult
from cloudless.coordinator.core.transition import Transition
from cloudless.core.labels import is_dns_label
from cloudless.core.model import Severity, User
from cloudless.core.replacing import replace
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
    after = replace(before, bindings=user.bindings)
    _keep_an_admin(t, before, after)
    t.put_user(after)
    _tell(t, "security.user_updated", user)
    return t.accepted("updated")


def revoke_user(t: Transition, command: RevokeUser) -> ApplyResult:
    user = t.state.users.get(command.name)
    if user is None:
        raise NotFound(f"user {command.name} does not exist", reason="UserUnknown")
    if user.revoked:
        return t.accepted("unchanged", revision=user.revision)
    after = replace(user, revoked=True)
    _keep_an_admin(t, user, after)
    t.put_user(after)
    t.emit("security.cert_revoked", f"user/{user.name}", "may do nothing any more", severity=Severity.WARNING)
    return t.accepted("updated")


def _keep_an_admin(t: Transition, before: User, after: User) -> None:
    """Refuses the change after which nobody could manage users any more."""
    if not roles.is_cluster_admin(before) or roles.is_cluster_admin(after):
        return
    if not any(roles.is_cluster_admin(user) for user in t.state.users.values() if user.name != before.name):
        raise FailedPrecondition(
            f"user {before.name} is the last administrator of the fabric",
            reason="LastAdmin",
            remedy="make another user an administrator (role admin in every namespace, *) first",
        )


def _tell(t: Transition, event_type: str, user: User) -> None:
    roles = ", ".join(f"{binding.role} in {binding.namespace}" for binding in user.bindings) or "no roles"
    t.emit(event_type, f"user/{user.name}", roles)
