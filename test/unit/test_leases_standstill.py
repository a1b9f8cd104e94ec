"""A leader that stood still: what it reads right afterwards is as of now, and must not count as of later."""

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


def test_a_node_that_moved_while_the_leader_stood_still_is_where_it_is_heard_next():
    async def story(loop):
        clock, disk = SimClock(loop), SimDisk(1)
        store = await Store.open(
            Path("/data"),
            machine=FabricMachine("fabric.example"),
            clock=clock,
            filesystem=disk,
            run_blocking=disk.run_blocking,
            seconds=disk.seconds,
        )
        token = JoinToken(id="t1", node_pattern="*", max_uses=9, expires_at_ms=2**50)
        for command in (
            c.CreateToken(token),
            c.EnrollNode(token_id="t1", node_id="n1", public_key_sha256="k"),
            c.ReportNode("n1", NodeState.READY, "connected"),
        ):
            await store.propose(command, actor="user/test")
        leases = Leases(store, clock, SessionConfig(), actor="coordinator/c1", shared=lambda: True)
        leases.began_to_lead({"n1": (HERE, clock.monotonic_ms())})
        judging = asyncio.create_task(leases.run())
        await asyncio.sleep(3)
        loop.advance(10)
        # What waited is read at once: a last heartbeat, before it is noticed how late it is, and the session's end.
        leases.heard("n1", at_ms=clock.monotonic_ms())
        await asyncio.sleep(0.01)
        leases.disconnected("n1", left="")
        for _ in range(20):
            await asyncio.sleep(1)
            leases.heard("n1", at_ms=clock.monotonic_ms() - 500, holder="c2")
            assert store.snapshot.state.nodes["n1"].state is NodeState.READY
        judging.cancel()
        await store.close()

    run(story)
