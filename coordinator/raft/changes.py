"""Changes of who is a member, from any member: done by the leader, asked of it by the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from cloudless.coordinator.raft.core.events import AddLearner, Event, Promote, Remove, Transfer
from cloudless.coordinator.raft.core.model import Member
from cloudless.coordinator.raft.link import AnyMessage, ChangeRequest, ChangeResponse
from cloudless.coordinator.raft.proposals import copy_of, no_leader, outcome_unknown
from cloudless.errors import CloudlessError, FailedPrecondition, InvalidArgument, Unavailable

PATIENCE_S: Final = 10.0
BUSY_S: Final = 3.0  # another change takes a commit, as a rule
ANSWER_S: Final = 5.0  # then the question was lost, or its answer
PAUSE_S: Final = 0.05
NEW_LEADER_S: Final = 2.0  # until the one that took over is heard of

_REFUSALS: Final = {
    "ChangeUnderWay": (
        "another change of the coordinators is not complete yet",
        "try again in a moment; a change completes once a majority has it",
    ),
    "UnknownMember": (
        "there is no coordinator {member!r}",
        "see `cloudlessctl cluster status`",
    ),
    "NotCaughtUp": (
        "coordinator {member!r} has not caught up with the leader yet",
        "it becomes a voter by itself as soon as it has",
    ),
    "LastVoter": (
        "{member!r} is the last coordinator that votes",
        "add another coordinator first",
    ),
    "MemberIdUsed": (
        "the id {member!r} is used, or was used by a coordinator that was removed",
        "join under a new id: ids of removed coordinators never come back",
    ),
}


class Changes:
    """`feed` hands an event to the core; `leads` and `leader` say what this member knows; `wake` asks for a turn."""

    def __init__(
        self,
        *,
        member: str,
        feed: Callable[[Event], None],
        send: Callable[[str, AnyMessage], bool],
        leads: Callable[[], bool],
        leader: Callable[[], str],
        first_id: int,
    ) -> None:
        self._member = member
        self._feed = feed
        self._send = send
        self._leads = leads
        self._leader = leader
        self._next_id = first_id
        self._loop = asyncio.get_running_loop()
        self._asked: dict[int, asyncio.Future[str]] = {}  # of this member's core
        self._sent: dict[int, tuple[str, asyncio.Future[ChangeResponse]]] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        self._role_changed: asyncio.Event = asyncio.Event()
        self._failure: CloudlessError | None = None

    @property
    def under_way(self) -> bool:
        """The core was asked for one and has not answered."""
        return bool(self._asked)

    # For callers on this member

    async def change(self, kind: str, member: str, address: str = "") -> str:
        """Returns who leads afterwards. Raises as `Membership`."""
        give_up_s = self._loop.time() + PATIENCE_S
        busy_until_s = self._loop.time() + BUSY_S
        while True:
            if self._failure is not None:
                raise copy_of(self._failure)
            reason, leader = await self._try(kind, member, address)
            if not reason or (kind == "remove" and reason == "UnknownMember"):
                return leader
            if reason == "TransferFailed":
                raise Unavailable(
                    f"leadership was not taken over{f' by {member!r}' if member else ''}",
                    reason=reason,
                    remedy="see `cloudlessctl cluster status` whether it is connected and caught up, then try again",
                )
            if reason in _REFUSALS and not (reason == "ChangeUnderWay" and self._loop.time() < busy_until_s):
                message, remedy = _REFUSALS[reason]
                raise FailedPrecondition(message.format(member=member), reason=reason, remedy=remedy)
            if reason == "OutcomeUnknown" and kind == "transfer":  # the others may be repeated
                raise outcome_unknown("the connection to the leader broke")
            if reason != "ChangeUnderWay" and self._loop.time() >= give_up_s:
                raise no_leader()
            await self._pause()

    async def _try(self, kind: str, member: str, address: str) -> tuple[str, str]:
        """A reason and who leads."""
        if self._leads():
            return await self.here(kind, member, address)
        leader = self._leader()
        if not leader or leader == self._member:
            return "NotLeader", ""
        self._next_id += 1
        number = self._next_id
        future: asyncio.Future[ChangeResponse] = self._loop.create_future()
        if not self._send(leader, ChangeRequest(number, kind, member, address)):
            return "NotLeader", ""
        self._sent[number] = (leader, future)
        try:
            async with asyncio.timeout(ANSWER_S):
                response = await future
        except TimeoutError:
            return "OutcomeUnknown", ""
        finally:
            del self._sent[number]
        return response.reason, response.leader

    async def here(self, kind: str, member: str, address: str = "") -> tuple[str, str]:
        """By this member, if it leads: a reason and who leads afterwards."""
        self._next_id += 1
        number = self._next_id
        future: asyncio.Future[str] = self._loop.create_future()
        self._asked[number] = future
        event: Event
        if kind == "add":
            event = AddLearner(number, Member(member, address, voter=False))
        elif kind == "promote":
            event = Promote(number, member)
        elif kind == "remove":
            event = Remove(number, member)
        elif kind == "transfer":
            event = Transfer(number, member)
        else:
            raise InvalidArgument(f"{kind!r} is no change of the coordinators", reason="BadChange")
        try:
            self._feed(event)
            async with asyncio.timeout(PATIENCE_S):
                reason = await future
        except TimeoutError:
            return "OutcomeUnknown", ""
        finally:
            del self._asked[number]
        if kind == "transfer" and not reason:
            await self._new_leader(not_this=member != self._member)
        return reason, self._leader()

    async def _new_leader(self, *, not_this: bool) -> None:
        until_s = self._loop.time() + NEW_LEADER_S
        while self._loop.time() < until_s and (not self._leader() or (not_this and self._leader() == self._member)):
            await self._pause()

    async def _pause(self) -> None:
        self._role_changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PAUSE_S):
                await self._role_changed.wait()

    # From the engine

    def role_changed(self) -> None:
        self._role_changed.set()

    def answered(self, number: int, reason: str) -> None:
        """The core's answer."""
        future = self._asked.get(number)
        if future is not None and not future.done():
            future.set_result(reason)

    def received(self, sender: str, request: ChangeRequest) -> None:
        """Another member asks."""
        task = self._loop.create_task(self._answer(sender, request))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _answer(self, sender: str, request: ChangeRequest) -> None:
        if not self._leads():
            reason, leader = "NotLeader", self._leader()
        elif request.kind not in ("add", "promote", "remove", "transfer"):
            reason, leader = "UnknownMember", self._leader()  # a newer version's: nothing that this one could do
        else:
            reason, leader = await self.here(request.kind, request.member, request.address)
        self._send(sender, ChangeResponse(request.id, reason, leader))

    def response(self, sender: str, response: ChangeResponse) -> None:
        asked = self._sent.get(response.id)
        if asked is not None and asked[0] == sender and not asked[1].done():
            asked[1].set_result(response)

    def lost(self, member: str) -> None:
        for leader, future in self._sent.values():
            if leader == member and not future.done():
                future.set_result(ChangeResponse(0, "OutcomeUnknown"))

    def fail(self, error: CloudlessError) -> None:
        """The engine is closed, or dead."""
        self._failure = error
        for future in self._asked.values():
            if not future.done():
                future.set_result("NotLeader")
        for _, waiting in self._sent.values():
            if not waiting.done():
                waiting.set_result(ChangeResponse(0, "NotLeader"))
        self._role_changed.set()
