"""A node without a coordinator, as real processes: what it starts again after a reboot, and what it stops in time."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudless.agent.journal import frame
from cloudless.dev.fabric import AgentPlan, LocalFabric
from cloudless.testing.fabric import running_fabric

pytestmark = [pytest.mark.timeout(120), pytest.mark.xdist_group("offline-node")]

PLAN = AgentPlan("n1", 1, runtimes=("process",))
LEASE_S = 10
MANIFEST = """
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {{name: {name}}}
spec:
  disruption: {{leaseDuration: {lease}}}
  termination: {{gracePeriod: 1s}}
  containers:
    - name: main
      process: ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done", "{mark}"]
"""


class Device:
    """The node's programs, found by a word in their command line."""

    def __init__(self, fabric: LocalFabric) -> None:
        self.fabric = fabric
        self.marks = {name: f"offline-{name}-{uuid.uuid4().hex[:8]}" for name in ("day", "short")}

    def pids(self, name: str) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                arguments = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if arguments[0] == b"/bin/sh" and self.marks[name].encode() in arguments:
                found.append(int(path.parent.name))
        return found

    def runs(self) -> list[str]:
        return [name for name in sorted(self.marks) if self.pids(name)]

    def wait_runs(self, *names: str, timeout_s: float) -> None:
        self.fabric.wait_for(
            lambda: self.runs() == list(names), what=f"{names or 'nothing'} to run", timeout_s=timeout_s
        )

    def reboot(self) -> None:
        """Everything on the device is killed at once; its agent starts again."""
        self.fabric.kill("agent-n1")
        for name in self.marks:
            for pid in self.pids(name):
                os.kill(pid, signal.SIGKILL)
        self.wait_runs(timeout_s=5)
        self.fabric.start_agent(PLAN)


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[LocalFabric]:
    with running_fabric(tmp_path, tag="tofflin", agents=[PLAN], with_containerd=False) as fabric:
        try:
            yield fabric
        finally:
            fabric.stop("agent-n1")
            fabric.purge_agent(PLAN)


def ready(fabric: LocalFabric) -> int:
    return sum(r["status"].get("phase") == "Ready" for r in fabric.get("replicas"))


def log_of(fabric: LocalFabric) -> str:
    return fabric.log_file("agent-n1").read_text()


def test_it_starts_what_it_may_stops_what_it_no_longer_may_and_trusts_no_forged_journal(fabric: LocalFabric) -> None:
    device = Device(fabric)
    for name, lease in (("day", "24h"), ("short", f"{LEASE_S}s")):
        text = MANIFEST.format(name=name, lease=lease, mark=device.marks[name])
        fabric.ctl("apply", "-f", "-", "--wait", "--timeout", "30s", stdin=text)
    assert device.runs() == ["day", "short"]
    journal = fabric.directory / "agents" / "n1" / "journal"
    fabric.wait_for((journal / "lease").exists, what="a renewal", timeout_s=LEASE_S)

    # No coordinator; the device reboots, and both are within their lease.
    fabric.kill_coordinator()
    began_s = time.monotonic()
    device.reboot()
    device.wait_runs("day", "short", timeout_s=LEASE_S - 3)
    device.wait_runs("day", timeout_s=LEASE_S + 3)
    assert LEASE_S * 0.5 < time.monotonic() - began_s < LEASE_S + 3
    assert '"event": "lease.expired"' in log_of(fabric)

    # Another reboot: what has lost its lease is not started.
    device.reboot()
    device.wait_runs("day", timeout_s=8)

    # A journal that somebody altered: nothing of it is started.
    fabric.kill("agent-n1")
    path = journal / "assignments"
    line, _, payload = path.read_bytes().partition(b"\n")
    forged = payload.replace(b"while", b"until")
    assert forged != payload
    path.write_bytes(frame(forged, fabric=line.split()[4].decode(), version=2))
    device.reboot()
    refused = '"reason": "AssignmentsAltered"'
    fabric.wait_for(lambda: refused in log_of(fabric), what="the agent to refuse it", timeout_s=10)
    fabric.wait_for(lambda: log_of(fabric).count('"event": "supervisor.ready"') >= 4, what="the agent", timeout_s=10)
    assert device.runs() == []

    # A coordinator is back, and with it everything.
    fabric.start_coordinator()
    device.wait_runs("day", "short", timeout_s=30)
    fabric.wait_for(lambda: ready(fabric) == 2, what="both to be ready", timeout_s=20)
    fabric.ctl("delete", "workload", "day", "short", "--wait")
    assert device.runs() == []
