"""Several session hubs in one process: what a coordinator sees of the store, and of the other coordinators.

`MemberView` lets several hubs share one store, of which one leads at a time; `LocalPeers` joins hubs without a network,
and takes them apart where a test wants it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from cloudless.api.v1 import member_pb2
from cloudless.coordinator import channels
from cloudless.coordinator.core.state import State
from cloudless.coordinator.feed import Watch
from cloudless.coordinator.sessions import SessionHub
from cloudless.coordinator.store import Snapshot, Store
from cloudless.errors import CloudlessError, FailedPrecondition, Unavailable
from cloudless.testing.streams import MemoryStream, pair


class MemberView:
    """A store as one of several members has it: `lead` says when it leads and in which term, `leader_id` whom it
    knows as the leader, `frozen` (a snapshot) lets it lag behind."""

    def __init__(self, store: Store[State], *, leader_id: str = "") -> None:
        self.store = store
        self.term = 0
        self.leading = False
        self.leader_id = leader_id
        self.frozen: Snapshot[State] | None = None
        self.proposed: list[tuple[Any, int | None]] = []
        self._listeners: list[Callable[[bool], None]] = []

    def lead(self, term: int) -> None:
        """Leads in this term; 0: no more."""
        if self.leading:
            self.leading = False
            self._tell()
        if term:
            self.term, self.leading = term, True
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener(self.leading)

    def on_leadership(self, listener: Callable[[bool], None]) -> None:
        self._listeners.append(listener)
        listener(self.leading)

    @property
    def snapshot(self) -> Snapshot[State]:
        return self.frozen or self.store.snapshot

    async def read_barrier(self) -> int:
        if not self.leader_id:
            raise Unavailable("no leader", reason="NoLeader")
        self.frozen = None
        return await self.store.read_barrier()

    def watch(self, from_index: int | None = None) -> Watch[State]:
        return self.store.watch(from_index)

    async def propose(self, command: Any, *, actor: str, term: int | None = None, **rest: Any) -> Any:
        self.proposed.append((command, term))
        if not self.leader_id:
            raise Unavailable("no leader", reason="NoLeader")
        if term is not None and not (self.leading and term == self.term):
            raise FailedPrecondition("it leads no more", reason="LeadershipLost")
        return await self.store.propose(command, actor=actor, **rest)


class LocalPeers:
    """The other hubs, by id; `cut` names those that cannot be reached from here."""

    def __init__(self, own_id: str, hubs: Mapping[str, SessionHub]) -> None:
        self._own_id = own_id
        self._hubs = hubs
        self.members: list[str] | None = None  # None: all hubs
        self._cut: dict[str, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self, coordinator_id: str) -> None:
        """Breaks the streams to it and refuses new ones."""
        self._cut.setdefault(coordinator_id, asyncio.Event()).set()

    def heal(self, coordinator_id: str) -> None:
        self._cut.pop(coordinator_id, None)

    def ids(self) -> Sequence[str]:
        return [name for name in (self._hubs if self.members is None else self.members) if name != self._own_id]

    def _broken(self, coordinator_id: str) -> asyncio.Event:
        broken = self._cut.setdefault(coordinator_id, asyncio.Event())
        if broken.is_set() or coordinator_id not in self._hubs:
            raise Unavailable(f"{coordinator_id} does not answer", reason="CoordinatorUnreachable")
        return broken

    async def observe(self, coordinator_id: str) -> AsyncGenerator[member_pb2.ObserveResponse, None]:
        broken = asyncio.ensure_future(self._broken(coordinator_id).wait())
        try:
            async with aclosing(self._hubs[coordinator_id].observe()) as answers:
                while True:
                    answer = asyncio.ensure_future(anext(answers, None))
                    try:
                        await asyncio.wait((answer, broken), return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        if not answer.done():
                            answer.cancel()
                            await asyncio.wait((answer,))
                    if broken.done():
                        raise Unavailable(f"the stream to {coordinator_id} broke", reason="StreamBroken")
                    message = answer.result()
                    if message is None:
                        return
                    # As over a network: what is changed later does not reach back.
                    yield member_pb2.ObserveResponse.FromString(message.SerializeToString())
        finally:
            broken.cancel()

    def relay(self, coordinator_id: str) -> _Relayed:
        self._broken(coordinator_id)
        near, far = pair(4)
        relayed = _Relayed(near)
        task = asyncio.ensure_future(self._serve(self._hubs[coordinator_id], far, relayed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return relayed

    async def _serve(self, hub: SessionHub, far: MemoryStream, relayed: _Relayed) -> None:
        """As the handler of RelayChannel does it."""
        try:
            start = (await far.receive()).start
            async with await hub.open_channel_here(start.node_id, start.open) as channel:
                await channels.relay(channel, far)
        except CloudlessError as error:
            relayed.failure = error
        await far.close()


class _Relayed:
    """The near end of a relayed channel; fails with what the other side failed with."""

    def __init__(self, stream: MemoryStream) -> None:
        self._stream = stream
        self.failure: CloudlessError | None = None

    async def send(self, message: member_pb2.RelayChannelRequest) -> None:
        await self._stream.send(message)

    async def receive(self) -> member_pb2.RelayChannelResponse | None:
        message: member_pb2.RelayChannelResponse | None = await self._stream.receive()
        if message is None and self.failure is not None:
            raise self.failure
        return message

    async def close(self) -> None:
        await self._stream.close()
