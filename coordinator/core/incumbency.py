"""Two agents with one identity: which of them is the node.

A data folder that was copied, a virtual machine that was cloned. The one that is there stays, and the newcomer is
refused; but an agent that was restarted finds its own former self there, whose connection may look alive for a while.
So the one that is there (the incumbent) is asked: heard again a heartbeat interval after the newcomer came, it is
another one that lives. What it had sent before it died is read sooner than that. Its connection broken, or silent for
as long as its word is good, it was the newcomer's former self, or is gone.

The boot's id says nothing here: containers on one machine share it, and so does a clone of a machine that ran.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

SAME_TIME_MS: Final = 1_000  # what two coordinators tell of each other's sessions is no more exact


class Answer(Enum):
    """What becomes of the newcomer."""

    ADMITTED = "admitted"
    REFUSED = "refused"
    WAITS = "waits"


@dataclass(frozen=True, slots=True)
class Claim:
    """One agent's session. Times are monotonic ms of this coordinator."""

    instance_id: str
    began_at_ms: int
    heard_at_ms: int


def ask(incumbent: Claim, *, arrived_at_ms: int, interval_ms: int, timeout_ms: int, now_ms: int) -> Answer:
    """Whether a newcomer is let in beside an incumbent of another instance whose session stands. `timeout_ms`: as long
    is the incumbent's last word good."""
    if incumbent.heard_at_ms >= arrived_at_ms + interval_ms:
        return Answer.REFUSED
    return Answer.ADMITTED if now_ms >= incumbent.heard_at_ms + timeout_ms else Answer.WAITS


def came_first(one: Claim, other: Claim) -> bool:
    """Whether `one` is the incumbent of the two; both coordinators say the same."""
    if abs(one.began_at_ms - other.began_at_ms) > SAME_TIME_MS:
        return one.began_at_ms < other.began_at_ms
    return one.instance_id < other.instance_id
