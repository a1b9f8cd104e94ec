"""`run`: a run of a job or cron by hand."""

from __future__ import annotations

import click

from cloudless.api.v1 import control_pb2
from cloudless.ctl import options
from cloudless.ctl.app import App
from cloudless.ctl.cli import command


@command("run")
@click.argument("name", metavar="NAME", shell_complete=options.names_of("workload"))
def run(app: App, name: str) -> None:
    """Start a run of a workload of type job or cron now, beside its schedule.

    \b
    cloudlessctl run backup
    cloudlessctl describe workload backup
    """
    request = control_pb2.StartRunRequest(namespace=app.namespace, name=name.removeprefix("workload/"))
    started = app.client.call("Workload", "StartRun", request, write=True).run
    app.print(f"workload/{request.name} run {started.number} started")
