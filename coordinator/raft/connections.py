"""To whom this member keeps connections."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cloudless.coordinator.raft.core.model import State
from cloudless.coordinator.raft.link import ChangeRequest, Transport

STRANGERS_MAX: Final = 16
INTRODUCTION: Final = "introduce"  # the kind of ChangeRequest that says where its sender is reached; not answered


class Connections:
    """To the members of the configuration in force; while that is not committed, also to those before it, for a removed
    one to learn of it; and to strangers: members that this one does not know, because its log is behind or empty.
    Without an answer those could never help it to catch up, nor win its vote; so whoever needs answers and hears
    nothing introduces itself."""

    def __init__(self, transport: Transport, *, member: str, address: str) -> None:
        self._transport = transport
        self._member = member
        self._address = address
        self._strangers: dict[str, str] = {}  # in the order in which they were heard
        self._connected: dict[str, str] = {}
        self._refused: frozenset[str] = frozenset()
        self._heard: set[str] = set()

    def update(self, state: State) -> None:
        committed = state.configuration_at(max(state.commit_index, state.log.base_index))
        wanted = {member.id: member.address for member in (*committed.members, *state.configuration.members)}
        refused = frozenset(committed.removed)
        self._strangers = {m: at for m, at in self._strangers.items() if m not in wanted and m not in refused}
        wanted |= self._strangers
        wanted.pop(self._member, None)
        if wanted != self._connected:
            self._connected = wanted
            self._transport.connect(wanted)
        if refused != self._refused:
            self._refused = refused
            self._transport.refuse(refused)

    def heard_from(self, sender: str) -> None:
        self._heard.add(sender)

    def introduce(self, members: Iterable[str]) -> None:
        """To those of these members that said nothing since the last call."""
        for member in members:
            if member not in self._heard and member != self._member:
                self._transport.send(member, ChangeRequest(0, INTRODUCTION, self._member, self._address))
        self._heard.clear()

    def introduced(self, sender: str, address: str, state: State) -> None:
        """It is reached there. Where this member knows it already, the configuration is right about its address."""
        if sender in self._connected and sender not in self._strangers:
            return
        self._strangers.pop(sender, None)
        if len(self._strangers) >= STRANGERS_MAX:
            del self._strangers[next(iter(self._strangers))]
        self._strangers[sender] = address
        self.update(state)
