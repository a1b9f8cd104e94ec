"""Two agents with one identity: the decision."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudless.coordinator.core.incumbency import Answer, Claim, ask, came_first


@pytest.mark.parametrize(
    ("heard_at_ms", "now_ms", "answer"),
    [
        (9_500, 10_000, Answer.WAITS),  # it spoke just before the newcomer came
        (10_400, 10_500, Answer.WAITS),  # what it had sent before it died may come that late
        (10_999, 11_000, Answer.WAITS),
        (11_000, 11_000, Answer.REFUSED),  # it lives
        (11_000, 60_000, Answer.REFUSED),
        (9_500, 13_499, Answer.WAITS),
        (9_500, 13_500, Answer.ADMITTED),  # its word is old
        (6_000, 10_000, Answer.ADMITTED),
        (0, 10_000, Answer.ADMITTED),
    ],
)
def test_the_incumbent_is_asked(heard_at_ms, now_ms, answer):
    incumbent = Claim("i1", 0, heard_at_ms)
    assert ask(incumbent, arrived_at_ms=10_000, interval_ms=1000, timeout_ms=4000, now_ms=now_ms) is answer


@given(st.integers(0, 50_000), st.integers(0, 50_000))
def test_a_newcomer_never_waits_for_ever(heard_at_ms, arrived_at_ms):
    incumbent = Claim("i1", 0, min(heard_at_ms, arrived_at_ms + 999))
    last_ms = max(arrived_at_ms, incumbent.heard_at_ms) + 4000
    answer = ask(incumbent, arrived_at_ms=arrived_at_ms, interval_ms=1000, timeout_ms=4000, now_ms=last_ms)
    assert answer is not Answer.WAITS


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 40), st.integers(0, 40))
def test_both_coordinators_name_the_same_incumbent(one_ms, other_ms, late_ms, late_elsewhere_ms):
    """Each is told of the other's session a little late; where that could matter, the instance decides."""
    here = came_first(Claim("a", one_ms, 0), Claim("b", other_ms + late_ms, 0))
    there = came_first(Claim("b", other_ms, 0), Claim("a", one_ms + late_elsewhere_ms, 0))
    if abs(abs(one_ms - other_ms) - 1000) > 40:
        assert here is not there
