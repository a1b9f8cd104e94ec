"""The simulated network between coordinators: its faults are what they say, and a seed is a run."""

import asyncio
import random

import pytest

from cloudless.coordinator.raft.core.messages import TimeoutNow
from cloudless.testing import simloop
from cloudless.testing.member_network import MemberLinkQuality, MemberNetwork

IDS = ("a", "b", "c")


class World:
    def __init__(self, *, seed=1, quality=None, **options):
        self.network = MemberNetwork(random.Random(seed), quality, **options)
        self.got = []
        self.lost = []
        self.transports = {}
        for member in IDS:
            self.start(member)

    def start(self, member):
        transport = self.network.transport(member)
        self.transports[member] = transport
        transport.start(
            lambda sender, message: self.got.append((sender, member, message.term)),
            lambda other: self.lost.append((member, other)),
        )
        transport.connect({other: other for other in IDS})

    def send(self, source, target, number):
        return self.transports[source].send(target, TimeoutNow(number))


def run(body, **options):
    async def main(loop):
        world = World(**options)
        await asyncio.sleep(1)
        await body(world)
        return world

    return simloop.run(main, limit_s=1000)


def test_messages_arrive_once_and_in_order():
    async def body(world):
        assert all(world.send("a", "b", n) for n in range(50))
        await asyncio.sleep(1)
        assert world.got == [("a", "b", n) for n in range(50)]
        assert world.lost == []
        assert not world.send("a", "a", 1)
        assert not world.send("a", "stranger", 1)

    run(body)


@pytest.mark.parametrize("fault", ["loss", "duplicate", "reorder", "late"])
def test_each_fault_is_what_it_says(fault):
    async def body(world):
        setattr(world.network.quality, fault, 0.3)
        for n in range(200):
            world.send("a", "b", n)
        await asyncio.sleep(10)
        numbers = [number for _, _, number in world.got]
        assert (len(numbers) < 200) == (fault == "loss")
        assert (len(numbers) > 200) == (fault == "duplicate")
        assert (numbers != sorted(numbers)) == (fault in ("reorder", "late"))
        if fault != "loss":
            assert sorted(set(numbers)) == list(range(200))

    run(body)


def test_a_cut_is_one_way_silent_first_and_noticed_later():
    async def body(world):
        world.network.cut("a", "b")
        assert world.send("a", "b", 1)
        world.send("b", "a", 2)
        await asyncio.sleep(1)
        assert world.got == [("b", "a", 2)]
        assert world.lost == []
        await asyncio.sleep(2)
        assert sorted(world.lost) == [("a", "b"), ("b", "a")]
        assert not world.send("a", "b", 3)
        assert world.send("a", "c", 4)
        world.network.heal()
        await asyncio.sleep(1)
        assert world.send("a", "b", 5)
        await asyncio.sleep(1)
        assert world.got[-1] == ("a", "b", 5)

    run(body)


def test_a_cut_that_heals_in_time_is_not_noticed():
    async def body(world):
        world.network.partition(("a",), ("b", "c"))
        await asyncio.sleep(1.5)
        world.network.heal("a", "b")
        world.network.heal("b", "a")
        await asyncio.sleep(3)
        assert sorted(world.lost) == [("a", "c"), ("c", "a")]

    run(body)


def test_a_crash_is_told_and_the_next_life_is_reached_again():
    async def body(world):
        world.network.crash("b")
        assert not world.send("b", "a", 1)
        await asyncio.sleep(1)
        assert sorted(world.lost) == [("a", "b"), ("c", "b")]
        assert not world.send("a", "b", 2)
        world.start("b")
        await asyncio.sleep(1)
        assert world.send("a", "b", 3)
        assert world.send("b", "c", 4)
        await asyncio.sleep(1)
        assert sorted(world.got) == [("a", "b", 3), ("b", "c", 4)]

    run(body)


def test_a_message_can_reach_the_next_life_of_its_target():
    async def body(world):
        world.network.slow("a", "b", delay_s=5)
        world.send("a", "b", 1)
        world.network.crash("b")
        world.start("b")
        await asyncio.sleep(6)
        assert world.got == [("a", "b", 1)]

    run(body)


def test_a_refused_member_is_cut_off_at_once_and_for_good():
    async def body(world):
        world.transports["a"].refuse(frozenset({"b"}))
        world.send("b", "a", 1)
        await asyncio.sleep(1)
        assert world.lost == [("b", "a")]
        assert not world.send("b", "a", 2)
        assert world.got == []

    run(body)


def test_bandwidth_makes_a_backlog_that_drains():
    async def body(world):
        for n in range(100):
            world.send("a", "b", n)
        assert world.transports["a"].backlog_bytes("b") == 6400
        assert world.transports["a"].backlog_bytes("c") == 0
        await asyncio.sleep(7)
        assert world.transports["a"].backlog_bytes("b") == 0
        assert len(world.got) == 100

    run(body, quality=MemberLinkQuality(bytes_per_s=1000.0))


def test_messages_can_go_through_the_codec():
    async def body(world):
        world.send("a", "b", 7)
        await asyncio.sleep(1)
        assert world.got == [("a", "b", 7)]
        with pytest.raises(ValueError, match="range"):
            world.send("a", "b", -1)

    run(body, through_wire=True)


def test_closed_is_silent():
    async def body(world):
        await world.transports["a"].close()
        await world.transports["a"].close()
        world.send("b", "a", 1)
        await asyncio.sleep(1)
        assert world.got == []
        assert sorted(world.lost) == [("b", "a"), ("c", "a")]

    run(body)


def test_one_seed_is_one_run():
    async def body(world):
        for n in range(300):
            world.send(IDS[n % 3], IDS[(n + 1) % 3], n)
            if n == 100:
                world.network.crash("b")
            if n == 200:
                world.start("b")
            await asyncio.sleep(0.01)
        await asyncio.sleep(5)

    def quality():
        return MemberLinkQuality(loss=0.1, duplicate=0.1, reorder=0.2, late=0.1)

    first, again, other = (run(body, seed=seed, quality=quality()) for seed in (1, 1, 2))
    assert first.got == again.got
    assert first.lost == again.lost
    assert first.got != other.got
