"""`replica`: the noun-first spelling of what `get`, `describe`, `logs` and `exec` do."""

from __future__ import annotations

import click

from cloudless.ctl import options
from cloudless.ctl.app import App
from cloudless.ctl.cli import command, group
from cloudless.ctl.commands import describe as describe_
from cloudless.ctl.commands import get as get_
from cloudless.ctl.commands.exec import exec_
from cloudless.ctl.commands.logs import logs

replica = group("replica", "Look at replicas.")


@command("describe")
@click.argument("names", nargs=-1, required=True, metavar="ID...", shell_complete=options.names_of("replica"))
def describe(app: App, names: tuple[str, ...]) -> None:
    """Show everything about replicas, and why they run where they run."""
    describe_.show(app, tuple(f"replica/{name}" for name in names))


for _command in (get_.lister("replicas"), describe, logs, exec_):
    replica.add_command(_command)
