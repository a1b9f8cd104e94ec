"""How long a group of proposals is gathered."""

from __future__ import annotations

import asyncio

from cloudless.coordinator.raft.gathering import BUSY_S, WAIT_S_MAX, Gathering


async def rounds(round_s: float, *, busy: int) -> int:
    """Rounds of the loop until it was ready, where the first `busy` ones take so long and the others no time."""
    now_s, count = 0.0, 0
    ready = asyncio.Event()
    gathering = Gathering(seconds=lambda: now_s, ready=ready.set)
    gathering.begin()
    while not ready.is_set():
        assert gathering.under_way
        gathering.begin()
        count += 1
        now_s += round_s if count <= busy else 0.0
        await asyncio.sleep(0)
    assert not gathering.under_way
    return count


async def test_an_idle_loop_waits_for_one_round() -> None:
    assert await rounds(0.0, busy=0) == 1


async def test_it_waits_while_the_loop_is_busy() -> None:
    assert await rounds(2 * BUSY_S, busy=5) == 6


async def test_it_never_waits_for_long() -> None:
    assert await rounds(WAIT_S_MAX / 4, busy=100) == 4
