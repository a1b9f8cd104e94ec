"""What no Raft cluster may do, looked at after every step of every member (§3.2, figure 3.2)."""

from __future__ import annotations

from typing import Any

from cloudless.coordinator.raft.core import events as ev
from cloudless.coordinator.raft.core import messages as msg
from cloudless.coordinator.raft.core.model import Role, State
from cloudless.testing.raft_core_disk import Log, Node


class Violation(AssertionError):
    """The cluster did what no Raft may do."""


class Checker:
    """Safety, looked at after every step (§3.2, figure 3.2)."""

    def __init__(self) -> None:
        self.leaders: dict[int, str] = {}
        self.entries: dict[tuple[int, int], tuple[bytes, int]] = {}
        self.committed: dict[int, int] = {}  # index -> term
        self.applied: dict[int, bytes] = {}
        self.commit_index = 0
        self.votes: dict[tuple[str, int], str] = {}

    def check(self, condition: bool, *why: Any) -> None:
        if not condition:
            raise Violation(" ".join(str(part) for part in why))

    def stepped(self, node: Node, before: State, after: State, event: ev.Event) -> None:
        log = after.log
        if after.role is Role.LEADER and (before.role is not Role.LEADER or before.term != after.term):
            self.check(self.leaders.setdefault(after.term, after.id) == after.id, "two leaders in term", after.term)
            for index, term in self.committed.items():
                if index > log.base_index:
                    self.check(log.term_at(index) == term, "a leader lacks a committed entry", after.id, index, term)
        if before.role is Role.LEADER is after.role and before.term == after.term:
            self.check(log.last_index >= before.log.last_index, "a leader cut its log", after.id)
        self.check(after.term >= before.term, "a term went back", before, after)
        self.check(after.term > before.term or before.vote in ("", after.vote), "two votes", before, after)
        self.check(after.commit_index >= before.commit_index, "the commit index went back", before, after)
        self.check(
            log.base_index <= after.commit_index <= log.last_index
            and after.durable_index <= log.last_index
            and after.verified_index <= log.last_index
            and after.durable <= after.written
            and after.configuration is after.configurations[-1]
            and after.configurations[0].index <= after.commit_index
            and after.voters == after.configuration.voters,
            "a state that cannot be",
            event,
            after,
        )
        if after.role is Role.LEADER:
            for peer, progress in after.progress.items():
                self.check(progress.match_index < progress.next_index <= log.last_index + 1, peer, progress)

    def appended(self, log: Log, first: int) -> None:
        """Log matching, by induction: an entry is known by index and term, and so is the one before it."""
        for index in range(first, log.last_index + 1):
            entry = log.at(index)
            self.check(entry.index == index, "an entry at the wrong place", entry, index)
            before = log.term_at(index - 1)
            assert before is not None
            known = self.entries.setdefault((index, entry.term), (entry.data, before))
            self.check(known == (entry.data, before), "logs differ", index, entry.term, known, entry.data, before)

    def committed_to(self, node: Node, first: int, last: int) -> None:
        for index in range(first, last + 1):
            entry = node.log.at(index)
            self.check(self.committed.setdefault(index, entry.term) == entry.term, "committed twice", node.id, entry)
            self.check(self.applied.setdefault(index, entry.data) == entry.data, "applied two things", node.id, entry)
        self.commit_index = max(self.commit_index, last)

    def sent(self, node: Node, message: msg.Message, to: str) -> None:
        """What leaves a member, as it leaves."""
        disk = node.disk
        if type(message) is msg.VoteResponse and message.granted and not message.pre:
            self.check(disk.hard_state.term >= message.term, "a vote that is not on the disk", node.id, message)
            self.voted(node.id, message.term, to)
        elif type(message) is msg.RequestVote and not message.pre:
            self.check(disk.hard_state.term >= message.term, "a candidate without a disk", node.id, message)
            self.voted(node.id, message.term, node.id)
        elif type(message) is msg.AppendResponse and message.success and message.match_index:
            durable = max(disk.log.last_index, disk.snapshot.index if disk.snapshot else 0)
            later = node.state is not None and node.state.term > message.term  # cut by a later leader's entries
            self.check(later or durable >= message.match_index, "acknowledged too early", node.id, message, durable)
            self.check(disk.hard_state.term >= message.term, "acknowledged in a forgotten term", node.id, message)

    def voted(self, voter: str, term: int, candidate: str) -> None:
        known = self.votes.setdefault((voter, term), candidate)
        self.check(known == candidate, "voted twice", voter, term, known, candidate)
