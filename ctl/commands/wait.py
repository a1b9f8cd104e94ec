"""`wait`: block until a condition holds."""

from __future__ import annotations

import click

from cloudless.ctl import options, resources, verdicts, waiting
from cloudless.ctl.app import App
from cloudless.ctl.arguments import duration_ms, targets, usage
from cloudless.ctl.cli import command


@command("wait")
@click.argument(
    "what", nargs=-1, required=True, metavar="TYPE NAME... | TYPE/NAME...", shell_complete=options.complete_targets
)
@click.option("--for", "condition", required=True,
              type=click.Choice(["available", "complete", "deleted", "ready", "drained"]),
              help="available, deleted: of workloads; complete: of jobs, crons; ready, drained: of nodes.")  # fmt: skip
@options.timeout("5m")
def wait(app: App, what: tuple[str, ...], condition: str, timeout: str) -> None:
    """Block until something is true of workloads or nodes.

    \b
    cloudlessctl wait workload/web --for available
    cloudlessctl wait workload/migrate --for complete --timeout 10m
    cloudlessctl wait node/desk --for ready --timeout 30s
    """
    timeout_ms = duration_ms(timeout, "--timeout")
    for kind, name in targets(what):
        resource = resources.find(kind)
        if resource is resources.WORKLOAD and condition in ("available", "ready"):
            key = (app.namespace, resource.get(app, name).metadata.name)
            waiting.available(app, [key], timeout_ms=timeout_ms, done=lambda workload: None)
        elif resource is resources.WORKLOAD and condition == "complete":
            found = resource.get(app, name)
            if not verdicts.has_runs(found):
                raise usage(f"workload/{name} is no job or cron: it has no end", "wait for it to be available")
            waiting.complete(app, (app.namespace, found.metadata.name), timeout_ms=timeout_ms)
        elif resource is resources.WORKLOAD and condition == "deleted":
            waiting.gone(app, (app.namespace, name), timeout_ms=timeout_ms)
        elif resource is resources.NODE and condition in ("ready", "available"):
            waiting.node_ready(app, name, timeout_ms=timeout_ms)
        elif resource is resources.NODE and condition == "drained":
            waiting.node_empty(app, name, timeout_ms=timeout_ms)
        else:
            raise usage(f"one cannot wait for {resource.plural} to be {condition}")
        app.print(f"{resource.singular}/{name} is {condition}")
