"""`cluster doctor`: asks every coordinator by itself, compares what they say, and names what to do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import click

from cloudless.api.v1 import control_pb2
from cloudless.ctl import output
from cloudless.ctl.app import App
from cloudless.ctl.arguments import usage
from cloudless.ctl.cli import command
from cloudless.ctl.client import gather
from cloudless.ctl.times import span
from cloudless.errors import CloudlessError

SKEW_MS: Final = 2_000
BEHIND_ENTRIES: Final = 10_000
ASK_TIMEOUT_MS: Final = 3_000
OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Finding:
    """`level`: ok, warning or problem. `remedy`: the next step; empty where nothing is to be done."""

    level: str
    check: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Asked:
    """What one coordinator answered, or why it did not."""

    address: str
    status: Any = None
    error: CloudlessError | None = None
    skew_ms: int = 0


@command("doctor")
@click.option("-o", "--output", "format", default="table", metavar="FORMAT", help="table, json or yaml.")
def doctor(app: App, format: str) -> int:
    """Examine the coordinators, and say what is wrong and what to do about it.

    Ends with 1 when there is a problem; warnings alone are no failure.
    """
    if format not in ("table", "json", "yaml"):
        raise usage(f"-o: unknown format {format!r}", "use table, json or yaml")
    findings = examine(app)
    if format == "table":
        for finding in findings:
            app.print(f"{finding.level + ':':<9} {finding.check}: {finding.text}")
            if finding.remedy:
                app.print(f"{'':<9} {finding.remedy}")
    else:
        value = [vars(finding) for finding in findings]
        app.print(output.to_json(value) if format == "json" else output.to_yaml(value).rstrip("\n"))
    return int(any(finding.level == PROBLEM for finding in findings))


def examine(app: App) -> list[Finding]:
    """Every check, in a fixed order."""
    asked = _ask_all(app)
    answered = [one for one in asked if one.status is not None]
    findings = [*_reachable(asked)]
    if not answered:
        return findings
    views = max((one.status for one in answered), key=lambda status: status.term).coordinators
    return [
        *findings,
        *_quorum(answered, views),
        *_leader(answered),
        *_log(answered),
        *_versions(views),
        *_clocks(answered),
    ]


def _ask_all(app: App) -> list[Asked]:
    """Every coordinator that the context or one of the others knows, each once."""
    done: dict[str, Asked] = {}
    waiting = list(dict.fromkeys(app.context.coordinators))
    while waiting:
        answers = gather([partial(_ask, app, address) for address in waiting])
        done.update(zip(waiting, answers, strict=True))
        known = [
            view.coordinator.api_addresses
            for one in answers
            if one.status is not None
            for view in one.status.coordinators
            if view.role != "removed"
        ]
        waiting = [addresses[0] for addresses in known if addresses and not set(addresses) & set(done)]
        waiting = list(dict.fromkeys(waiting))
    # Several addresses may lead to the same one.
    found: dict[str, Asked] = {}
    for one in done.values():
        found.setdefault(one.status.coordinator_id if one.status is not None else one.address, one)
    reached = {address for one in found.values() if one.status for view in one.status.coordinators
               if view.asked for address in view.coordinator.api_addresses}  # fmt: skip
    return [one for one in found.values() if one.status is not None or one.address not in reached]


def _ask(app: App, address: str) -> Asked:
    client = app.client_at((address,), timeout_ms=ASK_TIMEOUT_MS)
    try:
        before_ms = app.clock.now_ms()
        status = client.call("Cluster", "GetStatus", control_pb2.GetStatusRequest())
        return Asked(address, status, skew_ms=status.wall_clock_ms - (before_ms + app.clock.now_ms()) // 2)
    except CloudlessError as error:
        return Asked(address, error=error)
    finally:
        client.close()


def _reachable(asked: list[Asked]) -> list[Finding]:
    found = []
    views = [view.coordinator for one in asked if one.status is not None for view in one.status.coordinators]
    ids = {address: known.id for known in views for address in known.api_addresses}
    for one in asked:
        if one.error is not None:
            remedy = "start it, or check the way to it; if its disk is lost, remove it and add one under a new id"
            cause = one.error.message
            text = cause if one.address in cause else f"{one.address}: {cause}"
            text = f"{ids[one.address]}: {text}" if one.address in ids else text
            found.append(Finding(PROBLEM, "reachable", text, remedy))
    names = sorted(one.status.coordinator_id for one in asked if one.status is not None)
    if names:
        found.insert(0, Finding(OK, "reachable", f"{', '.join(names)} answer{'s' if len(names) == 1 else ''}"))
    return found


def _quorum(answered: list[Asked], views: Any) -> list[Finding]:
    engine = answered[0].status.store_engine
    if engine != "raft":
        text = f"the engine is {engine}: " + (
            "the quorum is etcd's" if engine == "etcd" else "one coordinator, no other"
        )
        remedy = "" if engine == "etcd" else "with store.engine raft, `cloudlessctl cluster add` makes it three"
        return [Finding(OK if engine == "etcd" else WARNING, "quorum", text, remedy)]
    voters = [view.coordinator.id for view in views if view.role in ("leader", "voter")]
    here = {one.status.coordinator_id for one in answered}
    alive = sum(name in here for name in voters)
    needed = len(voters) // 2 + 1
    text = f"{alive} of {len(voters)} voters answer, {needed} are needed"
    if alive < needed:
        remedy = "bring voters back; if most are lost for good, restore a backup as a new cluster"
        return [Finding(PROBLEM, "quorum", text, remedy)]
    if len(voters) % 2 == 0:
        remedy = "an even number survives no more losses than one fewer: add or remove one"
        return [Finding(WARNING, "quorum", text, remedy)]
    if alive == needed and len(voters) > 1:
        return [Finding(WARNING, "quorum", text + "; one more loss stops writes", "bring the missing ones back")]
    if len(voters) == 1:
        return [Finding(WARNING, "quorum", "a single coordinator", "add two more: `cloudlessctl cluster add ID`")]
    return [Finding(OK, "quorum", text)]


def _leader(answered: list[Asked]) -> list[Finding]:
    leaders = Counter(one.status.leader_id for one in answered)
    named = sorted(name for name in leaders if name)
    if not named:
        return [Finding(PROBLEM, "leader", "no coordinator knows a leader", "bring a majority of the voters back")]
    if len(named) > 1 or "" in leaders:
        said = ", ".join(f"{one.status.coordinator_id} says {one.status.leader_id or 'none'}" for one in answered)
        return [Finding(WARNING, "leader", said, "ask again in a moment; if it stays, check the network between them")]
    return [Finding(OK, "leader", f"{named[0]}, term {max(one.status.term for one in answered)}")]


def _log(answered: list[Asked]) -> list[Finding]:
    newest = max(one.status.commit_index for one in answered)
    found = []
    for one in answered:
        behind = newest - one.status.applied_index
        if behind > BEHIND_ENTRIES:
            remedy = "check its disk and its network; it catches up by itself when both are well"
            found.append(Finding(WARNING, "log", f"{one.status.coordinator_id} is {behind} entries behind", remedy))
    hashes: dict[int, set[str]] = {}
    for one in answered:
        hashes.setdefault(one.status.applied_index, set()).add(one.status.state_hash)
    if any(len(each) > 1 for each in hashes.values()):
        return [Finding(PROBLEM, "log", "coordinators at the same entry hold different states",
                        "this is a bug: keep the data folders, and restart from a backup")]  # fmt: skip
    return found or [Finding(OK, "log", f"committed up to {newest}, nobody is far behind")]


def _versions(views: Any) -> list[Finding]:
    versions = sorted({view.coordinator.version for view in views if view.coordinator.version})
    if len(versions) > 1:
        remedy = "finish the upgrade: what only the newer version knows is refused until then"
        return [Finding(WARNING, "versions", ", ".join(versions), remedy)]
    return [Finding(OK, "versions", versions[0])] if versions else []


def _clocks(answered: list[Asked]) -> list[Finding]:
    low, high = min(one.skew_ms for one in answered), max(one.skew_ms for one in answered)
    if high - low > SKEW_MS:
        text = f"the coordinators' clocks differ by {span(high - low)}"
        return [Finding(WARNING, "clocks", text, "synchronise them (NTP); times in events and certificates suffer")]
    return [Finding(OK, "clocks", f"within {max(high - low, 1)} ms of each other")]
