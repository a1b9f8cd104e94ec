"""Proposals on their way: into the log, through it, and back to whoever made them with their own member's outcome.

A proposal waits, is appended (this member leads) or forwarded (see `forwarding`), and is settled when the entry at its
place is applied. An appended one whose leader lost its role is settled by the entries of later terms: once one of those
is committed, nothing of an earlier term can be committed behind it (§3.6 of the dissertation: only logs that contain
it win elections, and terms in a log only grow). Such a proposal is certainly lost and is proposed again, unless it was
only for its own term.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from cloudless.coordinator.engine import Committed
from cloudless.coordinator.raft.link import ForwardResult
from cloudless.coordinator.wal.record import PAYLOAD_BYTES_MAX, LogEntry
from cloudless.coordinator.wal.single import COMMIT_SECONDS
from cloudless.errors import CloudlessError, FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable

# Bounds of what is on its way; behind them a caller is told to come back.
QUEUE_ENTRIES_MAX: Final = 16_384
QUEUE_BYTES_MAX: Final = 128 * 2**20
ENTRY_BYTES_MAX: Final = 16 * 2**20
assert ENTRY_BYTES_MAX <= PAYLOAD_BYTES_MAX

OUTCOMES_KEPT: Final = 16_384  # for answers that come after this member has applied the entry
PATIENCE_S: Final = 10.0  # for a leader, and for what became of an entry of a former leader


class Batch(Protocol):
    """Whoever forwarded proposals to this member."""

    def settle(self, place: int, result: ForwardResult) -> None: ...


class Proposal:
    """Exactly one of `future` and `batch` is there. `fence`: only to be appended in this term. `index`, `term`: where
    it was appended. `until_s`: when to give up, unless this member leads."""

    __slots__ = ("batch", "data", "fence", "future", "index", "place", "since_s", "term", "until_s")

    def __init__(
        self,
        data: bytes,
        *,
        since_s: float,
        future: asyncio.Future[Committed] | None = None,
        fence: int | None = None,
        batch: Batch | None = None,
        place: int = 0,
    ) -> None:
        self.data = data
        self.future = future
        self.fence = fence
        self.batch = batch
        self.place = place
        self.since_s = since_s
        self.until_s = since_s + PATIENCE_S
        self.index = 0
        self.term = 0

    @property
    def abandoned(self) -> bool:
        return self.future is not None and self.future.done()


def no_leader() -> Unavailable:
    return Unavailable(
        "no coordinator leads: a majority of them is not reachable",
        reason="NoLeader",
        remedy="see `cloudlessctl cluster status`; writes go on as soon as a majority runs and is connected",
    )


def outcome_unknown(why: str) -> Unavailable:
    return Unavailable(
        f"{why}; the outcome of this write is unknown",
        reason="OutcomeUnknown",
        remedy="repeat it with the same request id",
    )


def leadership_lost(fence: int) -> FailedPrecondition:
    return FailedPrecondition(
        f"this coordinator no longer leads in term {fence}",
        reason="LeadershipLost",
        remedy="nothing was written; the new leader plans anew",
    )


def queue_full(entries: int) -> ResourceExhausted:
    return ResourceExhausted(
        f"{entries} writes wait to be replicated",
        reason="ProposalQueueFull",
        remedy="try again in a moment, with fewer writes at once",
    )


def copy_of(error: CloudlessError) -> CloudlessError:
    """What a caller gets. That this member was removed is the end of this member, not of the caller's work: it goes on
    at another one."""
    if error.reason == "MemberRemoved":
        return Unavailable(error.message, reason=error.reason, remedy=error.remedy)
    return error.copy()


class Proposals:
    """See the module. `seconds` is a monotonic timer."""

    def __init__(self, *, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._waiting: deque[Proposal] = deque()
        self._appended: deque[Proposal] = deque()  # by this member in the term that it leads, by index
        self._orphans: dict[tuple[int, int], Proposal] = {}  # by (index, term), of terms in which it led before
        self._oldest_orphan_term = 0
        self._awaited: dict[int, Proposal] = {}  # committed at this index as the leader said, not applied here yet
        self._outcomes: list[tuple[int, int, Any]] = [(0, 0, None)] * OUTCOMES_KEPT
        self._held_entries = 0
        self._held_bytes = 0
        self.term = 0  # in which the appended ones were

    # Taking in

    @property
    def held(self) -> int:
        """Proposals that are not settled."""
        return self._held_entries

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def has_room(self, *, entries: int, size_bytes: int) -> bool:
        return self._held_entries + entries <= QUEUE_ENTRIES_MAX and self._held_bytes + size_bytes <= QUEUE_BYTES_MAX

    def check(self, data: bytes) -> None:
        """Raises InvalidArgument, ResourceExhausted."""
        if len(data) > ENTRY_BYTES_MAX:
            raise InvalidArgument(f"an entry has {len(data)} bytes, {ENTRY_BYTES_MAX} are allowed", reason="TooLarge")
        if not self.has_room(entries=1, size_bytes=len(data)):
            raise queue_full(self._held_entries)

    def add(self, proposal: Proposal) -> None:
        self._waiting.append(proposal)
        self._held_entries += 1
        self._held_bytes += len(proposal.data)

    def again(self, proposals: list[Proposal]) -> None:
        """These were not accepted after all: they wait in front."""
        self._waiting.extendleft(reversed(proposals))

    # On their way

    def take(self, *, entries_max: int, bytes_max: int, term: int | None) -> list[Proposal]:
        """The next ones, at least one where there is one. `term`: in which this member appends them; None: they go to
        another member, which those with a fence cannot."""
        taken: list[Proposal] = []
        size = 0
        waiting = self._waiting
        while waiting and len(taken) < entries_max:
            proposal = waiting[0]
            size += len(proposal.data)
            if taken and size > bytes_max:
                break
            waiting.popleft()
            if proposal.future is not None and proposal.future.done():  # its caller gave up
                self._release(proposal)
            elif proposal.fence is not None and proposal.fence != term:
                self.refuse(proposal, leadership_lost(proposal.fence))
            else:
                taken.append(proposal)
        return taken

    def appended(self, proposals: list[Proposal], *, first_index: int, term: int) -> list[LogEntry]:
        """They are entries of the log now, from this index on."""
        entries = []
        for index, proposal in enumerate(proposals, first_index):
            proposal.index = index
            proposal.term = term
            entries.append(LogEntry(index, term, proposal.data))
        self.term = term
        self._appended.extend(proposals)
        return entries

    def deposed(self, *, leads: bool) -> None:
        """This member no longer leads in the term that it appended in; `leads`: but in another one."""
        until_s = self._seconds() + PATIENCE_S
        for proposal in self._appended:
            proposal.until_s = until_s
            self._orphans[proposal.index, proposal.term] = proposal
        self._appended.clear()
        self._note_orphans()
        if not leads:
            for proposal in self._drop_waiting(lambda proposal: proposal.batch is not None):
                self._bounce(proposal, "NotLeader")

    def refuse_fenced(self) -> None:
        """No member leads, so that nothing fenced will be appended."""
        for proposal in self._drop_waiting(lambda proposal: proposal.fence is not None):
            assert proposal.fence is not None
            self.refuse(proposal, leadership_lost(proposal.fence))

    # Settling

    def applied(self, entry: LogEntry, outcome: Any) -> None:
        """For every entry, in order."""
        index = entry.index
        self._outcomes[index % OUTCOMES_KEPT] = (index, entry.term, outcome)
        appended = self._appended
        if appended and appended[0].index == index:
            self._commit(appended.popleft(), index, entry.term, outcome)
        if self._orphans:
            proposal = self._orphans.pop((index, entry.term), None)
            if proposal is not None:
                self._commit(proposal, index, entry.term, outcome)
            if entry.term > self._oldest_orphan_term:
                self._lose_before(entry.term)
        if self._awaited:
            proposal = self._awaited.pop(index, None)
            if proposal is not None:
                self._commit(proposal, index, entry.term, outcome)

    def installed(self, index: int, term: int) -> None:
        """A snapshot took the place of the entries up to this one."""
        for key in [key for key in self._orphans if key[0] <= index]:
            self.refuse(self._orphans.pop(key), outcome_unknown("this coordinator fell behind and was sent a snapshot"))
        for at in [at for at in self._awaited if at <= index]:
            self.refuse(self._awaited.pop(at), outcome_unknown("this coordinator fell behind and was sent a snapshot"))
        self._lose_before(term)

    def committed_at(self, proposal: Proposal, *, index: int, term: int, applied_index: int) -> None:
        """The leader says that this one is committed there."""
        if index > applied_index:
            self._awaited[index] = proposal
            proposal.until_s = self._seconds() + PATIENCE_S
            return
        at, of_term, outcome = self._outcomes[index % OUTCOMES_KEPT]
        if (at, of_term) == (index, term):
            self._commit(proposal, index, term, outcome)
        else:
            self.refuse(proposal, outcome_unknown("it was committed, but this coordinator no longer has the answer"))

    def refuse(self, proposal: Proposal, error: CloudlessError) -> None:
        self._release(proposal)
        error = copy_of(error)
        if proposal.future is not None:
            if not proposal.future.done():
                proposal.future.set_exception(error)
        elif proposal.batch is not None:
            result = ForwardResult(code=error.code, reason=error.reason, message=error.message, remedy=error.remedy)
            proposal.batch.settle(proposal.place, result)

    def refuse_waiting(self, error: CloudlessError) -> None:
        """Certainly not accepted."""
        for proposal in self._drop_waiting(lambda _: True):
            self.refuse(proposal, error)

    def refuse_appended(self, error: CloudlessError, *, behind: int) -> None:
        """Callers of this member need not wait for entries behind this one, which may still be committed. What another
        member's callers wait for is answered when it is known."""
        for proposal in self._appended:
            if proposal.index > behind and proposal.future is not None and not proposal.future.done():
                proposal.future.set_exception(copy_of(error))

    def refuse_all(self, error: CloudlessError) -> None:
        for group in (self._appended, self._waiting, list(self._orphans.values()), list(self._awaited.values())):
            for proposal in list(group):
                self.refuse(proposal, error)
        self._appended.clear()
        self._waiting.clear()
        self._orphans.clear()
        self._awaited.clear()

    def sweep(self, *, leading: bool) -> None:
        """Gives up what waited too long; to be called now and then."""
        now_s = self._seconds()
        if not leading:
            for proposal in self._drop_waiting(lambda p: p.until_s <= now_s or p.abandoned):
                self.refuse(proposal, no_leader())
        for key in [key for key, proposal in self._orphans.items() if proposal.until_s <= now_s]:
            self.refuse(self._orphans.pop(key), outcome_unknown("leadership was lost"))
        for index in [index for index, proposal in self._awaited.items() if proposal.until_s <= now_s]:
            self.refuse(self._awaited.pop(index), outcome_unknown("this coordinator is behind"))

    # Inside

    def _commit(self, proposal: Proposal, index: int, term: int, outcome: Any) -> None:
        self._held_entries -= 1
        self._held_bytes -= len(proposal.data)
        future = proposal.future
        if future is not None:
            COMMIT_SECONDS.observe(self._seconds() - proposal.since_s)
            if not future.done():
                future.set_result(Committed(index, term, outcome))
        elif proposal.batch is not None:
            proposal.batch.settle(proposal.place, ForwardResult(index, term))

    def _release(self, proposal: Proposal) -> None:
        self._held_entries -= 1
        self._held_bytes -= len(proposal.data)

    def _lose_before(self, term: int) -> None:
        lost = [key for key in self._orphans if key[1] < term]
        again = [self._orphans.pop(key) for key in lost]
        self._note_orphans()
        retry = []
        for proposal in again:
            if proposal.fence is not None:
                self.refuse(proposal, leadership_lost(proposal.fence))
            elif proposal.batch is not None:
                self._bounce(proposal, "NotCommitted")
            elif proposal.abandoned:
                self._release(proposal)
            else:
                retry.append(proposal)
        self.again(retry)

    def _note_orphans(self) -> None:
        self._oldest_orphan_term = min((term for _, term in self._orphans), default=0)

    def _bounce(self, proposal: Proposal, reason: str) -> None:
        """Back to the member that it came from, which knows then that it was not accepted here."""
        self.refuse(proposal, Unavailable("this coordinator does not lead", reason=reason))

    def _drop_waiting(self, which: Callable[[Proposal], bool]) -> list[Proposal]:
        dropped = [proposal for proposal in self._waiting if which(proposal)]
        if dropped:
            self._waiting = deque(proposal for proposal in self._waiting if not which(proposal))
        return dropped
