"""Proposals of a follower's callers: sent to the leader, many in one message, answered with their place in the log."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from cloudless.coordinator.raft.link import AnyMessage, Forward, Forwarded, ForwardResult
from cloudless.coordinator.raft.metrics import FORWARDED
from cloudless.coordinator.raft.proposals import ENTRY_BYTES_MAX, Proposal, Proposals, outcome_unknown, queue_full
from cloudless.errors import CloudlessError, Unavailable, from_code

ENTRIES_MAX: Final = 1024
BYTES_MAX: Final = 2**20
ANSWER_S: Final = 5.0  # an answer that is not here by then will not come: its message was lost
REMEMBERED: Final = 4096  # ids of each member whose repetition is recognised

# The leader says so of proposals that will never be in the log by its doing.
NOT_ACCEPTED: Final = frozenset({"NotLeader", "NotCommitted"})


class _UnderWay:
    __slots__ = ("leader", "proposals", "until_s")

    def __init__(self, leader: str, proposals: list[Proposal], until_s: float) -> None:
        self.leader = leader
        self.proposals = proposals
        self.until_s = until_s


class _Received:
    """One Forward on the leader: answered when each of its entries is settled."""

    __slots__ = ("_answer", "_open", "_results")

    def __init__(self, count: int, answer: Callable[[tuple[ForwardResult, ...]], None]) -> None:
        self._results: list[ForwardResult | None] = [None] * count
        self._open = count
        self._answer = answer

    def settle(self, place: int, result: ForwardResult) -> None:
        self._results[place] = result
        self._open -= 1
        if not self._open:
            self._answer(tuple(result for result in self._results if result is not None))


class Forwarding:
    """`first_id`: random, so that an answer to this member's last life is never taken for one to this."""

    def __init__(
        self,
        proposals: Proposals,
        *,
        send: Callable[[str, AnyMessage], bool],
        seconds: Callable[[], float],
        first_id: int,
    ) -> None:
        self._proposals = proposals
        self._send = send
        self._seconds = seconds
        self._next_id = first_id
        self._under_way: dict[int, _UnderWay] = {}
        self._seen: dict[str, tuple[deque[int], set[int]]] = {}

    # Of a follower

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def forward(self, leader: str) -> bool:
        """All that waits. False: the leader cannot be reached now."""
        while self._proposals.waiting:
            taken = self._proposals.take(entries_max=ENTRIES_MAX, bytes_max=BYTES_MAX, term=None)
            if not taken:
                continue
            self._next_id += 1
            if not self._send(leader, Forward(self._next_id, tuple([proposal.data for proposal in taken]))):
                self._proposals.again(taken)
                return False
            FORWARDED.inc(len(taken))
            self._under_way[self._next_id] = _UnderWay(leader, taken, self._seconds() + ANSWER_S)
        return True

    def answered(self, sender: str, answer: Forwarded, *, applied_index: int) -> bool:
        """Returns whether some of them have to be forwarded anew."""
        found = self._under_way.get(answer.id)
        if found is None or found.leader != sender or len(answer.results) != len(found.proposals):
            return False
        del self._under_way[answer.id]
        again = []
        for proposal, result in zip(found.proposals, answer.results, strict=True):
            if not result.code:
                self._proposals.committed_at(
                    proposal, index=result.index, term=result.term, applied_index=applied_index
                )
            elif result.reason in NOT_ACCEPTED:
                again.append(proposal)
            else:
                error = from_code(result.code, result.message, reason=result.reason, remedy=result.remedy)
                self._proposals.refuse(proposal, error)
        self._proposals.again(again)
        return bool(again)

    def leader_is(self, leader: str) -> None:
        """What is under way to another one may be lost."""
        if leader:
            self._give_up(lambda sent: sent.leader != leader, "the leader changed")

    def lost(self, member: str) -> None:
        """The connection to this member broke."""
        self._give_up(lambda sent: sent.leader == member, "the connection to the leader broke")

    def sweep(self) -> None:
        now_s = self._seconds()
        self._give_up(lambda sent: sent.until_s <= now_s, "the leader did not answer")

    def refuse_all(self, why: str) -> None:
        self._give_up(lambda _: True, why)

    def _give_up(self, which: Callable[[_UnderWay], bool], why: str) -> None:
        for number in [number for number, sent in self._under_way.items() if which(sent)]:
            for proposal in self._under_way.pop(number).proposals:
                self._proposals.refuse(proposal, outcome_unknown(why))

    # Of the leader

    def received(self, sender: str, message: Forward, *, leading: bool) -> None:
        """One message of another member; a repeated one is passed over."""
        count = len(message.entries)
        if not count or self._repeated(sender, message.id):
            return
        received = _Received(count, lambda results: self._answer(sender, message.id, results))
        error: CloudlessError | None = None
        if not leading:
            error = Unavailable("this coordinator does not lead", reason="NotLeader")
        elif any(len(data) > ENTRY_BYTES_MAX for data in message.entries) or not self._proposals.has_room(
            entries=count, size_bytes=sum(len(data) for data in message.entries)
        ):
            error = queue_full(self._proposals.held)
        if error is not None:
            result = ForwardResult(code=error.code, reason=error.reason, message=error.message, remedy=error.remedy)
            for place in range(count):
                received.settle(place, result)
            return
        now_s = self._seconds()
        for place, data in enumerate(message.entries):
            self._proposals.add(Proposal(data, since_s=now_s, batch=received, place=place))

    def _answer(self, sender: str, number: int, results: tuple[ForwardResult, ...]) -> None:
        self._send(sender, Forwarded(number, results))  # where it is lost, the sender sees the connection break

    def _repeated(self, sender: str, number: int) -> bool:
        order, known = self._seen.setdefault(sender, (deque(), set()))
        if number in known:
            return True
        known.add(number)
        order.append(number)
        if len(order) > REMEMBERED:
            known.discard(order.popleft())
        return False
