"""Requests of administrators: which are well formed, as tables."""

import pytest

from cloudless.coordinator.core.commands import UpdateNode
from cloudless.coordinator.core.requests import (
    TTL_MS_MAX,
    coordinator_violations,
    node_violations,
    token_violations,
    user_violations,
)
from cloudless.core.model import JoinToken, Role, RoleBinding, Taint, User
from cloudless.core.spec import TaintEffect

VIEW = RoleBinding(Role.VIEWER, "*")


def paths(violations):
    found = list(violations)
    assert all(violation.message for violation in found)
    return [violation.path for violation in found]


@pytest.mark.parametrize(
    ("fields", "ttl_ms", "expected"),
    [
        ({}, 0, []),
        ({"node_pattern": "edge-*?", "region": "eu", "zone": "z1", "labels": {"a": "b"}, "max_uses": 5}, 1000, []),
        ({"node_pattern": "Edge"}, 0, ["node_pattern"]),
        ({"node_pattern": "a" * 64}, 0, ["node_pattern"]),
        ({"region": "e u", "zone": "-"}, 0, ["region", "zone"]),
        ({"labels": {"bad key": "x"}}, 0, ["labels.bad key"]),
        ({"max_uses": -1}, 0, ["max_uses"]),
        ({"max_uses": 100_001}, 0, ["max_uses"]),
        ({}, 999, ["ttl"]),
        ({}, TTL_MS_MAX + 1, ["ttl"]),
        ({}, -1, ["ttl"]),
    ],
)
def test_tokens(fields, ttl_ms, expected):
    assert paths(token_violations(JoinToken(**fields), ttl_ms=ttl_ms)) == expected


@pytest.mark.parametrize(
    ("user", "ttl_ms", "expected"),
    [
        (User("alice"), 0, []),
        (User("alice", (VIEW, RoleBinding(Role.ADMIN, "team-a"))), 3_600_000, []),
        (User("A"), 0, ["name"]),
        (User(""), 0, ["name"]),
        (User("a", (RoleBinding(None, "*"),)), 0, ["bindings[0].role"]),
        (User("a", (VIEW, RoleBinding(Role.VIEWER, ""))), 0, ["bindings[1].namespace"]),
        (User("a", (VIEW,) * 101), 0, ["bindings"]),
        (User("a"), 5, ["ttl"]),
    ],
)
def test_users(user, ttl_ms, expected):
    assert paths(user_violations(user, ttl_ms=ttl_ms)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"set_labels": {"a": "b"}, "set_taints": (Taint("k", "v", TaintEffect.NO_SCHEDULE),)}, []),
        ({"set_labels": {"a": "not a value"}}, ["set_labels.a"]),
        ({"set_taints": (Taint("k", "v"),)}, ["set_taints[0]"]),
        ({"set_taints": (Taint("bad key", "", TaintEffect.NO_EXECUTE),)}, ["set_taints[0]"]),
    ],
)
def test_nodes(fields, expected):
    assert paths(node_violations(UpdateNode("n1", **fields))) == expected


@pytest.mark.parametrize(
    ("name", "ttl_ms", "expected"),
    [
        ("c2", 0, []),
        ("Rack-1.c_2", 1000, []),
        ("", 0, ["id"]),
        ("c 2", 0, ["id"]),
        ("-c2", 0, ["id"]),
        ("c" * 64, 0, ["id"]),
        ("c2", 999, ["ttl"]),
        ("c2", TTL_MS_MAX + 1, ["ttl"]),
    ],
)
def test_coordinators(name, ttl_ms, expected):
    assert paths(coordinator_violations(name, ttl_ms=ttl_ms)) == expected
