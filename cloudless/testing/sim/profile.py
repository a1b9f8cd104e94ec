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


@dataclass(frozen=True, slots=True)
class Profile:
    """`faults`: weights by name; `pause_s`: the mean time between two of them. `told`: how many coordinators' addresses
    an agent is enrolled with; of the others it learns. `skewed`: wall clocks differ."""

    coordinators: int = 3
    agents: int = 10
    safety_s: float = 45.0
    faults: tuple[tuple[str, float], ...] = (*OF_AGENTS.items(), *OF_COORDINATORS.items(), *OF_SEVERAL.items())
    pause_s: float = 1.5
    told: int = 1
    node_lease_ms: int = 12_000
    snapshot_entries: int = 150
    segment_bytes: int = 16_384
    heartbeat_ms: int = 200
    election_ms: int = 800
    skewed: bool = False


def draw(rng: random.Random, *, coordinators: int = 0) -> Profile:
    """`coordinators` other than 0 says how many. Each run gets about two thirds of the faults, so that what each of
    them hides from the others shows too."""
    drawn = 1 if rng.random() < 0.15 else 3
    coordinators = coordinators or drawn
    known = {**OF_AGENTS, **OF_COORDINATORS, **(OF_SEVERAL if coordinators > 1 else {})}
    chosen = {name: weight for name, weight in known.items() if rng.random() < 0.65}
    heartbeat_ms = rng.choice((100, 200, 250))
    return Profile(
        coordinators=coordinators,
        agents=rng.choice((6, 10, 14)),
        safety_s=rng.uniform(35.0, 60.0),
        faults=tuple(chosen.items()) or (("crash", 1.0),),
        pause_s=rng.choice((0.5, 1.0, 2.5)),
        told=rng.randint(1, coordinators),
        node_lease_ms=rng.choice((4_000, 12_000, 300_000)),
        snapshot_entries=rng.choice((20, 60, 400)),
        segment_bytes=rng.choice((4_096, 65_536)),
        heartbeat_ms=heartbeat_ms,
        election_ms=heartbeat_ms * rng.choice((4, 5)),
        skewed=rng.random() < 0.3,
    )
