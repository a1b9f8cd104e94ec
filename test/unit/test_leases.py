"""What a leader makes of what it hears of nodes, and of not having heard anything for a while."""

import asyncio
from pathlib import Path

from cloudless.config import SessionConfig
from cloudless.coordinator.core import commands as c
from cloudless.coordinator.leases import HERE, Leases
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.core.model import JoinToken, NodeState
from cloudless.testing.disk import SimDisk
from cloudless.testing.simloop import SimClock, run


class Rig:
    """A leader with one node, which is ready and was heard just now; its loop judges from then on."""

    def __init__(self, loop):
        self.loop, self.clock, self.disk = loop, SimClock(loop), SimDisk(1)

    async def open(self, holder):
        self.store = await Store.open(
            Path("/data"),
            machine=FabricMachine("fabric.example"),
            clock=self.clock,
            filesystem=self.disk,
            run_blocking=self.disk.run_blocking,
            seconds=self.disk.seconds,
        )
        token = JoinToken(id="t1", node_pattern="*", max_uses=9, expires_at_ms=2**50)
        for command in (c.CreateToken(token), c.EnrollNode(token_id="t1", node_id="n1", public_key_sha256="k")):
            await self.store.propose(command, actor="user/test")
        await self.ready()
        self.leases = Leases(self.store, self.clock, SessionConfig(), actor="coordinator/c1", shared=lambda: True)
        self.leases.began_to_lead({"n1": (holder, self.now())})
        self.judging = asyncio.create_task(self.leases.run())

    def now(self):
        return self.clock.monotonic_ms()

    async def ready(self):
        await self.store.propose(c.ReportNode("n1", NodeState.READY, "connected"), actor="node/n1")

    def state(self):
        return self.store.snapshot.state.nodes["n1"].state

    def given_up(self):
        return sum(event.type == "node.unreachable" for event in self.store.snapshot.state.events)


def scenario(holder=HERE):
    def decorate(story):
        def test():
            async def main(loop):
                rig = Rig(loop)
                await rig.open(holder)
                await story(rig)
                rig.judging.cancel()
                await rig.store.close()

            run(main)

        test.__name__, test.__doc__ = story.__name__, story.__doc__
        return test

    return decorate


@scenario()
async def test_a_node_that_moved_while_the_leader_stood_still_is_where_it_is_heard_next(rig):
    await asyncio.sleep(3)
    rig.loop.advance(10)
    # What waited is read at once: a last heartbeat, before it is noticed how late it is, and the session's end.
    rig.leases.heard("n1", at_ms=rig.now())
    await asyncio.sleep(0.01)
    rig.leases.disconnected("n1", left="")
    for _ in range(20):
        await asyncio.sleep(1)
        rig.leases.heard("n1", at_ms=rig.now() - 500, holder="c2")
        assert rig.state() is NodeState.READY


@scenario()
async def test_a_standstill_that_ends_with_a_lease_counts_against_nobody(rig):
    """The node's heartbeats wait to be read; the timer that judges it comes first."""
    for _ in range(3):
        await asyncio.sleep(1)
    rig.leases.heard("n1", at_ms=rig.now())
    await asyncio.sleep(1.9)
    rig.loop.advance(2.7)
    await asyncio.sleep(0.05)
    assert rig.state() is NodeState.READY


@scenario("c2")
async def test_a_node_that_only_the_log_speaks_for_is_given_up_no_more_often_than_a_silent_one(rig):
    """Its coordinator can write, but cannot tell this one what it hears."""
    rig.leases.holder_lost("c2")
    for _ in range(30):
        await asyncio.sleep(1)
        if rig.state() is not NodeState.READY:
            await rig.ready()
            rig.leases.recorded_ready("n1")
    assert 4 <= rig.given_up() <= 6


@scenario()
async def test_the_logs_word_does_not_stand_against_a_session(rig):
    rig.leases.heard("n1", at_ms=rig.now())
    rig.leases.recorded_ready("n1")
    rig.leases.disconnected("n1", left="left: told to")
    await asyncio.sleep(0.3)
    assert rig.state() is NodeState.UNREACHABLE


@scenario()
async def test_what_a_busy_coordinator_has_not_read_yet_is_nobodys_silence(rig):
    for _ in range(150):  # so long that two heartbeats that do not come are enough
        await asyncio.sleep(1)
        rig.leases.heard("n1", at_ms=rig.now(), late_ms=0)
    for _ in range(70):  # what is read of others was sent six seconds ago; of this node nothing is read yet
        await asyncio.sleep(0.1)
        for other in ("n2", "n3", "n4"):
            rig.leases.heard(other, at_ms=rig.now(), late_ms=6_000)
    rig.leases.heard("n1", at_ms=rig.now(), late_ms=6_000)
    assert rig.given_up() == 0

    for _ in range(200):  # it has caught up, and hears the others in time
        await asyncio.sleep(0.1)
        for other in ("n2", "n3", "n4"):
            rig.leases.heard(other, at_ms=rig.now(), late_ms=0)
    assert rig.given_up() == 1
