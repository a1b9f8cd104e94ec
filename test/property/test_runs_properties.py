"""Jobs and crons under random outcomes, faults of nodes, and leaders whose clocks differ."""

import dataclasses
from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from itertools import accumulate, takewhile

from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core.runs import is_unfinished
from cloudless.core import cron
from cloudless.core.model import NodeState, ReplicaPhase, RunPhase
from cloudless.core.spec import ConcurrencyPolicy, Disruption, MissedRuns, ReconnectRule, Schedule
from cloudless.testing.fabric_model import NAMESPACE, device
from cloudless.testing.job_fabric import JobFabric, job

NODES = ("a", "b", "c")
KEY = (NAMESPACE, "work")
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
NODE = st.sampled_from(NODES)

POLICIES = st.tuples(st.sampled_from(ConcurrencyPolicy), st.sampled_from(MissedRuns)).filter(
    lambda pair: pair != (ConcurrencyPolicy.REPLACE, MissedRuns.RUN_ALL)
)
SCHEDULES = st.builds(
    lambda policies, text, zone: Schedule(text, zone, policies[0], policies[1], 5),
    POLICIES,
    st.sampled_from(["*/5 * * * *", "*/20 * * * *", "0 * * * *", "30 2 * * *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe"]),
)
COMPLETIONS = st.fixed_dictionaries({"completions": st.integers(1, 5), "parallelism": st.integers(1, 4)})
LIMITS = st.fixed_dictionaries(
    {"retries": st.integers(1, 9), "deadline_ms": st.sampled_from([0, 0, 0, 20 * SECOND, 5 * MINUTE])}
)

CALM = [
    st.tuples(st.just("advance"), st.sampled_from([1, SECOND, 2 * SECOND])),
    st.tuples(st.just("advance"), st.sampled_from([5 * SECOND, 30 * SECOND])),
    st.tuples(st.just("advance"), st.sampled_from([10 * MINUTE, HOUR])),
    st.tuples(st.just("sleep"), st.sampled_from([SECOND, 10 * MINUTE, 3 * HOUR])),
    st.tuples(st.just("run"), st.none()),
    st.tuples(st.just("image"), st.integers(1, 3)),
    st.tuples(st.just("drain"), NODE),
    st.tuples(st.just("undrain"), NODE),
]
FAULTS = [
    st.tuples(st.just("unreachable"), NODE),
    st.tuples(st.just("lost"), NODE),
    st.tuples(st.just("ready"), NODE),
    st.tuples(st.just("remove"), NODE),
    st.tuples(st.just("clock"), st.sampled_from([-2 * HOUR, -MINUTE, -1, MINUTE, 5 * HOUR])),
]


class Watched(JobFabric):
    """Holds at every entry what must always hold of runs."""

    def __init__(self, outcomes, lasts_ms):
        super().__init__()
        self.now_ms = round(datetime(2026, 3, 28, 20, tzinfo=UTC).timestamp() * 1000)  # Berlin's change is near
        self.outcome = lambda replica: outcomes[sum(map(ord, replica.id)) % len(outcomes)]
        self.lasts_ms = lambda replica: lasts_ms[sum(map(ord, replica.id)) % len(lasts_ms)]
        self.due = {}  # number -> due time; of every run that ever was
        self.ends = {}
        self.together = 0  # most runs at the same time
        self.replicas_of_one = 0  # most replicas of one run at the same time
        self.observers.append(self.check)
        for name in NODES:
            self.join(name)

    def check(self, applied):
        record = self.state.workloads.get(KEY)
        if record is None:
            return
        numbers = [run.number for run in record.runs]
        assert numbers == sorted(set(numbers))
        assert record.last_run >= max(numbers, default=0)
        for run in record.runs:
            assert self.due.setdefault(run.number, run.scheduled_at_ms) == run.scheduled_at_ms
            if not is_unfinished(run):
                assert self.ends.setdefault(run.number, run) == run, "what ended stays as it is"
                assert run.finished_at_ms
            assert run.scheduled_at_ms <= record.scheduled_until_ms
        due = [at_ms for at_ms in self.due.values() if at_ms]
        assert len(due) == len(set(due)), "a due time is decided once"
        active = [r for r in self.active() if self.state.nodes[r.node_id].state is NodeState.READY]
        self.together = max(self.together, len({r.run for r in active}))
        for number in {r.run for r in active}:
            self.replicas_of_one = max(self.replicas_of_one, sum(r.run == number for r in active))

    def perform(self, operation, spec):
        match operation:
            case ("advance", ms):
                self.settle()
                self.advance(ms)
            case ("sleep", ms):
                self.sleep(ms)
            case ("run", _):
                self.apply(c.StartRun(*KEY))
            case ("image", version) if KEY in self.state.workloads:
                containers = (dataclasses.replace(spec.containers[0], image=f"job:{version}"),)
                self.put("work", dataclasses.replace(spec, containers=containers))
            case ("drain", name):
                self.apply(c.UpdateNode(name, draining=True))
            case ("undrain", name):
                self.apply(c.UpdateNode(name, cordoned=False))
            case ("unreachable", name):
                self.apply(c.ReportNode(name, NodeState.UNREACHABLE, "silent"))
            case ("lost", name):
                self.apply(c.ReportNode(name, NodeState.LOST, "silent"))
            case ("ready", name):
                self.apply(c.ReportNode(name, NodeState.READY, "back"))
            case ("remove", name):
                self.apply(c.RemoveNode(name, force=True))
            case ("clock", ms):
                self.now_ms += ms
                self.dirty |= set(self.state.workloads)

    def heal(self):
        self.outcome = lambda replica: ReplicaPhase.SUCCEEDED
        self.lasts_ms = lambda replica: SECOND
        for name in NODES:
            if name not in self.state.nodes:
                self.join(name)
            self.apply(c.ReportNode(name, NodeState.READY, "healed", device()))
            self.apply(c.UpdateNode(name, cordoned=False))
        self.now_ms += 6 * HOUR  # every clock is right again; none was further behind
        self.dirty |= set(self.state.workloads)
        self.settle()


OUTCOMES = st.lists(st.sampled_from([ReplicaPhase.FAILED, ReplicaPhase.SUCCEEDED]), min_size=1, max_size=7)
LASTS = st.lists(st.sampled_from([1, SECOND, 40 * SECOND, 15 * MINUTE]), min_size=1, max_size=5)


@settings(deadline=None, max_examples=60)
@given(SCHEDULES, COMPLETIONS, LIMITS, OUTCOMES, LASTS, st.lists(st.one_of(CALM), min_size=4, max_size=12))
def test_bounds_hold_while_nodes_are_there(schedule, completion, limits, outcomes, lasts, operations):
    """Whatever fails, drains, is missed or is started by hand: never more at once than the manifest says."""
    fabric = Watched(outcomes, lasts)
    spec = job(schedule=schedule, **completion, **limits)
    fabric.put("work", spec)
    for operation in operations:
        fabric.perform(operation, spec)
    assert fabric.replicas_of_one <= completion["parallelism"]
    if schedule.concurrency is not ConcurrencyPolicy.ALLOW:
        assert fabric.together <= 1


@settings(deadline=None, max_examples=60)
@given(
    SCHEDULES,
    COMPLETIONS,
    LIMITS,
    OUTCOMES,
    LASTS,
    st.lists(st.one_of(CALM + FAULTS), min_size=3, max_size=15),
    st.data(),
)
def test_a_cron_goes_on_after_the_faults(schedule, completion, limits, outcomes, lasts, operations, data):
    fabric = Watched(outcomes, lasts)
    disruption = Disruption(
        data.draw(st.sampled_from([SECOND, 30 * SECOND])), data.draw(st.sampled_from(ReconnectRule))
    )
    spec = job(schedule=schedule, disruption=disruption, **completion, **limits)
    fabric.put("work", spec)
    for operation in operations:
        fabric.perform(operation, spec)
    fabric.heal()
    record = fabric.state.workloads[KEY]
    ahead_ms = max(0, record.scheduled_until_ms - fabric.now_ms)
    fabric.now_ms += ahead_ms
    due_ms = cron.next_due(schedule, fabric.now_ms)
    fabric.now_ms = due_ms - 1
    fabric.dirty.add(KEY)
    fabric.settle()
    fabric.advance(10 * MINUTE)
    newest = [run for run in fabric.runs() if run.scheduled_at_ms >= due_ms]
    assert newest, "what is due is decided"
    ended = [run for run in fabric.runs() if run.finished_at_ms]
    assert any(run.phase is RunPhase.SUCCEEDED for run in ended), fabric.runs()
    assert fabric.state.workloads[KEY].scheduled_until_ms >= due_ms
    assert all(r.status.phase is not ReplicaPhase.LOST or r.stopping for r in fabric.replicas("work"))


@settings(deadline=None, max_examples=200)
@given(COMPLETIONS, LIMITS, OUTCOMES, LASTS, st.lists(st.one_of(CALM + FAULTS), min_size=3, max_size=15))
def test_a_job_ends_after_the_faults(completion, limits, outcomes, lasts, operations):
    fabric = Watched(outcomes, lasts)
    spec = job(**completion, **limits)
    fabric.put("work", spec)
    for operation in operations:
        fabric.perform(operation, spec)
    fabric.heal()
    fabric.advance(2 * HOUR)
    newest = fabric.runs()[-1]
    assert newest.phase in (RunPhase.SUCCEEDED, RunPhase.FAILED), newest
    assert newest.generation == fabric.state.workloads[KEY].generation
    if newest.phase is RunPhase.SUCCEEDED:
        assert newest.succeeded >= completion["completions"]
    else:
        assert newest.reason in ("BackoffLimitExceeded", "DeadlineExceeded")
    assert fabric.active() == []
    entries = len(fabric.log)
    fabric.dirty.add(KEY)
    fabric.settle()
    assert len(fabric.log) == entries, "what is done is left alone"


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from(["*/7 * * * *", "30 * * * *", "0 */3 * * *", "30 2 * * *", "15,45 1,2,3 * * *", "0 2 * * 0"]),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"]),
    st.integers(1_767_225_600, 1_830_297_600),
    st.lists(st.integers(1, 200_000), max_size=5),
)  # fmt: skip
def test_due_times_do_not_depend_on_when_one_asks(expression, zone, start_s, steps):
    """Windows side by side hold together what one window holds: nothing twice, nothing lost."""
    schedule, at_ms, parts = Schedule(expression, zone), start_s * 1000, []
    for step in steps:
        parts += cron.due_between(schedule, at_ms, at_ms + step * 1000, 10_000)
        at_ms += step * 1000
    assert tuple(parts) == cron.due_between(schedule, start_s * 1000, at_ms, 100_000)
    assert parts == sorted(set(parts))


CHANGES = [
    ("Europe/Berlin", "2026-03-29"), ("Europe/Berlin", "2026-10-25"),
    ("America/New_York", "2026-03-08"), ("America/New_York", "2026-11-01"),
    ("Australia/Lord_Howe", "2026-10-04"), ("Australia/Lord_Howe", "2026-04-05"),
    ("America/Santiago", "2026-09-06"), ("America/Havana", "2026-11-01"), ("Antarctica/Troll", "2026-03-29"),
]  # fmt: skip
MINUTES = st.sampled_from(["*", "*/15", "*/7", "0", "30", "45", "10,40", "59"])
HOURS = st.sampled_from(["*", "*/2", "*/3", "0", "1", "2", "3", "1-3", "0,2", "23"])


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(CHANGES), MINUTES, HOURS)
def test_due_times_are_those_of_a_clock_that_is_watched(change, minute, hour):
    """By brute force: what a clock on the wall shows at each minute of the day on which it is changed."""
    zone, day = change
    start = datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(hours=16)
    instants = [start + timedelta(minutes=n) for n in range(44 * 60)]
    walls = [at.astimezone(cron.zone_of(zone)).replace(tzinfo=None) for at in instants]
    calendar = CronSim(f"{minute} {hour} * * *", walls[0] - timedelta(seconds=1))
    matching = set(takewhile(lambda wall: wall <= walls[0] + timedelta(hours=46), calendar))
    if minute.startswith("*") or hour.startswith("*"):
        expected = {at for at, wall in zip(instants, walls, strict=True) if wall in matching}
    else:
        shown = list(accumulate(walls, max))  # the latest time that the clock has shown
        firsts = (bisect_left(shown, wall) for wall in matching)
        expected = {instants[first] for first in firsts if first < len(instants)}
    schedule = Schedule(f"{minute} {hour} * * *", zone)
    after_ms, until_ms = (round(at.timestamp() * 1000) for at in (instants[0] - timedelta(minutes=1), instants[-1]))
    found = cron.due_between(schedule, after_ms, until_ms, 10_000)
    assert found == tuple(sorted(round(at.timestamp() * 1000) for at in expected))
