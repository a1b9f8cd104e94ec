"""`cluster`: how the coordinator is."""

from __future__ import annotations

from typing import Any

import click

from cloudless.api.v1 import control_pb2
from cloudless.ctl import output
from cloudless.ctl.app import App
from cloudless.ctl.arguments import usage
from cloudless.ctl.cli import command, group
from cloudless.ctl.describe import pair
from cloudless.ctl.times import instant

cluster = group("cluster", "Look at the coordinator.")


@command("status")
@click.option("-o", "--output", "format", default="table", metavar="FORMAT", help="table, json or yaml.")
def status(app: App, format: str) -> None:
    """Show how the fabric and its coordinator are."""
    if format not in ("table", "json", "yaml"):
        raise usage(f"-o: unknown format {format!r}", "use table, json or yaml")
    answer: Any = app.client.call("Cluster", "GetStatus", control_pb2.GetStatusRequest())
    if format != "table":
        value = output.plain(answer)
        app.print(output.to_json(value) if format == "json" else output.to_yaml(value).rstrip("\n"))
        return
    weights = ", ".join(f"{name} {value:.2f}" for name, value in sorted(answer.score_weights.items()))
    for label, text in (
        ("Trust domain", answer.trust_domain),
        ("Coordinator", f"{answer.coordinator_id}, version {answer.version}"),
        ("Nodes", f"{answer.nodes_ready} of {answer.nodes_total} ready"),
        ("Workloads", answer.workloads),
        ("Replicas", f"{answer.replicas_ready} of {answer.replicas_desired} ready"),
        ("Store", answer.store_engine),
        ("Log", f"term {answer.term}, committed {answer.commit_index}, applied {answer.applied_index}"),
        ("State hash", answer.state_hash),
        ("Score weights", weights),
        ("Clock", instant(answer.wall_clock_ms)),
    ):
        app.print(pair(label, text))


cluster.add_command(status)
