"""How a member's engine reaches the others: messages, and the transport that carries them.

Raft's own messages are in `core.messages`. Those here belong to the shell: proposals and changes of members that a
follower passes on to the leader.

Ids of questions (Forward, ChangeRequest, ReadRequest) must not repeat over the sender's restarts, so begin at random:
the answer to a question of its last life can still reach this one, and would pass for the answer to another question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from cloudless.coordinator.raft.core.messages import Message


@dataclass(frozen=True, slots=True)
class Forward:
    """Proposals of a follower's callers, in order. `id` is the sender's own and names the answer."""

    id: int
    entries: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ForwardResult:
    """`index` and `term` of a committed entry; else `code` (of `cloudless.errors`) and `reason` say why not."""

    index: int = 0
    term: int = 0
    code: str = ""
    reason: str = ""
    message: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """One result for each entry of the Forward of this id, in order."""

    id: int
    results: tuple[ForwardResult, ...]


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """`kind`: add, promote, remove or transfer; see `coordinator.engine.Membership`. Or introduce, never answered:
    `member` is the sender, reached at `address` by whoever does not know it yet; see `connections`."""

    id: int
    kind: str
    member: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class ChangeResponse:
    """`reason` "": done; else as in `core.effects.ChangeAnswered`. `leader`: who led afterwards."""

    id: int
    reason: str = ""
    leader: str = ""


AnyMessage: TypeAlias = Message | Forward | Forwarded | ChangeRequest | ChangeResponse


class Transport(Protocol):
    """Best effort: a message arrives at most once over one connection, or not at all; nothing blocks. All methods and
    callbacks belong to the event loop."""

    def start(self, on_message: Callable[[str, AnyMessage], None], on_lost: Callable[[str], None]) -> None:
        """`on_message(sender, message)`: the sender's id is proved by its certificate. `on_lost(member)`: the
        connection to it broke; what was under way may be lost."""
        ...

    def connect(self, members: Mapping[str, str]) -> None:
        """Keeps connections to exactly these members (id -> address), this one left out; closes the others.

        Members that are not in it may still connect to this one (a leader that this learner does not know yet), if
        their certificate is of a coordinator that is not refused."""
        ...

    def refuse(self, members: frozenset[str]) -> None:
        """Ids that were removed: their connections are closed and refused."""
        ...

    def send(self, to: str, message: AnyMessage) -> bool:
        """False: dropped, because there is no connection or too much waits on it already."""
        ...

    def flush(self) -> None:
        """What was sent in this turn of the event loop need not wait for its end. Never has to be called."""
        ...

    def backlog_bytes(self, to: str) -> int:
        """What waits to be sent to it; 0 where there is no connection."""
        ...

    async def close(self) -> None: ...
