"""How one run is set up and how much of each fault it gets: drawn from the seed, or given to look for one thing."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

# Every fault that `faults.Nemesis` knows, and how often it comes relative to the others.
FAULTS: Final[dict[str, float]] = {
    "power_cut": 3.0,  # in the middle of one of the next writes
    "power_off": 1.5,
    "crash": 2.0,
    "power_off_all": 0.4,
    "crash_all": 0.3,
    "stop": 1.0,
    "slow_disk": 1.0,
    "full_disk": 1.0,
    "failing_disk": 0.7,
    "lossy": 2.0,
    "isolate": 1.5,
    "isolate_leader": 2.0,
    "halves": 1.5,
    "one_way": 1.5,
    "ring": 0.7,
    "slow_link": 1.0,
    "drift": 0.8,
    "jump": 0.5,
    "freeze": 1.0,
    "freeze_leader": 1.0,
    "transfer": 1.0,
    "add": 1.0,
    "remove": 1.2,
    "replace": 0.8,
}


@dataclass(frozen=True, slots=True)
class Profile:
    """`faults`: weights by name. `pause_s`: the mean time between two of them. `think_s`: the mean time that a client
    lets pass between two operations, `bursts` how often it makes several at once. `grow`: begins with one member, to
    which the others are added. Rates of the network are chances for each message, all the time; the fault "lossy" makes
    them worse for a while. `cut_in_write`: the power of the first member goes in this operation of its disk, and soon
    after it came back once more."""

    members: int = 3
    grow: bool = False
    safety_s: float = 8.0
    faults: tuple[tuple[str, float], ...] = tuple(FAULTS.items())
    pause_s: float = 0.6
    clients: int = 3
    think_s: float = 0.25
    keys: int = 3
    reads: float = 0.4
    bursts: float = 0.1
    snapshot_entries: int = 40
    segment_bytes: int = 4096
    heartbeat_ms: int = 80
    election_ms: int = 250
    delay_max_s: float = 0.004
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    late: float = 0.0
    skewed: bool = False
    through_wire: bool = False
    cut_in_write: int = 0


# To sweep `cut_in_write` over: everything that a disk is asked to do happens within a second.
EVERY_WRITE: Final = Profile(
    safety_s=1.2,
    faults=(("transfer", 1.0),),
    pause_s=0.5,
    think_s=0.03,
    reads=0.2,
    bursts=0.1,
    snapshot_entries=10,
    segment_bytes=700,
    heartbeat_ms=60,
    election_ms=150,
)


def draw(rng: random.Random) -> Profile:
    """Each run gets about half of the faults, so that what each of them hides from the others shows too (swarm testing;
    Groce et al., 2012)."""
    chosen = {name: weight for name, weight in FAULTS.items() if rng.random() < 0.5}
    return Profile(
        members=5 if rng.random() < 0.3 else 3,
        grow=rng.random() < 0.1,
        safety_s=rng.uniform(4.0, 9.0),
        faults=tuple(chosen.items()) or (("crash", 1.0),),
        pause_s=rng.choice((0.15, 0.3, 0.6)),
        clients=rng.randint(2, 4),
        think_s=rng.choice((0.05, 0.1, 0.3)),
        keys=rng.randint(1, 4),
        reads=rng.choice((0.2, 0.4, 0.6)),
        bursts=rng.choice((0.0, 0.1, 0.3)),
        snapshot_entries=rng.choice((5, 12, 25, 60)),
        segment_bytes=rng.choice((600, 1200, 2400, 9600)),
        heartbeat_ms=rng.choice((60, 100)),
        election_ms=rng.choice((200, 300)),
        delay_max_s=rng.choice((0.002, 0.005, 0.02)),
        loss=rng.choice((0.0, 0.0, 0.02, 0.05)),
        duplicate=rng.choice((0.0, 0.02, 0.1)),
        reorder=rng.choice((0.0, 0.02, 0.2)),
        late=rng.choice((0.0, 0.0, 0.01)),
        skewed=rng.random() < 0.4,
        through_wire=rng.random() < 0.05,
    )
