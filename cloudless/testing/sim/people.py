"""People once the faults are over: what only they can decide, until the fabric has come right.

They look at what the coordinators say each second, and do what the documentation tells them to: let nodes take work
again, resume and promote what waits for them, replace versions that never work, suspend what is due each minute.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Final

from cloudless.coordinator.core import commands
from cloudless.coordinator.core.state import State
from cloudless.core.model import Node, RolloutAction, RolloutPhase, WorkloadRecord
from cloudless.core.replacing import replace
from cloudless.core.spec import WorkloadType
from cloudless.errors import CloudlessError
from cloudless.testing.sim.clients import REFUSED, Work
from cloudless.testing.sim.workloads import NAMESPACE, TAINT, is_broken
from cloudless.testing.sim.world import World

LOOK_S: Final = 1.0
# Phases of a rollout whose version, where it never works, the fabric itself does not give up (any more).
_TO_MEND: Final = (RolloutPhase.FAILED, RolloutPhase.COMPLETE, RolloutPhase.ROLLED_BACK)


class People:
    """`drained` names the one node that stays drained; empty: none does."""

    def __init__(self, world: World, work: Work, rng: random.Random) -> None:
        self._world = world
        self._work = work
        names = [agent.name for agent in world.agents]
        self.drained = rng.choice(names) if len(names) > 5 and rng.random() < 0.5 else ""
        self._count = 0

    async def run(self) -> None:
        while True:
            leader = self._world.leader()
            if leader is not None and leader.store is not None:
                for wish in list(self._wishes(leader.store.snapshot.state)):
                    await self._tell(wish)
            await asyncio.sleep(LOOK_S)

    async def _tell(self, wish: commands.Command) -> None:
        self._count += 1
        try:
            await self._world.write(wish, request_id=f"people-{self._count}")
        except CloudlessError as error:
            if error.code not in REFUSED:
                raise

    def _wishes(self, state: State) -> Iterator[commands.Command]:
        for node_id in sorted(state.nodes):
            yield from self._of_node(state.nodes[node_id])
        for key in sorted(state.workloads):
            record = state.workloads[key]
            if not record.deleting:
                yield from self._of_workload(record)

    def _of_node(self, node: Node) -> Iterator[commands.Command]:
        leaves = node.id == self.drained
        if node.taints or node.cordoned is not leaves or node.draining is not leaves:
            yield commands.UpdateNode(node.id, cordoned=leaves, draining=leaves, remove_taints=(TAINT,))

    def _of_workload(self, record: WorkloadRecord) -> Iterator[commands.Command]:
        name, spec, rollout = record.metadata.name, record.spec, record.rollout
        if spec.type is WorkloadType.CRON and spec.schedule is not None and not spec.schedule.suspend:
            suspended = replace(spec, schedule=replace(spec.schedule, suspend=True))
            yield commands.PutWorkload(record.metadata, suspended)
        if rollout is None or spec.type not in (WorkloadType.SERVICE, WorkloadType.SYSTEM):
            return
        if rollout.paused:
            yield commands.ControlRollout(NAMESPACE, name, RolloutAction.RESUME)
        elif rollout.generation == record.generation and rollout.phase is RolloutPhase.AWAITING_PROMOTION:
            yield commands.ControlRollout(NAMESPACE, name, RolloutAction.PROMOTE)
        elif rollout.generation == record.generation and rollout.phase in _TO_MEND and is_broken(spec):
            yield commands.PutWorkload(*self._work.author.mended(name, spec))
