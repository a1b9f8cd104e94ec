"""What people see of jobs and crons."""

import pytest

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core.views import workload_view
from cloudless.core.model import ReplicaPhase, WorkloadPhase
from cloudless.core.spec import Schedule
from cloudless.testing.fabric_model import NAMESPACE
from cloudless.testing.job_fabric import JobFabric, job

KEY = (NAMESPACE, "work")
MINUTE, HOUR = 60_000, 3_600_000


@pytest.fixture
def fabric():
    made = JobFabric()
    made.join("a")
    return made


def shown(fabric):
    view = workload_view(fabric.state, fabric.state.workloads[KEY])
    return view.status.phase, view.status.message


def test_a_job(fabric):
    fabric.put("work", job(completions=5, parallelism=2))
    assert shown(fabric) == (WorkloadPhase.PENDING, "")
    fabric.settle()
    status = workload_view(fabric.state, fabric.state.workloads[KEY]).status
    assert (status.desired, status.ready, status.running, status.updated) == (2, 2, 2, 2)
    fabric.advance(2_000)
    assert shown(fabric) == (WorkloadPhase.PROGRESSING, "run 1: 4 of 5 completed")
    view = workload_view(fabric.state, fabric.state.workloads[KEY])
    assert (view.runs[0].succeeded, view.status.desired) == (4, 1)
    fabric.advance(1_000)
    assert shown(fabric) == (WorkloadPhase.AVAILABLE, "run 1 succeeded")
    fabric.put("work", job(image="job:2"))
    assert shown(fabric)[0] is WorkloadPhase.PENDING


def test_a_job_that_fails(fabric):
    fabric.outcome = lambda replica: ReplicaPhase.FAILED
    fabric.put("work", job(retries=2))
    fabric.settle()
    fabric.advance(1_000)
    assert shown(fabric) == (WorkloadPhase.PROGRESSING, "run 1: 0 of 1 completed, 1 failed")
    fabric.advance(HOUR)
    message = "run 1 failed (BackoffLimitExceeded): 0 of 1 completed, 3 failed"
    assert shown(fabric) == (WorkloadPhase.FAILED, message)


def test_a_job_without_room(fabric):
    fabric.put("work", job(cpu_millis=90_000))
    fabric.settle()
    phase, message = shown(fabric)
    assert phase is WorkloadPhase.PENDING
    assert message.startswith("run 1: 0 of 1 completed; 1 pending: no node fits: ")


def test_a_cron(fabric):
    fabric.now_ms = 1_780_315_200_000 + MINUTE  # 2026-06-01T12:01Z
    schedule = Schedule("30 2 * * *", "Europe/Berlin")
    fabric.put("work", job(schedule=schedule))
    fabric.settle()
    assert shown(fabric) == (WorkloadPhase.AVAILABLE, "next run at 2026-06-02 02:30 Europe/Berlin")
    view = workload_view(fabric.state, fabric.state.workloads[KEY])
    assert view.next_run_at_ms == 1_780_315_200_000 + 12 * HOUR + 30 * MINUTE
    fabric.advance(view.next_run_at_ms - fabric.now_ms)
    message = "run 1: 0 of 1 completed; next run at 2026-06-03 02:30 Europe/Berlin"
    assert shown(fabric) == (WorkloadPhase.PROGRESSING, message)
    fabric.outcome = lambda replica: ReplicaPhase.FAILED
    fabric.advance(HOUR)
    phase, message = shown(fabric)
    assert phase is WorkloadPhase.DEGRADED
    assert message.startswith("run 1 failed (BackoffLimitExceeded)")
    on_hold = job(schedule=Schedule("30 2 * * *", "Europe/Berlin", suspend=True))
    fabric.put("work", on_hold)
    assert shown(fabric)[1].endswith("; on hold")
    assert workload_view(fabric.state, fabric.state.workloads[KEY]).next_run_at_ms == 0
    fabric.apply(c.DeleteWorkload(*KEY))
    assert shown(fabric)[0] is WorkloadPhase.TERMINATING
