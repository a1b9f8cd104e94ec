"""Blocking until something is true: workloads available or gone, nodes ready or empty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

from cloudless.api.v1 import control_pb2
from cloudless.ctl import resources, verdicts
from cloudless.ctl.app import App
from cloudless.ctl.client import deadline
from cloudless.ctl.output import field_word
from cloudless.ctl.progress import Progress
from cloudless.ctl.watching import follow
from cloudless.errors import CloudlessError, DeadlineExceeded, Unplaceable

Key = tuple[str, str]  # namespace, name
EXPLAINED_MAX: Final = 5


def available(app: App, keys: Collection[Key], *, timeout_ms: int, done: Callable[[Any], None]) -> None:
    """Until each workload is available (`verdicts.is_available`); `done` is called for each as it becomes so.

    Raises FailedPrecondition (RolloutFailed, RolledBack, RunFailed) as soon as one will not get there by itself,
    Unplaceable when the time is over and a replica fits nowhere, DeadlineExceeded when it is over otherwise; all say
    what is wrong. Raises NotFound for a workload that is deleted meanwhile.
    """
    _until(app, keys, verdicts.is_available, timeout_ms=timeout_ms, done=done)


def complete(app: App, key: Key, *, timeout_ms: int) -> None:
    """Until the newest run of a job or cron succeeded. Raises as `available`."""
    _until(app, [key], verdicts.is_complete, timeout_ms=timeout_ms, done=lambda workload: None, of_runs=True)


def _until(
    app: App,
    keys: Collection[Key],
    condition: Callable[[Any], bool],
    *,
    timeout_ms: int,
    done: Callable[[Any], None],
    of_runs: bool = False,
) -> None:
    left = set(keys)
    latest: dict[Key, Any] = {}
    since: dict[Key, int] = {}  # their generations when the waiting began
    with Progress(app) as progress:
        try:
            for message in _workloads(app, keys, timeout_ms):
                if message.HasField("workload"):
                    workload = message.workload
                    key = workload.metadata.namespace, workload.metadata.name
                    latest[key] = workload
                    first = since.setdefault(key, workload.generation)
                    if key in left and (failure := verdicts.failure(workload, since_generation=first, of_runs=of_runs)):
                        progress.clear()
                        raise failure
                    if key in left and condition(workload):
                        left.discard(key)
                        progress.clear()
                        done(workload)
                elif message.deleted_name and (message.deleted_namespace, message.deleted_name) in left:
                    raise _gone(message.deleted_name)
                elif message.synced:
                    for _, name in sorted(left - set(latest)):
                        raise _gone(name)
                if not left:
                    return
                progress.show(_summary(left, latest))
        except DeadlineExceeded:
            progress.clear()
            raise _late(app, left, latest, timeout_ms) from None


def _workloads(app: App, keys: Collection[Key], timeout_ms: int) -> Iterator[Any]:
    """Changes of these workloads: watched by name where there is one, else by namespace."""
    namespaces = {namespace for namespace, _ in keys}
    options = control_pb2.ListOptions(
        namespace=next(iter(namespaces)) if len(namespaces) == 1 else "", all_namespaces=len(namespaces) != 1
    )
    name = next(iter(keys))[1] if len(keys) == 1 else ""

    def request(revision: int) -> Any:
        return control_pb2.WatchWorkloadsRequest(options=options, name=name, from_revision=revision)

    return follow(app.client, "Workload", "WatchWorkloads", request, left_ms=deadline(app.clock, timeout_ms))


def _summary(left: Collection[Key], latest: dict[Key, Any]) -> str:
    if len(left) > 1:
        return f"waiting for {len(left)} workloads"
    (key,) = left
    workload = latest.get(key)
    if workload is None:
        return f"waiting for workload/{key[1]}"
    status = workload.status
    if verdicts.has_runs(workload):
        return f"workload/{key[1]}: {status.message or 'no run yet'}"
    text = f"workload/{key[1]}: {status.ready} of {status.desired} ready, {status.updated} updated"
    return f"{text} ({status.message})" if status.message else text


def _gone(name: str) -> CloudlessError:
    from cloudless.errors import NotFound

    return NotFound(f"workload {name!r} was deleted meanwhile", reason="WorkloadNotFound")


def _late(app: App, left: Collection[Key], latest: dict[Key, Any], timeout_ms: int) -> CloudlessError:
    """Why the workloads are not available, from their replicas."""
    from cloudless.ctl.times import span

    reasons: list[str] = []
    placed = True
    for namespace, name in sorted(left)[:EXPLAINED_MAX]:
        workload = latest.get((namespace, name))
        state = "not seen"
        if workload:
            status = workload.status
            state = f"{status.ready} of {status.desired} ready, {status.updated} of generation {workload.generation}"
            if verdicts.has_runs(workload):
                state = status.message or "no run yet"
        reasons.append(f"workload/{name}: {state}")
        request = control_pb2.ListReplicasRequest(options=control_pb2.ListOptions(namespace=namespace), workload=name)
        for replica in app.client.pages("Workload", "ListReplicas", request, "replicas")[0][:EXPLAINED_MAX]:
            ready = field_word(replica.status, "phase") == "Ready"
            if replica.stopping or (ready and workload and replica.generation == workload.generation):
                continue
            nowhere = not replica.node_id and replica.status.reason == "Unplaceable"
            placed = placed and not nowhere
            why = replica.placement.summary if not replica.node_id else replica.status.message
            if ready:
                why = f"still of generation {replica.generation}"
            reasons.append(f"replica/{replica.id}: {resources.replica_status(replica)}{f': {why}' if why else ''}")
        told = workload and verdicts.has_runs(workload)
        if workload and not told and workload.status.message and reasons[-1].startswith("workload/"):
            reasons[-1] += f": {workload.status.message}"
    more = f"\n  and {len(left) - EXPLAINED_MAX} more" if len(left) > EXPLAINED_MAX else ""
    message = f"not available after {span(timeout_ms)}:\n  " + "\n  ".join(reasons) + more
    name = sorted(left)[0][1]
    remedy = f"`cloudlessctl describe workload {name}` tells more; it goes on being tried"
    if not placed:
        return Unplaceable(message, reason="Unplaceable", remedy=remedy)
    return DeadlineExceeded(message, reason="NotAvailable", remedy=remedy)


def gone(app: App, key: Key, *, timeout_ms: int) -> None:
    """Until a workload and its last replica are gone. Raises DeadlineExceeded."""
    namespace, name = key
    options = control_pb2.ListOptions(namespace=namespace)

    def request(revision: int) -> Any:
        return control_pb2.WatchWorkloadsRequest(options=options, name=name, from_revision=revision)

    def replicas(revision: int) -> Any:
        return control_pb2.WatchReplicasRequest(options=options, workload=name, from_revision=revision)

    left_ms = deadline(app.clock, timeout_ms)
    with Progress(app) as progress:
        progress.show(f"waiting for workload/{name} to be gone")
        try:
            present = False
            for message in follow(app.client, "Workload", "WatchWorkloads", request, left_ms=left_ms):
                present = message.HasField("workload") or (present and not message.deleted_name)
                if message.deleted_name or (message.synced and not present):
                    break
            seen: dict[str, Any] = {}
            synced = False
            for message in follow(app.client, "Workload", "WatchReplicas", replicas, left_ms=left_ms):
                if message.HasField("replica"):
                    seen[message.replica.id] = message.replica
                seen.pop(message.deleted_id, None)
                synced = synced or message.synced
                if synced and not seen:
                    return
                progress.show(f"workload/{name}: {len(seen)} replicas stop")
        except DeadlineExceeded:
            listed = control_pb2.ListReplicasRequest(options=options, workload=name)
            left, _ = app.client.pages("Workload", "ListReplicas", listed, "replicas")
            still = "".join(
                f"\n  replica/{r.id}: {resources.replica_status(r)} on {r.node_id or 'no node'}" for r in left
            )
            raise DeadlineExceeded(
                f"workload/{name} is not gone yet{still}",
                reason="NotGone",
                remedy="it goes on being removed; a node that is away removes its replicas when it returns",
            ) from None


def node_empty(app: App, node: str, *, timeout_ms: int) -> dict[str, Key]:
    """Until no replica runs on a node; returns those that did, each with its workload. Raises DeadlineExceeded that
    names those that stay."""
    seen: dict[str, Any] = {}
    left: dict[str, Key] = {}
    synced = False

    def request(revision: int) -> Any:
        return control_pb2.WatchReplicasRequest(
            options=control_pb2.ListOptions(all_namespaces=True), node_id=node, from_revision=revision
        )

    with Progress(app) as progress:
        try:
            for message in follow(
                app.client, "Workload", "WatchReplicas", request, left_ms=deadline(app.clock, timeout_ms)
            ):
                if message.HasField("replica"):
                    replica = message.replica
                    if replica.node_id == node and not _ended(replica):
                        seen[replica.id] = replica
                        left[replica.id] = (replica.namespace, replica.workload)
                    else:
                        seen.pop(replica.id, None)
                seen.pop(message.deleted_id, None)
                synced = synced or message.synced
                if synced and not seen:
                    return left
                progress.show(f"node/{node}: {len(seen)} replicas left")
        except DeadlineExceeded:
            progress.clear()
            names = ", ".join(f"{r.namespace}/{r.id}" for r in list(seen.values())[:EXPLAINED_MAX])
            raise DeadlineExceeded(
                f"{len(seen)} {'replica still runs' if len(seen) == 1 else 'replicas still run'} on {node}: {names}",
                reason="NotDrained",
                remedy=f"draining goes on; `cloudlessctl describe node {node}` shows them, "
                f"`cloudlessctl uncordon {node}` ends it",
            ) from None
    return left


def nowhere(app: App, replicas: Mapping[str, Key]) -> dict[Key, int]:
    """Of the workloads whose replicas left a node: how many have found no other node, at most as many as left."""
    wanted = Counter(replicas.values())
    options = control_pb2.ListOptions(all_namespaces=True)
    request = control_pb2.ListReplicasRequest(options=options)
    every = app.client.pages("Workload", "ListReplicas", request, "replicas")[0] if wanted else []
    pending = Counter((r.namespace, r.workload) for r in every if not r.node_id and not r.stopping)
    return {key: min(count, pending[key]) for key, count in sorted(wanted.items()) if pending[key]}


def _ended(replica: Any) -> bool:
    return field_word(replica.status, "phase") in ("Succeeded", "Failed", "Lost")


def node_ready(app: App, name: str, *, timeout_ms: int) -> None:
    """Until a node is connected and ready. Raises DeadlineExceeded with its state."""
    state = "not known"

    def request(revision: int) -> Any:
        return control_pb2.WatchNodesRequest(from_revision=revision)

    with Progress(app) as progress:
        try:
            for message in follow(app.client, "Node", "WatchNodes", request, left_ms=deadline(app.clock, timeout_ms)):
                if message.HasField("node") and message.node.node.id == name:
                    state = field_word(message.node.node, "state")
                    if state == "Ready":
                        return
                progress.show(f"node/{name}: {state}")
        except DeadlineExceeded:
            raise DeadlineExceeded(
                f"node/{name} is not ready: {state}", remedy=f"`cloudlessctl describe node {name}` tells more"
            ) from None
