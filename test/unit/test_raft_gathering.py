"""How long a group of proposals is gathered."""

from __future__ import annotations

import asyncio

from cloudless.coordinator.raft.gathering import BUSY_S, PATIENCE, PATIENCE_MAX, QUIET_S, WAIT_S_MAX, Gathering


class Rounds:
    """A gathering, and how many rounds of the loop each of its groups takes."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._ready: asyncio.Event = asyncio.Event()
        self._gathering = Gathering(seconds=lambda: self._now_s, ready=self._ready.set)

    async def of(self, round_s: float, *, busy: int, more: int = 1000) -> int:
        """Rounds until a group is ready, where the first `busy` ones take so long and the others no time, and something
        is proposed in the first `more` of them."""
        self._ready.clear()
        self._gathering.begin()
        count = 0
        while not self._ready.is_set():
            assert self._gathering.under_way
            if count < more:
                self._gathering.begin()
            count += 1
            self._now_s += round_s if count <= busy else 0.0
            await asyncio.sleep(0)
        assert not self._gathering.under_way
        return count


async def rounds(round_s: float, *, busy: int, more: int = 1000) -> int:
    return await Rounds().of(round_s, busy=busy, more=more)


async def test_an_idle_loop_waits_for_one_round() -> None:
    assert await rounds(0.0, busy=0) == 1


async def test_it_waits_while_the_loop_is_busy() -> None:
    assert await rounds(2 * BUSY_S, busy=5) == 6


async def test_it_never_waits_for_long() -> None:
    round_s = WAIT_S_MAX / 8
    assert BUSY_S < round_s < QUIET_S
    assert await rounds(round_s, busy=100) == 8


async def test_it_does_not_wait_long_for_more_where_nothing_comes() -> None:
    assert await rounds(QUIET_S / 4, busy=100, more=2) == 6


async def test_behind_a_group_of_one_nobody_is_waited_for() -> None:
    gathering = Rounds()
    for _ in range(3):
        assert await gathering.of(0.0, busy=0, more=0) == 1


async def test_behind_a_larger_group_it_waits_for_the_others_who_may_be_on_their_way() -> None:
    gathering = Rounds()
    assert await gathering.of(0.0, busy=0, more=1) == 1
    assert await gathering.of(0.0, busy=0, more=0) == 1 + PATIENCE
    assert await gathering.of(0.0, busy=0, more=0) == 1
    assert await gathering.of(2 * BUSY_S, busy=PATIENCE_MAX) == 1 + PATIENCE_MAX
    assert await gathering.of(0.0, busy=0, more=0) == 1 + PATIENCE_MAX
