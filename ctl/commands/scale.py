"""`scale`: a workload's number of replicas."""

from __future__ import annotations

import click

from cloudless.api.v1 import control_pb2
from cloudless.ctl import options, resources, waiting
from cloudless.ctl.app import App
from cloudless.ctl.arguments import duration_ms, targets, usage
from cloudless.ctl.cli import command


@command("scale")
@click.argument(
    "what", nargs=-1, required=True, metavar="[workload] NAME...", shell_complete=options.names_of("workload")
)
@click.option("--replicas", type=click.IntRange(0, 10_000), required=True, help="How many.")
@click.option("--wait", is_flag=True, help="Block until as many are ready.")
@options.timeout("5m")
def scale(app: App, what: tuple[str, ...], replicas: int, wait: bool, timeout: str) -> None:
    """Set a workload's number of replicas."""
    timeout_ms = duration_ms(timeout, "--timeout")
    words = what[1:] if len(what) > 1 and what[0] in ("workload", "workloads", "wl") else what
    keys = []
    for kind, name in targets(words, default_type="workload"):
        if resources.find(kind) is not resources.WORKLOAD:
            raise usage(f"{kind}/{name} cannot be scaled", "scale a workload")
        request = control_pb2.ScaleWorkloadRequest(namespace=app.namespace, name=name, replicas=replicas)
        app.client.call("Workload", "ScaleWorkload", request, write=True)
        app.print(f"workload/{name} scaled to {replicas}")
        keys.append((app.namespace, name))
    if wait:
        waiting.available(
            app,
            keys,
            timeout_ms=timeout_ms,
            done=lambda w: app.print(
                f"workload/{w.metadata.name} is available ({w.status.ready} of {w.status.desired} ready)"
            ),
        )
