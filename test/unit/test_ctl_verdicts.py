"""Jobs, crons and rollouts that come to an end, good or bad: what is shown of them, and that waiting ends with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudless.api.v1 import spec_pb2
from cloudless.api.v1 import types_pb2 as t
from cloudless.testing.ctl import Ctl, Outcome
from cloudless.testing.fake_control import NOW_MS, FakeControl

JOB = """\
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {name: migrate}
spec: {type: job, completions: 3, containers: [{name: main, image: x}]}
"""
WEB = """\
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {name: web}
spec: {replicas: 2, containers: [{name: main, image: nginx}]}
"""
FAILED_RUN = "run 1 failed (BackoffLimitExceeded): 1 of 3 completed, 2 failed"


@pytest.fixture
def control() -> Iterator[FakeControl]:
    with FakeControl() as started:
        started.add_node("n1")
        yield started


@pytest.fixture
def ctl(control: FakeControl, tmp_path: Path) -> Ctl:
    return Ctl(control, tmp_path)


def put(control: FakeControl, workload: t.Workload) -> None:
    control.put("workload", f"{workload.metadata.namespace}/{workload.metadata.name}", workload)


def with_runs(kind: int, phase: int, run_phase: int | None, message: str = "", **run: Any) -> t.Workload:
    made = t.Workload(generation=1, created_at_ms=NOW_MS - 60_000, updated_at_ms=NOW_MS - 60_000)
    made.metadata.name, made.metadata.namespace = "migrate", "default"
    made.spec.type = kind
    made.spec.completion.completions = 3
    made.spec.completion.parallelism = 2
    made.spec.containers.add(name="main", image="x")
    if kind == spec_pb2.WORKLOAD_TYPE_CRON:
        made.spec.schedule.cron, made.spec.schedule.time_zone = "0 3 * * *", "Europe/Berlin"
    made.status.phase, made.status.message = phase, message
    if run_phase is not None:
        made.runs.add(number=1, generation=1, phase=run_phase, started_at_ms=NOW_MS - 50_000, **run)
    return made


J, C = spec_pb2.WORKLOAD_TYPE_JOB, spec_pb2.WORKLOAD_TYPE_CRON
FAILED = with_runs(J, t.WORKLOAD_PHASE_FAILED, t.RUN_PHASE_FAILED, FAILED_RUN, succeeded=1, failed=2)
DONE = with_runs(J, t.WORKLOAD_PHASE_AVAILABLE, t.RUN_PHASE_SUCCEEDED, "run 1 succeeded", succeeded=3)
GOING = with_runs(J, t.WORKLOAD_PHASE_PROGRESSING, t.RUN_PHASE_RUNNING, "run 1: 1 of 3 completed", succeeded=1)
DUE = with_runs(C, t.WORKLOAD_PHASE_AVAILABLE, None, "next run at 03:00")
LIMPING = with_runs(C, t.WORKLOAD_PHASE_DEGRADED, t.RUN_PHASE_FAILED, FAILED_RUN, succeeded=1)


@pytest.mark.parametrize(
    ("workload", "shown"),
    [
        (FAILED, "1/3 Failed -"),
        (DONE, "3/3 Complete -"),
        (GOING, "1/3 Running -"),
        (with_runs(J, t.WORKLOAD_PHASE_PENDING, None), "- Pending -"),
        (DUE, "- Scheduled -"),
        (LIMPING, "1/3 Scheduled,LastFailed -"),
    ],
)
def test_what_is_ready_of_a_job_is_what_its_run_has_done(
    ctl: Ctl, control: FakeControl, workload: t.Workload, shown: str
) -> None:
    put(control, workload)
    listed = ctl("get", "workloads").out.splitlines()
    assert listed[0].split() == ["NAME", "READY", "STATUS", "UPDATED", "AGE"]
    assert listed[1].split() == ["migrate", *shown.split(), "1m"]


def test_a_cron_that_is_on_hold_says_so(ctl: Ctl, control: FakeControl) -> None:
    held = t.Workload()
    held.CopyFrom(DUE)
    held.spec.schedule.suspend = True
    put(control, held)
    assert "Suspended" in ctl("get", "workloads").out
    described = ctl("describe", "workload", "migrate").out
    assert "Status:          Suspended\n" in described
    assert "Schedule:        0 3 * * * in Europe/Berlin, suspended\n" in described
    assert "A run is:        3 completed, 2 at a time\n" in described
    assert "Strategy:" not in described


@pytest.mark.parametrize(
    "words",
    [
        ["wait", "workload/migrate", "--for", "complete"],
        ["wait", "workload/migrate", "--for", "available"],
        ["rollout", "status", "migrate"],
    ],
)
def test_waiting_for_a_job_ends_with_it(ctl: Ctl, control: FakeControl, words: list[str]) -> None:
    put(control, FAILED)
    failed = ctl(*words, "--timeout", "60s")
    assert (failed.code, failed.err.splitlines()[0]) == (1, f"error: workload/migrate failed: {FAILED_RUN}")
    assert "`cloudlessctl run migrate` tries it again" in failed.err
    put(control, DONE)
    assert ctl(*words, "--timeout", "60s").code == 0


def test_waiting_goes_on_while_the_job_does(ctl: Ctl, control: FakeControl) -> None:
    put(control, GOING)
    late = ctl("wait", "workload/migrate", "--for", "complete", "--timeout", "300ms")
    assert late.code == 6
    assert "workload/migrate: run 1: 1 of 3 completed" in late.err
    outcomes: list[Outcome] = []
    words = ("wait", "workload/migrate", "--for", "complete", "--timeout", "20s")
    waiting = threading.Thread(target=lambda: outcomes.append(ctl(*words)))
    waiting.start()
    put(control, DONE)
    waiting.join(20)
    assert [(o.code, o.out) for o in outcomes] == [(0, "workload/migrate is complete\n")]


def test_a_cron_is_there_whatever_its_runs_do_and_completes_with_one(ctl: Ctl, control: FakeControl) -> None:
    put(control, LIMPING)
    assert ctl("wait", "workload/migrate", "--for", "available", "--timeout", "20s").code == 0
    assert ctl("wait", "workload/migrate", "--for", "complete", "--timeout", "20s").code == 1


def test_a_service_has_no_end(ctl: Ctl, control: FakeControl) -> None:
    assert ctl("apply", "-f", "-", stdin=WEB.encode()).code == 0
    refused = ctl("wait", "workload/web", "--for", "complete")
    assert (refused.code, refused.err.splitlines()[0]) == (2, "error: workload/web is no job or cron: it has no end")


def rolling(control: FakeControl, phase: int, *, generation: int = 2, stable: int = 1, message: str = "") -> t.Workload:
    """`web`, whose second generation is on its way with one of two replicas."""
    made = t.Workload(generation=generation, created_at_ms=NOW_MS - 60_000, updated_at_ms=NOW_MS)
    made.metadata.name, made.metadata.namespace = "web", "default"
    made.spec.type, made.spec.replicas = spec_pb2.WORKLOAD_TYPE_SERVICE, 2
    made.spec.containers.add(name="main", image="nginx")
    made.status.phase = t.WORKLOAD_PHASE_PROGRESSING
    made.status.desired, made.status.ready, made.status.updated = 2, 2, 1
    progress = made.rollout
    progress.generation, progress.stable_generation = generation, stable
    progress.phase, progress.message = phase, message
    return made


WHY = "no new replica became available for 1m"


@pytest.mark.parametrize(
    "words",
    [["rollout", "status", "web"], ["wait", "workload/web", "--for", "available"], ["apply", "-f", "-", "--wait"]],
    ids=["status", "wait", "apply"],
)
@pytest.mark.parametrize(
    ("phase", "said"),
    [
        (t.ROLLOUT_PHASE_FAILED, f"the rollout of workload/web failed: {WHY}"),
        (t.ROLLOUT_PHASE_ROLLED_BACK, f"workload/web was rolled back: {WHY}"),
    ],
    ids=["failed", "rolled back"],
)
def test_waiting_for_a_rollout_that_failed_ends_at_once(
    ctl: Ctl, control: FakeControl, words: list[str], phase: int, said: str
) -> None:
    assert ctl("apply", "-f", "-", stdin=WEB.encode()).code == 0
    failing = rolling(control, phase, message=WHY)
    failing.spec.CopyFrom(control.workloads["default", "web"].spec)
    put(control, failing)
    failed = ctl(*words, "--timeout", "60s", stdin=WEB.encode())
    assert failed.code == 1
    assert f"error: {said}" in failed.err.splitlines()
    assert "hint: " in failed.err


def test_what_is_rolled_back_while_somebody_waits_is_no_success(ctl: Ctl, control: FakeControl) -> None:
    put(control, rolling(control, t.ROLLOUT_PHASE_PROGRESSING))
    outcomes: list[Outcome] = []
    waiting = threading.Thread(target=lambda: outcomes.append(ctl("rollout", "status", "web", "--timeout", "20s")))
    waiting.start()
    with control.lock:
        assert control.lock.wait_for(lambda: any(name == "WatchWorkloads" for name, *_ in control.calls), 20)
    back = rolling(control, t.ROLLOUT_PHASE_ROLLED_BACK, generation=3, stable=3, message=WHY)
    back.status.phase = t.WORKLOAD_PHASE_AVAILABLE
    put(control, back)
    waiting.join(20)
    assert [o.code for o in outcomes] == [1]
    assert f"error: workload/web was rolled back: {WHY}" in outcomes[0].err


def test_what_was_rolled_back_long_ago_is_told_and_hinders_no_later_change(ctl: Ctl, control: FakeControl) -> None:
    back = rolling(control, t.ROLLOUT_PHASE_ROLLED_BACK, generation=3, stable=3, message=WHY)
    back.status.phase = t.WORKLOAD_PHASE_AVAILABLE
    put(control, back)
    assert ctl("wait", "workload/web", "--for", "available", "--timeout", "20s").code == 0
    shown = ctl("rollout", "status", "web")
    assert shown.code == 1
    assert shown.out == f"workload/web generation 3 is rolled back: 1 of 2 updated, 2 ready; {WHY}\n"
    assert ctl("rollout", "status", "web", "--no-wait").code == 0


def test_how_an_earlier_generation_ended_says_nothing_of_the_newest(ctl: Ctl, control: FakeControl) -> None:
    failed = rolling(control, t.ROLLOUT_PHASE_FAILED, message=WHY)
    failed.generation = 3
    put(control, failed)
    assert ctl("wait", "workload/web", "--for", "available", "--timeout", "300ms").code == 6
