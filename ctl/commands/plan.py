"""`plan` and `simulate`: what would happen, computed by the coordinator with the code that decides."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import click

from cloudless.api.v1 import control_pb2
from cloudless.ctl import manifests, options, output, table
from cloudless.ctl.app import App
from cloudless.ctl.arguments import duration_ms, usage
from cloudless.ctl.cli import command
from cloudless.ctl.times import instant

LINES_MAX: Final = 200  # of changes; above it the rest is counted
_VERBS: Final = {
    "start": "starts",
    "move": "moves",
    "stop": "stops",
    "preempt": "makes room",
    "pending": "fits nowhere",
}
_output = click.option("-o", "--output", "format", default="table", metavar="FORMAT", help="table, json or yaml.")


@command("plan")
@click.option("-f", "--filename", "files", multiple=True, required=True, metavar="FILE|DIR|-",
              type=click.Path(allow_dash=True), help="Manifests; repeatable.")  # fmt: skip
@click.option("-R", "--recursive", is_flag=True, help="Look into folders of folders, too.")
@_output
def plan(app: App, files: tuple[str, ...], recursive: bool, format: str) -> None:
    """Show what an apply of these manifests would do: which replicas would start, stop or move, and where.

    Nothing is changed. The coordinator runs its own scheduler and reconciler on what is there now; each node is taken
    at its word at once, so that what comes of a version that does not start cannot be foreseen.

    \b
    cloudlessctl plan -f web.yaml
    """
    _check(format)
    from cloudless.api.v1 import convert

    request = control_pb2.PlanWorkloadsRequest()
    for item in manifests.read(app, files, recursive=recursive):
        message = request.workloads.add()
        convert.fill(item.metadata, message.metadata)
        convert.fill(item.spec, message.spec)
    _print(app, app.client.call("Planning", "PlanWorkloads", request), format)


@command("simulate")
@click.option("--drop-node", "nodes", multiple=True, metavar="NODE[,NODE]", shell_complete=options.names_of("node"),
              help="A node that is not there; repeatable.")  # fmt: skip
@click.option("--drop-zone", "zones", multiple=True, metavar="ZONE[,ZONE]", help="A zone whose nodes are not there.")
@click.option("--at", "at", default="", metavar="TIME",
              help="When: 18:00 (the next, local time), +2h or 2026-01-31T18:00:00Z. Devices that are usually away at "
              "that hour are taken to be away.")  # fmt: skip
@_output
def simulate(app: App, nodes: tuple[str, ...], zones: tuple[str, ...], at: str, format: str) -> None:
    """Show what would happen if nodes went away: what moves where, and what would no longer fit.

    \b
    cloudlessctl simulate --drop-node desk
    cloudlessctl simulate --drop-zone attic --at 18:00
    """
    _check(format)
    at_ms = moment_ms(at, app.clock.now_ms()) if at else 0
    request = control_pb2.SimulateRequest(drop_nodes=_split(nodes), drop_zones=_split(zones), at_ms=at_ms)
    if not (request.drop_nodes or request.drop_zones or at_ms):
        raise usage("nothing is supposed to happen", "say --drop-node, --drop-zone or --at")
    answer = app.client.call("Planning", "Simulate", request)
    if format == "table":
        when = f" at {instant(at_ms)}" if at_ms else ""
        app.print(f"away{when}: {', '.join(answer.nodes_away) or 'no node'}")
    _print(app, answer, format)


def moment_ms(text: str, now_ms: int) -> int:
    """Wall clock milliseconds of `18:00` (the next one, local time), `+2h30m` or an RFC 3339 time. Raises
    InvalidArgument."""
    if text.startswith("+"):
        return now_ms + duration_ms(text[1:], "--at")
    now = datetime.fromtimestamp(now_ms / 1000).astimezone()
    found = re.fullmatch(r"(\d{1,2}):(\d{2})", text, flags=re.ASCII)
    try:
        if found:
            then = now.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
            return int((then if then > now else then + timedelta(days=1)).timestamp() * 1000)
        then = datetime.fromisoformat(text)
        return int((then if then.tzinfo else then.astimezone()).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise usage(f"--at: {text!r} is no time", "write 18:00, +2h or 2026-01-31T18:00:00Z") from None


def _split(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def _check(format: str) -> None:
    if format not in ("table", "json", "yaml"):
        raise usage(f"-o: unknown format {format!r}", "use table, json or yaml")


def _print(app: App, answer: Any, format: str) -> None:
    if format == "json":
        app.print(output.to_json(output.plain(answer)))
    elif format == "yaml":
        app.print(output.to_yaml(output.plain(answer)), end="")
    elif not answer.changes and not answer.workloads:
        app.print("nothing would change")
    else:
        _tables(app, answer.changes, answer.workloads)


def _tables(app: App, changes: Sequence[Any], workloads: Sequence[Any]) -> None:
    if changes:
        rows = [
            [f"{c.workload}/{c.replica_id}" if c.replica_id else c.workload, _VERBS.get(c.change, c.change),
             c.from_node or "-", c.to_node or "-", c.reason]
            for c in changes[:LINES_MAX]
        ]  # fmt: skip
        table.show(app, ["REPLICA", "", "FROM", "TO", "WHY"], rows)
        if len(changes) > LINES_MAX:
            counts = Counter(c.change for c in changes[LINES_MAX:])
            more = ", ".join(f"{count} {_VERBS.get(word, word)}" for word, count in sorted(counts.items()))
            app.print(f"and {len(changes) - LINES_MAX} more: {more}")
        app.print("")
    else:
        app.print("no replica would start, stop or move\n")
    rows = [[w.name, str(w.desired), str(w.placed_before), str(w.placed_after), w.message or "fine"] for w in workloads]
    table.show(app, ["WORKLOAD", "DESIRED", "PLACED NOW", "THEN", ""], rows)
