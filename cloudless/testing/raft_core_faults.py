"""What goes wrong in a simulated Raft cluster, and how often."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(slots=True)
class Faults:
    """Chances per message or per `interval_ms`; times are upper bounds, in milliseconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    slow: float = 0.0  # a message that takes up to `slow_ms`, and is overtaken
    slow_ms: float = 400.0
    delay_ms: float = 3.0
    sync_ms: float = 4.0
    interval_ms: float = 120.0
    crash: float = 0.25
    partition: float = 0.35
    heal: float = 0.4
    slow_disk: float = 0.1
    unreachable: float = 0.1
    compact: float = 0.4
    change: float = 0.35
    transfer: float = 0.15
    stand: float = 0.0  # someone hears "stand for election" from its leader (§3.10), whatever its log is like
    short: float = 0.0  # of an AppendEntries, only some of the entries leave
    jump: float = 0.0  # all clocks but the leader's run ahead, so that it loses its followers while it is well

    @classmethod
    def drawn(cls, random: random.Random) -> Faults:
        pick = random.choice
        return cls(
            loss=pick((0.0, 0.02, 0.2)),
            duplicate=pick((0.0, 0.03, 0.15)),
            slow=pick((0.0, 0.05, 0.2)),
            slow_ms=pick((50.0, 400.0, 1000.0)),
            delay_ms=pick((1.0, 3.0, 20.0)),
            sync_ms=pick((1.0, 4.0, 40.0)),
            interval_ms=pick((30.0, 120.0, 300.0)),
            crash=pick((0.0, 0.2, 0.6)),
            partition=pick((0.0, 0.3, 0.7)),
            heal=pick((0.2, 0.4, 0.8)),
            slow_disk=pick((0.0, 0.1, 0.4)),
            compact=pick((0.0, 0.1, 0.5)),
            change=pick((0.0, 0.3, 0.8)),
            transfer=pick((0.0, 0.15, 0.4)),
            unreachable=pick((0.0, 0.1, 0.6)),
            stand=pick((0.0, 0.2, 0.8)),
            short=pick((0.0, 0.05, 0.5)),
            jump=pick((0.0, 0.2, 0.6)),
        )
