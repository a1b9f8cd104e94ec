"""What a node starts, adopts, updates, stops, removes and leaves alone; the table of phases; the delays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloudless.agent.core import backoff, lifecycle
from cloudless.agent.core.plan import Adopt, LeaveAlone, RemoveUnknown, Start, Stop, Update, plan
from cloudless.core.model import Assignment, ReplicaPhase
from cloudless.core.spec import Backoff

A = Assignment("a", "web", "default", 1)
A_STOPPING = replace(A, stopping=True)


@pytest.mark.parametrize(
    ("assignments", "known", "found", "decisions"),
    [
        (None, {}, set(), ()),
        (None, {}, {"a"}, (LeaveAlone("a"),)),
        (None, {"a": A}, {"a"}, ()),
        ({}, {}, {"a"}, (RemoveUnknown("a"),)),
        ({}, {"a": A}, {"a"}, (Stop("a"),)),
        ({}, {"a": None}, {"a"}, ()),  # being removed already
        ({"a": A}, {}, set(), (Start(A),)),
        ({"a": A}, {}, {"a"}, (Adopt(A),)),
        ({"a": A}, {"a": A}, {"a"}, ()),
        ({"a": A}, {"a": A}, set(), ()),  # supervised: its own step sees to it
        ({"a": A_STOPPING}, {"a": A}, {"a"}, (Update(A_STOPPING),)),
        ({"a": A_STOPPING}, {}, {"a"}, (Adopt(A_STOPPING),)),
        ({"a": A}, {}, {"b"}, (Start(A), RemoveUnknown("b"))),
    ],
)
def test_plan(assignments, known, found, decisions) -> None:
    assert plan(assignments=assignments, known=known, found=frozenset(found)) == decisions


@pytest.mark.parametrize("phase", ReplicaPhase)
def test_nothing_follows_stopping_and_only_stopping_follows_an_end(phase: ReplicaPhase) -> None:
    P = ReplicaPhase
    for before in (P.STOPPING, P.SUCCEEDED, P.FAILED):
        allowed = phase is before or (phase is P.STOPPING and before is not P.STOPPING)
        if allowed:
            assert lifecycle.move(before, phase, story="") is phase
        else:
            with pytest.raises(lifecycle.IllegalTransition, match="the story"):
                lifecycle.move(before, phase, story="the story")


def test_every_phase_is_in_the_table() -> None:
    assert set(lifecycle.TRANSITIONS) == set(ReplicaPhase)
    assert all(ReplicaPhase.PENDING not in after for after in lifecycle.TRANSITIONS.values())
    assert all(ReplicaPhase.LOST not in after for after in lifecycle.TRANSITIONS.values())


def test_delays_double_up_to_the_limit_and_keep_within_a_fifth() -> None:
    doubled = [1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000, 256000, 300000, 300000]
    for failures, middle in enumerate(doubled, start=1):
        got = [backoff.delay_ms(backoff.DEFAULT, failures=failures, jitter=n / 100) for n in range(100)]
        assert got[0] == round(middle * 0.8)
        assert middle * 0.98 < max(got) <= min(middle * 1.2, 300_000)
        assert got == sorted(got)
        assert len(set(got)) == 100, "what failed together does not retry together"
    assert backoff.delay_ms(backoff.DEFAULT, failures=10**9, jitter=0.0) == 240_000
    assert backoff.delay_ms(backoff.Delays(1, 1, 1), failures=1, jitter=0.0) == 1


def test_delays_of_a_spec() -> None:
    assert backoff.from_spec(Backoff()) == backoff.DEFAULT
    assert backoff.from_spec(Backoff(initial_ms=600_000)).max_ms == 600_000
