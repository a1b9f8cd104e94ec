"""Proposals that wait: into this member's log while it leads, to the leader while another one does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cloudless.coordinator.engine import EngineParts
from cloudless.coordinator.raft.core.effects import Persist
from cloudless.coordinator.raft.core.events import Event, Propose
from cloudless.coordinator.raft.core.model import Role, State
from cloudless.coordinator.raft.forwarding import Forwarding
from cloudless.coordinator.raft.proposals import Proposal, Proposals
from cloudless.coordinator.raft.writer import Writer
from cloudless.coordinator.wal.record import LogEntry
from cloudless.errors import DiskFull

ENTRIES_MAX: Final = 4096  # that become entries in one turn
BYTES_MAX: Final = 8 * 2**20
UNREACHABLE_S: Final = 0.02  # until something is forwarded again
BOUNCED_S: Final = 0.005

# Room that is left on the disk for term and vote, a log segment's head, and what was accepted already.
RESERVE_BYTES: Final = 8 * 2**10
RECORD_BYTES: Final = 64  # of an entry's record, beside its data


class Intake:
    """`step` hands the core an event and carries out what it wants. `hand_over` says whether leadership is being handed
    to a member whose disk may have room."""

    def __init__(
        self,
        parts: EngineParts,
        proposals: Proposals,
        forwarding: Forwarding,
        writer: Writer,
        *,
        step: Callable[[Event], None],
        wake: Callable[[], None],
        hand_over: Callable[[], bool],
    ) -> None:
        self._parts = parts
        self._proposals = proposals
        self._forwarding = forwarding
        self._writer = writer
        self._step = step
        self._wake = wake
        self._hand_over = hand_over
        self._loop = asyncio.get_running_loop()
        self._taken: list[Proposal] = []  # of the Propose that is being stepped
        self._resting = False  # nothing is forwarded for a moment

    def pass_on(self, state: State) -> None:
        """Once in a turn. What is proposed while a group is being written makes up the next one, which leaves for the
        others at once: they may commit it before this member's disk is done with the first. What comes behind waits."""
        if state.role is Role.LEADER:
            if state.hand_over is None and not self._writer.behind:
                self._append(state.term)
        elif state.leader:
            if not self._resting and not self._forwarding.forward(state.leader):
                self.rest(UNREACHABLE_S)
        else:
            self._proposals.refuse_fenced()

    def rest(self, seconds: float) -> None:
        """Forwards nothing for so long."""
        if not self._resting:
            self._resting = True
            self._loop.call_later(seconds, self._rested)

    def entries(self, effect: Persist) -> list[LogEntry]:
        """Those that the core made of what it was offered."""
        assert effect.proposals == len(self._taken), (effect, len(self._taken))
        taken, self._taken = self._taken, []
        return self._proposals.appended(taken, first_index=effect.first_index, term=effect.term)

    def _rested(self) -> None:
        self._resting = False
        self._wake()

    def _append(self, term: int) -> None:
        """Makes what waits the next entries of the log, if the disk has room for them."""
        taken = self._proposals.take(entries_max=ENTRIES_MAX, bytes_max=BYTES_MAX, term=term)
        if not taken:
            return
        if (full := self._full(taken)) is not None:
            if self._hand_over():  # they go to the next leader
                self._proposals.again(taken)
                return
            for proposal in taken:
                self._proposals.refuse(proposal, full)
            return
        self._taken = taken
        self._step(Propose(len(taken)))
        if self._taken:  # the core takes none now
            self._proposals.again(self._taken)
            self._taken = []

    def _full(self, taken: list[Proposal]) -> DiskFull | None:
        """Asked before they are in the log: a refusal is certain then."""
        if self._writer.full is not None:
            return self._writer.full
        needed = RESERVE_BYTES + sum([len(proposal.data) + RECORD_BYTES for proposal in taken])
        needed += self._writer.unwritten_bytes
        directory = self._parts.directory
        free = self._parts.filesystem.free_bytes(directory)
        if free >= needed:
            return None
        return DiskFull(
            f"the log cannot be written: {free} bytes are free at {directory}; nothing was accepted",
            remedy="free space on the coordinator's disk; writes are accepted again as soon as there is room",
        )
