"""`workload`: the noun-first spelling of what `get`, `describe`, `delete`, `scale` and `apply` do."""

from __future__ import annotations

import click

from cloudless.ctl import options
from cloudless.ctl.app import App
from cloudless.ctl.cli import command, group
from cloudless.ctl.commands import delete as delete_
from cloudless.ctl.commands import describe as describe_
from cloudless.ctl.commands import get as get_
from cloudless.ctl.commands.apply import apply
from cloudless.ctl.commands.scale import scale

workload = group("workload", "Look after workloads.")
_names = click.argument(
    "names", nargs=-1, required=True, metavar="NAME...", shell_complete=options.names_of("workload")
)


@command("get")
@_names
@options.output
def get(app: App, names: tuple[str, ...], format: str) -> None:
    """Show workloads by name."""
    get_.show(app, tuple(f"workload/{name}" for name in names), format=format)


@command("describe")
@_names
def describe(app: App, names: tuple[str, ...]) -> None:
    """Show everything about workloads."""
    describe_.show(app, tuple(f"workload/{name}" for name in names))


@command("delete")
@_names
@options.ignore_not_found
@click.option("--wait", is_flag=True, help="Block until they and their replicas are gone.")
@options.timeout("2m")
def delete(app: App, names: tuple[str, ...], ignore_not_found: bool, wait: bool, timeout: str) -> int:
    """Delete workloads."""
    things = tuple(f"workload/{name}" for name in names)
    return delete_.run(app, things, ignore_not_found=ignore_not_found, wait=wait, timeout=timeout)


for _command in (get_.lister("workloads"), get, describe, delete):
    workload.add_command(_command)
workload.add_command(apply)
workload.add_command(scale)
