"""`version`: of this program and of the coordinator, and whether the two go together."""

from __future__ import annotations

import click

from cloudless import __version__
from cloudless.api.v1 import control_pb2
from cloudless.ctl import output
from cloudless.ctl.app import App
from cloudless.ctl.arguments import usage
from cloudless.ctl.cli import command


@command("version")
@click.option("--client", "only_client", is_flag=True, help="Do not ask the coordinator.")
@click.option("-o", "--output", "format", default="table", metavar="FORMAT", help="table, json or yaml.")
def version(app: App, only_client: bool, format: str) -> None:
    """Show the versions of program and coordinator."""
    if format not in ("table", "json", "yaml"):
        raise usage(f"-o: unknown format {format!r}", "use table, json or yaml")
    if format == "table":
        app.print(f"cloudlessctl {__version__}")
    server = ""
    if not only_client:
        server = app.client.call("Cluster", "GetStatus", control_pb2.GetStatusRequest()).version
    if format != "table":
        value = {"client": __version__} | ({"server": server} if server else {})
        app.print(output.to_json(value) if format == "json" else output.to_yaml(value).rstrip("\n"))
    elif server:
        app.print(f"coordinator  {server}")
    advice = skew(__version__, server) if server else ""
    if advice:
        app.note(f"warning: {advice}")


def skew(client: str, server: str) -> str:
    """What to say about two versions; empty when they go together: the same major, minors one apart at most."""
    ours, theirs = _numbers(client), _numbers(server)
    if ours is None or theirs is None or ours == theirs:
        return ""
    if ours[0] == theirs[0] and abs(ours[1] - theirs[1]) <= 1:
        return ""
    older = "cloudlessctl" if ours < theirs else "the coordinator"
    return f"cloudlessctl {client} and coordinator {server} are more than one version apart; upgrade {older}"


def _numbers(text: str) -> tuple[int, int] | None:
    parts = text.split(".")
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
        return None
    return int(parts[0]), int(parts[1])
