"""`token`: join tokens. A token's text is shown once, when it is made."""

from __future__ import annotations

import click

from cloudless.api.v1 import control_pb2
from cloudless.ctl import options, output
from cloudless.ctl.app import App
from cloudless.ctl.arguments import duration_ms, pairs, usage
from cloudless.ctl.cli import command, group
from cloudless.ctl.commands import delete as delete_
from cloudless.ctl.commands import get as get_
from cloudless.ctl.times import instant

token = group("token", "Make, list and revoke join tokens.")


@command("create")
@click.option("--node", "pattern", default="*", show_default=True, metavar="PATTERN", help="Names of nodes it admits.")
@click.option("--region", default="", help="Region of the nodes that join with it.")
@click.option("--zone", default="", help="Zone of the nodes that join with it.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Label of those nodes; repeatable.")
@click.option("--ttl", default="", metavar="DURATION", help="How long it is good.  [default: 24h]")
@click.option("--uses", type=click.IntRange(1, 100_000), default=1, show_default=True, help="How many nodes may join.")
@click.option("-o", "--output", "format", default="table", metavar="FORMAT", help="table, json or yaml.")
def create(
    app: App, pattern: str, region: str, zone: str, labels: tuple[str, ...], ttl: str, uses: int, format: str
) -> None:
    """Make a join token.

    Its text goes to stdout and is not kept anywhere: give it to the new node as its join token.
    """
    if format not in ("table", "json", "yaml"):
        raise usage(f"-o: unknown format {format!r}", "use table, json or yaml")
    request = control_pb2.CreateTokenRequest(
        node_pattern=pattern,
        region=region,
        zone=zone,
        labels=pairs(labels, "--label"),
        ttl_ms=duration_ms(ttl, "--ttl") if ttl else 0,
        max_uses=uses,
    )
    answer = app.client.call("Token", "CreateToken", request, write=True)
    if format != "table":
        value = {"jwt": answer.jwt, "token": output.plain(answer.token)}
        app.print(output.to_json(value) if format == "json" else output.to_yaml(value).rstrip("\n"))
        return
    made = answer.token
    times = "once" if made.max_uses == 1 else f"{made.max_uses} times"
    app.note(f"# token {made.id}: admits {made.node_pattern}, {times}, until {instant(made.expires_at_ms)}")
    app.print(answer.jwt)


@command("list")
@options.output
@options.no_headers
def list_(app: App, format: str, no_headers: bool) -> None:
    """List join tokens, without their texts."""
    get_.show(app, ("tokens",), format=format, no_headers=no_headers)


@command("revoke")
@click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=options.names_of("token"))
def revoke(app: App, ids: tuple[str, ...]) -> int:
    """Make tokens good for nothing. Nodes that joined with them stay."""
    return delete_.run(app, tuple(f"token/{name}" for name in ids))


for _command in (create, list_, revoke):
    token.add_command(_command)
