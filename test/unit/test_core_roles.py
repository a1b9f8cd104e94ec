"""What role bindings grant, as a table."""

import pytest

from cloudless.coordinator.core import roles
from cloudless.core.model import Role, RoleBinding, User

VIEW, OPERATE, ADMIN = Role.VIEWER, Role.OPERATOR, Role.ADMIN


@pytest.mark.parametrize(
    ("bindings", "role", "namespace", "granted", "somewhere"),
    [
        ([], VIEW, "a", False, False),
        ([(VIEW, "a")], VIEW, "a", True, True),
        ([(VIEW, "a")], VIEW, "b", False, True),
        ([(VIEW, "a")], OPERATE, "a", False, False),
        ([(OPERATE, "a")], VIEW, "a", True, True),
        ([(ADMIN, "a")], OPERATE, "a", True, True),
        ([(ADMIN, "a")], VIEW, "*", False, True),
        ([(VIEW, "*")], VIEW, "any", True, True),
        ([(VIEW, "*"), (OPERATE, "a")], OPERATE, "b", False, True),
        ([(VIEW, "*"), (OPERATE, "a")], OPERATE, "a", True, True),
        ([(None, "*")], VIEW, "a", False, False),
    ],
)
def test_grants(bindings, role, namespace, granted, somewhere):
    held = [RoleBinding(*row) for row in bindings]
    assert roles.grants(held, role, namespace) is granted
    assert roles.grants_somewhere(held, role) is somewhere


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (User("a", (RoleBinding(ADMIN, "*"),)), True),
        (User("a", (RoleBinding(ADMIN, "*"),), revoked=True), False),
        (User("a", (RoleBinding(ADMIN, "default"),)), False),
        (User("a", (RoleBinding(OPERATE, "*"),)), False),
    ],
)
def test_cluster_admins(user, expected):
    assert roles.is_cluster_admin(user) is expected
