"""Hysteresis that noise cannot make flap, and hours that agree with a plain reading of the clock."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudless.agent.core import owner, pressure
from cloudless.agent.core.pressure import RELEASE_MS, SETTLE_MS, Limits, Reading, State
from cloudless.core import hours

MIB = 2**20
LIMITS = Limits(memory_bytes=100 * MIB)


def words(levels: list[int], *, step_ms: int = 1000) -> list[bool]:
    """Whether memory is said to be short after each reading (in MiB)."""
    state, said = State(), []
    for at, level in enumerate(levels):
        reading = Reading(memory_available_bytes=level * MIB, memory_bytes=4096 * MIB)
        state = pressure.step(state, reading, LIMITS, now_ms=at * step_ms).state
        said.append("memory" in state.said)
    return said


@given(st.lists(st.integers(0, 300), max_size=400), st.sampled_from([200, 1000, 5000]))
def test_no_noise_changes_a_word_more_often_than_its_times_allow(levels: list[int], step_ms: int) -> None:
    said = words(levels, step_ms=step_ms)
    changes = [at * step_ms for at, (was, now) in enumerate(itertools.pairwise([False, *said])) if was != now]
    for before, after, third in zip(changes, changes[1:], changes[2:], strict=False):
        assert third - before >= SETTLE_MS + RELEASE_MS
        assert after - before >= min(SETTLE_MS, RELEASE_MS)


@given(st.lists(st.integers(100, 149), max_size=200), st.booleans())
def test_between_the_levels_nothing_changes(noise: list[int], short: bool) -> None:
    before = [50 if short else 300] * 10
    assert set(words(before + noise)[9:]) == {short}


@given(st.lists(st.integers(0, 99), min_size=5, max_size=50), st.lists(st.integers(150, 400), min_size=32, max_size=60))
def test_what_lasts_is_said_and_what_is_over_is_taken_back(short: list[int], well: list[int]) -> None:
    said = words(short + well)
    assert said[len(short) - 1]
    assert not said[-1]


@given(
    floor=st.integers(1, 90),
    above=st.integers(0, 10),
    levels=st.lists(st.integers(-1, 100), max_size=100),
)
def test_a_battery_changes_sides_only_at_its_two_levels(floor: int, above: int, levels: list[int]) -> None:
    terms = owner.Terms(battery_floor_percent=floor, battery_resume_percent=floor + above)
    low = False
    for level in levels:
        before = low
        low = owner.decide(
            terms, owner.Situation(0, 0, power_source="battery", battery_percent=level), battery_low=before
        ).battery_low
        if low and not before:
            assert 0 <= level < floor
        if before and not low:
            assert level >= floor + above


WINDOW = st.builds(
    lambda first, last, start, end: (
        f"{hours.DAYS[first]}-{hours.DAYS[last]} {start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
    ),
    st.integers(0, 6),
    st.integers(0, 6),
    st.integers(0, 1439),
    st.integers(0, 1440),
).filter(lambda text: text.split(" ")[1].split("-")[0] != text.split(" ")[1].split("-")[1])


@settings(max_examples=50)
@given(st.lists(WINDOW, min_size=1, max_size=4), st.integers(0, 6), st.integers(0, 1439))
def test_the_next_change_is_where_a_walk_over_the_minutes_finds_it(texts: list[str], weekday: int, minute: int) -> None:
    windows = [hours.parse(text) for text in texts]
    here = hours.inside(windows, weekday=weekday, minute=minute)
    walk = (divmod((weekday * 1440 + minute + more) % 10_080, 1440) for more in range(1, 10_081))
    expected = next(((d, m) for d, m in walk if hours.inside(windows, weekday=d, minute=m) != here), None)
    assert hours.next_change(windows, weekday=weekday, minute=minute) == expected
