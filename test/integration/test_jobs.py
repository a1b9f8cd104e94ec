"""Jobs and crons on real processes: a coordinator, an agent, and programs that end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloudless.api.v1 import control_pb2 as pb
from cloudless.api.v1.convert import from_proto
from cloudless.core.model import JobRun, RunPhase, Workload, WorkloadPhase
from cloudless.dev.fabric import AgentPlan, LocalFabric
from cloudless.testing.fabric import running_fabric

pytestmark = pytest.mark.xdist_group("jobs")

MANIFEST = """
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {{name: {name}}}
spec:
  type: {type}
  containers: [{{name: main, process: ["/bin/sh", "-c", "{script}"]}}]
  restartPolicy: {{policy: {policy}, maxRetries: 2, backoff: {{initial: 100ms, max: 200ms}}}}
  {more}
"""


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory):
    agents = [AgentPlan("one", 1, runtimes=("process",))]
    directory: Path = tmp_path_factory.mktemp("fabric")
    with running_fabric(directory, tag="tjobs", agents=agents, with_containerd=False) as fabric:
        yield fabric


def apply(
    fabric: LocalFabric, name: str, script: str, more: str = "", *, kind: str = "job", policy: str = "Never"
) -> None:
    text = MANIFEST.format(name=name, type=kind, script=script, policy=policy, more=more)
    fabric.ctl("apply", "-f", "-", stdin=text)


def shown(fabric: LocalFabric, name: str) -> Workload:
    answer: Any = fabric.call("WorkloadService", "GetWorkload", pb.GetWorkloadRequest(name=name))
    return from_proto(answer.workload, Workload)


def finished(fabric: LocalFabric, name: str, number: int = 1) -> JobRun:
    def found() -> JobRun | None:
        return next((r for r in shown(fabric, name).runs if r.number == number and r.finished_at_ms), None)

    fabric.wait_for(lambda: found() is not None, what=f"the end of run {number} of {name}", timeout_s=30)
    run = found()
    assert run is not None
    return run


def test_a_job_is_completed_and_its_logs_are_kept(fabric: LocalFabric) -> None:
    apply(fabric, "sum", "echo done $((40 + 2))", "completion: {parallelism: 2, completions: 3}")
    run = finished(fabric, "sum")
    assert (run.phase, run.succeeded, run.failed) == (RunPhase.SUCCEEDED, 3, 0)
    assert shown(fabric, "sum").status.phase is WorkloadPhase.AVAILABLE
    replicas = fabric.call("WorkloadService", "ListReplicas", pb.ListReplicasRequest(workload="sum")).replicas
    assert len(replicas) == 3
    assert "done 42" in fabric.ctl("logs", f"replica/{replicas[0].id}").stdout


@pytest.mark.parametrize("policy", ["Never", "OnFailure"])
def test_a_job_that_fails_is_tried_as_often_as_it_says(fabric: LocalFabric, policy: str) -> None:
    name = f"fails-{policy.lower()}"
    apply(fabric, name, "echo tried; exit 3", policy=policy)
    run = finished(fabric, name)
    assert (run.phase, run.reason, run.failed) == (RunPhase.FAILED, "BackoffLimitExceeded", 3)
    assert shown(fabric, name).status.phase is WorkloadPhase.FAILED


def test_a_cron_is_run_by_hand_and_waits_for_its_time(fabric: LocalFabric) -> None:
    schedule = "schedule: {cron: '30 2 29 2 *', timeZone: Europe/Berlin}"
    apply(fabric, "rare", "echo now", schedule, kind="cron")
    before = shown(fabric, "rare")
    assert before.runs == ()
    assert before.next_run_at_ms > before.created_at_ms
    started = fabric.call("WorkloadService", "StartRun", pb.StartRunRequest(name="rare")).run
    assert (started.number, started.manual) == (1, True)
    assert finished(fabric, "rare").phase is RunPhase.SUCCEEDED
    assert shown(fabric, "rare").next_run_at_ms == before.next_run_at_ms
    assert " run 2 started" in fabric.ctl("run", "rare").stdout
    assert finished(fabric, "rare", 2).manual


def test_a_job_goes_away_after_its_time(fabric: LocalFabric) -> None:
    apply(fabric, "brief", "exit 0", "completion: {ttlAfterFinished: 200ms}")

    def gone() -> bool:
        listed = fabric.call("WorkloadService", "ListWorkloads", pb.ListWorkloadsRequest()).workloads
        return "brief" not in [workload.metadata.name for workload in listed]

    fabric.wait_for(gone, what="the job to be deleted", timeout_s=30)
