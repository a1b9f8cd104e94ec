"""`node`: list, describe, cordon, drain, label, taint and remove; the first verbs stand at the top level, too."""

from __future__ import annotations

from typing import Any, Final

import click

from cloudless.api.v1 import control_pb2, spec_pb2, types_pb2
from cloudless.ctl import options, waiting
from cloudless.ctl.app import App
from cloudless.ctl.arguments import duration_ms, usage
from cloudless.ctl.cli import command, group
from cloudless.ctl.commands import delete as delete_
from cloudless.ctl.commands import describe as describe_
from cloudless.ctl.commands import get as get_
from cloudless.ctl.resources import NODE

node = group("node", "Look after nodes.")
_names = click.argument("names", nargs=-1, required=True, metavar="NODE...", shell_complete=options.names_of("node"))
_EFFECTS: Final = {
    "NoSchedule": spec_pb2.TAINT_EFFECT_NO_SCHEDULE,
    "PreferNoSchedule": spec_pb2.TAINT_EFFECT_PREFER_NO_SCHEDULE,
    "NoExecute": spec_pb2.TAINT_EFFECT_NO_EXECUTE,
}


def _update(app: App, name: str, **changes: Any) -> Any:
    request = control_pb2.UpdateNodeRequest(id=_bare(name), **changes)
    return app.client.call("Node", "UpdateNode", request, write=True).node


def _bare(name: str) -> str:
    """`NAME` of `NAME` or `node/NAME`."""
    kind, slash, rest = name.partition("/")
    if not slash:
        return name
    if kind.lower() not in (NODE.singular, NODE.plural, *NODE.short):
        raise usage(f"{name} is no node")
    return rest


@command("list")
@options.output
@options.selector
@options.no_headers
@options.watch
def list_(app: App, format: str, selector: str, no_headers: bool, watch: bool) -> None:
    """List nodes."""
    get_.show(app, ("nodes",), format=format, selector=selector, no_headers=no_headers, watch=watch)


@command("describe")
@_names
def describe(app: App, names: tuple[str, ...]) -> None:
    """Show everything about nodes."""
    describe_.show(app, tuple(f"node/{_bare(name)}" for name in names))


@command("cordon")
@_names
def cordon(app: App, names: tuple[str, ...]) -> None:
    """Let a node take no new work. What runs there stays."""
    for name in names:
        view = _update(app, name, cordoned=True)
        app.print(f"node/{view.node.id} cordoned")


@command("uncordon")
@_names
def uncordon(app: App, names: tuple[str, ...]) -> None:
    """Let a node take new work again; ends draining."""
    for name in names:
        view = _update(app, name, cordoned=False, draining=False)
        app.print(f"node/{view.node.id} uncordoned")


@command("drain")
@_names
@click.option("--wait/--no-wait", default=True, show_default=True, help="Block until no replica runs there.")
@options.timeout("10m")
def drain(app: App, names: tuple[str, ...], wait: bool, timeout: str) -> None:
    """Move the work away from a node, keeping each workload's minAvailable.

    Replicas start elsewhere first. The node takes no new work until it is uncordoned.
    """
    timeout_ms = duration_ms(timeout, "--timeout")
    drained = []
    for name in names:
        view = _update(app, name, cordoned=True, draining=True)
        app.print(f"node/{view.node.id} draining")
        drained.append(view.node.id)
    for name in drained if wait else ():
        left = waiting.node_empty(app, name, timeout_ms=timeout_ms)
        stopped = waiting.nowhere(app, left)
        moved = len(left) - sum(stopped.values())
        app.print(f"node/{name} drained" + (f", replicas moved: {moved}" if moved else ""))
        if stopped:
            each = ", ".join(f"{namespace}/{workload} ({count})" for (namespace, workload), count in stopped.items())
            app.note(f"warning: stopped, with no room elsewhere: {each}; they start when a node has room")


@command("label")
@click.argument("name", metavar="NODE", shell_complete=options.names_of("node"))
@click.argument("labels", nargs=-1, required=True, metavar="KEY=VALUE... KEY-...")
def label(app: App, name: str, labels: tuple[str, ...]) -> None:
    """Set labels (KEY=VALUE) and remove them (KEY-)."""
    changed: dict[str, str] = {}
    removed: list[str] = []
    for text in labels:
        key, equals, value = text.partition("=")
        if equals:
            changed[key] = value
        elif text.endswith("-") and len(text) > 1:
            removed.append(text[:-1])
        else:
            raise usage(f"{text!r} is not of the form KEY=VALUE or KEY-")
    view = _update(app, name, set_labels=changed, remove_labels=removed)
    app.print(f"node/{view.node.id} labelled")


@command("taint")
@click.argument("name", metavar="NODE", shell_complete=options.names_of("node"))
@click.argument("taints", nargs=-1, required=True, metavar="KEY[=VALUE]:EFFECT... KEY-...")
def taint(app: App, name: str, taints: tuple[str, ...]) -> None:
    """Set taints and remove them (KEY-). The effects are NoSchedule, PreferNoSchedule and NoExecute."""
    changed, removed = [], []
    for text in taints:
        if text.endswith("-") and "=" not in text and len(text) > 1:
            removed.append(text[:-1].partition(":")[0])
            continue
        pair, colon, effect = text.rpartition(":")
        if not colon or effect not in _EFFECTS:
            raise usage(f"{text!r} is no taint", f"write KEY=VALUE:EFFECT with the effect {', '.join(_EFFECTS)}")
        key, _, value = pair.partition("=")
        changed.append(types_pb2.Taint(key=key, value=value, effect=_EFFECTS[effect]))
    view = _update(app, name, set_taints=changed, remove_taints=removed)
    app.print(f"node/{view.node.id} tainted")


@command("remove")
@_names
@click.option("--force", is_flag=True, help="Although replicas are assigned to it.")
@options.ignore_not_found
def remove(app: App, names: tuple[str, ...], force: bool, ignore_not_found: bool) -> int:
    """Take nodes out of the fabric. They need a new join token to come back."""
    things = tuple(f"node/{_bare(name)}" for name in names)
    return delete_.run(app, things, force=force, ignore_not_found=ignore_not_found)


for _command in (list_, describe, cordon, uncordon, drain, label, taint, remove):
    node.add_command(_command)
