"""Flags that several commands share, and completion of live names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from cloudless.ctl.app import App

COMPLETION_TIMEOUT_MS = 1_000

output = click.option("-o", "--output", "format", default="table", metavar="FORMAT",
                      help="table, wide, json, yaml, name or jsonpath=TEMPLATE.")  # fmt: skip
no_headers = click.option("--no-headers", is_flag=True, help="Leave out the table's first line.")
all_namespaces = click.option("-A", "--all-namespaces", is_flag=True, help="Every namespace that you may see.")
selector = click.option("-l", "--selector", default="", metavar="SELECTOR", help="Labels, as in app=web,tier!=cache.")
container = click.option("-c", "--container", default="", metavar="NAME", help="Container; the first one by default.")
ignore_not_found = click.option("--ignore-not-found", is_flag=True, help="What is not there is no failure.")
watch = click.option("-w", "--watch", is_flag=True, help="Go on showing changes.")


def timeout(default: str) -> Callable[[Any], Any]:
    return click.option("--timeout", default=default, metavar="DURATION", show_default=True, help="How long to wait.")


def _app(ctx: click.Context) -> App:
    app = ctx.find_object(App) or App()
    every: click.Context | None = ctx
    while every is not None:
        app.settings.update({name: value for name, value in every.params.items() if name in ("context", "config_file")})
        if every.params.get("namespace"):
            app.settings.update({"namespace": every.params["namespace"]})
        every = every.parent
    app.settings.update({"request_timeout": f"{COMPLETION_TIMEOUT_MS}ms"})
    return app


def names_of(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Completes the names of one kind. What cannot be had (no fabric, no right) completes to nothing."""

    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in _names(_app(ctx), kind) if name.startswith(incomplete)]

    return complete


def complete_targets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes `TYPE NAME...` and `TYPE/NAME`."""
    from cloudless.ctl.resources import RESOURCES

    given = [word for word in ctx.params.get(param.name or "", None) or () if word]
    if "/" in incomplete:
        kind, _, name = incomplete.partition("/")
        return [CompletionItem(f"{kind}/{found}") for found in _names(_app(ctx), kind) if found.startswith(name)]
    if given:
        return [CompletionItem(name) for name in _names(_app(ctx), given[0]) if name.startswith(incomplete)]
    kinds = [word for resource in RESOURCES for word in (resource.plural, resource.singular)]
    return [CompletionItem(word) for word in kinds if word.startswith(incomplete)]


def complete_contexts(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from cloudless.errors import CloudlessError

    try:
        known = _app(ctx).contexts.contexts
    except (CloudlessError, OSError):
        return []
    return [CompletionItem(context.name) for context in known if context.name.startswith(incomplete)]


def _names(app: App, kind: str) -> list[str]:
    from cloudless.ctl.resources import Query, find
    from cloudless.errors import CloudlessError

    try:
        resource = find(kind)
        items, _ = resource.items(app, Query(namespace=app.namespace))
    except (CloudlessError, OSError):
        return []
    return [resource.name(item) for item in items]
