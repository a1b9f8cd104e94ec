"""A real agent with real processes under a real coordinator: killed, it loses nothing and starts nothing twice."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cloudless.agent import main as program
from cloudless.dev.fabric import AgentPlan, LocalFabric
from cloudless.testing.fabric import running_fabric

pytestmark = pytest.mark.xdist_group("agent-adoption")

PLAN = AgentPlan("n1", 1, runtimes=("process",))
MANIFEST = """
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {name: count}
spec:
  type: service
  replicas: 1
  containers:
    - name: count
      process: ["/bin/sh", "-c", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.05; done"]
"""


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory):
    directory = tmp_path_factory.mktemp("fabric")
    with running_fabric(directory, tag="tadopt", agents=[PLAN], with_containerd=False) as fabric:
        (directory / "count.yaml").write_text(MANIFEST)
        fabric.ctl("apply", "-f", str(directory / "count.yaml"), "--wait", "--timeout", "60s")
        yield fabric
        fabric.ctl("delete", "workload", "count", "--wait")


def replica(fabric: LocalFabric) -> dict:
    found = fabric.get("replicas")
    assert len(found) == 1
    return found[0]


def shells(fabric: LocalFabric) -> list[int]:
    """The processes of the workload, by their words; without the copies that a shell is before it becomes `sleep`."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if words.startswith(b"/bin/sh\0-c\0i=0; while :; do echo line"):
                parents[int(entry.name)] = parent
    return [pid for pid, parent in parents.items() if parent not in parents]


def lines(fabric: LocalFabric) -> list[int]:
    out = fabric.ctl("logs", replica(fabric)["id"]).stdout
    return [int(line.split()[1]) for line in out.splitlines()]


def test_a_killed_agent_adopts_and_the_log_is_whole(fabric: LocalFabric) -> None:
    before, pids = replica(fabric), shells(fabric)
    assert len(pids) == 1
    for _ in range(2):
        fabric.kill("agent-n1")
        time.sleep(0.5)  # output that is written while nobody watches
        fabric.start_agent(PLAN)
        fabric.wait_for(lambda: "n1" in fabric.ready_nodes(), what="the node", timeout_s=30, process="agent-n1")
    assert shells(fabric) == pids
    after = replica(fabric)
    assert after["id"] == before["id"]
    assert after["status"].get("restartCount", 0) == 0
    numbers = lines(fabric)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 20


def test_a_terminated_agent_says_goodbye_and_leaves_the_work(fabric: LocalFabric) -> None:
    pids = shells(fabric)
    fabric.stop("agent-n1")
    assert '"agent.stopped"' in fabric.log_file("agent-n1").read_text()
    assert shells(fabric) == pids
    fabric.wait_for(lambda: fabric.ready_nodes() == [], what="the node to be unready", timeout_s=10)
    fabric.start_agent(PLAN)
    fabric.wait_for(lambda: "n1" in fabric.ready_nodes(), what="the node", timeout_s=30, process="agent-n1")
    assert shells(fabric) == pids


def test_a_second_agent_on_the_same_folder_is_refused(fabric: LocalFabric, tmp_path: Path) -> None:
    import subprocess
    import sys

    data = fabric.directory / "agents" / "n1"
    done = subprocess.run(
        [Path(sys.executable).parent / "cloudless-agent", f"--data-dir={data}"], capture_output=True, text=True
    )
    assert done.returncode == program.EXIT_DIRECTORY_IN_USE
    assert "AlreadyRunning" in done.stderr
    token = tmp_path / "token"
    token.write_text("nonsense")
    done = subprocess.run(
        [Path(sys.executable).parent / "cloudless-agent", f"--data-dir={tmp_path / 'd'}", f"--join-token-file={token}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == program.EXIT_NOT_ADMITTED
    assert "cloudless-agent: Token" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_crash_is_restarted_and_counted(fabric: LocalFabric) -> None:
    import os
    import signal

    os.kill(shells(fabric)[0], signal.SIGKILL)
    fabric.wait_for(lambda: replica(fabric)["status"].get("restartCount") == 1, what="the restart", timeout_s=20)
    fabric.wait_for(lambda: replica(fabric)["status"]["phase"] == "Ready", what="ready", timeout_s=20)
    container = replica(fabric)["status"]["containers"][0]
    assert (container["lastReason"], container["lastExitCode"]) == ("Error", 137)
