"""What this member is, and who is told when it begins and ceases to lead."""

from __future__ import annotations

from collections.abc import Callable

from cloudless.coordinator.raft.core.model import Role, State


def role_name(state: State) -> str:
    """As in `engine.EngineStatus`."""
    if state.role is Role.LEADER:
        return "leader"
    if state.id in state.configuration.removed:
        return "removed"
    if state.id not in state.voters:
        return "learner"
    return "follower" if state.role is Role.FOLLOWER else "candidate"


class Leadership:
    """Alternates strictly between leading and not."""

    def __init__(self) -> None:
        self.leading = False
        self._listeners: list[Callable[[bool], None]] = []

    def add(self, listener: Callable[[bool], None]) -> None:
        self._listeners.append(listener)
        listener(self.leading)

    def set(self, leading: bool) -> None:
        if leading != self.leading:
            self.leading = leading
            for listener in tuple(self._listeners):
                listener(leading)
