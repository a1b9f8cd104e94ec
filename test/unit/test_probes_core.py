"""Thresholds, delays and gating of health checks: tables over the pure bookkeeping."""

from __future__ import annotations

import pytest

from cloudless.agent.core import probes as p
from cloudless.agent.core.probes import ProbeKind as K
from cloudless.core.spec import Container, Probe, TcpProbe

TCP = TcpProbe("80")


def container(**probes: Probe) -> Container:
    return Container("main", "image", **{f"{kind}_probe": probe for kind, probe in probes.items()})


def play(wanted: Container, kind: K, results: str) -> p.ContainerProbes:
    """`+` and `-` for each result, each at the time that the probe is due."""
    state = p.begin(wanted, now_ms=0)
    for result in results:
        now = p.wake_at_ms(state)
        assert now is not None
        state, due = p.take_due(state, now_ms=now)
        assert due == (kind,)
        state = p.record(state, wanted, kind, ok=result == "+", detail="no", now_ms=now + 5, age_ms=now)
    return state


@pytest.mark.parametrize(
    ("results", "thresholds", "ready"),
    [
        ("", (0, 0), False),
        ("+", (0, 0), True),
        ("-", (0, 0), False),
        ("+--", (0, 0), True),  # three failures by default
        ("+---", (0, 0), False),
        ("+--+--", (0, 0), True),  # in a row
        ("+-", (1, 1), False),
        ("+-+", (2, 1), False),  # needs two successes to come back
        ("+-++", (2, 1), True),
        ("++", (2, 3), True),
        ("+", (2, 3), False),
    ],
)
def test_readiness(results: str, thresholds: tuple[int, int], ready: bool) -> None:
    probe = Probe(tcp=TCP, success_threshold=thresholds[0], failure_threshold=thresholds[1])
    state = play(container(readiness=probe), K.READINESS, results)
    assert p.ready(state) is ready
    assert p.failed(state) is None


@pytest.mark.parametrize(
    ("results", "failed"), [("+", False), ("--", False), ("---", True), ("+---", True), ("--+--", False)]
)
def test_liveness(results: str, failed: bool) -> None:
    state = play(container(liveness=Probe(tcp=TCP)), K.LIVENESS, results)
    assert p.failed(state) is (K.LIVENESS if failed else None)
    assert p.ready(state)  # liveness alone does not gate traffic


def test_startup_gates_the_others_and_then_ends() -> None:
    probe = Probe(tcp=TCP, period_ms=1_000, failure_threshold=5)
    wanted = container(startup=probe, liveness=probe, readiness=Probe(tcp=TCP, initial_delay_ms=10_000))
    state = play(wanted, K.STARTUP, "---")
    assert not state.started
    assert p.failed(state) is None
    state = play(wanted, K.STARTUP, "---+")
    assert state.started
    assert state.startup is None
    assert not p.ready(state)
    # liveness at once; readiness when its delay since the container's start is over
    assert state.liveness.due_at_ms == 3_005
    assert state.readiness.due_at_ms == 3_005 + 10_000 - 3_000
    assert p.failed(play(wanted, K.STARTUP, "-----")) is K.STARTUP


def test_periods_follow_the_schedule_and_late_results_do_not_pile_up() -> None:
    wanted = container(liveness=Probe(tcp=TCP, initial_delay_ms=300, period_ms=1_000))
    state = p.begin(wanted, now_ms=100)
    assert p.wake_at_ms(state) == 400
    state, due = p.take_due(state, now_ms=400)
    assert due
    assert p.wake_at_ms(state) is None  # one at a time
    assert p.take_due(state, now_ms=9_000)[1] == ()
    quick = p.record(state, wanted, K.LIVENESS, ok=True, detail="", now_ms=450, age_ms=0)
    assert p.wake_at_ms(quick) == 1_400
    late = p.record(state, wanted, K.LIVENESS, ok=True, detail="", now_ms=7_000, age_ms=0)
    assert p.wake_at_ms(late) == 7_000


def test_without_probes_it_is_ready_at_once() -> None:
    state = p.begin(container(), now_ms=0)
    assert p.ready(state)
    assert p.wake_at_ms(state) is None


def test_what_was_known_of_the_run_is_carried_over() -> None:
    wanted = container(startup=Probe(tcp=TCP), readiness=Probe(tcp=TCP))
    assert p.ready(p.begin(wanted, now_ms=0, started=True, ready=True))
    assert not p.ready(p.begin(wanted, now_ms=0, started=True, ready=False))
    assert not p.begin(wanted, now_ms=0).started


def test_a_result_of_an_unasked_probe_is_ignored() -> None:
    wanted = container(readiness=Probe(tcp=TCP))
    state = p.begin(wanted, now_ms=0)
    assert p.record(state, wanted, K.READINESS, ok=True, detail="", now_ms=0, age_ms=0) == state
    assert p.record(state, wanted, K.LIVENESS, ok=False, detail="", now_ms=0, age_ms=0) == state


def test_a_check_that_could_not_be_made_counts_for_nothing() -> None:
    wanted = container(liveness=Probe(tcp=TCP, failure_threshold=2), readiness=Probe(tcp=TCP))
    state = p.begin(wanted, now_ms=0, started=True, ready=True)
    for _ in range(10):
        now = p.wake_at_ms(state)
        assert now is not None
        state, due = p.take_due(state, now_ms=now)
        for kind in due:
            state = p.record(state, wanted, kind, ok=None, detail="runtime away", now_ms=now, age_ms=0)
    assert p.failed(state) is None
    assert p.ready(state)
