"""`events`: what happened, and what happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click

from cloudless.api.v1 import control_pb2
from cloudless.ctl import options, output, resources, table, watching
from cloudless.ctl.app import App
from cloudless.ctl.arguments import usage
from cloudless.ctl.cli import command
from cloudless.ctl.resources import Query
from cloudless.ctl.times import instant

_WIDTHS: Final = (20, 8, 28, 30)


@command("events")
@click.option("--for", "resource", default="", metavar="TYPE/NAME", help="Only about this thing.")
@click.option("--type", "type_prefix", default="", metavar="PREFIX", help="Only types that begin so, as in node.")
@options.all_namespaces
@click.option(
    "--limit", type=click.IntRange(1, 5000), default=100, show_default=True, help="At most as many, the newest."
)
@options.watch
@options.output
@options.no_headers
def events(
    app: App,
    resource: str,
    type_prefix: str,
    all_namespaces: bool,
    limit: int,
    watch: bool,
    format: str,
    no_headers: bool,
) -> None:
    """Show what happened; -w goes on showing.

    Events about nodes and other things outside namespaces need -A, or --for.
    """
    output.check(format)
    wanted, everywhere = _resource(app, resource)
    everywhere = everywhere or all_namespaces
    query = Query("" if everywhere else app.namespace, everywhere)
    answer = app.client.call(
        "Event",
        "ListEvents",
        control_pb2.ListEventsRequest(
            namespace=query.namespace,
            all_namespaces=everywhere,
            type_prefix=type_prefix,
            resource=wanted,
            limit=limit,
        ),
    )
    if watch:
        for event in answer.events:
            _show(app, event, format)
        watch_events(app, query, answer.revision, format=format, type_prefix=type_prefix, resource=wanted)
        return
    _list(app, answer.events, query, format, no_headers)


def _list(app: App, events: Sequence[Any], query: Query, format: str, no_headers: bool) -> None:
    kind = resources.EVENT
    if format not in ("table", "wide"):
        output.show_data(app, format, events, single=False, data=kind.data, name=kind.full_name)
        return
    if not events:
        app.note("no events" + (f" in namespace {query.namespace}" if query.namespace else ""))
        return
    header, rows = kind.table(events, app.clock.now_ms(), wide=format == "wide", with_namespace=query.all_namespaces)
    table.show(app, header, rows, show_header=not no_headers)


def watch_events(
    app: App, query: Query, revision: int, *, format: str, type_prefix: str = "", resource: str = ""
) -> None:
    """Prints each event after `revision` as it happens, until interrupted."""
    app.flush_lines()

    def request(from_index: int) -> Any:
        return control_pb2.WatchEventsRequest(
            namespace=query.namespace,
            all_namespaces=query.all_namespaces,
            type_prefix=type_prefix,
            resource=resource,
            from_index=from_index,
        )

    for message in watching.follow(
        app.client,
        "Event",
        "WatchEvents",
        request,
        from_revision=revision,
        revision_of=lambda message: int(message.event.index),
    ):
        _show(app, message.event, format)


def _show(app: App, event: Any, format: str) -> None:
    if format == "json":
        app.print(output.to_json(output.plain(event)))
    elif format == "yaml":
        app.print("---\n" + output.to_yaml(output.plain(event)), end="")
    elif format in ("table", "wide"):
        cells = (instant(event.time_ms), output.field_word(event, "severity"), event.type, event.resource)
        line = " ".join(f"{table.safe(cell):<{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
        app.print(f"{line} {table.safe(event.description)}", end="\n")
    else:
        kind = resources.EVENT
        output.show_data(app, format, [event], single=True, data=kind.data, name=kind.full_name)


def _resource(app: App, text: str) -> tuple[str, bool]:
    """The resource as events name it, and whether it lies outside namespaces."""
    if not text:
        return "", False
    kind, slash, name = text.partition("/")
    if not slash or not name:
        raise usage(f"--for: {text!r} is not of the form TYPE/NAME")
    resource = resources.find(kind)
    if resource is resources.WORKLOAD and "/" not in name:
        name = f"{app.namespace}/{name}"
    return f"{resource.singular}/{name}", not resource.namespaced
