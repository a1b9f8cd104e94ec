"""The decisions behind node states, as a table."""

import pytest

from cloudless.coordinator.core.liveness import Contact, Judgement, Terms, is_heard, judge, leased
from cloudless.core.model import NodeState

TERMS = Terms.of(heartbeat_interval_ms=1000, heartbeat_misses=4, node_lease_ms=60_000)
BEGAN_MS = 100_000
READY, UNREACHABLE, LOST, ENROLLING = NodeState.READY, NodeState.UNREACHABLE, NodeState.LOST, NodeState.ENROLLING


def at(recorded, now_ms, **contact):
    verdict = judge(recorded, Contact(**contact), TERMS, began_at_ms=BEGAN_MS, now_ms=now_ms)
    assert verdict.state is None or verdict.reason
    assert verdict.again_at_ms is None or verdict.again_at_ms > now_ms
    return verdict.state, verdict.again_at_ms


@pytest.mark.parametrize(
    ("recorded", "now_ms", "contact", "state", "again_at_ms"),
    [
        # ready and heard of
        (READY, 150_000, {"heard_at_ms": 149_000}, None, 153_000),
        (READY, 152_999, {"heard_at_ms": 149_000}, None, 153_000),
        (READY, 153_000, {"heard_at_ms": 149_000}, UNREACHABLE, None),
        # its stream broke: the sooner of the two limits
        (READY, 150_100, {"heard_at_ms": 150_000, "broke_at_ms": 150_050}, None, 151_050),
        (READY, 151_050, {"heard_at_ms": 150_000, "broke_at_ms": 150_050}, UNREACHABLE, None),
        (READY, 150_100, {"heard_at_ms": 146_500, "broke_at_ms": 150_050}, None, 150_500),
        # it said goodbye
        (READY, 150_001, {"heard_at_ms": 150_000, "left": "left"}, UNREACHABLE, None),
        # not heard of since this coordinator leads
        (READY, BEGAN_MS, {}, None, BEGAN_MS + 12_000),
        (READY, BEGAN_MS + 12_000, {}, UNREACHABLE, None),
        # the lease
        (UNREACHABLE, 150_000, {"unreachable_since_ms": 150_000}, None, 210_000),
        (UNREACHABLE, 210_000, {"unreachable_since_ms": 150_000}, LOST, None),
        (UNREACHABLE, 210_000, {}, None, 270_000),
        (UNREACHABLE, 210_000, {"unreachable_since_ms": 150_000, "heard_at_ms": 209_000}, None, 213_000),
        (UNREACHABLE, 213_000, {"unreachable_since_ms": 150_000, "heard_at_ms": 209_000}, LOST, None),
        # nothing is due
        (LOST, 210_000, {}, None, None),
        (ENROLLING, 210_000, {}, None, None),
        (None, 210_000, {}, None, None),
        (ENROLLING, 210_000, {"heard_at_ms": 209_000}, None, 213_000),
    ],
)
def test_judgements(recorded, now_ms, contact, state, again_at_ms):
    assert at(recorded, now_ms, **contact) == (state, again_at_ms)


def test_who_is_heard():
    assert is_heard(Contact(heard_at_ms=1000), TERMS, now_ms=4999)
    assert not is_heard(Contact(heard_at_ms=1000), TERMS, now_ms=5000)
    assert not is_heard(Contact(heard_at_ms=1000, broke_at_ms=1001), TERMS, now_ms=1002)
    assert not is_heard(Contact(heard_at_ms=1000, left="left"), TERMS, now_ms=1002)
    assert not is_heard(Contact(), TERMS, now_ms=0)
    assert Judgement() == Judgement(None, "", None)


@pytest.mark.parametrize(
    ("since_ms", "recorded", "after_ms"),
    [
        (None, READY, None),
        (None, UNREACHABLE, 500),
        (100, UNREACHABLE, 100),
        (100, READY, None),
        (100, LOST, None),
        (None, None, None),
    ],
)
def test_a_lease_begins_and_ends_with_the_record(since_ms, recorded, after_ms):
    contact = Contact(heard_at_ms=1, unreachable_since_ms=since_ms)
    assert leased(contact, recorded, now_ms=500) == Contact(heard_at_ms=1, unreachable_since_ms=after_ms)
