"""The simulated network of members, as one process sees it: what comes for it waits while it is frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cloudless.coordinator.raft.link import AnyMessage, Transport
from cloudless.testing.sim_raft.processes import PROCESS, Process, ProcessLoop


class ProcessTransport(Transport):
    """`sends` is told of every message that a living process sends."""

    def __init__(
        self,
        loop: ProcessLoop,
        process: Process,
        transport: Transport,
        *,
        sends: Callable[[Process, str, AnyMessage], None] = lambda process, to, message: None,
    ) -> None:
        self._loop = loop
        self._process = process
        self._transport = transport
        self._sends = sends

    def start(self, on_message: Callable[[str, AnyMessage], None], on_lost: Callable[[str], None]) -> None:
        enter, process = self._loop.enter, self._process

        def came(sender: str, message: AnyMessage) -> None:
            enter(process, on_message, sender, message)

        def lost(member: str) -> None:
            if PROCESS.get() is process:  # it was its own doing
                on_lost(member)
            else:
                enter(process, on_lost, member)

        self._transport.start(came, lost)

    def connect(self, members: Mapping[str, str]) -> None:
        self._transport.connect(members)

    def refuse(self, members: frozenset[str]) -> None:
        self._transport.refuse(members)

    def flush(self) -> None:
        self._transport.flush()

    def backlog_bytes(self, to: str) -> int:
        return self._transport.backlog_bytes(to)

    async def close(self) -> None:
        await self._transport.close()

    def send(self, to: str, message: AnyMessage) -> bool:
        if not self._process.alive:
            return False
        self._sends(self._process, to, message)
        return self._transport.send(to, message)
