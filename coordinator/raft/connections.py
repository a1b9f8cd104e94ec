"""To whom this member keeps connections."""

from __future__ import annotations

from typing import Final

from cloudless.coordinator.raft.core.model import State
from cloudless.coordinator.raft.link import Transport

STRANGERS_MAX: Final = 16


class Connections:
    """To the members of the configuration in force; while that is not committed, also to those before it, for a removed
    one to learn of it; and to strangers: coordinators that this member does not know, because its log is behind or
    empty, but which talk to it. Without an answer they could never help it to catch up."""

    def __init__(self, transport: Transport, *, member: str) -> None:
        self._transport = transport
        self._member = member
        self._strangers: dict[str, None] = {}  # in the order in which they were heard
        self._connected: dict[str, str] = {}
        self._refused: frozenset[str] = frozenset()

    def update(self, state: State) -> None:
        committed = state.configuration_at(max(state.commit_index, state.log.base_index))
        wanted = {member.id: member.address for member in (*committed.members, *state.configuration.members)}
        refused = frozenset(committed.removed)
        self._strangers = {member: None for member in self._strangers if member not in wanted and member not in refused}
        wanted |= dict.fromkeys(self._strangers, "")
        wanted.pop(self._member, None)
        if wanted != self._connected:
            self._connected = wanted
            self._transport.connect(wanted)
        if refused != self._refused:
            self._refused = refused
            self._transport.refuse(refused)

    def heard_from(self, sender: str, state: State) -> None:
        if sender in self._connected or sender in self._strangers or len(self._strangers) >= STRANGERS_MAX:
            return
        self._strangers[sender] = None
        self.update(state)
