"""`explain placement`: the scheduler's answer in full."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cloudless.api.v1 import control_pb2
from cloudless.ctl import describe, output, table
from cloudless.ctl.app import App
from cloudless.ctl.arguments import usage


def explain_placement(app: App, words: tuple[str, ...], format: str) -> None:
    """`words`: `WORKLOAD`, `WORKLOAD/REPLICA` or `workload/WORKLOAD`."""
    if format not in ("table", "json", "yaml"):
        raise usage(f"-o: unknown format {format!r}", "use table, json or yaml")
    name, replica = _named(words)
    request = control_pb2.ExplainPlacementRequest(namespace=app.namespace, name=name, replica_id=replica)
    answer = app.client.call("Planning", "ExplainPlacement", request)
    if format == "json":
        app.print(output.to_json(output.plain(answer)))
    elif format == "yaml":
        app.print(output.to_yaml(output.plain(answer)), end="")
    else:
        for line in _lines(name, replica, answer):
            app.print(line)


def _named(words: tuple[str, ...]) -> tuple[str, str]:
    if len(words) != 1:
        raise usage("name one workload", "as in: cloudlessctl explain placement web, or web/web-x7k2p")
    first, slash, second = words[0].partition("/")
    if slash and not (first and second):
        raise usage(f"{words[0]!r} is not of the form WORKLOAD/REPLICA")
    if first in ("workload", "workloads", "wl") and slash:
        name, _, replica = second.partition("/")
        return name, replica
    return first, second


def _lines(name: str, replica: str, answer: Any) -> Iterator[str]:
    if answer.HasField("recorded"):
        yield from describe.block(f"Replica {replica}, as it was decided", describe.placement(answer.recorded))
        yield ""
    yield from describe.block(f"One more replica of {name}, now", describe.placement(answer.decision))
    if answer.remedies:
        yield ""
        yield "It would fit if you"
        for remedy in answer.remedies:
            where = f" (on {table.safe(remedy.node_id)})" if remedy.node_id else ""
            path = f"   [{table.safe(remedy.path)}]" if remedy.path else ""
            yield f"  {table.safe(remedy.change)}{where}{path}"
    elif not answer.decision.node_id:
        yield ""
        yield "No single change that was tried would make it fit."
    weights = ", ".join(f"{key} {value:.2f}" for key, value in sorted(answer.weights.items()))
    yield ""
    yield describe.pair("Weights", weights)
