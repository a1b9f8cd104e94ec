"""How steady a node is and when it is online: computed by who proposes, carried by the entry, stored by apply."""

import asyncio
import dataclasses
import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core import node_health, online_hours, reliability
from cloudless.coordinator.health import HealthKeeper
from cloudless.core.model import (
    Node,
    NodePresence,
    NodeReliability,
    NodeState,
    OwnerTerms,
    ReplicaPhase,
    ReplicaStatus,
    Severity,
)
from cloudless.testing.fabric_model import Fabric, device, refusal
from cloudless.testing.simloop import SimClock, run

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS
START_MS = 1_763_942_400_000  # Monday 24 November 2025, 0 h UTC
READY, UNREACHABLE, LOST = NodeState.READY, NodeState.UNREACHABLE, NodeState.LOST

records = st.builds(
    NodeReliability,
    available_permille=st.integers(0, 1000),
    losses_milli=st.integers(0, 50_000),
    failed_starts_milli=st.integers(0, 50_000),
    updated_at_ms=st.just(START_MS),
    first_ready_at_ms=st.just(START_MS - DAY_MS),
)
spans = st.integers(0, 60 * DAY_MS)


def node(state, record=None, since_ms=START_MS, presence=None):
    return Node(id="n1", state=state, state_since_ms=since_ms, reliability=record, presence=presence)


def after(record, state, span_ms, **what):
    return reliability.observed(node(state, record), now_ms=START_MS + span_ms, state=state, **what)


@given(records, st.sampled_from(NodeState), spans, st.booleans(), st.integers(0, 3))
def test_records_stay_within_their_bounds(record, state, span_ms, lost, failed):
    made = after(record, state, span_ms, lost=lost, failed_starts=failed)
    assert 0 <= made.available_permille <= 1000
    assert 1000 * lost <= made.losses_milli <= record.losses_milli + 1000 * lost
    assert 1000 * failed <= made.failed_starts_milli <= record.failed_starts_milli + 1000 * failed
    assert made.updated_at_ms == START_MS + span_ms
    assert made.first_ready_at_ms == record.first_ready_at_ms


@given(records, spans)
def test_uptime_never_lowers_and_downtime_never_raises(record, span_ms):
    assert after(record, READY, span_ms).available_permille >= record.available_permille
    assert after(record, UNREACHABLE, span_ms).available_permille <= record.available_permille


@given(records, spans, st.integers(0, 60 * DAY_MS))
def test_of_two_pasts_of_one_length_the_one_with_more_uptime_is_no_worse(record, span_ms, later_ms):
    """Ready since the record, or since some later time."""
    now_ms = START_MS + span_ms
    whole = reliability.observed(node(READY, record), now_ms=now_ms, state=READY)
    part = reliability.observed(
        node(READY, record, since_ms=START_MS + min(later_ms, span_ms)), now_ms=now_ms, state=READY
    )
    assert whole.available_permille >= part.available_permille


@given(records, records, spans)
def test_a_better_past_is_never_overtaken_by_time_alone(one, other, span_ms):
    better, worse = sorted((one, other), key=lambda record: -record.available_permille)
    for state in (READY, UNREACHABLE):
        assert after(better, state, span_ms).available_permille >= after(worse, state, span_ms).available_permille


def test_half_is_forgotten_in_a_week():
    record = NodeReliability(800, 8_000, 4_000, START_MS, START_MS)
    week = after(record, UNREACHABLE, WEEK_MS)
    assert week.available_permille == pytest.approx(400, abs=1)
    assert week.losses_milli == pytest.approx(4_000, abs=1)
    assert week.failed_starts_milli == pytest.approx(2_000, abs=1)
    assert after(record, READY, WEEK_MS).available_permille == pytest.approx(900, abs=1)


@pytest.mark.parametrize("step_ms", [1_000, 60_000, 6 * HOUR_MS])
def test_many_small_steps_make_the_same_as_a_great_one(step_ms):
    """No step of a minute moves a whole permille; none of them is lost, and none counts as one."""
    rng, record, now_ms = random.Random(1), NodeReliability(500, 0, 0, START_MS, START_MS), START_MS
    while now_ms < START_MS + 8 * HOUR_MS + step_ms:
        now_ms += step_ms + rng.randrange(step_ms // 2)
        record = reliability.observed(node(READY, record), now_ms=now_ms, state=READY)
    expected = 1000 - 500 * 0.5 ** ((now_ms - START_MS) / WEEK_MS)
    assert record.available_permille == pytest.approx(expected, abs=12)


def test_the_first_record_is_made_when_the_node_is_ready_for_the_first_time():
    enrolling = node(NodeState.ENROLLING)
    waiting = reliability.observed(enrolling, now_ms=START_MS, state=NodeState.ENROLLING)
    assert waiting.first_ready_at_ms == 0
    first = reliability.observed(enrolling, now_ms=START_MS, state=READY)
    assert first == NodeReliability(reliability.AVAILABLE_PERMILLE_FIRST, 0, 0, START_MS, START_MS)
    # A node from before records were kept has been ready since its last transition.
    old = reliability.observed(node(READY, since_ms=START_MS - WEEK_MS), now_ms=START_MS, state=READY)
    assert (old.available_permille, old.first_ready_at_ms) == (875, START_MS - WEEK_MS)


def test_a_clock_that_went_back_changes_nothing():
    record = NodeReliability(800, 8_000, 4_000, START_MS, START_MS)
    assert after(record, UNREACHABLE, -DAY_MS) == record


# Hours


def test_hours_of_the_week_begin_on_monday():
    assert online_hours.hour_of_week(START_MS) == 0
    assert online_hours.hour_of_week(START_MS - 1) == 167
    assert online_hours.hour_of_week(START_MS + 3 * DAY_MS + 5 * HOUR_MS) == 77


def laptop(weeks, *, from_h=8, to_h=18):
    """Online on weekdays from 8 to 18 h UTC."""
    presence, state, since_ms = None, NodeState.ENROLLING, START_MS
    for day in range(7 * weeks):
        for hour, becomes in ((from_h, READY), (to_h, UNREACHABLE)) if day % 7 < 5 else ():
            now_ms = START_MS + day * DAY_MS + hour * HOUR_MS
            presence = online_hours.observed(node(state, since_ms=since_ms, presence=presence), now_ms=now_ms)
            state, since_ms = becomes, now_ms
    return presence


@pytest.mark.parametrize("weeks", [1, 3, 10])
def test_working_hours_are_learned(weeks):
    presence = laptop(weeks)
    monday_ms = START_MS + weeks * WEEK_MS
    assert online_hours.likely_online(presence, monday_ms + 9 * HOUR_MS, 2 * HOUR_MS) > 0.95
    assert online_hours.likely_online(presence, monday_ms + 22 * HOUR_MS, 2 * HOUR_MS) < 0.1
    assert 0.4 < online_hours.likely_online(presence, monday_ms + 16 * HOUR_MS, 4 * HOUR_MS) < 0.6
    assert online_hours.likely_online(presence, monday_ms + 9 * HOUR_MS, 50 * WEEK_MS) < 0.6


def test_new_habits_replace_old_ones():
    presence = laptop(6)
    friday_ms = START_MS + 5 * WEEK_MS + 4 * DAY_MS + 18 * HOUR_MS
    for week in range(8):  # off for the holidays
        presence = online_hours.observed(
            node(UNREACHABLE, since_ms=friday_ms, presence=presence), now_ms=friday_ms + week * WEEK_MS
        )
    assert online_hours.likely_online(presence, START_MS + 20 * WEEK_MS + 10 * HOUR_MS, HOUR_MS) < 0.1


def test_hours_that_were_not_seen_are_like_the_same_hour_of_other_days():
    presence = online_hours.observed(node(READY), now_ms=START_MS + 6 * HOUR_MS)
    presence = online_hours.observed(
        node(UNREACHABLE, since_ms=START_MS + 6 * HOUR_MS, presence=presence), now_ms=START_MS + 18 * HOUR_MS
    )
    assert presence.online_permille.count(online_hours.UNSEEN) == 150
    tuesday_ms = START_MS + DAY_MS
    assert online_hours.likely_online(presence, tuesday_ms + 2 * HOUR_MS, HOUR_MS) == 1.0
    assert online_hours.likely_online(presence, tuesday_ms + 9 * HOUR_MS, HOUR_MS) == 0.0
    assert online_hours.likely_online(presence, tuesday_ms + 20 * HOUR_MS, HOUR_MS) == pytest.approx(6 / 18)


def test_nothing_is_known_at_first():
    assert online_hours.observed(node(NodeState.ENROLLING), now_ms=START_MS) is None
    assert online_hours.likely_online(None, START_MS, HOUR_MS) is None
    assert online_hours.likely_online(NodePresence(), START_MS, HOUR_MS) is None


@given(
    st.lists(st.tuples(st.integers(-HOUR_MS, 3 * WEEK_MS), st.booleans()), max_size=6),
    st.integers(0, WEEK_MS),
    st.integers(0, 3 * WEEK_MS),
)
def test_presence_stays_within_its_bounds(steps, from_ms, for_ms):
    presence, state, since_ms, now_ms = None, READY, START_MS, START_MS
    for step_ms, online in steps:
        now_ms += step_ms
        presence = online_hours.observed(node(state, since_ms=since_ms, presence=presence), now_ms=now_ms)
        state, since_ms = READY if online else UNREACHABLE, now_ms
        if presence is not None and presence.online_permille:
            assert len(presence.online_permille) == online_hours.HOURS
            assert all(online_hours.UNSEEN <= permille <= 1000 for permille in presence.online_permille)
    likely = online_hours.likely_online(presence, START_MS + from_ms, for_ms)
    assert likely is None or 0 <= likely <= 1


# Entries


@pytest.fixture
def fabric():
    fabric = Fabric()
    fabric.join("n1", info=device())
    return fabric


def older_coordinator(fabric):
    """A fabric in which one coordinator does not know these entries."""
    announced = fabric.apply(c.AnnounceCoordinator(coordinator_id="c1", version="0.2", log_schema=2))
    assert announced.result.accepted
    return fabric


def test_a_report_carries_what_happened(fabric):
    now_ms = fabric.now_ms + DAY_MS
    report = node_health.with_health(c.ReportNode("n1", READY, "connected"), fabric.state, now_ms=now_ms)
    assert fabric.apply(report).result.accepted
    steady = fabric.state.nodes["n1"].reliability
    assert (steady.losses_milli, steady.updated_at_ms) == (0, now_ms)
    silent = c.ReportNode("n1", UNREACHABLE, "no heartbeat for 2400 ms")
    report = node_health.with_health(silent, fabric.state, now_ms=now_ms + 1)
    assert c.schema_of(report) == 3
    assert fabric.apply(report).result.accepted
    assert fabric.state.nodes["n1"].reliability.losses_milli == 1000
    lost = node_health.with_health(c.ReportNode("n1", LOST, "gone"), fabric.state, now_ms=now_ms + 2)
    assert fabric.apply(lost).result.accepted
    assert fabric.state.nodes["n1"].reliability.losses_milli == 1000  # that is the same loss
    assert len(fabric.state.nodes["n1"].presence.online_permille) == 168
    fabric.state.validate()


def test_a_goodbye_is_no_loss(fabric):
    report = node_health.with_health(
        c.ReportNode("n1", UNREACHABLE, "left: shutting down"), fabric.state, now_ms=fabric.now_ms + DAY_MS
    )
    assert report.reliability.losses_milli == 0


def test_an_older_coordinator_is_not_told(fabric):
    older_coordinator(fabric)
    report = c.ReportNode("n1", UNREACHABLE, "silent")
    assert node_health.with_health(report, fabric.state, now_ms=fabric.now_ms) == report
    assert node_health.skew_to_record(fabric.state.nodes["n1"], 9_000, fabric.state) is None
    owned = dataclasses.replace(device(), owner=OwnerTerms())
    assert node_health.recordable(owned, fabric.state) == device()


def test_an_owner_is_recorded_where_all_understand_it(fabric):
    owned = dataclasses.replace(device(), owner=OwnerTerms())
    assert node_health.recordable(owned, fabric.state) == owned


def test_a_record_that_was_made_in_ignorance_is_left_out(fabric):
    now_ms = fabric.now_ms + DAY_MS
    newer = NodeReliability(900, 1000, 0, now_ms, 1)
    assert fabric.apply(c.ReportNode("n1", reliability=newer)).result.changed == "updated"
    older = NodeReliability(950, 0, 0, now_ms - 1, 1)
    assert fabric.apply(c.ReportNode("n1", reliability=older)).result.changed == "unchanged"
    assert fabric.state.nodes["n1"].reliability == newer


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"reliability": NodeReliability(available_permille=1001)}, "BadReliability"),
        ({"reliability": NodeReliability(losses_milli=-1)}, "BadReliability"),
        ({"presence": NodePresence((1, 2, 3), 1)}, "BadPresence"),
        ({"presence": NodePresence((1001,) * 168, 1)}, "BadPresence"),
    ],
)
def test_impossible_records_are_refused(fabric, part, reason):
    assert refusal(fabric.apply(c.ReportNode("n1", **part))) == ("invalid_argument", reason)


def test_a_wrong_clock_is_told_once_and_again_when_it_jumps(fabric):
    def told(skew_ms):
        return [
            (event.type, event.severity) for event in fabric.apply(c.ReportNode("n1", clock_skew_ms=skew_ms)).events
        ]

    warning = [("node.clock_skewed", Severity.WARNING)]
    assert told(3_000) == []
    assert told(-7_000) == warning
    assert told(-8_500) == []
    assert told(-90_000) == warning
    assert told(0) == []
    assert told(6_000) == warning
    assert fabric.state.nodes["n1"].clock_skew_ms == 6_000


def test_steady_nodes_come_up_after_six_hours_each_at_a_time_of_its_own():
    record = NodeReliability(900, 0, 0, START_MS, START_MS)
    nodes = [dataclasses.replace(node(READY, record), id=f"n{i}") for i in range(1000)]
    assert node_health.to_refresh(nodes, now_ms=START_MS + 6 * HOUR_MS - 1) == []
    half = node_health.to_refresh(nodes, now_ms=START_MS + 6 * HOUR_MS + HOUR_MS // 2)
    assert 400 < len(half) < 600
    assert len(node_health.to_refresh(nodes, now_ms=START_MS + 7 * HOUR_MS)) == 1000
    fresh = [node(READY), node(NodeState.ENROLLING), node(LOST)]
    assert node_health.to_refresh(fresh, now_ms=START_MS) == ["n1"]


@pytest.mark.parametrize(
    ("was", "phase", "counts"),
    [
        (ReplicaPhase.ASSIGNED, ReplicaPhase.FAILED, True),
        (ReplicaPhase.PREPARING, ReplicaPhase.FAILED, True),
        (ReplicaPhase.STARTING, ReplicaPhase.FAILED, True),
        (ReplicaPhase.RUNNING, ReplicaPhase.FAILED, False),
        (ReplicaPhase.READY, ReplicaPhase.FAILED, False),
        (ReplicaPhase.PREPARING, ReplicaPhase.STARTING, False),
    ],
)
def test_what_counts_as_a_failed_start(was, phase, counts):
    assert node_health.failed_to_start(ReplicaStatus(phase=was), ReplicaStatus(phase=phase)) is counts


def test_many_old_records_are_a_trickle_and_no_burst():
    """Forty nodes from before records were kept, in a fabric whose last coordinator was upgraded just now."""

    class Keeper:
        """A store that applies at once."""

        leading, term = True, 7

        def __init__(self, loop):
            self.fabric, self.loop, self.at_s = Fabric(), loop, []
            for i in range(40):
                self.fabric.join(f"n{i}")

        @property
        def snapshot(self):
            return SimpleNamespace(state=self.fabric.state)

        async def propose(self, command, *, actor, term):
            assert (actor, term) == ("coordinator/c1", 7)
            assert self.fabric.apply(command).result.accepted
            self.at_s.append(int(self.loop.time()))

    async def main(loop):
        store = Keeper(loop)
        keeping = asyncio.ensure_future(HealthKeeper(store, SimClock(loop), actor="coordinator/c1").run())
        await asyncio.sleep(300)
        keeping.cancel()
        assert len(store.at_s) == 40
        assert max(store.at_s.count(second) for second in store.at_s) <= 3
        assert all(node.reliability is not None for node in store.fabric.state.nodes.values())

    run(main)
