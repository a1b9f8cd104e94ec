"""For how long devices run what they were assigned without a coordinator: each running container is held against the
last word that its agent had, in the simulation's own time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cloudless.agent.core.tenure import Lease
from cloudless.agent.runtime.base import ContainerState
from cloudless.core.leases import LEASE_MS_MIN, lease_ms

if TYPE_CHECKING:
    from cloudless.testing.sim.agents import SimAgent
    from cloudless.testing.sim.world import World

# From the end of a lease until the container must be gone: the agent's timer, its hold, and the longest grace.
SLACK_S: Final = 4.0


@dataclass(slots=True)
class _Word:
    """The last one that an agent had: when, and how far the signing coordinator's clock was ahead then."""

    at_s: float
    ahead_ms: int = 0
    uncertain_ms: int = 0  # what restarts of the agent may have added


class Tenures:
    """A replica runs at most until its lease has passed since its agent last heard a coordinator's signed word, plus
    `SLACK_S`. Left out are agents that are dead, stand still, or have begun within the slack: nobody is there to stop
    anything. What clocks may add (agent.core.tenure says why):

    - an agent that began anew goes on by the time that it saved, which may be by another coordinator's clock: what the
      clocks of the fabric differ by;
    - a device that lost its wall clock in a reboot counts from the time of that reboot.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._words: dict[str, _Word] = {}
        self._boots: dict[str, int] = {}

    def heard(self, agent: SimAgent, lease: Lease | None) -> None:
        now_ms = agent.clock.EPOCH_MS + self._world.profile.begins_ms + round(self._world.loop.time() * 1000)
        ahead_ms = lease.issued_at_ms - now_ms if lease is not None else 0
        self._words[agent.name] = _Word(self._world.loop.time(), ahead_ms)

    def began(self, agent: SimAgent) -> None:
        """A new life of the agent."""
        rebooted = self._boots.get(agent.name, agent.boots) != agent.boots
        self._boots[agent.name] = agent.boots
        word = self._words.get(agent.name)
        if word is None:
            return
        skews = [host.clock.skew_ms for host in (*self._world.coordinators.values(), agent)]
        word.uncertain_ms += max(skews) - min(skews) + self._world.profile.jumps_ms
        if rebooted and agent.clock.skew_ms - self._world.profile.begins_ms < word.ahead_ms:
            word.at_s, word.uncertain_ms = self._world.loop.time(), 0

    def look(self) -> None:
        """Now and then."""
        for agent in self._world.devices():
            self._look_at(agent)
            self._of_owner(agent)

    def _of_owner(self, agent: SimAgent) -> None:
        """Nothing runs for longer than `SLACK_S` on a device whose owner lets nothing run."""
        now_s, process, since_s = self._world.loop.time(), agent.process, agent.evicting_since_s
        if process is None or process.frozen or since_s is None or now_s - max(since_s, agent.awake_since_s) < SLACK_S:
            return
        for replica_id, sandbox in agent.device.sandboxes.items():
            running = any(c.view.state is ContainerState.RUNNING for c in sandbox.containers.values())
            assert not running, f"{agent.name} runs {replica_id}, and its owner wants it to run nothing"

    def _look_at(self, agent: SimAgent) -> None:
        now_s = self._world.loop.time()
        word = self._words.get(agent.name)
        process, supervisor = agent.process, agent.supervisor
        if word is None or process is None or process.frozen or supervisor is None:
            return
        if now_s - agent.awake_since_s < SLACK_S:
            return
        age_ms = (now_s - SLACK_S - word.at_s) * 1000 - word.uncertain_ms
        if age_ms < LEASE_MS_MIN:
            return
        for replica_id, sandbox in agent.device.sandboxes.items():
            assignment = supervisor.assignment(replica_id)
            if assignment is None or assignment.stopping or age_ms < lease_ms(assignment.spec):
                continue
            running = any(c.view.state is ContainerState.RUNNING for c in sandbox.containers.values())
            assert not running, (
                f"{agent.name} runs {replica_id} {now_s - word.at_s:.1f} s after a coordinator's last word, and "
                f"its lease is {lease_ms(assignment.spec) // 1000} s"
            )
