"""Where the coordinators of this fabric are reached, as of now: the log knows all of them, this process knows itself.

What is given to agents, people and join tokens comes from here, at the moment at which it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloudless.coordinator.core.state import State
from cloudless.core.model import Coordinator


class Directory:
    """Reads the newest state at each call and keeps what it found for as long as the coordinators stay the same: an
    answer that is equal to the one before is the same object. Event loop only.

    Who wants to hear of changes follows the store, looks here whenever a batch has a change of the kind "coordinator",
    and compares with `is`.
    """

    def __init__(self, coordinator_id: str, state: Callable[[], State]) -> None:
        self.coordinator_id = coordinator_id
        self.own_api: tuple[str, ...] = ()
        self.own_enroll: tuple[str, ...] = ()
        self.own_member = ""  # empty: no member listener
        self._state = state
        self._seen: Any = None  # the map of coordinators that the answers below were read from
        self._others: tuple[Coordinator, ...] = ()
        self._api: tuple[str, ...] = ()
        self._enroll: tuple[str, ...] = ()

    def listening(self, *, api: tuple[str, ...], enroll: tuple[str, ...], member: str = "") -> None:
        """Says where this coordinator itself is reached (host:port), once its listeners have their ports."""
        self.own_api, self.own_enroll, self.own_member = api, enroll, member
        self._seen = None

    def api_addresses(self) -> tuple[str, ...]:
        """host:port of the mTLS listeners of all coordinators, this one's first, the others' by id."""
        self._look()
        return self._api

    def enroll_addresses(self) -> tuple[str, ...]:
        """host:port of the enrolment listeners of all coordinators, this one's first, the others' by id."""
        self._look()
        return self._enroll

    def others(self) -> tuple[Coordinator, ...]:
        """The other coordinators that are not removed, by id. One that has not announced itself has no addresses."""
        self._look()
        return self._others

    def _look(self) -> None:
        known = self._state().coordinators
        if known is self._seen:
            return
        self._seen = known
        self._others = tuple(
            known[name] for name in sorted(known) if name != self.coordinator_id and not known[name].removed
        )
        api = _unique(self.own_api, *(other.api_addresses for other in self._others))
        enroll = _unique(self.own_enroll, *(other.enroll_addresses for other in self._others))
        # Equal answers stay the same objects: a coordinator's new version is no reason to tell every agent.
        self._api = self._api if api == self._api else api
        self._enroll = self._enroll if enroll == self._enroll else enroll


def _unique(*groups: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(address for group in groups for address in group))
