"""Who may call what: one row for each RPC of every service. An RPC without a row is refused to everyone."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cloudless.coordinator.core.roles import EVERYWHERE
from cloudless.core.model import Role
from cloudless.identity.spiffe import COORDINATOR, NODE, USER

DEFAULT_NAMESPACE: Final = "default"
API: Final = "/cloudless.api.v1."


class Scope(enum.Enum):
    """Where the role has to be held."""

    NONE = "none"  # the kind of caller is enough
    CLUSTER = "cluster"  # a binding of "*"
    NAMED = "named"  # in each namespace that the request names
    VISIBLE = "visible"  # anywhere: the handler shows only what lies within the caller's namespaces


@dataclass(frozen=True, slots=True)
class Rule:
    """Which kinds of caller may, and the role that a person needs. `namespaces` reads a request (of a stream: its
    first message); it returns None where the request asks for all that the caller may see."""

    kinds: frozenset[str]
    role: Role | None = None
    scope: Scope = Scope.NONE
    namespaces: Callable[[Any], Iterable[str] | None] = lambda request: ()


def namespace_or_default(namespace: str) -> str:
    return namespace or DEFAULT_NAMESPACE


def _own(request: Any) -> Iterable[str]:
    return (namespace_or_default(request.namespace),)


def _metadata(request: Any) -> Iterable[str]:
    return (namespace_or_default(request.metadata.namespace),)


def _batch(request: Any) -> Iterable[str]:
    return {namespace_or_default(workload.metadata.namespace) for workload in request.workloads}


def _options(request: Any) -> Iterable[str] | None:
    if request.options.all_namespaces:
        return None
    return (namespace_or_default(request.options.namespace),)


def _filter(request: Any) -> Iterable[str] | None:
    return None if request.all_namespaces else (namespace_or_default(request.namespace),)


def _exec_start(request: Any) -> Iterable[str]:
    return (namespace_or_default(request.start.namespace),)


_ANYONE = frozenset({NODE, USER, COORDINATOR})
_PERSON = frozenset({USER})
_ANY_PERSON = Rule(_PERSON)
_AGENT = Rule(frozenset({NODE}))
_MEMBER = Rule(frozenset({COORDINATOR}))
_CLUSTER_ADMIN = Rule(_PERSON, Role.ADMIN, Scope.CLUSTER)
_CLUSTER_OPERATOR = Rule(_PERSON, Role.OPERATOR, Scope.CLUSTER)
_CLUSTER_VIEWER = Rule(_PERSON, Role.VIEWER, Scope.CLUSTER)


def _view(namespaces: Callable[[Any], Iterable[str] | None]) -> Rule:
    return Rule(_PERSON, Role.VIEWER, Scope.NAMED, namespaces)


def _view_visible(namespaces: Callable[[Any], Iterable[str] | None]) -> Rule:
    return Rule(_PERSON, Role.VIEWER, Scope.VISIBLE, namespaces)


def _operate(namespaces: Callable[[Any], Iterable[str] | None]) -> Rule:
    return Rule(_PERSON, Role.OPERATOR, Scope.NAMED, namespaces)


# Served without a client certificate, on the enrolment listener, and nothing else is. Enrolment has no row below: it
# is not served on the API listener.
OPEN: Final = frozenset(
    {
        API + "EnrollmentService/Enroll",
        API + "EnrollmentService/JoinCoordinator",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    }
)

TABLE: Final[Mapping[str, Rule]] = {
    API + "SessionService/Connect": _AGENT,
    API + "SessionService/Channel": _AGENT,
    API + "SessionService/RenewCertificate": _AGENT,
    API + "TokenService/CreateToken": _CLUSTER_ADMIN,
    API + "TokenService/ListTokens": _CLUSTER_ADMIN,
    API + "TokenService/RevokeToken": _CLUSTER_ADMIN,
    API + "NodeService/GetNode": _CLUSTER_VIEWER,
    API + "NodeService/ListNodes": _CLUSTER_VIEWER,
    API + "NodeService/WatchNodes": _CLUSTER_VIEWER,
    API + "NodeService/UpdateNode": _CLUSTER_ADMIN,
    API + "NodeService/RemoveNode": _CLUSTER_ADMIN,
    API + "WorkloadService/CreateWorkload": _operate(_metadata),
    API + "WorkloadService/UpdateWorkload": _operate(_metadata),
    API + "WorkloadService/ApplyWorkloads": _operate(_batch),
    API + "WorkloadService/DeleteWorkload": _operate(_own),
    API + "WorkloadService/ScaleWorkload": _operate(_own),
    API + "WorkloadService/RestartWorkload": _operate(_own),
    API + "WorkloadService/ControlRollout": _operate(_own),
    API + "WorkloadService/StartRun": _operate(_own),
    API + "WorkloadService/ListRevisions": _view(_own),
    API + "WorkloadService/GetWorkload": _view(_own),
    API + "WorkloadService/ListWorkloads": _view_visible(_options),
    API + "WorkloadService/WatchWorkloads": _view_visible(_options),
    API + "WorkloadService/GetReplica": _view(_own),
    API + "WorkloadService/ListReplicas": _view_visible(_options),
    API + "WorkloadService/WatchReplicas": _view_visible(_options),
    # What a program prints and what runs in it may hold secrets: not for viewers.
    API + "WorkloadService/Logs": _operate(_own),
    API + "WorkloadService/Exec": _operate(_exec_start),
    # A plan shows what of others would move or make room: for those who may apply it.
    API + "PlanningService/ExplainPlacement": _view(_own),
    API + "PlanningService/PlanWorkloads": _operate(_batch),
    API + "PlanningService/Simulate": _CLUSTER_VIEWER,
    API + "ImageService/ImportImage": _CLUSTER_OPERATOR,
    API + "ImageService/ListImages": _CLUSTER_VIEWER,
    API + "UserService/PutUser": _CLUSTER_ADMIN,
    API + "UserService/ListUsers": _CLUSTER_ADMIN,
    API + "UserService/RevokeUser": _CLUSTER_ADMIN,
    API + "UserService/WhoAmI": _ANY_PERSON,
    API + "UserService/RenewUserCertificate": _ANY_PERSON,
    API + "EventService/ListEvents": _view_visible(_filter),
    API + "EventService/WatchEvents": _view_visible(_filter),
    API + "ClusterService/GetStatus": _ANY_PERSON,
    # Addresses only: agents and people find the other coordinators by it.
    API + "ClusterService/ListCoordinators": Rule(frozenset({NODE, USER})),
    API + "ClusterService/AddCoordinator": _CLUSTER_ADMIN,
    API + "ClusterService/RemoveCoordinator": _CLUSTER_ADMIN,
    API + "ClusterService/PromoteCoordinator": _CLUSTER_ADMIN,
    API + "ClusterService/TransferLeadership": _CLUSTER_ADMIN,
    API + "ClusterService/Backup": _CLUSTER_ADMIN,
    API + "MemberService/FetchIdentity": _MEMBER,
    API + "MemberService/AddLearner": _MEMBER,
    API + "MemberService/Observe": _MEMBER,
    API + "MemberService/RelayChannel": _MEMBER,
    "/grpc.health.v1.Health/Check": Rule(_ANYONE),
    "/grpc.health.v1.Health/Watch": Rule(_ANYONE),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _ANY_PERSON,
}


def described(rule: Rule, namespace: str) -> str:
    """What a person needs, in words."""
    where = "in every namespace (*)" if namespace == EVERYWHERE else f"in namespace {namespace}"
    return f"role {rule.role} or higher {where}"
