"""What people are shown of a device: its owner's terms, its habits, what it runs short of and who claims to be it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudless.api.v1 import types_pb2 as t
from cloudless.ctl import device_words
from cloudless.testing.ctl import Ctl
from cloudless.testing.fake_control import NOW_MS, FakeControl

WEB = b"""\
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {name: web}
spec: {replicas: 1, containers: [{name: main, image: nginx}]}
"""


@pytest.fixture
def control() -> Iterator[FakeControl]:
    with FakeControl() as started:
        started.add_node("n1")
        yield started


@pytest.fixture
def ctl(control: FakeControl, tmp_path: Path) -> Ctl:
    return Ctl(control, tmp_path)


def week(*spans: tuple[range, range], rest: int = 0) -> t.Node:
    """A node that is online at these days and hours."""
    hours = [rest] * 168
    for days, of_day in spans:
        for day in days:
            for hour in of_day:
                hours[day * 24 + hour] = 900
    return t.Node(presence=t.NodePresence(online_permille=hours, updated_at_ms=NOW_MS))


WORK, WEEKEND, ALL_DAYS = range(5), range(5, 7), range(7)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (t.Node(), "nothing is known yet"),
        (t.Node(presence=t.NodePresence(online_permille=[-1] * 168)), "nothing is known yet"),
        (week((ALL_DAYS, range(24))), "always"),
        (week((ALL_DAYS, range(8, 23))), "Mon-Sun 08-23 (UTC)"),
        (week((WORK, range(8, 23)), (WEEKEND, range(24))), "Mon-Fri 08-23, Sat-Sun all day (UTC)"),
        (week((WORK, range(2)), (WORK, range(22, 24))), "Mon-Fri 00-02 22-24 (UTC)"),
        (week((range(2, 3), range(9, 10))), "Wed 09-10 (UTC)"),
        (week((range(2, 3), range(9, 10)), rest=-1), "Wed 09-10 (UTC); 1 of 168 hours seen so far"),
        (week(), "seldom at any hour"),
        (week(rest=400), "seldom at any hour"),
        (week(*((range(d, d + 1), range(d, d + 5)) for d in ALL_DAYS)), "at no regular hours, 18.7% of the time"),
    ],
)
def test_when_a_device_is_usually_online(node: t.Node, words: str) -> None:
    assert device_words.presence(node) == words


def test_a_device_whose_owner_takes_no_work(ctl: Ctl, control: FakeControl) -> None:
    view = control.nodes["n1"]
    owner = view.node.device.owner
    owner.share_percent, owner.battery_floor_percent, owner.battery_resume_percent = 40, 20, 50
    owner.hours.extend(["Mon-Fri 22:00-06:00", "Sat 00:00-24:00"])
    owner.namespaces.append("shop")
    owner.not_accepting_reason, owner.evicting = "OutsideHours", True
    view.node.reliability.CopyFrom(
        t.NodeReliability(available_permille=985, losses_milli=300, failed_starts_milli=1200,
                          first_ready_at_ms=NOW_MS - 3 * 86_400_000)
    )  # fmt: skip
    view.usage.pressure.append("memory")
    view.clock_skew_ms = -65_000
    control.put("node", "n1", view)
    assert ctl("get", "nodes").out.splitlines()[1].split()[1] == "Ready,NotAccepting"
    wide = ctl("get", "nodes", "-o", "wide").out.splitlines()
    assert wide[1][wide[0].index("RELIABILITY") :].split()[0] == "98.5%"
    out = ctl("describe", "node", "n1").out
    for line in (
        "Status:          Ready,NotAccepting",
        "Clock skew:      -1m5s",
        "Pressure:        memory",
        "Reliability:     98.5% available, 0.3 losses, 1.2 failed starts (a week halves what was before); first ready "
        "3d ago",
        "Usually online:  nothing is known yet",
        "Owner:",
        "  accepting:       no: OutsideHours; what runs there must leave",
        "  share:           40 % of CPU and memory",
        "  hours:           Mon-Fri 22:00-06:00, Sat 00:00-24:00 (its local time)",
        "  battery:         nothing below 20 %, again from 50 %",
        "  metered link:    no new work",
        "  namespaces:      shop",
    ):
        assert line in out.splitlines(), out


def test_a_device_without_terms(ctl: Ctl, control: FakeControl) -> None:
    assert ctl("get", "nodes").out.splitlines()[1].split()[1] == "Ready"
    assert "  accepting:       yes; its agent tells no terms" in ctl("describe", "node", "n1").out
    view = control.nodes["n1"]
    view.node.device.owner.accepting = True
    view.node.cordoned = True
    control.put("node", "n1", view)
    assert ctl("get", "nodes").out.splitlines()[1].split()[1] == "Ready,Cordoned"
    out = ctl("describe", "node", "n1").out
    assert "  accepting:       yes\n" in out
    assert "  hours:           always\n" in out
    assert "Pressure:        none\n" in out


def test_a_second_device_with_the_identity_is_told_of(ctl: Ctl, control: FakeControl) -> None:
    told = "a second agent with the identity of n1 was refused: it came from 192.0.2.2"
    control.emit("security.identity_conflict", "node/n1", told)
    out = ctl("describe", "node", "n1").out
    (line,) = [line for line in out.splitlines() if line.startswith("Identity:")]
    assert told in line


def test_when_a_container_that_backs_off_starts_next(ctl: Ctl, control: FakeControl) -> None:
    assert ctl("apply", "-f", "-", stdin=WEB).code == 0
    replica = control.replicas["web-00000"]
    status = replica.status.containers[0]
    status.state, status.reason, status.ready = "waiting", "CrashLoopBackOff", False
    status.message, status.retry_at_ms = "ended 5 times with exit code 1", NOW_MS + 83_000
    control.put("replica", "web-00000", replica)
    out = ctl("describe", "replica", "web-00000").out
    assert "    state:         waiting (CrashLoopBackOff)\n" in out
    assert "    message:       ended 5 times with exit code 1\n" in out
    assert "    next start:    in 1m23s\n" in out
    status.retry_at_ms = NOW_MS - 5
    control.put("replica", "web-00000", replica)
    assert "    next start:    now\n" in ctl("describe", "replica", "web-00000").out
