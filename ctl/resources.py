"""Each kind of thing once: its names, how it is listed and found, and its columns.

Columns and data are read from the proto messages themselves: no domain objects are built to print a table.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cloudless.api.v1 import control_pb2
from cloudless.core import quantity
from cloudless.ctl import device_words, verdicts
from cloudless.ctl.app import App
from cloudless.ctl.arguments import usage
from cloudless.ctl.output import field_word, plain
from cloudless.ctl.times import age, instant, span
from cloudless.errors import CloudlessError, InvalidArgument, NotFound

# How Kubernetes, Nomad and Swarm call these things.
_ELSEWHERE: Final = {
    **dict.fromkeys(("pod", "alloc", "allocation", "task", "instance"), "replica"),
    **dict.fromkeys(("pods", "po", "allocs", "allocations", "tasks", "instances", "replicaset", "replicasets", "rs"),
                    "replicas"),
    **dict.fromkeys(("deployment", "deploy", "job", "service", "svc", "statefulset", "sts", "daemonset", "ds", "app"),
                    "workload"),
    **dict.fromkeys(("deployments", "jobs", "services", "statefulsets", "daemonsets", "apps", "all"), "workloads"),
    **dict.fromkeys(("device", "client", "machine", "host"), "node"),
    **dict.fromkeys(("devices", "clients", "machines", "hosts"), "nodes"),
}  # fmt: skip


@dataclass(frozen=True)
class Moment:
    """What a table is made with beside its items: the wall clock, and the nodes that are out of reach, each with its
    state (`Unreachable`, `Lost`)."""

    now_ms: int
    away: Mapping[str, str] = field(default_factory=dict)


Cell = Callable[[Any, Moment], str]


@dataclass(frozen=True)
class Column:
    header: str
    cell: Cell
    wide: bool = False


@dataclass(frozen=True)
class Query:
    """What a list asks for. `namespace` is empty with `all_namespaces`."""

    namespace: str = ""
    all_namespaces: bool = False
    selector: str = ""

    def options(self) -> Any:
        return control_pb2.ListOptions(
            namespace=self.namespace, all_namespaces=self.all_namespaces, label_selector=self.selector
        )


@dataclass(frozen=True)
class Watch:
    """How a kind is watched: the call, its request for a query and a revision, its item, the key of what is gone."""

    service: str
    method: str
    request: Callable[[Query, int], Any]
    item: str
    deleted: Callable[[Any], str]


@dataclass(frozen=True)
class Resource:
    """A kind of thing. `items` gives them all and the revision to watch from; `get` finds one by name, raising
    NotFound; `name` is what follows `TYPE/`."""

    singular: str
    plural: str
    short: tuple[str, ...]
    namespaced: bool
    columns: tuple[Column, ...]
    items: Callable[[App, Query], tuple[list[Any], int]]
    get: Callable[[App, str], Any]
    name: Callable[[Any], str]
    namespace: Callable[[Any], str] = field(default=lambda item: "")
    data: Callable[[Any], dict[str, Any]] = plain
    watch: Watch | None = None

    def full_name(self, item: Any) -> str:
        return f"{self.singular}/{self.name(item)}"

    def table(
        self, items: Sequence[Any], at: Moment, *, wide: bool, with_namespace: bool
    ) -> tuple[list[str], list[list[str]]]:
        """Header and rows."""
        columns = [column for column in self.columns if wide or not column.wide]
        if with_namespace and self.namespaced:
            columns.insert(0, Column("NAMESPACE", lambda item, _: self.namespace(item)))
        return [c.header for c in columns], [[c.cell(item, at) or "-" for c in columns] for item in items]


def find(word: str) -> Resource:
    """The kind that a word names: singular, plural or short. Raises InvalidArgument with what was probably meant."""
    lower = word.lower()
    for resource in RESOURCES:
        if lower in (resource.singular, resource.plural, *resource.short):
            return resource
    if lower in _ELSEWHERE:
        raise usage(f"there is no type {word!r}", f"did you mean {_ELSEWHERE[lower]!r}?")
    names = [name for resource in RESOURCES for name in (resource.singular, resource.plural)]
    close = difflib.get_close_matches(lower, names, n=1, cutoff=0.6)
    kinds = ", ".join(resource.plural for resource in RESOURCES)
    raise usage(f"there is no type {word!r}", f"did you mean {close[0]!r}?" if close else f"the types are {kinds}")


def by_prefix(items: Sequence[Any], key: Callable[[Any], str], text: str, kind: str) -> Any:
    """The item of this name, or the only one whose name starts so. Raises NotFound, InvalidArgument."""
    exact = [item for item in items if key(item) == text]
    found = exact or [item for item in items if text and key(item).startswith(text)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"{kind} {text!r} was not found", remedy=f"`cloudlessctl get {kind}s` lists them")
    names = ", ".join(sorted(key(item) for item in found)[:3])
    raise InvalidArgument(f"{text!r} is a prefix of {len(found)} {kind}s: {names}", remedy="give more of it")


# workloads


def _workload_data(workload: Any) -> dict[str, Any]:
    from cloudless.api.v1.convert import from_proto
    from cloudless.core.spec import Metadata, WorkloadSpec
    from cloudless.manifest.encode import manifest

    document = manifest(from_proto(workload.metadata, Metadata), from_proto(workload.spec, WorkloadSpec))
    document["metadata"] |= {
        "generation": workload.generation,
        "revision": workload.revision,
        "createdAt": instant(workload.created_at_ms),
        "updatedAt": instant(workload.updated_at_ms),
    }
    if workload.deleting:
        document["metadata"]["deleting"] = True
    return document | {"status": plain(workload.status)}


def _list_workloads(app: App, query: Query) -> tuple[list[Any], int]:
    request = control_pb2.ListWorkloadsRequest(options=query.options())
    return app.client.pages("Workload", "ListWorkloads", request, "workloads")


def _get_workload(app: App, name: str) -> Any:
    request = control_pb2.GetWorkloadRequest(namespace=app.namespace, name=name)
    return app.client.call("Workload", "GetWorkload", request).workload


WORKLOAD: Final = Resource(
    "workload",
    "workloads",
    ("wl",),
    True,
    (
        Column("NAME", lambda w, _: w.metadata.name),
        Column("READY", lambda w, _: verdicts.ready(w)),
        Column("STATUS", lambda w, _: verdicts.status(w)),
        Column("UPDATED", lambda w, _: "-" if verdicts.has_runs(w) else str(w.status.updated)),
        Column("AGE", lambda w, at: age(w.created_at_ms, at.now_ms)),
        Column("TYPE", lambda w, _: field_word(w.spec, "type"), wide=True),
        Column("IMAGES", lambda w, _: ",".join(c.image or " ".join(c.process) for c in w.spec.containers), wide=True),
        Column("GENERATION", lambda w, _: str(w.generation), wide=True),
        Column("PRIORITY", lambda w, _: str(w.spec.priority), wide=True),
        Column("MESSAGE", lambda w, _: w.status.message, wide=True),
    ),
    _list_workloads,
    _get_workload,
    lambda w: w.metadata.name,
    lambda w: w.metadata.namespace,
    _workload_data,
    Watch(
        "Workload",
        "WatchWorkloads",
        lambda query, revision: control_pb2.WatchWorkloadsRequest(options=query.options(), from_revision=revision),
        "workload",
        lambda message: message.deleted_name,
    ),
)

# nodes


def node_status(node: Any) -> str:
    """`Ready`, `Ready,Cordoned`, `Unreachable,Draining`, `Ready,NotAccepting` where its owner admits no work now."""
    words = [field_word(node, "state")]
    if node.draining:
        words.append("Draining")
    elif node.cordoned:
        words.append("Cordoned")
    if not device_words.accepts(node.device):
        words.append("NotAccepting")
    return ",".join(words)


def _list_nodes(app: App, query: Query) -> tuple[list[Any], int]:
    request = control_pb2.ListNodesRequest(options=control_pb2.ListOptions(label_selector=query.selector))
    return app.client.pages("Node", "ListNodes", request, "nodes")


def _get_node(app: App, name: str) -> Any:
    return app.client.call("Node", "GetNode", control_pb2.GetNodeRequest(id=name)).node


def _reliability(view: Any) -> str:
    node = view.node
    return device_words.percent(node.reliability.available_permille) if node.HasField("reliability") else ""


def _runtimes(view: Any) -> str:
    return ",".join(runtime.name for runtime in view.node.device.runtimes if runtime.available)


def _labels(labels: Any) -> str:
    return ",".join(f"{key}={value}" if value else key for key, value in sorted(labels.items()))


def _share(used: str, capacity: str) -> str:
    return f"{used}/{capacity}"


def rough_cpu(millis: int) -> str:
    """CPUs to about three digits, for people: `250m`, `1.24`, `16`."""
    return quantity.format_cpu(millis) if millis < 1000 else f"{millis / 1000:.2f}".rstrip("0").rstrip(".")


def rough_bytes(count: int) -> str:
    """A size to about three digits, for people: `1.5Gi`, `64Mi`."""
    value, unit = float(count), ""
    for unit in ("", "Ki", "Mi", "Gi", "Ti"):
        if value < 1024 or unit == "Ti":
            break
        value /= 1024
    return f"{value:.0f}{unit}" if value >= 100 or value == int(value) else f"{value:.1f}{unit}"


NODE: Final = Resource(
    "node",
    "nodes",
    ("no",),
    False,
    (
        Column("NAME", lambda v, _: v.node.id),
        Column("STATUS", lambda v, _: node_status(v.node)),
        Column("CLASS", lambda v, _: field_word(v.node.device, "device_class")),
        Column("ZONE", lambda v, _: v.node.zone),
        Column(
            "CPU",
            lambda v, _: _share(rough_cpu(v.reserved.cpu_millis), rough_cpu(v.node.device.capacity.cpu_millis)),
        ),
        Column(
            "MEMORY",
            lambda v, _: _share(rough_bytes(v.reserved.memory_bytes), rough_bytes(v.node.device.capacity.memory_bytes)),
        ),
        Column("REPLICAS", lambda v, _: str(v.replicas)),
        Column("AGE", lambda v, at: age(v.node.enrolled_at_ms, at.now_ms)),
        Column("RELIABILITY", lambda v, _: _reliability(v), wide=True),
        Column("REGION", lambda v, _: v.node.region, wide=True),
        Column("ARCH", lambda v, _: v.node.device.arch, wide=True),
        Column("RUNTIMES", lambda v, _: _runtimes(v), wide=True),
        Column("KERNEL", lambda v, _: v.node.device.kernel, wide=True),
        Column("VERSION", lambda v, _: v.node.device.agent_version, wide=True),
        Column("HEARTBEAT", lambda v, _: f"{v.heartbeat_age_ms} ms" if v.heartbeat_age_ms >= 0 else "", wide=True),
        Column("ADDRESSES", lambda v, _: ",".join(v.node.device.addresses), wide=True),
        Column("LABELS", lambda v, _: _labels(v.node.labels), wide=True),
    ),
    _list_nodes,
    _get_node,
    lambda v: v.node.id,
    watch=Watch(
        "Node",
        "WatchNodes",
        lambda query, revision: control_pb2.WatchNodesRequest(
            options=control_pb2.ListOptions(label_selector=query.selector), from_revision=revision
        ),
        "node",
        lambda message: message.deleted_id,
    ),
)

# replicas


_ENDED: Final = ("Succeeded", "Failed", "Lost")


def away(app: App, replicas: Sequence[Any]) -> dict[str, str]:
    """The nodes of these replicas that are out of reach, each with its state. What a replica there does is not known:
    its status is the last that was heard. Empty where nodes may not be seen or cannot be asked for."""
    used = {r.node_id for r in replicas if r.node_id and field_word(r.status, "phase") not in _ENDED}
    if not used:
        return {}
    try:
        views, _ = _list_nodes(app, Query())
    except CloudlessError:
        return {}
    states = {view.node.id: field_word(view.node, "state") for view in views}
    return {node: states[node] for node in sorted(used & set(states)) if states[node] != "Ready"}


def replica_status(replica: Any, away: Mapping[str, str] | None = None) -> str:
    """The phase, and in brackets what explains it, as in `Starting (ImageMissing)`. Of a replica whose node is out
    of reach (`away`, by `away()`) it is `Unknown (node unreachable)`."""
    phase = field_word(replica.status, "phase")
    if away and replica.node_id in away and phase not in _ENDED:
        return f"Unknown (node {away[replica.node_id].lower()})"
    if replica.stopping and phase not in _ENDED:
        phase = "Stopping"
    waiting = [c.reason for c in replica.status.containers if c.state != "running" and c.reason]
    reason = replica.status.reason or (waiting[0] if waiting else "")
    if phase in ("Ready", "Running") or not reason or reason == phase:
        return phase
    return f"{phase} ({reason})"


def restarts(replica: Any) -> int:
    return int(max(replica.status.restart_count, sum(c.restart_count for c in replica.status.containers)))


def port(binding: Any) -> str:
    text = f"{binding.container_port}/{field_word(binding, 'protocol')}"
    return f"{binding.host_port}:{text}" if binding.host_port else text


def _list_replicas(app: App, query: Query) -> tuple[list[Any], int]:
    request = control_pb2.ListReplicasRequest(options=query.options())
    return app.client.pages("Workload", "ListReplicas", request, "replicas")


def _get_replica(app: App, name: str) -> Any:
    request = control_pb2.GetReplicaRequest(namespace=app.namespace, id=name)
    return app.client.call("Workload", "GetReplica", request).replica


REPLICA: Final = Resource(
    "replica",
    "replicas",
    ("rep", "reps"),
    True,
    (
        Column("NAME", lambda r, _: r.id),
        Column("WORKLOAD", lambda r, _: r.workload),
        Column("STATUS", lambda r, at: replica_status(r, at.away)),
        Column("NODE", lambda r, _: r.node_id),
        Column("RESTARTS", lambda r, _: str(restarts(r))),
        Column("AGE", lambda r, at: age(r.created_at_ms, at.now_ms)),
        Column("ADDRESS", lambda r, _: r.status.address, wide=True),
        Column("PORTS", lambda r, _: ",".join(map(port, r.status.ports)), wide=True),
        Column("RUNTIME", lambda r, _: r.status.runtime, wide=True),
        Column("GENERATION", lambda r, _: str(r.generation), wide=True),
        Column("MESSAGE", lambda r, _: r.status.message or ("" if r.node_id else r.placement.summary), wide=True),
    ),
    _list_replicas,
    _get_replica,
    lambda r: r.id,
    lambda r: r.namespace,
    watch=Watch(
        "Workload",
        "WatchReplicas",
        lambda query, revision: control_pb2.WatchReplicasRequest(options=query.options(), from_revision=revision),
        "replica",
        lambda message: message.deleted_id,
    ),
)

# events

EVENTS_MAX: Final = 1000


def _list_events(app: App, query: Query) -> tuple[list[Any], int]:
    request = control_pb2.ListEventsRequest(
        namespace=query.namespace, all_namespaces=query.all_namespaces, limit=EVENTS_MAX
    )
    answer = app.client.call("Event", "ListEvents", request)
    return list(answer.events), answer.revision


def event_name(event: Any) -> str:
    return f"{event.index}.{event.sequence}"


def _get_event(app: App, name: str) -> Any:
    events, _ = _list_events(app, Query(all_namespaces=True))
    return by_prefix(events, event_name, name, "event")


EVENT_COLUMNS: Final = (
    Column("AGE", lambda e, at: age(e.time_ms, at.now_ms)),
    Column("SEVERITY", lambda e, _: field_word(e, "severity")),
    Column("TYPE", lambda e, _: e.type),
    Column("RESOURCE", lambda e, _: e.resource),
    Column("DESCRIPTION", lambda e, _: e.description),
    Column("ACTOR", lambda e, _: e.actor, wide=True),
    Column("INDEX", lambda e, _: event_name(e), wide=True),
    Column("REQUEST", lambda e, _: e.request_id, wide=True),
)

EVENT: Final = Resource(
    "event", "events", ("ev",), True, EVENT_COLUMNS, _list_events, _get_event, event_name, lambda e: e.namespace
)

# tokens and people


def token_status(token: Any, now_ms: int) -> str:
    if token.revoked:
        return "revoked"
    if token.expires_at_ms <= now_ms:
        return "expired"
    return "used up" if token.uses >= token.max_uses else "active"


def _list_tokens(app: App, _query: Query) -> tuple[list[Any], int]:
    return app.client.pages("Token", "ListTokens", control_pb2.ListTokensRequest(), "tokens")


def _get_token(app: App, name: str) -> Any:
    return by_prefix(_list_tokens(app, Query())[0], lambda token: token.id, name, "token")


TOKEN: Final = Resource(
    "token",
    "tokens",
    ("tok",),
    False,
    (
        Column("ID", lambda t, _: t.id),
        Column("STATUS", lambda t, at: token_status(t, at.now_ms)),
        Column("NODES", lambda t, _: t.node_pattern),
        Column("USES", lambda t, _: f"{t.uses}/{t.max_uses}"),
        Column("EXPIRES", lambda t, at: span(t.expires_at_ms - at.now_ms) if t.expires_at_ms > at.now_ms else ""),
        Column("REGION", lambda t, _: t.region),
        Column("ZONE", lambda t, _: t.zone),
        Column("AGE", lambda t, at: age(t.created_at_ms, at.now_ms)),
        Column("LABELS", lambda t, _: _labels(t.labels), wide=True),
        Column("CREATED BY", lambda t, _: t.created_by, wide=True),
        Column("USED BY", lambda t, _: ",".join(t.used_by), wide=True),
    ),
    _list_tokens,
    _get_token,
    lambda t: t.id,
)


def roles(bindings: Any) -> str:
    """`admin`, `operator@shop`: a role without a namespace holds everywhere."""
    words = []
    for binding in bindings:
        role = field_word(binding, "role")
        words.append(role if binding.namespace == "*" else f"{role}@{binding.namespace}")
    return ",".join(words)


def _list_users(app: App, _query: Query) -> tuple[list[Any], int]:
    return list(app.client.call("User", "ListUsers", control_pb2.ListUsersRequest()).users), 0


def _get_user(app: App, name: str) -> Any:
    return by_prefix(_list_users(app, Query())[0], lambda user: user.name, name, "user")


USER: Final = Resource(
    "user",
    "users",
    (),
    False,
    (
        Column("NAME", lambda u, _: u.name),
        Column("ROLES", lambda u, _: roles(u.bindings)),
        Column("STATUS", lambda u, _: "revoked" if u.revoked else "active"),
        Column("AGE", lambda u, at: age(u.created_at_ms, at.now_ms)),
    ),
    _list_users,
    _get_user,
    lambda u: u.name,
)

RESOURCES: Final = (WORKLOAD, NODE, REPLICA, EVENT, TOKEN, USER)
