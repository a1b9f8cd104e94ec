"""Random lives of a node: renewals, silence, kills, reboots and jumps of its clock. Its work runs exactly as long as
the lease says on a clock that is right; and on a device without one never shorter, and longer only by what the rule
allows."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudless.core.model import Assignment
from cloudless.core.replacing import replace
from cloudless.core.spec import Backoff
from cloudless.testing.leased import LeasedNode, leased
from cloudless.testing.simloop import run
from cloudless.testing.supervised import assignment

LEASE_S = 600
SETTLED_S = 20  # a look, a stop in good order, a start after a reboot
SAVED_S = 600  # how seldom trusted time is saved


@dataclass(frozen=True)
class Life:
    """One life of the agent: seconds of silence between renewals; how it ends, and how long the device is off then
    (0: only the agent restarts)."""

    renewals: tuple[int, ...]
    silence_s: int
    jump_s: int
    settled: bool
    off_s: int


lives = st.lists(
    st.builds(
        Life,
        renewals=st.sampled_from([(), (), (), (30,), (400,)]),
        silence_s=st.integers(150, 500),
        jump_s=st.sampled_from([0, 0, -(10**6), 10**6]),
        settled=st.booleans(),
        off_s=st.sampled_from([0, 0, 30, 700]),
    ),
    min_size=3,
    max_size=5,
)


def _wanted() -> Assignment:
    quick = leased(assignment(), LEASE_S * 1000)
    policy = replace(quick.spec.restart_policy, backoff=Backoff(initial_ms=100, max_ms=1_000, reset_ms=1_000))
    return replace(quick, spec=replace(quick.spec, restart_policy=policy))


async def _history(node: LeasedNode, history: list[Life], *, has_clock: bool) -> None:
    loop = asyncio.get_running_loop()
    wanted, issued_s, uncounted_s = _wanted(), 0.0, 0.0
    if not has_clock:
        node.clock.skew_ms = -node.clock.EPOCH_MS
    for number, life in enumerate(history):
        began_s = loop.time()
        async with node.agent(settled=life.settled):
            if number == 0:
                await node.told(1, wanted)
                issued_s = loop.time()
            for silent_s in life.renewals:
                await asyncio.sleep(silent_s)
                await node.renewed()
                issued_s, uncounted_s = loop.time(), 0.0
            correct_ms, node.clock.skew_ms = node.clock.skew_ms, node.clock.skew_ms + life.jump_s * 1000
            end_s = loop.time() + life.silence_s
            while loop.time() < end_s:
                await asyncio.sleep(SETTLED_S)
                age_s, runs = loop.time() - issued_s, bool(list(node.runs()))
                if age_s < LEASE_S and loop.time() - began_s >= SETTLED_S:
                    assert runs, f"stopped {LEASE_S - age_s} s early"
                if age_s >= LEASE_S + uncounted_s + 2 * SETTLED_S:
                    assert not runs, f"runs {age_s - LEASE_S} s too long, of which {uncounted_s} s may be"
            node.clock.skew_ms = correct_ms
        if life.off_s:
            await asyncio.sleep(life.off_s)
            node.reboot()
            if not has_clock:
                uncounted_s += life.off_s + (0 if life.settled else min(SAVED_S, loop.time() - began_s))
        else:
            await asyncio.sleep(1)


def _run(history: list[Life], *, has_clock: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        run(lambda loop: _history(LeasedNode(loop, Path(name)), history, has_clock=has_clock), limit_s=10**6)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=lives)
def test_a_lease_is_kept_to_the_second_where_there_is_a_clock(history: list[Life]) -> None:
    _run(history, has_clock=True)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=lives)
def test_without_a_clock_it_is_longer_by_no_more_than_the_time_it_was_off(history: list[Life]) -> None:
    _run(history, has_clock=False)
