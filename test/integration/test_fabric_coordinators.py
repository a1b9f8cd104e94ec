"""Three coordinators and an agent as real processes: how they form, move over, stop, and end when they are removed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudless.api.v1 import control_pb2
from cloudless.coordinator.main import EXIT_REMOVED
from cloudless.dev.fabric import AgentPlan, LocalFabric
from cloudless.errors import FailedPrecondition

pytestmark = pytest.mark.timeout(120)

AGENT = AgentPlan(name="n1", index=1, runtimes=("process",))


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[LocalFabric]:
    local = LocalFabric(tmp_path, tag="clthree", subnet_prefix="10.207")
    try:
        local.start_coordinators(3)
        yield local
    finally:
        local.stop_together(list(local.started()))


def _log(fabric: LocalFabric, coordinator_id: str) -> list[dict[str, Any]]:
    text = fabric.log_file(fabric.coordinator_process(coordinator_id)).read_text()
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def _workload(fabric: LocalFabric, name: str) -> None:
    request = control_pb2.CreateWorkloadRequest()
    request.metadata.name, request.metadata.namespace = name, "default"
    request.spec.replicas = 0
    request.spec.containers.add(name="main", image="docker.io/library/web:1")
    fabric.call("WorkloadService", "CreateWorkload", request)


def _ready(fabric: LocalFabric) -> bool:
    return fabric.ready_nodes() == ["n1"]


def test_they_form_move_over_and_end(fabric: LocalFabric) -> None:
    assert {view.coordinator.id for view in fabric.status().coordinators} == {"c1", "c2", "c3"}
    fabric.start_agent(AGENT)
    fabric.wait_for(lambda: _ready(fabric), what="the agent", timeout_s=30)

    # the leader dies
    dead = fabric.leader()
    fabric.kill_coordinator(dead)
    fabric.leader()
    _workload(fabric, "after-the-kill")
    fabric.wait_for(lambda: _ready(fabric), what="the agent to be heard of", timeout_s=30)
    assert fabric.ctl("get", "workloads").returncode == 0
    fabric.start_coordinator(dead)
    fabric.wait_coordinator(dead)
    fabric.wait_voters(["c1", "c2", "c3"])

    # it stops in good order, and hands over
    leader = fabric.leader()
    fabric.stop_coordinator(leader)
    said = [line["event"] for line in _log(fabric, leader)]
    assert "coordinator.leadership_handed_over" in said
    assert said[-1] == "coordinator.stopped"
    _workload(fabric, "after-the-stop")
    fabric.start_coordinator(leader)
    fabric.wait_coordinator(leader)

    # one is removed: it ends by itself, says why, and does so again
    gone = next(name for name in ("c2", "c3") if name != fabric.leader())
    fabric.call("ClusterService", "RemoveCoordinator", control_pb2.RemoveCoordinatorRequest(id=gone))
    for again in (False, True):
        if again:
            fabric.start_coordinator(gone)
        process = fabric.coordinator_process(gone)
        with pytest.raises(FailedPrecondition, match=f"ended with {EXIT_REMOVED}"):
            fabric.wait_for(lambda: False, what="its end", timeout_s=30, process=process)
        last = _log(fabric, gone)[-1]
        assert last["event"] == "coordinator.failed"
        assert last["reason"] in ("MemberRemoved", "CoordinatorRemoved")
        assert last["remedy"]
        fabric.stop(process)
    _workload(fabric, "after-the-removal")

    # its token is spent, and its id is used for ever
    shutil.rmtree(fabric.coordinator_data(gone))
    with pytest.raises(FailedPrecondition, match=r"CoordinatorIdUsed|was removed"):
        fabric.start_coordinator(gone)
    fabric.stop(fabric.coordinator_process(gone))
