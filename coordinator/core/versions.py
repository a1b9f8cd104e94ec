"""Which commands may be proposed while coordinators of different versions are members.

Every member applies every entry, and must do the same with it. One that does not know a command would refuse what its
peers accept, and hold another state from then on. So each coordinator says which schema of entries it understands
(`EnrollCoordinator`, `AnnounceCoordinator`), and what is newer than the oldest of them is not proposed: in a rolling
upgrade, new commands begin with the last member's restart.

The fabric's level (`level`) never falls: a coordinator that would lower it is refused when it joins or starts. What a
member that lags behind reads in its own state is therefore at most too cautious.
"""

from __future__ import annotations

from cloudless.coordinator.core.commands import FOUNDATION, SCHEMA, Command, schema_of
from cloudless.coordinator.core.state import State
from cloudless.core.model import Coordinator
from cloudless.errors import FailedPrecondition


def level(state: State) -> int:
    """The schema that every coordinator of the fabric has said it understands; 0 where none has said anything."""
    furthest_behind = _furthest_behind(state)
    return 0 if furthest_behind is None else furthest_behind.schema


def schema_of_all(state: State, *, known: int = SCHEMA) -> int:
    """The newest schema that may be proposed. Without records the fabric is this coordinator alone, which understands
    `known`. A coordinator that joins proposes nothing before its own announcement was applied here."""
    return min(level(state) or known, known)


def refusal(command: Command, state: State, *, known: int = SCHEMA) -> FailedPrecondition | None:
    """Why this command must not be proposed yet (reason UpgradeNotFinished), or None."""
    needed = schema_of(command)
    if needed <= schema_of_all(state, known=known) or type(command) in FOUNDATION:
        return None
    behind = _furthest_behind(state)
    if behind is None or behind.schema >= needed:
        return FailedPrecondition(
            f"this coordinator understands log entries up to schema {known}; {type(command).__name__} is of {needed}",
            reason="UpgradeNotFinished",
            remedy="upgrade this coordinator",
        )
    return FailedPrecondition(
        f"coordinator {behind.id} still runs version {behind.version or 'unknown'}, which does not understand "
        f"{type(command).__name__} (log schema {needed}, it knows {behind.schema})",
        reason="UpgradeNotFinished",
        remedy=f"upgrade coordinator {behind.id}, or remove it: cloudlessctl cluster remove {behind.id}",
    )


def too_old(state: State, coordinator_id: str, *, schema: int) -> FailedPrecondition | None:
    """Why software that understands entries up to `schema` must not be a member (reason CoordinatorTooOld), or None:
    the log may hold what it does not understand. For who joins or starts."""
    needed = level(state)
    if schema >= needed:
        return None
    return FailedPrecondition(
        f"coordinator {coordinator_id} understands log entries up to schema {schema}, this fabric uses up to {needed}",
        reason="CoordinatorTooOld",
        remedy=f"start a version of the coordinator {coordinator_id} that is as new as the others",
    )


def _furthest_behind(state: State) -> Coordinator | None:
    members = (coordinator for coordinator in state.coordinators.values() if not coordinator.removed)
    return min(members, key=lambda member: (member.schema, member.id), default=None)
