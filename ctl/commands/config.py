"""`config`: the contexts file: which fabrics, as whom."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cloudless.ctl import options, output, table
from cloudless.ctl.app import App
from cloudless.ctl.cli import command, group
from cloudless.ctl.times import instant
from cloudless.errors import InvalidArgument, NotFound

config = group("config", "Choose which fabric to talk to, and as whom.")
_name = click.argument("name", metavar="NAME", shell_complete=options.complete_contexts)


def _save(app: App, contexts: Any) -> None:
    try:
        contexts.save(app.config_path)
    except OSError as error:
        raise InvalidArgument(f"cannot write {app.config_path}: {error.strerror}") from None


@command("get-contexts")
@options.no_headers
@click.option("-o", "--output", "format", type=click.Choice(["table", "name"]), default="table", metavar="FORMAT",
              help="table or name.")  # fmt: skip
def get_contexts(app: App, no_headers: bool, format: str) -> None:
    """List the contexts."""
    contexts = app.contexts
    if format == "name":
        for context in contexts.contexts:
            app.print(context.name)
        return
    if not contexts.contexts:
        app.note(f"no contexts in {app.config_path}")
        return
    current = app.settings.text("context", "CLOUDLESS_CONTEXT") or contexts.current
    rows = [
        ["*" if c.name == current else "", c.name, c.trust_domain, c.user, c.namespace, ",".join(c.coordinators)]
        for c in contexts.contexts
    ]
    header = ["CURRENT", "NAME", "TRUST DOMAIN", "USER", "NAMESPACE", "COORDINATORS"]
    table.show(app, header, rows, show_header=not no_headers)


@command("current-context")
def current_context(app: App) -> None:
    """Show the context that commands use."""
    app.print(app.context.name)


@command("use-context")
@_name
def use_context(app: App, name: str) -> None:
    """Make a context the one that commands use."""
    _save(app, app.contexts.use(name))
    app.print(f"now using context {name!r}")


@command("set-namespace")
@click.argument("name", metavar="NAMESPACE")
def set_namespace(app: App, name: str) -> None:
    """Set the namespace that commands use in the present context."""
    from cloudless.core.validation import validate_name

    for violation in validate_name(name, "namespace"):
        raise InvalidArgument(violation.message, remedy=violation.remedy)
    _save(app, app.contexts.merge(replace(app.context, namespace=name)))
    app.print(f"context {app.context.name!r} now uses namespace {name!r}")


@command("delete-context")
@_name
def delete_context(app: App, name: str) -> None:
    """Remove a context and its key from the file."""
    _save(app, app.contexts.delete(name))
    app.print(f"context {name!r} deleted")


@command("view")
@click.option("--raw", is_flag=True, help="With keys and certificates.")
def view(app: App, raw: bool) -> None:
    """Show the contexts file, without its keys."""
    from cloudless import contexts as file

    contexts = app.contexts
    if raw:
        app.print(file.encode(contexts).decode(), end="")
        return
    shown = [
        {
            "name": c.name,
            "coordinators": list(c.coordinators),
            "trust-domain": c.trust_domain,
            "namespace": c.namespace,
            "user": c.user,
            **{key: "REDACTED" for key in ("certificate", "key", "bundle") if getattr(c, key)},
            **({"certificate-expires": instant(c.expires_at_ms)} if c.expires_at_ms else {}),
        }
        for c in contexts.contexts
    ]
    app.print(output.to_yaml({"current-context": contexts.current, "contexts": shown}), end="")


@command("import")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--name", default="", metavar="NAME", help="Take its only context in under this name.")
@click.option("--use", is_flag=True, help="Make it the context that commands use.")
def import_(app: App, file: str, name: str, use: bool) -> None:
    """Take in the contexts of another file.

    Such as admin.yaml, which a coordinator writes into its data directory at its first start. The first context that
    is ever taken in becomes the one that commands use.
    """
    from cloudless import contexts as contexts_file

    path = Path(file)
    if not path.exists():
        raise NotFound(f"{path} does not exist", remedy="check the path")
    taken = contexts_file.load(path)
    if not taken.contexts:
        raise InvalidArgument(f"{path} holds no contexts")
    if name and len(taken.contexts) > 1:
        raise InvalidArgument(f"{path} holds {len(taken.contexts)} contexts", remedy="leave out --name")
    merged = app.contexts
    for context in taken.contexts:
        own = replace(context, name=name or context.name)
        own.credentials()
        merged = merged.merge(own, make_current=use and context.name in ("", taken.current, taken.contexts[0].name))
        app.print(f"context {own.name!r} imported")
    _save(app, merged)


for _command in (get_contexts, current_context, use_context, set_namespace, delete_context, view, import_):
    config.add_command(_command)
_short = copy(use_context)
_short.hidden = True
config.add_command(_short, "use")
