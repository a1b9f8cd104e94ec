"""`cluster`: how the coordinators are, and who of them there is."""

from __future__ import annotations

from typing import Any, Final

import click

from cloudless.api.v1 import control_pb2
from cloudless.ctl import output, table
from cloudless.ctl.app import App
from cloudless.ctl.arguments import duration_ms, usage
from cloudless.ctl.cli import command, group
from cloudless.ctl.commands.backup import backup, restore
from cloudless.ctl.commands.doctor import doctor
from cloudless.ctl.describe import pair
from cloudless.ctl.times import instant, span
from cloudless.errors import CloudlessError

LEADER_TIMEOUT_MS: Final = 2_000

cluster = group("cluster", "Look after the coordinators: members, backup, restore.")
_id = click.argument("id", metavar="COORDINATOR")


def _check_format(format: str) -> None:
    if format not in ("table", "json", "yaml"):
        raise usage(f"-o: unknown format {format!r}", "use table, json or yaml")


def _structured(app: App, format: str, value: Any) -> None:
    app.print(output.to_json(value) if format == "json" else output.to_yaml(value).rstrip("\n"))


@command("status")
@click.option("-o", "--output", "format", default="table", metavar="FORMAT", help="table, json or yaml.")
def status(app: App, format: str) -> None:
    """Show how the fabric and its coordinators are.

    This is the leader's answer, for only it knows how far the others are. Without a leader, or with --stale, it is that
    of any coordinator, which tells what it knows itself.
    """
    _check_format(format)
    answer: Any = app.client.call("Cluster", "GetStatus", control_pb2.GetStatusRequest())
    if answer.leader_id not in ("", answer.coordinator_id) and not app.stale:
        answer = _of_leader(app, answer)
    if format != "table":
        _structured(app, format, output.plain(answer))
        return
    weights = ", ".join(f"{name} {value:.2f}" for name, value in sorted(answer.score_weights.items()))
    for label, text in (
        ("Trust domain", answer.trust_domain),
        ("Coordinator", f"{answer.coordinator_id}, version {answer.version}"),
        ("Leader", answer.leader_id or "none: no writes until a majority of the coordinators is back"),
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
    if answer.coordinators:
        app.print()
        rows = [_row(view, answer) for view in answer.coordinators]
        table.show(app, ("COORDINATOR", "ROLE", "BEHIND", "LAST CONTACT", "VERSION", "ADDRESS"), rows)


def _of_leader(app: App, answer: Any) -> Any:
    """What the leader says, or this answer where it says nothing."""
    views = (view.coordinator for view in answer.coordinators if view.coordinator.id == answer.leader_id)
    addresses = [address for coordinator in views for address in coordinator.api_addresses]
    if not addresses:
        return answer
    client = app.client_at(addresses, timeout_ms=LEADER_TIMEOUT_MS)
    try:
        return client.call("Cluster", "GetStatus", control_pb2.GetStatusRequest())
    except CloudlessError:
        return answer
    finally:
        client.close()


def _row(view: Any, answer: Any) -> tuple[str, ...]:
    known = view.coordinator
    behind = str(max(0, answer.last_index - view.match_index)) if view.match_index >= 0 else "-"
    contact = "-" if view.contact_age_ms < 0 or view.asked else f"{span(view.contact_age_ms)} ago"
    name = known.id + (" *" if view.asked else "")
    return name, view.role or "-", behind, contact, known.version or "-", ", ".join(known.api_addresses) or "-"


@command("add")
@_id
@click.option("--ttl", default="", metavar="DURATION", help="How long the token is good.  [default: 24h]")
@click.option("-o", "--output", "format", default="table", metavar="FORMAT", help="table, json or yaml.")
def add(app: App, id: str, ttl: str, format: str) -> None:
    """Make a join token for one new coordinator.

    Its text goes to stdout and is not kept anywhere. On the new machine, with an empty data folder:

    \b
        cloudless-coordinator --id COORDINATOR --join-token-file FILE

    It joins as a learner and votes once it has caught up. A coordinator that lost its disk comes back under a new id;
    remove the old one.
    """
    _check_format(format)
    request = control_pb2.AddCoordinatorRequest(id=id, ttl_ms=duration_ms(ttl, "--ttl") if ttl else 0)
    answer = app.client.call("Cluster", "AddCoordinator", request, write=True)
    if format != "table":
        _structured(app, format, {"jwt": answer.jwt, "token": output.plain(answer.token)})
        return
    app.note(f"# token {answer.token.id}: admits coordinator {id}, once, until {instant(answer.token.expires_at_ms)}")
    app.print(answer.jwt)


@command("remove")
@_id
def remove(app: App, id: str) -> None:
    """Take a coordinator out, for good: its id is never used again.

    The leader may be removed, too; another one takes over first. Remove one at a time, and the dead ones first.
    """
    app.client.call("Cluster", "RemoveCoordinator", control_pb2.RemoveCoordinatorRequest(id=id), write=True)
    app.print(f"coordinator/{id} removed")


@command("promote")
@_id
def promote(app: App, id: str) -> None:
    """Let a learner vote, once it has caught up. This happens by itself a moment after it has."""
    app.client.call("Cluster", "PromoteCoordinator", control_pb2.PromoteCoordinatorRequest(id=id), write=True)
    app.print(f"coordinator/{id} votes")


@command("transfer-leader")
@click.argument("id", metavar="[COORDINATOR]", required=False, default="")
def transfer_leader(app: App, id: str) -> None:
    """Hand leadership to a coordinator, or to the one with the newest log.

    Before maintenance of the leader's machine. Writes wait for a few hundredths of a second.
    """
    request = control_pb2.TransferLeadershipRequest(id=id)
    answer = app.client.call("Cluster", "TransferLeadership", request, write=True)
    app.print(f"coordinator/{answer.leader_id} leads")


for _command in (status, add, remove, promote, transfer_leader, backup, restore, doctor):
    cluster.add_command(_command)
