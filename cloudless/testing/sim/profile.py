"""How one run is set up and what breaks in it: drawn from the seed, or given to look for one thing."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

# Every fault that `faults.Nemesis` knows, and how often it comes relative to the others.
OF_AGENTS: Final[dict[str, float]] = {
    "cut_agent": 2.0,
    "cut_agent_from_some": 3.0,
    "one_way": 2.0,
    "kill_agent": 2.0,
    "restart_agent": 1.0,
    "power_cycle_agent": 1.5,
    "freeze_agent": 1.0,
    "exit_containers": 1.5,
    "loss": 1.0,
    "flap": 1.0,
    "reboot_offline": 1.0,
    "battery": 1.5,
    "pressure": 0.7,
    "jump_of_device": 0.5,
}
OF_COORDINATORS: Final[dict[str, float]] = {
    "crash": 2.0,
    "crash_leader": 2.0,
    "power_off": 1.0,
    "power_off_leader": 1.0,
    "power_off_all": 0.7,
    "stop": 1.0,
    "freeze": 1.0,
    "freeze_leader": 1.5,
    "slow_disk": 0.7,
    "jump": 0.5,
}
OF_SEVERAL: Final[dict[str, float]] = {
    "isolate": 1.5,
    "isolate_leader": 2.5,
    "cut_leader_from_agents": 1.5,
    "one_way_members": 1.5,
    "cut_observation": 1.0,
    "transfer": 1.5,
}


# What people do to nodes; as faults, each undoes itself.
OF_PEOPLE: Final[dict[str, float]] = {"drain": 2.5, "cordon": 0.7, "taint": 1.0}
ALL: Final = {**OF_AGENTS, **OF_COORDINATORS, **OF_SEVERAL, **OF_PEOPLE}

JUMP_MS: Final = 4_000  # the most by which a wall clock jumps at once


@dataclass(frozen=True, slots=True)
class Profile:
    """`faults`: weights by name; `pause_s`: the mean time between two of them. `told`: how many coordinators' addresses
    an agent is enrolled with; of the others it learns. `skewed`: wall clocks differ. `begins_ms`: how far into a minute
    the run begins, for what is due each minute. `cpu_millis`: of each device; what is asked for is in `asked_millis`.
    `think_s`: the mean time between two wishes of people. `twins`: now and then a second
    device has the identity of one."""

    coordinators: int = 3
    agents: int = 10
    safety_s: float = 45.0
    faults: tuple[tuple[str, float], ...] = tuple(ALL.items())
    pause_s: float = 1.5
    told: int = 1
    node_lease_ms: int = 12_000
    snapshot_entries: int = 150
    segment_bytes: int = 16_384
    heartbeat_ms: int = 200
    election_ms: int = 800
    skewed: bool = False
    services: int = 3
    think_s: float = 1.0
    begins_ms: int = 0
    lease_ms: int = 24 * 3_600_000
    cpu_millis: int = 4_000
    asked_millis: tuple[int, ...] = (100, 300, 700)
    twins: bool = False

    @property
    def jumps_ms(self) -> int:
        """The most by which clocks may have jumped."""
        names = dict(self.faults)
        return 2 * JUMP_MS * ("jump" in names) + 2 * JUMP_MS * ("jump_of_device" in names)


def draw(rng: random.Random, *, coordinators: int = 0) -> Profile:
    """`coordinators` other than 0 says how many. Each run gets about two thirds of the faults, so that what each of
    them hides from the others shows too.

    Most runs are short and small, so that many can be made: what needs time (leases that end, schedules, long silence)
    has a few long ones, and what needs many devices a few wide ones."""
    drawn = 1 if rng.random() < 0.15 else 3
    coordinators = coordinators or drawn
    chosen = {name: weight for name, weight in ALL.items() if rng.random() < 0.65}
    if coordinators == 1:
        chosen = {name: weight for name, weight in chosen.items() if name not in OF_SEVERAL}
    heartbeat_ms = rng.choice((200, 250, 400))
    shape = rng.choices(("short", "long", "wide", "huge"), (0.87, 0.09, 0.035, 0.005))[0]
    agents, safety_s = rng.choice((5, 6, 8)), rng.uniform(8.0, 14.0)
    if shape == "long":
        agents, safety_s, heartbeat_ms = rng.choice((5, 6)), rng.uniform(45.0, 75.0), 500
    elif shape == "wide":
        agents = rng.choice((14, 30, 60))
    elif shape == "huge":
        agents, safety_s, heartbeat_ms = 200, 8.0, 500
    tight = rng.random() < 0.35
    return Profile(
        coordinators=coordinators,
        agents=agents,
        safety_s=safety_s,
        faults=tuple(chosen.items()) or (("crash", 1.0),),
        pause_s=rng.choice((0.4, 0.8, 2.0)) * (4 if shape == "long" else 1),
        told=rng.randint(1, coordinators),
        node_lease_ms=rng.choice((4_000, 12_000, 300_000)),
        snapshot_entries=rng.choice((50, 150, 400)),
        segment_bytes=rng.choice((8_192, 65_536)),
        heartbeat_ms=heartbeat_ms,
        election_ms=heartbeat_ms * rng.choice((4, 5)),
        skewed=rng.random() < 0.3,
        services=rng.choice((2, 3)),
        think_s=rng.choice((0.4, 0.8)) * (4 if shape == "long" else 1),
        begins_ms=rng.randrange(46_000, 58_000),
        lease_ms=10_000 if shape == "long" and rng.random() < 0.7 else rng.choice((10_000, 24 * 3_600_000)),
        cpu_millis=1_000 if tight else 4_000,
        asked_millis=(300, 600) if tight else (100, 300, 700),
        twins=rng.random() < 0.05,
    )
