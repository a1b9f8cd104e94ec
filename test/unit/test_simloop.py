"""The simulator's own ground: virtual time, ordered streams, cuts, determinism."""

import asyncio
import random
import time

import pytest

from cloudless.errors import Unavailable
from cloudless.testing import simloop, simnet


def test_hours_pass_in_no_time_and_timers_fire_in_order():
    async def main(loop):
        seen = []

        async def later(seconds):
            await asyncio.sleep(seconds)
            seen.append((loop.time(), seconds))

        await asyncio.gather(later(3600), later(1), later(60))
        return seen

    started = time.monotonic()
    seen = simloop.run(main)
    assert time.monotonic() - started < 5
    assert [s for _, s in seen] == [1, 60, 3600]
    assert all(at == pytest.approx(s) for at, s in seen)


def test_threads_run_inline_and_deadlocks_are_named():
    async def main(_loop):
        return await asyncio.to_thread(lambda: 42)

    assert simloop.run(main) == 42

    async def stuck(_loop):
        await asyncio.get_running_loop().create_future()

    with pytest.raises(simloop.Deadlock):
        simloop.run(stuck)

    async def endless(_loop):
        while True:
            await asyncio.sleep(10)

    with pytest.raises(simloop.TimeLimit):
        simloop.run(endless, limit_s=100)


def _exchange(seed, *, cut=False):
    async def main(loop):
        network = simnet.SimNetwork(random.Random(seed), quality=simnet.LinkQuality(loss=0.3))
        near, far = await network.connect("a", "b")
        got = []
        for i in range(50):
            await near.send(i)
            if cut and i == 25:
                network.cut("a", "b")
        try:
            for _ in range(50):
                got.append(await far.receive())
        except Unavailable:
            got.append("broken")
        return got, loop.time()

    return simloop.run(main)


def test_streams_keep_their_order_under_loss_and_repeat_for_a_seed():
    got, _ = _exchange(7)
    assert got == list(range(50))
    assert _exchange(7) == _exchange(7)
    assert _exchange(7)[1] != _exchange(8)[1]


def test_a_cut_is_silence_then_a_broken_stream():
    got, ended_at = _exchange(7, cut=True)
    assert got[-1] == "broken"
    assert got[:-1] == list(range(len(got) - 1))
    assert ended_at > 10


def test_a_crash_breaks_both_ends_and_dialling_through_a_cut_fails():
    async def main(_loop):
        network = simnet.SimNetwork(random.Random(1))
        near, far = await network.connect("a", "b")
        network.crash("b")
        for end in (near, far):
            with pytest.raises(Unavailable):
                await end.receive()
            with pytest.raises(Unavailable):
                await end.send("x")
        network.cut("b", "a")
        with pytest.raises(Unavailable):
            await network.connect("a", "b")
        network.heal()
        near, far = await network.connect("a", "b")
        await near.close()
        assert await far.receive() is None

    simloop.run(main)
