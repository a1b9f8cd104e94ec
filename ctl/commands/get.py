"""`get`: lists and single things, in every format, once or as they change."""

from __future__ import annotations

from typing import Any

import click

from cloudless.ctl import options, output, resources, table, watching
from cloudless.ctl.app import App
from cloudless.ctl.arguments import targets, usage
from cloudless.ctl.cli import command
from cloudless.ctl.resources import Moment, Query, Resource


@command("get")
@click.argument(
    "what", nargs=-1, required=True, metavar="TYPE [NAME...] | TYPE/NAME...", shell_complete=options.complete_targets
)
@options.output
@options.selector
@options.all_namespaces
@options.no_headers
@click.option("--sort-by", default="", metavar="PATH", help="Order by a value, as in {.status.phase}.")
@options.watch
def get(app: App, what: tuple[str, ...], **flags: Any) -> None:
    """Show one or many things.

    The types are workloads (wl), nodes (no), replicas (rep), events (ev), tokens (tok) and users.
    """
    show(app, what, **flags)


def show(
    app: App,
    what: tuple[str, ...],
    *,
    format: str = "table",
    selector: str = "",
    all_namespaces: bool = False,
    no_headers: bool = False,
    sort_by: str = "",
    watch: bool = False,
) -> None:
    """What `get` does, for the noun-first commands too."""
    output.check(format)
    if len(what) == 1 and "/" not in what[0]:
        shown = False
        for part in what[0].split(","):
            resource = resources.find(part)
            namespace = "" if all_namespaces or not resource.namespaced else app.namespace
            query = Query(namespace, all_namespaces, selector)
            _check_query(resource, query)
            items, revision = resource.items(app, query)
            if shown and items and format in ("table", "wide"):
                app.print()
            shown = shown or bool(items)
            _show(
                app, resource, items, single=False, format=format, no_headers=no_headers, sort_by=sort_by, query=query
            )
            if watch:
                _watch(app, resource, query, items, revision, format)
        return
    if watch:
        raise usage("-w watches a whole type", "give the type alone")
    if selector or all_namespaces:
        raise usage("-l and -A select among many; a name selects one", "leave out the flag or the name")
    found: list[tuple[Resource, Any]] = []
    for kind, name in targets(what):
        resource = resources.find(kind)
        found.append((resource, resource.get(app, name)))
    for number, resource in enumerate(dict.fromkeys(resource for resource, _ in found)):
        if number and format in ("table", "wide"):
            app.print()
        items = [item for owner, item in found if owner is resource]
        single = len(found) == 1
        _show(app, resource, items, single=single, format=format, no_headers=no_headers, sort_by=sort_by, query=Query())


def lister(what: str) -> click.Command:
    """`NOUN list` of things that live in namespaces."""

    @command("list", help=f"List {what}.")
    @options.output
    @options.selector
    @options.all_namespaces
    @options.no_headers
    @options.watch
    def list_(app: App, **flags: Any) -> None:
        show(app, (what,), **flags)

    return list_


def _check_query(resource: Resource, query: Query) -> None:
    if query.selector:
        from cloudless.core import selectors

        selectors.parse(query.selector)
        if resource in (resources.EVENT, resources.TOKEN, resources.USER):
            raise usage(f"{resource.plural} have no labels to select by", "leave out -l")


def _show(
    app: App,
    resource: Resource,
    items: list[Any],
    *,
    single: bool,
    format: str,
    no_headers: bool,
    sort_by: str,
    query: Query,
) -> None:
    if sort_by:
        items = _sorted(resource, items, sort_by)
    if format not in ("table", "wide"):
        output.show_data(app, format, items, single=single, data=resource.data, name=resource.full_name)
        return
    if not items and not single:
        where = f" in namespace {query.namespace}" if query.namespace else ""
        app.note(f"no {resource.plural}{where}")
        return
    away = resources.away(app, items) if resource is resources.REPLICA else {}
    moment = Moment(app.clock.now_ms(), away)
    header, rows = resource.table(items, moment, wide=format == "wide", with_namespace=query.all_namespaces)
    table.show(app, header, rows, show_header=not no_headers)


def _sorted(resource: Resource, items: list[Any], path: str) -> list[Any]:
    from cloudless.ctl import jsonpath

    def key(item: Any) -> tuple[int, float, str]:
        text = jsonpath.render(path, resource.data(item))
        try:
            return (0, float(text), "")
        except ValueError:
            return (1, 0.0, text)

    return sorted(items, key=key)


def _watch(app: App, resource: Resource, query: Query, items: list[Any], revision: int, format: str) -> None:
    """A line or document for each change, until interrupted."""
    app.flush_lines()
    if resource is resources.EVENT:
        from cloudless.ctl.commands.events import watch_events

        watch_events(app, query, revision, shown=items, format=format)
        return
    if resource.watch is None:
        raise usage(f"{resource.plural} cannot be watched", "leave out -w")
    spec = resource.watch

    def table_of(found: list[Any]) -> tuple[list[str], list[list[str]]]:
        # A replica that just changed was just heard of: its node is in reach.
        moment = Moment(app.clock.now_ms())
        return resource.table(found, moment, wide=format == "wide", with_namespace=query.all_namespaces)

    widths = table.columns(*table_of(items))
    for message in watching.follow(
        app.client, spec.service, spec.method, lambda from_: spec.request(query, from_), from_revision=revision
    ):
        if message.HasField(spec.item):
            item = getattr(message, spec.item)
            if format in ("table", "wide"):
                app.print(table.row(table_of([item])[1][0], widths))
            else:
                _show_change(app, resource, item, format)
        elif spec.deleted(message) and format in ("table", "wide"):
            app.print(f"{resource.singular}/{spec.deleted(message)} is gone", end="\n")


def _show_change(app: App, resource: Resource, item: Any, format: str) -> None:
    if format == "json":
        app.print(output.to_json(resource.data(item)))
    elif format == "yaml":
        app.print("---\n" + output.to_yaml(resource.data(item)), end="")
    else:
        output.show_data(app, format, [item], single=True, data=resource.data, name=resource.full_name)
