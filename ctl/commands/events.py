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
from cloudless.ctl.resources import Moment, Query

LIMIT: Final = 100
LIMIT_WATCHED: Final = 10  # before the new ones
# What is still to come is about as wide as this.
_WIDTHS_MIN: Final = {"SEVERITY": 8, "TYPE": 27, "RESOURCE": 26}


@command("events")
@click.option("--for", "resource", default="", metavar="TYPE/NAME", help="Only about this thing.")
@click.option("--type", "type_prefix", default="", metavar="PREFIX", help="Only types that begin so, as in node.")
@options.all_namespaces
@click.option("--limit", type=click.IntRange(1, 5000), metavar="COUNT",
              help=f"At most as many, the newest.  [default: {LIMIT}; with -w {LIMIT_WATCHED}]")  # fmt: skip
@options.watch
@options.output
@options.no_headers
def events(
    app: App,
    resource: str,
    type_prefix: str,
    all_namespaces: bool,
    limit: int | None,
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
            limit=limit or (LIMIT_WATCHED if watch else LIMIT),
        ),
    )
    if watch:
        app.flush_lines()
        _begin(app, answer.events, query, format, no_headers)
        watch_events(
            app,
            query,
            answer.revision,
            shown=answer.events,
            format=format,
            type_prefix=type_prefix,
            resource=wanted,
        )
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
    header, rows = _table(app, events, query, format)
    table.show(app, header, rows, show_header=not no_headers)


def _table(app: App, events: Sequence[Any], query: Query, format: str) -> tuple[list[str], list[list[str]]]:
    moment = Moment(app.clock.now_ms())
    return resources.EVENT.table(events, moment, wide=format == "wide", with_namespace=query.all_namespaces)


def _widths(app: App, events: Sequence[Any], query: Query, format: str) -> list[int]:
    """Those of the table that a watch begins with, and of its further lines."""
    header, rows = _table(app, events, query, format)
    needed = table.columns(header, rows)
    return [max(width, _WIDTHS_MIN.get(name, 0)) for name, width in zip(header, needed, strict=True)]


def _begin(app: App, events: Sequence[Any], query: Query, format: str, no_headers: bool) -> None:
    """What a watch shows before anything new happens: the same table that it then goes on with."""
    if format not in ("table", "wide"):
        for event in events:
            _show(app, event, query, format, [])
        return
    header, rows = _table(app, events, query, format)
    widths = _widths(app, events, query, format)
    for cells in rows if no_headers else [header, *rows]:
        app.print(table.row(cells, widths))


def watch_events(
    app: App,
    query: Query,
    revision: int,
    *,
    shown: Sequence[Any],
    format: str,
    type_prefix: str = "",
    resource: str = "",
) -> None:
    """Prints each event after `revision` as it happens, until interrupted: as further lines of the table of those
    that are `shown` already."""
    app.flush_lines()
    widths = _widths(app, shown, query, format)

    seen: dict[int, int] = {}  # of the newest entry: the last of its events that was shown

    def request(from_index: int) -> Any:
        return control_pb2.WatchEventsRequest(
            from_sequence=seen.get(from_index),
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
        seen.clear()
        seen[message.event.index] = message.event.sequence
        _show(app, message.event, query, format, widths)


def _show(app: App, event: Any, query: Query, format: str, widths: list[int]) -> None:
    if format == "json":
        app.print(output.to_json(output.plain(event)))
    elif format == "yaml":
        app.print("---\n" + output.to_yaml(output.plain(event)), end="")
    elif format in ("table", "wide"):
        app.print(table.row(_table(app, [event], query, format)[1][0], widths))
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
