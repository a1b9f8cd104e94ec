"""One Raft core under a test's hands: what it is fed, what it then wants, and a disk that is synced on demand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from cloudless.coordinator.raft.core import effects as fx
from cloudless.coordinator.raft.core import events as ev
from cloudless.coordinator.raft.core.messages import AppendEntries, AppendResponse, Message, RequestVote, VoteResponse
from cloudless.coordinator.raft.core.model import Configuration, LogShape, Member, Role, State, Timing
from cloudless.coordinator.raft.core.start import initial
from cloudless.coordinator.raft.core.step import step
from cloudless.coordinator.wal.record import HardState, LogEntry


def configuration(voters: Iterable[str], learners: Iterable[str] = (), *, index: int = 0) -> Configuration:
    members = [Member(name, f"{name}:1") for name in voters] + [Member(name, f"{name}:1", False) for name in learners]
    return Configuration("test", tuple(sorted(members, key=lambda member: member.id)), (), index)


def entries(first: int, terms: Sequence[int]) -> tuple[LogEntry, ...]:
    """Whose data says what they are."""
    return tuple(LogEntry(first + i, term, b"%d/%d" % (first + i, term)) for i, term in enumerate(terms))


class CoreMember:
    """`terms` are those of the log behind (`base_index`, `base_term`). The clock stands at `now_ms` until a test moves
    it. Nothing is on the disk before `sync`, except with `auto_sync`."""

    def __init__(
        self,
        name: str = "a",
        voters: Iterable[str] = "abc",
        *,
        learners: Iterable[str] = (),
        term: int = 0,
        vote: str = "",
        terms: Sequence[int] = (),
        base_index: int = 0,
        base_term: int = 0,
        configurations: Sequence[Configuration] = (),
        auto_sync: bool = True,
    ) -> None:
        self.name = name
        self.now_ms = 10_000.0
        self.auto_sync = auto_sync
        self.timing = Timing(heartbeat_ms=50, election_ms=250)
        self.effects: list[fx.Effect] = []
        self._held: list[fx.Send] = []
        self._data = {entry.index: entry for entry in entries(base_index + 1, terms)}
        self._sent: list[tuple[str, Message]] = []
        self.state: State = initial(
            name,
            hard_state=HardState(term, vote),
            log=LogShape.of(base_index, base_term, terms),
            configurations=configurations or [configuration(voters, learners)],
            snapshot_index=base_index,
            snapshot_term=base_term,
            timing=self.timing,
            now_ms=self.now_ms,
            jitter=0.5,
        )

    def feed(self, event: ev.Event) -> list[tuple[str, Message]]:
        """The messages that leave; with `auto_sync` also those that waited for the disk."""
        self._step(event)
        while self.auto_sync and self.state.durable < self.state.written:
            self._step(self._all_durable())
        return self.take()

    def sync(self) -> list[tuple[str, Message]]:
        """Everything is on the disk; the messages that waited for it, and those that follow."""
        self._step(self._all_durable())
        return self.take()

    def _all_durable(self) -> ev.Persisted:
        return ev.Persisted(self.state.written, self.state.log.last_index, self.state.log.last_term)

    def _step(self, event: ev.Event) -> None:
        self.state, effects = step(self.state, event, now_ms=self.now_ms, jitter=0.5)
        self.effects.extend(effects)
        for effect in effects:
            if isinstance(effect, fx.Send):
                self._held.append(self._filled(effect))
            elif isinstance(effect, fx.Persist):
                made = entries(effect.first_index, [effect.term] * effect.proposals)
                self._data |= {entry.index: entry for entry in (*effect.entries, *made)}
        self._release()

    def _filled(self, send: fx.Send) -> fx.Send:
        message = send.message
        if not send.fill_to or not isinstance(message, AppendEntries):
            return send
        whole = tuple(self._data[index] for index in range(message.previous_index + 1, send.fill_to + 1))
        return fx.Send(send.to, replace(message, entries=whole), send.after)

    def receive(self, sender: str, message: Message) -> list[tuple[str, Message]]:
        return self.feed(ev.Received(sender, message))

    def tick(self, after_ms: float | None = None) -> list[tuple[str, Message]]:
        """`after_ms` None: when it is due."""
        self.now_ms = max(self.now_ms, self.state.due_ms) if after_ms is None else self.now_ms + after_ms
        return self.feed(ev.Tick())

    def take(self) -> list[tuple[str, Message]]:
        self._release()
        sent, self._sent = self._sent, []
        return sent

    def took(self, kind: type) -> list[fx.Effect]:
        """All effects of this kind since the last call of any such."""
        found = [effect for effect in self.effects if type(effect) is kind]
        self.effects.clear()
        return found

    def _release(self) -> None:
        durable = self.state.durable
        self._sent.extend((send.to, send.message) for send in self._held if send.after <= durable)
        self._held = [send for send in self._held if send.after > durable]

    # Short cuts

    def lead(self) -> CoreMember:
        """Elected by all other voters."""
        assert self.auto_sync
        self.tick()
        for pre in (True, False):
            for voter in self.state.voters:
                if voter != self.name and self.state.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
                    term = self.state.term + (1 if pre else 0)
                    self.receive(voter, VoteResponse(term, True, pre))
        assert self.state.role is Role.LEADER, self.state
        self.effects.clear()
        return self

    def acknowledge(self, *peers: str, index: int | None = None) -> list[tuple[str, Message]]:
        """These have the log up to there (None: all of it)."""
        sent = []
        for peer in peers:
            match = self.state.log.last_index if index is None else index
            sent += self.receive(peer, AppendResponse(self.state.term, True, match, self.state.round))
        return sent

    def follow(self, leader: str, term: int, *, commit_index: int = 0) -> CoreMember:
        """Heard of a leader, which has the same log."""
        log = self.state.log
        self.receive(leader, AppendEntries(term, log.last_index, log.last_term, commit_index, 1))
        assert self.state.leader == leader
        self.effects.clear()
        return self

    def asked(self, sender: str, term: int, *, last: tuple[int, int] = (99, 99), **how: bool) -> VoteResponse | None:
        """Its answer to a RequestVote of a log that ends in `last` (index, term)."""
        answers = self.receive(sender, RequestVote(term, last[0], last[1], **how))
        return next((m for to, m in answers if to == sender and isinstance(m, VoteResponse)), None)


def pump(*members: CoreMember, first: Iterable[tuple[str, str, Message]] = (), limit: int = 1000) -> int:
    """Carries messages between these until none is under way; returns how many there were. Those to others are lost."""
    known = {member.name: member for member in members}
    queue = list(first)
    for member in members:
        queue += [(member.name, to, message) for to, message in member.take()]
    count = 0
    while queue:
        sender, to, message = queue.pop(0)
        if to in known:
            count += 1
            assert count < limit, "messages without end"
            queue += [(to, further, answer) for further, answer in known[to].receive(sender, message)]
    return count
