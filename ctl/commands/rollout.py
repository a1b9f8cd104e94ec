"""`rollout`: follow how a workload's replicas are replaced, and steer it."""

from __future__ import annotations

from typing import Any, Final

import click

from cloudless.api.v1 import control_pb2
from cloudless.ctl import options, output, resources, table, verdicts, waiting
from cloudless.ctl.app import App
from cloudless.ctl.arguments import duration_ms, targets, usage
from cloudless.ctl.cli import Command, command, group
from cloudless.ctl.output import field_word
from cloudless.ctl.times import age
from cloudless.errors import FailedPrecondition, NotFound

rollout = group("rollout", "Follow rollouts, and pause, promote, undo or restart them.")
_names = click.argument(
    "names", nargs=-1, required=True, metavar="NAME...", shell_complete=options.names_of("workload")
)
_DONE: Final = {"Pause": "paused", "Resume": "resumed", "Promote": "promoted", "Undo": "goes back"}


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
def status(app: App, names: tuple[str, ...], wait: bool, timeout: str) -> int:
    """Show how far rollouts are; blocks until they are complete.

    Fails as soon as one failed or was rolled back.
    """
    code = 0
    timeout_ms = duration_ms(timeout, "--timeout")
    for namespace, name in _keys(app, names):
        workload = resources.WORKLOAD.get(app, name)
        if wait and not verdicts.is_available(workload) and not _stands_still(workload):
            waiting.available(app, [(namespace, name)], timeout_ms=timeout_ms, done=lambda found: None)
            workload = resources.WORKLOAD.get(app, name)
        app.print(f"workload/{name} generation {workload.generation} is {_how_far(workload)}")
        if wait and field_word(workload.rollout, "phase") in ("Failed", "RolledBack"):
            code = FailedPrecondition.exit_code
    return code


def _stands_still(workload: Any) -> bool:
    """Whether it goes on only when somebody says so."""
    return field_word(workload.rollout, "phase") in ("Paused", "AwaitingPromotion")


def _how_far(workload: Any) -> str:
    state = workload.status
    if verdicts.has_runs(workload):
        return f"{verdicts.status(workload).lower()}: {state.message or 'no run yet'}"
    counts = f"{state.updated} of {state.desired} updated, {state.ready} ready"
    phase = field_word(workload.rollout, "phase")
    words = {
        "Paused": "paused",
        "AwaitingPromotion": "waiting to be promoted",
        "Failed": "not going on: it failed",
        "RolledBack": "rolled back" if verdicts.is_available(workload) else "being rolled back",
    }
    done = words.get(phase) or ("complete" if verdicts.is_available(workload) else "in progress")
    told = f"; {workload.rollout.message}" if workload.rollout.message else ""
    return f"{done}: {counts}{told}"


@command("history")
@click.argument("name", metavar="NAME", shell_complete=options.names_of("workload"))
@click.option("--revision", type=click.IntRange(1), metavar="GENERATION", help="Show this one's spec.")
@click.option("-o", "--output", "format", default="table", metavar="FORMAT", help="table, json or yaml.")
@options.no_headers
def history(app: App, name: str, revision: int | None, format: str, no_headers: bool) -> None:
    """List the generations of a workload that are kept; the newest is what it is now.

    \b
    cloudlessctl rollout history web
    cloudlessctl rollout history web --revision 3
    """
    if format not in ("table", "json", "yaml"):
        raise usage(f"-o: unknown format {format!r}", "use table, json or yaml")
    ((namespace, name),) = _keys(app, (name,))
    request = control_pb2.ListRevisionsRequest(namespace=namespace, name=name)
    revisions = list(app.client.call("Workload", "ListRevisions", request).revisions)
    if revision is not None:
        revisions = [kept for kept in revisions if kept.generation == revision]
        if not revisions:
            raise NotFound(
                f"generation {revision} of workload {name!r} is not kept",
                remedy=f"`cloudlessctl rollout history {name}` lists those that are",
            )
    if format == "json":
        app.print(output.to_json({"items": [output.plain(kept) for kept in revisions]}))
    elif format == "yaml" or revision is not None:
        app.print("---\n".join(output.to_yaml(_document(name, namespace, kept)) for kept in revisions), end="")
    else:
        _print_history(app, revisions, resources.WORKLOAD.get(app, name), no_headers)


def _document(name: str, namespace: str, revision: Any) -> dict[str, Any]:
    from cloudless.api.v1.convert import from_proto
    from cloudless.core.spec import Metadata, WorkloadSpec
    from cloudless.manifest.encode import manifest

    return manifest(Metadata(name, namespace), from_proto(revision.spec, WorkloadSpec))


def _print_history(app: App, revisions: list[Any], workload: Any, no_headers: bool) -> None:
    now_ms = app.clock.now_ms()
    rows = []
    for kept in revisions:
        marks = []
        if kept.generation == workload.generation:
            marks.append("now")
        if kept.generation == workload.rollout.stable_generation:
            marks.append("stable")
        images = ", ".join(container.image or " ".join(container.process) for container in kept.spec.containers)
        rows.append(
            [str(kept.generation), age(kept.created_at_ms, now_ms), images, kept.change_cause or "-", " ".join(marks)]
        )
    table.show(app, ["GENERATION", "AGE", "RUNS", "CAUSE", ""], rows, show_header=not no_headers)


def _control(app: App, names: tuple[str, ...], action: str, to_generation: int = 0) -> list[Any]:
    changed = []
    for namespace, name in _keys(app, names):
        request = control_pb2.ControlRolloutRequest(
            namespace=namespace, name=name, action=f"ROLLOUT_ACTION_{action.upper()}", to_generation=to_generation
        )
        workload = app.client.call("Workload", "ControlRollout", request, write=True).workload
        how = f" as generation {workload.generation}" if action == "Undo" else ""
        app.print(f"workload/{name} {_DONE[action]}{how}")
        changed.append(workload)
    return changed


def _simple(name: str, action: str, help: str) -> Command:
    @command(name, help=help)
    @_names
    def run(app: App, names: tuple[str, ...]) -> None:
        _control(app, names, action)

    return run


@command("undo")
@_names
@click.option("--to-revision", type=click.IntRange(0), default=0, metavar="GENERATION",
              help="What to go back to; the last one that was complete by default.")  # fmt: skip
@click.option("--wait", is_flag=True, help="Block until every replica is ready.")
@options.timeout("5m")
def undo(app: App, names: tuple[str, ...], to_revision: int, wait: bool, timeout: str) -> None:
    """Go back to an earlier generation, as a rollout of its own.

    \b
    cloudlessctl rollout undo web
    cloudlessctl rollout undo web --to-revision 3
    """
    timeout_ms = duration_ms(timeout, "--timeout")
    changed = _control(app, names, "Undo", to_revision)
    if wait:
        keys = [(workload.metadata.namespace, workload.metadata.name) for workload in changed]
        waiting.available(app, keys, timeout_ms=timeout_ms, done=lambda found: None)


rollout.add_command(restart)
rollout.add_command(status)
rollout.add_command(history)
rollout.add_command(undo)
rollout.add_command(_simple("pause", "Pause", "Stop replacing replicas; failures are still made good."))
rollout.add_command(_simple("resume", "Resume", "Go on with a paused rollout."))
rollout.add_command(
    _simple("promote", "Promote", "Take a canary's next step, or let the new colour take over, without waiting.")
)
