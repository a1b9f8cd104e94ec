"""`rollout`: restart a workload's replicas, follow how they are replaced."""

from __future__ import annotations

import click

from cloudless.api.v1 import control_pb2
from cloudless.ctl import options, resources, waiting
from cloudless.ctl.app import App
from cloudless.ctl.arguments import duration_ms, targets, usage
from cloudless.ctl.cli import command, group

rollout = group("rollout", "Follow and restart rollouts.")
_names = click.argument(
    "names", nargs=-1, required=True, metavar="NAME...", shell_complete=options.names_of("workload")
)


def _keys(app: App, names: tuple[str, ...]) -> list[tuple[str, str]]:
    words = names[1:] if len(names) > 1 and names[0] in ("workload", "workloads", "wl") else names
    keys = []
    for kind, name in targets(words, default_type="workload"):
        if resources.find(kind) is not resources.WORKLOAD:
            raise usage(f"{kind}/{name} has no rollout")
        keys.append((app.namespace, name))
    return keys


@command("restart")
@_names
def restart(app: App, names: tuple[str, ...]) -> None:
    """Replace every replica, as for a new version."""
    for namespace, name in _keys(app, names):
        request = control_pb2.RestartWorkloadRequest(namespace=namespace, name=name)
        app.client.call("Workload", "RestartWorkload", request, write=True)
        app.print(f"workload/{name} restarted")


@command("status")
@_names
@click.option("--wait/--no-wait", default=True, show_default=True, help="Block until the rollout is complete.")
@options.timeout("5m")
def status(app: App, names: tuple[str, ...], wait: bool, timeout: str) -> None:
    """Show how far rollouts are; blocks until they are complete."""
    timeout_ms = duration_ms(timeout, "--timeout")
    for namespace, name in _keys(app, names):
        workload = resources.WORKLOAD.get(app, name)
        if wait and not waiting.is_available(workload):
            waiting.available(app, [(namespace, name)], timeout_ms=timeout_ms, done=lambda found: None)
            workload = resources.WORKLOAD.get(app, name)
        state = workload.status
        counts = f"{state.updated} of {state.desired} updated, {state.ready} ready"
        done = "complete" if waiting.is_available(workload) else "in progress"
        app.print(f"workload/{name} generation {workload.generation} is {done}: {counts}")


rollout.add_command(restart)
rollout.add_command(status)
