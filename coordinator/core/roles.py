"""What role bindings grant: each role may do what those before it may, in one namespace or in all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from cloudless.core.model import Role, RoleBinding, User

EVERYWHERE: Final = "*"
_RANK: Final[Mapping[Role, int]] = {Role.VIEWER: 1, Role.OPERATOR: 2, Role.ADMIN: 3}


def grants(bindings: Iterable[RoleBinding], role: Role, namespace: str) -> bool:
    """Whether a binding grants `role` or more in `namespace` (`*`: cluster-wide, which only a binding of `*` does)."""
    return any(_reaches(binding, role) and binding.namespace in (EVERYWHERE, namespace) for binding in bindings)


def grants_somewhere(bindings: Iterable[RoleBinding], role: Role) -> bool:
    """Whether a binding grants `role` or more in some namespace."""
    return any(_reaches(binding, role) for binding in bindings)


def is_cluster_admin(user: User) -> bool:
    """Whether the user may manage users, and so can let everybody else in."""
    return not user.revoked and grants(user.bindings, Role.ADMIN, EVERYWHERE)


def _reaches(binding: RoleBinding, role: Role) -> bool:
    return binding.role is not None and _RANK[binding.role] >= _RANK[role]
