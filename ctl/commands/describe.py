"""`describe`: what a thing is, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import click

from cloudless.api.v1 import control_pb2
from cloudless.ctl import describe as text
from cloudless.ctl import options, resources
from cloudless.ctl.app import App
from cloudless.ctl.arguments import targets
from cloudless.ctl.cli import command
from cloudless.ctl.output import field_word
from cloudless.ctl.resources import Query, Resource
from cloudless.errors import NotFound

EVENTS_SHOWN: Final = 20
REPLICA_EVENTS_READ: Final = 1000  # of a namespace, to find those of one workload's replicas


@command("describe")
@click.argument(
    "what", nargs=-1, required=True, metavar="TYPE [NAME...] | TYPE/NAME...", shell_complete=options.complete_targets
)
def describe(app: App, what: tuple[str, ...]) -> None:
    """Show everything about a thing, and why it is so.

    For a replica: why it runs where it runs, with the score of each candidate, or why it runs nowhere.
    """
    show(app, what)


def show(app: App, what: tuple[str, ...]) -> None:
    """What `describe` does, for the noun-first commands too."""
    if len(what) == 1 and "/" not in what[0]:
        resource = resources.find(what[0])
        items, _ = resource.items(app, Query(app.namespace if resource.namespaced else ""))
        found = [(resource, item) for item in items]
        if not found:
            app.note(f"no {resource.plural}")
    else:
        found = []
        for kind, name in targets(what):
            resource = resources.find(kind)
            found.append((resource, resource.get(app, name)))
    for number, (resource, item) in enumerate(found):
        if number:
            app.print()
        for line in _lines(app, resource, item):
            app.print(line)


def _lines(app: App, resource: Resource, item: Any) -> Iterator[str]:
    now_ms = app.clock.now_ms()
    if resource is resources.WORKLOAD:
        namespace, name = item.metadata.namespace, item.metadata.name
        replicas = _replicas(app, namespace=namespace, workload=name)
        events = _workload_events(app, namespace, name)
        return text.workload(item, replicas, events, now_ms, resources.away(app, replicas))
    if resource is resources.REPLICA:
        events = _events(app, item.namespace, f"replica/{item.id}")
        return text.replica(item, _spec(app, item), events, now_ms, resources.away(app, [item]))
    if resource is resources.NODE:
        return text.node(item, _replicas(app, node=item.node.id), _events(app, "", f"node/{item.node.id}"), now_ms)
    if resource is resources.TOKEN:
        return text.token(item, now_ms)
    return text.fields(item)


def _replicas(app: App, *, namespace: str = "", workload: str = "", node: str = "") -> list[Any]:
    query = control_pb2.ListOptions(namespace=namespace, all_namespaces=not namespace)
    request = control_pb2.ListReplicasRequest(options=query, workload=workload, node_id=node)
    items, _ = app.client.pages("Workload", "ListReplicas", request, "replicas")
    return items


def _events(app: App, namespace: str, resource: str, limit: int = EVENTS_SHOWN) -> list[Any]:
    request = control_pb2.ListEventsRequest(
        namespace=namespace, all_namespaces=not namespace, resource=resource, limit=limit
    )
    return list(app.client.call("Event", "ListEvents", request).events)


def _workload_events(app: App, namespace: str, name: str) -> list[Any]:
    """Its own, and of its replicas where they were placed and what went wrong, those that are gone included: the
    newest, oldest first."""
    found = _events(app, namespace, f"workload/{namespace}/{name}")
    for event in _events(app, namespace, "replica/", REPLICA_EVENTS_READ):
        replica = event.resource.removeprefix("replica/")
        telling = event.type.startswith("scheduling.") or field_word(event, "severity") in ("warning", "error")
        if telling and replica.rpartition("-")[0] == name:
            found.append(event)
    return sorted(found, key=lambda event: (event.index, event.sequence))[-EVENTS_SHOWN:]


def _spec(app: App, replica: Any) -> Any | None:
    """The workload's spec, where it is still the generation that the replica runs."""
    request = control_pb2.GetWorkloadRequest(namespace=replica.namespace, name=replica.workload)
    try:
        workload = app.client.call("Workload", "GetWorkload", request).workload
    except NotFound:
        return None
    return workload.spec if workload.generation == replica.generation else None
