"""What must hold at every step, seen over all members and all their lives (Ongaro, §3.2, figure 3.2, and §4.1).

The oracle is told of each step of each core, of what each member sends, applies, installs and answers, and remembers
what can never change again: who led a term, whom a member voted for, which entry is where in the log, what was
committed. It keeps the work of each step proportional to what the step did.

Beyond the properties that Raft names it checks one that makes lost writes visible long before one is lost: at every
commit, no member that lacks the entry could be elected by what is on the members' disks.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cloudless.coordinator.engine import is_internal
from cloudless.coordinator.raft.core import effects as fx
from cloudless.coordinator.raft.core import events as ev
from cloudless.coordinator.raft.core import messages as msg
from cloudless.coordinator.raft.core.model import Configuration, LogShape, Role, State
from cloudless.coordinator.wal.record import LogEntry
from cloudless.testing.sim_raft.processes import Process


class Violation(AssertionError):
    """A property that does not hold. `name` is the property's."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name}: {what}")
        self.name = name


@dataclass(slots=True)
class Disk:
    """What a member can count on after a crash now, as its core was told."""

    log: LogShape
    configuration: Configuration


@dataclass(slots=True)
class Seen:
    """What is known of one member over all its lives."""

    life: int = -1
    term: int = 0
    vote: str = ""
    commit_index: int = 0
    applied_index: int = 0
    promised: LogShape | None = None  # as of its newest acknowledgement: up to `promised_to` this must survive
    promised_to: int = 0
    promised_term: int = 0
    promised_in: int = 0  # the leader's term in which it was acknowledged
    persists: dict[int, Disk] = field(default_factory=dict)  # under way, by number
    disk: Disk | None = None
    state: State | None = None
    told: tuple[int, bool] | None = None  # what it last told its listeners, in which life


NOBODY: Final = ""


class Oracle:
    """See the module. `encode(state, index, term)` is that of the state machine. `trace` gets a line for everything of
    interest, where it is not None."""

    def __init__(
        self,
        now: Callable[[], float],
        encode: Callable[[Any, int, int], bytes],
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self.closed = False
        self.result: tuple[int, Counter[str]] = (0, Counter())  # digest and counts when the run ended
        self.counts: Counter[str] = Counter()
        self.digest = 0
        self.violation: Violation | None = None
        self.members: dict[str, Seen] = {}
        self.states: dict[int, Any] = {}  # the machine's state as of each index, as its first applier had it
        self._now = now
        self._encode = encode
        self._trace = trace
        self._leaders: dict[int, tuple[str, int]] = {}  # by term: who, in which life
        self._announced: dict[int, tuple[str, int]] = {}  # by term: who told its listeners that it leads
        self._votes: dict[tuple[str, int], str] = {}
        self._chain: dict[tuple[int, int], int] = {}  # of each entry (index, term): the term of the one before
        self._data: dict[tuple[int, int], int] = {}  # and a checksum of its data
        self._committed: list[tuple[int, int]] = [(0, 0)]  # by index: its term, and the term that it was committed in
        self._applied: list[tuple[int, int] | None] = [None]  # by index: term and checksum

    # From outside

    def fail(self, name: str, what: str) -> None:
        if self.closed:
            raise Violation(name, what)
        if self.violation is None:
            self.violation = Violation(name, what)
            self.note(f"VIOLATION {self.violation}")
        raise self.violation

    def close(self) -> None:
        """The run is over: what is left of its processes is only cleaned up, and proves nothing."""
        self.closed = True
        self.result = (self.digest, self.counts.copy())

    def note(self, line: str) -> None:
        if self._trace is not None:
            self._trace(f"{self._now():9.4f} {line}")

    @property
    def tracing(self) -> bool:
        return self._trace is not None

    def mix(self, *numbers: int) -> None:
        """Into the digest of the run."""
        self.digest = zlib.crc32(repr(numbers).encode(), self.digest)

    def forget(self, member: str) -> None:
        """Its disk is gone for good, and its id is never used again."""
        self.members.pop(member, None)

    @property
    def commit_index(self) -> int:
        return len(self._committed) - 1

    # Steps of the core

    def stepped(
        self, process: Process, before: State, event: ev.Event, after: State, effects: Sequence[fx.Effect]
    ) -> None:
        self.counts["steps"] += 1
        name = process.name
        seen = self.members.get(name)
        if seen is None:
            seen = self.members[name] = Seen()
        if seen.life != process.life:
            self._woke(process, seen, before)
        if after is not before:
            if after.term != before.term or after.vote != before.vote:
                self._hard_state(name, before, after)
            if after.role is Role.LEADER and (before.role is not Role.LEADER or before.term != after.term):
                self._elected(process, after)
            if after.configuration is not before.configuration:
                self._configured(name, before, after)
            if after.commit_index < before.commit_index:
                self.fail("commit regresses", f"{process}: {before.commit_index} to {after.commit_index}")
            if after.log.last_index > before.log.last_index + 1 and before.log.base_index != after.log.base_index:
                self._check_base(name, after)
        seen.state = after
        kind = type(event)
        if kind is ev.Persisted:
            assert isinstance(event, ev.Persisted)
            for number in [number for number in seen.persists if number <= event.number]:
                seen.disk = seen.persists.pop(number)
        elif kind is ev.SnapshotInstalled:
            seen.disk = Disk(after.log, after.configuration)
            seen.persists.clear()
            self._check_base(name, after)
            self.counts["installs"] += 1
            self.note(f"{process} installed the snapshot of {after.log.base_index}")
        elif kind is ev.Compacted and seen.disk is not None:
            to_index = min(after.log.base_index, seen.disk.log.last_index)
            seen.disk = Disk(seen.disk.log.compacted(to_index), seen.disk.configuration)
        for effect in effects:
            what = type(effect)
            if what is fx.Persist:
                assert isinstance(effect, fx.Persist)
                self._persists(process, seen, after, effect)
            elif what is fx.Commit:
                assert isinstance(effect, fx.Commit)
                self._commits(process, seen, after, effect.index)
            elif what is fx.RoleChanged:
                self.mix(process.life, after.term, after.role is Role.LEADER)
                if self.tracing:
                    self.note(f"{process} is {after.role} in term {after.term}, leader {after.leader or '?'}")

    def _woke(self, process: Process, seen: Seen, state: State) -> None:
        """The first step of a life: what was promised before must have survived."""
        if state.term < seen.term:
            self.fail("term regresses", f"{process} woke in term {state.term} after it spoke in {seen.term}")
        if state.term == seen.term and seen.vote != NOBODY and state.vote != seen.vote:
            self.fail(
                "a vote is forgotten", f"{process} voted for {seen.vote} in {seen.term}, woke with {state.vote!r}"
            )
        if seen.promised_to:
            have = state.log.term_at(seen.promised_to)
            if have != seen.promised_term and state.log.base_index < seen.promised_to:
                self.fail(
                    "acknowledged entries are lost",
                    f"{process} had acknowledged entry {seen.promised_to} of term {seen.promised_term}, woke with "
                    f"{state.log}",
                )
        if seen.life >= 0:
            self.counts["restarts"] += 1
        seen.life = process.life
        seen.persists = {}
        seen.disk = Disk(state.log, state.configuration)
        seen.commit_index = state.commit_index
        self._check_base(process.name, state)
        self._record(process, state, state.log.base_index, state.commit_index)  # a sole voter knows without others
        self.note(f"{process} woke: term {state.term} vote {state.vote!r} log {state.log} commit {state.commit_index}")

    def _hard_state(self, name: str, before: State, after: State) -> None:
        if after.term < before.term:
            self.fail("term regresses", f"{name}: {before.term} to {after.term}")
        if after.term == before.term and before.vote != NOBODY:
            self.fail("two votes in a term", f"{name} in {after.term}: {before.vote}, then {after.vote!r}")

    def _elected(self, process: Process, state: State) -> None:
        self.counts["elections"] += 1
        now = (process.name, process.life)
        was = self._leaders.setdefault(state.term, now)
        if was != now:
            self.fail("election safety", f"term {state.term} is led by {was} and {now}")
        # Leader completeness: everything that was committed in an earlier term is in its log (§3.6.3).
        for index in range(len(self._committed) - 1, 0, -1):
            term, committed_in = self._committed[index]
            if committed_in < state.term:
                have = state.log.term_at(index)
                if have != term and index > state.log.base_index:
                    self.fail(
                        "leader completeness",
                        f"{process} leads term {state.term} without entry {index} of term {term}, committed in term "
                        f"{committed_in}; it has {state.log}",
                    )
                break

    def _configured(self, name: str, before: State, after: State) -> None:
        """One change at a time, by one voter (§4.1)."""
        old, new = before.configuration, after.configuration
        if new.index <= old.index or after.role is not Role.LEADER or new.index <= before.log.last_index:
            return
        self.counts["configurations"] += 1
        self.note(f"{name} appends configuration {new.index}: {[(m.id, m.voter) for m in new.members]}")
        if old.index > before.commit_index:
            self.fail("one change at a time", f"{name} appends {new.index} while {old.index} is not committed")
        if before.log.term_at(before.commit_index) != after.term:
            self.fail("one change at a time", f"{name} appends {new.index} before an entry of its term is committed")
        if len(set(old.voters) ^ set(new.voters)) > 1:
            self.fail("one change at a time", f"{name} changes the voters {old.voters} to {new.voters}")

    def _check_base(self, name: str, state: State) -> None:
        base, term = state.log.base_index, state.log.base_term
        if 0 < base < len(self._committed) and self._committed[base][0] != term:
            self.fail("log matching", f"{name}'s log starts behind {base} of {term}, committed {self._committed[base]}")

    def _persists(self, process: Process, seen: Seen, state: State, effect: fx.Persist) -> None:
        if effect.truncate_from:
            self.counts["truncations"] += 1
            if effect.truncate_from <= max(seen.commit_index, state.commit_index):
                self.fail("a committed entry is cut", f"{process} cuts from {effect.truncate_from}: {state}")
            if seen.promised_to >= effect.truncate_from:
                if seen.promised_in == state.term:
                    self.fail(
                        "acknowledged entries are lost",
                        f"{process} cuts from {effect.truncate_from} in term {state.term}, in which it had "
                        f"acknowledged {seen.promised_to}",
                    )
                seen.promised_to = effect.truncate_from - 1
                seen.promised_term = state.log.term_at(seen.promised_to) or 0
                if not seen.promised_term:
                    seen.promised_to = 0
        log = state.log
        if effect.number == state.written:  # of several in one step, only the last makes the log what it is now
            seen.persists[effect.number] = Disk(log, state.configuration)
        for entry in effect.entries:
            self._chains(process, log, entry.index, entry.term)
            self._holds(process, entry)
        for index in range(effect.first_index, effect.first_index + effect.proposals):
            self._chains(process, log, index, effect.term)

    def _chains(self, process: Process, log: LogShape, index: int, term: int) -> None:
        """Log matching: entries of one index and term follow entries of one term, and so on down (§3.5)."""
        before = log.term_at(index - 1)
        if before is None:
            return
        known = self._chain.setdefault((index, term), before)
        if known != before:
            self.fail("log matching", f"{process}: ({index}, {term}) follows term {before}, elsewhere {known}")

    def _holds(self, process: Process, entry: LogEntry) -> int:
        checksum = zlib.crc32(entry.data)
        if self._data.setdefault((entry.index, entry.term), checksum) != checksum:
            self.fail("log matching", f"{process}: entry ({entry.index}, {entry.term}) has other data elsewhere")
        return checksum

    def _commits(self, process: Process, seen: Seen, state: State, index: int) -> None:
        if index < seen.commit_index:
            self.fail("commit regresses", f"{process}: {seen.commit_index} to {index}")
        if index > state.log.last_index:
            self.fail("commit behind the end", f"{process}: {index}, the log ends at {state.log.last_index}")
        self._record(process, state, max(seen.commit_index, state.log.base_index - 1), index)
        if index > seen.commit_index:
            seen.commit_index = index
            self.mix(process.life, index, state.term)
            if state.role is Role.LEADER:
                if state.log.term_at(index) != state.term:
                    self.fail("commits by counting only its own term's entries", f"{process} commits {index}: {state}")
                self._stays(process, state, index)

    def _record(self, process: Process, state: State, behind: int, index: int) -> None:
        """What is committed once, is committed for ever, in this place."""
        committed = self._committed
        for at in range(behind + 1, index + 1):
            term = state.log.term_at(at)
            if at < len(committed):
                if term is not None and committed[at][0] != term:
                    self.fail("state machine safety", f"{process} commits ({at}, {term}), committed: {committed[at]}")
            elif at == len(committed) and term is not None:
                committed.append((term, state.term))
            else:
                self.fail("commit out of nowhere", f"{process} commits {at} of {state.log}, known {len(committed) - 1}")

    def _stays(self, process: Process, state: State, index: int) -> None:
        """Nobody who lacks the entry could win an election by what is on the disks: it can never be lost."""
        term = state.log.term_at(index)
        for name, seen in self.members.items():
            disk = seen.disk
            if disk is None or name not in disk.configuration.voters:
                continue
            log = disk.log
            if log.base_index >= index or log.term_at(index) == term:
                continue
            own = (log.last_term, log.last_index)
            votes = 0
            for voter in disk.configuration.voters:
                other = self.members.get(voter)
                if voter == name or (
                    other and other.disk and (other.disk.log.last_term, other.disk.log.last_index) <= own
                ):
                    votes += 1
            if votes > len(disk.configuration.voters) // 2:
                self.fail(
                    "a committed entry could be lost",
                    f"{process} commits ({index}, {term}) in term {state.term}; {name} with {log} lacks it and could "
                    f"be elected by {votes} of {disk.configuration.voters}",
                )

    # Messages that leave

    def sends(self, process: Process, to: str, message: Any) -> None:
        """What a member promises with a message has to be kept over all its lives."""
        kind = type(message)
        if kind is msg.AppendEntries:
            return
        self.counts["messages"] += 1
        if kind is msg.AppendResponse:
            if message.success and message.match_index:  # without, it promises nothing: not even its term
                self._speaks(process, message.term)
                self._acknowledges(process, message)
        elif kind is msg.RequestVote and not message.pre:
            self._speaks(process, message.term)
            self._votes_for(process, message.term, process.name)
        elif kind is msg.VoteResponse and message.granted and not message.pre:
            self._speaks(process, message.term)
            self._votes_for(process, message.term, to)

    def _acknowledges(self, process: Process, message: msg.AppendResponse) -> None:
        seen = self.members[process.name]
        state = seen.state
        # In a later term the log may have changed since; then this message is of no use to its receiver either.
        if state is not None and state.term == message.term and message.match_index > seen.promised_to:
            term = state.log.term_at(message.match_index)
            if term is not None:
                seen.promised_to, seen.promised_term = message.match_index, term
                seen.promised_in = message.term

    def _speaks(self, process: Process, term: int) -> None:
        seen = self.members[process.name]
        if term > seen.term:
            seen.term, seen.vote = term, NOBODY

    def _votes_for(self, process: Process, term: int, candidate: str) -> None:
        was = self._votes.setdefault((process.name, term), candidate)
        if was != candidate:
            self.fail("two votes in a term", f"{process} votes for {candidate} in {term}, voted for {was}")
        seen = self.members[process.name]
        if term == seen.term:
            seen.vote = candidate

    # The state machine

    def applies(self, process: Process, entry: LogEntry, before: int) -> None:
        """`before`: the host's applied index before this entry."""
        if entry.index != before + 1:
            self.fail("applied in order", f"{process} applies {entry.index} behind {before}")
        seen = self.members.get(process.name)
        if seen is not None and seen.life == process.life and entry.index > seen.commit_index:
            self.fail("applied before it is committed", f"{process} applies {entry.index} of {seen.commit_index}")
        now = (entry.term, zlib.crc32(entry.data))
        applied = self._applied
        while len(applied) <= entry.index:
            applied.append(None)
        was = applied[entry.index]
        if was is None:
            applied[entry.index] = now
        elif was != now:
            self.fail("state machine safety", f"{process} applies {entry.index} as {now}, elsewhere {was}")
        if entry.index < len(self._committed) and self._committed[entry.index][0] != entry.term:
            self.fail(
                "state machine safety",
                f"{process} applies ({entry.index}, {entry.term}), committed {self._committed[entry.index]}",
            )
        self.counts["applied"] += 1
        if is_internal(entry.data):
            self.counts["internal"] += 1

    def applied(self, index: int, host: Any) -> None:
        if index not in self.states:
            self.states[index] = host.snapshot.state

    def took(self, process: Process, index: int, term: int, body: bytes) -> None:
        """A snapshot became its state: byte by byte the one that applying the entries up to there led to."""
        known = self._committed[index][0] if index < len(self._committed) else term
        if known != term:
            self.fail("state machine safety", f"{process} took the snapshot ({index}, {term}), committed term {known}")
        state = self.states.get(index)
        if state is None:
            self.fail("snapshot out of nowhere", f"{process} took one of {index}, which nobody has applied")
        elif self._encode(state, index, term) != body:
            self.fail("state machine safety", f"{process} took a snapshot of {index} with another state")

    # Leadership, as the store's users see it

    def announced(self, process: Process, term: int, leading: bool) -> None:
        seen = self.members.setdefault(process.name, Seen())
        if seen.told == (process.life, leading):
            self.fail("leadership alternates", f"{process} is told twice: leading={leading}")
        seen.told = (process.life, leading)
        if leading:
            now = (process.name, process.life)
            was = self._announced.setdefault(term, now)
            if was != now:
                self.fail("election safety", f"{was} and {now} lead term {term}")
            if self._leaders.get(term) != now:
                self.fail("leads without an election", f"{now} in term {term}, elected: {self._leaders.get(term)}")
        self.mix(process.life, term, leading)
        self.note(f"{process} {'leads' if leading else 'no longer leads'} (term {term})")

    # Clients

    def acknowledged(self, index: int, fence: int | None = None) -> None:
        """`fence`: the term in which alone it might be committed."""
        if index >= len(self._committed):
            self.fail("acknowledged before it is committed", f"{index}, committed {len(self._committed) - 1}")
        if fence is not None and self._committed[index][0] != fence:
            self.fail("fenced", f"{index} of term {self._committed[index][0]} was only to be committed in {fence}")
