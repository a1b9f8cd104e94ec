"""What the loop does about crons: due, missed, forbidden and replaced runs, in virtual time."""

import dataclasses
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core.reconcile import reconcile
from cloudless.coordinator.core.reconcile.cron import ON_TIME_MS
from cloudless.coordinator.core.runs import CLOCK_TOLERANCE_MS, UNFINISHED_MAX
from cloudless.coordinator.core.scheduler import Weights
from cloudless.core.model import JobRun, ReplicaPhase, RunPhase
from cloudless.core.spec import ConcurrencyPolicy, MissedRuns, Schedule
from cloudless.testing.fabric_model import NAMESPACE, refusal
from cloudless.testing.job_fabric import JobFabric, job

KEY = (NAMESPACE, "work")
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
ALLOW, FORBID, REPLACE = ConcurrencyPolicy
SKIP, RUN_ONCE, RUN_ALL = MissedRuns


def ms(text, zone="UTC", fold=0):
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)


NOON = ms("2026-06-01T12:00")


def fabric_at(at_ms=NOON - 30 * SECOND):
    fabric = JobFabric()
    fabric.now_ms = at_ms
    for name in ("a", "b"):
        fabric.join(name)
    return fabric


def put(fabric, cron="0 * * * *", zone="UTC", *, concurrency=FORBID, missed=RUN_ONCE, history=50, **spec):
    schedule = Schedule(cron, zone, concurrency, missed, history)
    fabric.put("work", job(schedule=schedule, **spec))
    fabric.settle()


def scheduled(fabric):
    """Hours after noon at which runs were due that were started, and those that were skipped with the reason."""
    return [
        (run.scheduled_at_ms - NOON) / HOUR if run.phase is not RunPhase.SKIPPED
        else ((run.scheduled_at_ms - NOON) / HOUR, run.reason)
        for run in fabric.runs()
    ]  # fmt: skip


def test_a_cron_runs_when_it_is_due():
    fabric = fabric_at()
    put(fabric)
    assert fabric.runs() == []
    assert fabric.wake_at_ms == {KEY: NOON}
    fabric.advance(30 * SECOND - 1)
    assert fabric.runs() == []
    fabric.advance(1)
    assert fabric.runs() == [JobRun(1, 1, NOON, NOON, phase=RunPhase.RUNNING)]
    fabric.advance(3 * HOUR)
    assert scheduled(fabric) == [0, 1, 2, 3]
    assert all(run.started_at_ms == run.scheduled_at_ms for run in fabric.runs())
    assert {run.phase for run in fabric.runs()[:-1]} == {RunPhase.SUCCEEDED}


def test_history_is_kept_with_its_replicas():
    fabric = fabric_at()
    put(fabric, history=2)
    fabric.advance(5 * HOUR + MINUTE)
    assert [run.number for run in fabric.runs()] == [5, 6]
    assert sorted(r.run for r in fabric.replicas("work")) == [5, 6]
    assert fabric.state.workloads[KEY].last_run == 6


# -- what was missed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missed", "concurrency", "expected"),
    [
        (SKIP, FORBID, [0, (4, "Missed"), (5, "Missed"), (6, "Missed")]),
        (SKIP, ALLOW, [0, (4, "Missed"), (5, "Missed"), (6, "Missed")]),
        (RUN_ONCE, FORBID, [0, 6]),
        (RUN_ONCE, ALLOW, [0, 6]),
        (RUN_ONCE, REPLACE, [0, 6]),
        (RUN_ALL, FORBID, [0, 1, 2, 3, 4, 5, 6]),
        (RUN_ALL, ALLOW, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_six_hours_without_a_leader(missed, concurrency, expected):
    """Down from 12:10 to 18:10; hourly runs."""
    fabric = fabric_at()
    put(fabric, missed=missed, concurrency=concurrency)
    fabric.advance(30 * SECOND + 10 * MINUTE)
    fabric.sleep(6 * HOUR)
    fabric.settle()
    fabric.advance(10 * MINUTE)
    assert scheduled(fabric) == expected
    started = [run for run in fabric.runs() if run.phase is not RunPhase.SKIPPED]
    assert {run.phase for run in started} == {RunPhase.SUCCEEDED}
    fabric.advance(HOUR)
    assert scheduled(fabric)[-1] == 7, "and on it goes"


@pytest.mark.parametrize(("missed", "expected"), [(SKIP, [(5, "Missed"), 6]), (RUN_ONCE, [6]), (RUN_ALL, [5, 6])])
def test_back_in_time_for_the_newest(missed, expected):
    fabric = fabric_at()
    put(fabric, missed=missed)
    fabric.advance(MINUTE)
    fabric.sleep(6 * HOUR - MINUTE)
    fabric.settle()
    fabric.advance(MINUTE)
    assert scheduled(fabric)[-len(expected) :] == expected


def test_on_time_is_a_minute():
    for late_ms, expected in ((ON_TIME_MS, [0]), (ON_TIME_MS + 1, [(0, "Missed")])):
        fabric = fabric_at()
        put(fabric, missed=SKIP)
        fabric.sleep(30 * SECOND + late_ms)
        fabric.settle()
        assert scheduled(fabric) == expected


def test_runs_that_are_made_up_for_follow_each_other_or_not():
    for concurrency, at_once in ((FORBID, 1), (ALLOW, 6)):
        fabric = fabric_at()
        most = [0]
        fabric.observers.append(lambda applied, f=fabric, m=most: m.append(len(f.active())))
        put(fabric, missed=RUN_ALL, concurrency=concurrency)
        fabric.sleep(5 * HOUR + 10 * MINUTE)
        fabric.settle()
        fabric.advance(MINUTE)
        assert max(most) == at_once
        started = [run.started_at_ms for run in fabric.runs()]
        assert started == sorted(started)


def test_at_most_a_hundred_are_made_up_for():
    fabric = fabric_at()
    put(fabric, "* * * * *", missed=RUN_ALL)
    fabric.sleep(48 * HOUR)
    fabric.settle()
    waiting = [run for run in fabric.runs() if run.phase is RunPhase.RUNNING]
    assert len(waiting) == UNFINISHED_MAX
    assert waiting[-1].scheduled_at_ms - waiting[0].scheduled_at_ms == (UNFINISHED_MAX - 1) * MINUTE
    assert waiting[-1].scheduled_at_ms == fabric.now_ms // MINUTE * MINUTE
    fabric.advance(2 * MINUTE)
    assert fabric.state.workloads[KEY].scheduled_until_ms == fabric.now_ms // MINUTE * MINUTE
    assert len(fabric.runs()) <= 50 + 3 + UNFINISHED_MAX


# -- concurrency ------------------------------------------------------------------------------------------


def test_what_overlaps_is_forbidden():
    fabric = fabric_at()
    fabric.lasts_ms = lambda replica: 2 * HOUR + MINUTE
    put(fabric)
    fabric.advance(4 * HOUR + MINUTE)
    assert scheduled(fabric) == [0, (1, "Forbidden"), (2, "Forbidden"), 3, (4, "Forbidden")]
    assert len(fabric.active()) == 1


def test_what_overlaps_is_allowed():
    fabric = fabric_at()
    fabric.lasts_ms = lambda replica: 2 * HOUR + MINUTE
    put(fabric, concurrency=ALLOW)
    fabric.advance(4 * HOUR + 30 * SECOND)
    assert scheduled(fabric) == [0, 1, 2, 3, 4]
    assert sorted(r.run for r in fabric.active()) == [3, 4, 5]


def test_what_overlaps_is_replaced_once_it_is_gone():
    fabric = fabric_at()
    fabric.lasts_ms = lambda replica: 2 * HOUR
    put(fabric, concurrency=REPLACE)
    together = []
    fabric.observers.append(lambda applied: together.append(len({r.run for r in fabric.active()})))
    fabric.advance(2 * HOUR)
    assert fabric.story() == [(1, "Replaced"), (2, "Running")]
    fabric.advance(2 * HOUR)
    assert [word for _, word in fabric.story()] == ["Replaced"] * 3 + ["Running"]
    assert max(together) == 1


def test_a_run_by_hand_beside_the_schedule():
    fabric = fabric_at()
    put(fabric)
    assert fabric.apply(c.StartRun(*KEY)).result.message == "1"
    fabric.settle()
    assert [(r.number, r.manual, r.scheduled_at_ms) for r in fabric.runs()] == [(1, True, 0)]
    assert refusal(fabric.apply(c.StartRun(*KEY))) == ("failed_precondition", "RunActive")
    fabric.advance(31 * SECOND)
    assert fabric.story() == [(1, "Succeeded"), (2, "Succeeded")]
    for concurrency, story in ((ALLOW, ["Running", "Running"]), (REPLACE, ["Replaced", "Running"])):
        other = fabric_at()
        other.lasts_ms = lambda replica: HOUR
        put(other, concurrency=concurrency)
        other.advance(30 * SECOND)
        assert other.apply(c.StartRun(*KEY)).result.accepted
        other.settle()
        assert [word for _, word in other.story()] == story


# -- changes ----------------------------------------------------------------------------------------------


def test_on_hold_and_taken_up_again():
    fabric = fabric_at()
    put(fabric, missed=RUN_ALL)
    fabric.advance(MINUTE)
    spec = fabric.state.workloads[KEY].spec
    fabric.put("work", dataclasses.replace(spec, schedule=dataclasses.replace(spec.schedule, suspend=True)))
    fabric.advance(5 * HOUR)
    assert scheduled(fabric) == [0]
    assert fabric.wake_at_ms == {}
    fabric.put("work", spec)
    fabric.advance(HOUR)
    assert scheduled(fabric) == [0, 6], "what was due while it was on hold was not missed"
    assert fabric.state.workloads[KEY].generation == 1


def test_a_changed_schedule_counts_from_the_change():
    fabric = fabric_at()
    put(fabric)
    fabric.sleep(5 * HOUR)
    put(fabric, "30 * * * *", missed=RUN_ALL)
    fabric.advance(HOUR)
    assert scheduled(fabric) == [5.5]


def test_a_new_version_is_for_the_runs_to_come():
    fabric = fabric_at()
    fabric.lasts_ms = lambda replica: 30 * MINUTE
    put(fabric)
    fabric.advance(MINUTE)
    put(fabric, image="job:2")
    fabric.advance(HOUR)
    assert [(run.generation, run.phase) for run in fabric.runs()] == [(1, RunPhase.SUCCEEDED), (2, RunPhase.RUNNING)]


# -- clocks, leaders, repeats -----------------------------------------------------------------------------


def test_a_clock_that_goes_back_repeats_nothing():
    fabric = fabric_at()
    put(fabric, missed=RUN_ALL)
    fabric.advance(2 * HOUR + MINUTE)
    fabric.now_ms -= 90 * MINUTE
    fabric.dirty.add(KEY)
    fabric.settle()
    fabric.advance(3 * HOUR)
    assert scheduled(fabric) == [0, 1, 2, 3]


def test_a_clock_that_was_far_ahead_is_mended_by_a_change():
    fabric = fabric_at()
    put(fabric)
    fabric.now_ms += 365 * 24 * HOUR
    fabric.dirty.add(KEY)
    fabric.settle()
    fabric.advance(5 * SECOND)
    fabric.now_ms = NOON - 30 * SECOND
    fabric.dirty.add(KEY)
    fabric.advance(2 * HOUR)
    assert len(fabric.runs()) == 1, "nothing until that time comes"
    put(fabric, "30 * * * *")
    fabric.advance(HOUR)
    assert scheduled(fabric)[-1] == 2.5


def test_a_change_repeats_nothing_when_clocks_differ_a_little():
    fabric = fabric_at(NOON)
    put(fabric)
    fabric.advance(HOUR)
    assert scheduled(fabric) == [1]
    fabric.now_ms -= CLOCK_TOLERANCE_MS // 2
    put(fabric, "0,30 * * * *")
    fabric.advance(HOUR)
    assert scheduled(fabric) == [1, 1.5]


def plan(fabric, state, now_ms):
    made = reconcile(state, *KEY, now_ms=now_ms, weights=Weights(), usage={}, id_seed=now_ms)
    return made.commands[0]


def test_the_plans_of_two_leaders_start_a_due_time_once():
    fabric = fabric_at()
    put(fabric)
    fabric.now_ms = NOON + 5
    before = fabric.state
    ours, theirs = plan(fabric, before, NOON + 5), plan(fabric, before, NOON + 20)
    assert fabric.apply(ours).result.accepted
    assert refusal(fabric.apply(theirs)) == ("conflict", "RunsChanged")
    assert not fabric.apply(ours).result.accepted or len(fabric.runs()) == 1, "a repeat"
    fabric.settle()
    fabric.advance(MINUTE)
    assert scheduled(fabric) == [0]
    assert len(fabric.replicas("work")) == 1


def test_a_run_by_hand_comes_between_a_plan_and_its_entry():
    fabric = fabric_at()
    put(fabric, concurrency=ALLOW)
    fabric.now_ms = NOON
    planned = plan(fabric, fabric.state, NOON)
    fabric.apply(c.StartRun(*KEY))
    assert refusal(fabric.apply(planned)) == ("conflict", "RunsChanged")
    fabric.settle()
    assert [(run.number, run.manual) for run in fabric.runs()] == [(1, True), (2, False)]


def test_a_plan_of_the_schedule_before_is_refused():
    fabric = fabric_at()
    put(fabric)
    planned = plan(fabric, fabric.state, NOON)
    fabric.now_ms = NOON + 10
    put(fabric, "30 * * * *")
    assert refusal(fabric.apply(planned)) == ("conflict", "RunsChanged")


# -- daylight saving --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "cron", "day", "expected"),
    [
        ("Europe/Berlin", "30 2 * * *", "2026-03-28", ["28 02:30", "29 03:00", "30 02:30"]),
        ("Europe/Berlin", "30 2 * * *", "2026-10-24", ["24 02:30", "25 02:30", "26 02:30"]),
        ("America/New_York", "30 2 * * *", "2026-03-07", ["07 02:30", "08 03:00", "09 02:30"]),
        ("America/New_York", "30 1 * * *", "2026-10-31", ["31 01:30", "01 01:30", "02 01:30"]),
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-03", ["03 02:15", "04 02:30", "05 02:15"]),
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04", ["04 01:45", "05 01:45", "06 01:45"]),
        ("Europe/Berlin", "0 */6 * * *", "2026-03-28T18:30", ["29 00:00", "29 06:00", "29 12:00"]),
        ("America/New_York", "0 * * * *", "2026-11-01T00:30", ["01 01:00", "01 01:00", "01 02:00"]),
        ("Australia/Lord_Howe", "30 * * * *", "2026-04-05T01:00", ["05 01:30", "05 01:30", "05 02:30"]),
    ],
)
@pytest.mark.parametrize("outage", [False, True])
def test_across_the_change_of_clocks(zone, cron, day, expected, outage):
    """The same runs, whether the loop was there in time or made up for all of them."""
    hours = 75 if "*" not in cron.split()[1] else 18
    fabric = fabric_at(ms(day, zone) + 1)
    put(fabric, cron, zone, missed=RUN_ALL)
    if outage:
        fabric.sleep(hours * HOUR)
        fabric.settle()
        fabric.advance(MINUTE)
    else:
        fabric.advance(hours * HOUR)
    due = [datetime.fromtimestamp(run.scheduled_at_ms / 1000, ZoneInfo(zone)) for run in fabric.runs()]
    assert [at.strftime("%d %H:%M") for at in due][:3] == expected
    replicas = {run.phase for run in fabric.runs()}
    assert replicas <= {RunPhase.SUCCEEDED, RunPhase.RUNNING}
    assert all(r.status.phase is not ReplicaPhase.FAILED for r in fabric.replicas("work"))
