"""Whether this coordinator may be asked, and what it says of itself to the others.

It is ready once it has applied everything that was acknowledged before it started, and for as long as it knows a
leader. What it says (its version, its addresses) it says again whenever the log has it otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from prometheus_client import Gauge

from cloudless import __version__
from cloudless.clock import Clock
from cloudless.coordinator.core.commands import AnnounceCoordinator
from cloudless.coordinator.core.state import State
from cloudless.coordinator.directory import Directory
from cloudless.coordinator.store import Store
from cloudless.errors import CloudlessError, FailedPrecondition

READY = Gauge("cloudless_coordinator_ready", "1 while this coordinator has caught up and knows a leader.")

LEADERLESS_MS: Final = 3_000  # an election is no reason to send clients away
_LOOK_INTERVAL_S: Final = 0.1
_ANNOUNCE_RETRY_MS: Final = 1_000
_FATAL: Final = frozenset({"CoordinatorRemoved", "CoordinatorTooOld"})

log = structlog.get_logger(__name__)


class Presence:
    """`log_schema` is the newest of log entries that this coordinator's machine understands. `on_ready` is told each
    change of readiness. Event loop only."""

    def __init__(
        self,
        store: Store[State],
        directory: Directory,
        clock: Clock,
        *,
        trust_domain: str,
        log_schema: int,
        on_ready: Callable[[bool], Awaitable[None]],
    ) -> None:
        self._store = store
        self._directory = directory
        self._clock = clock
        self._trust_domain = trust_domain
        self._log_schema = log_schema
        self._on_ready = on_ready
        self._first = asyncio.Event()
        self._leader_seen_at_ms = clock.monotonic_ms()
        self._announce_at_ms = 0
        self.ready = False

    @property
    def leaderless_ms(self) -> int:
        """How long no leader has been known; 0 while one is."""
        return 0 if self._store.leader_id else self._clock.monotonic_ms() - self._leader_seen_at_ms

    async def wait_ready(self) -> None:
        """Returns once it was ready for the first time."""
        await self._first.wait()

    async def run(self) -> None:
        """Runs for ever. Raises FailedPrecondition: WrongTrustDomain (the log is of another fabric), CoordinatorTooOld
        (the log may hold what this version does not understand), CoordinatorRemoved."""
        await self._catch_up()
        await self._announce()  # first, so that nothing is written behind the back of who waited for it to be ready
        await self._set(True)
        self._first.set()
        while True:
            self._check_not_removed()
            now_ms = self._clock.monotonic_ms()
            if self._store.leader_id:
                self._leader_seen_at_ms = now_ms
                await self._set(True)
                if now_ms >= self._announce_at_ms and self._announcement() is not None:
                    await self._announce()
            elif now_ms - self._leader_seen_at_ms > LEADERLESS_MS:
                await self._set(False)
            await asyncio.sleep(_LOOK_INTERVAL_S)

    async def _catch_up(self) -> None:
        while True:
            try:
                await self._store.read_barrier()
                break
            except CloudlessError as error:
                if not error.retryable:
                    raise
                log.debug("presence.waiting", reason=error.reason, cause=error.message)
                await asyncio.sleep(_LOOK_INTERVAL_S)
        found = self._store.snapshot.state.trust_domain
        if found != self._trust_domain:
            raise FailedPrecondition(
                f"the log is of the trust domain {found}, the authority of {self._trust_domain}",
                reason="WrongTrustDomain",
                remedy="the data folder was put together from two; restore it from one backup",
            )

    def _check_not_removed(self) -> None:
        """Not every engine has members of its own."""
        own = self._store.snapshot.state.coordinators.get(self._directory.coordinator_id)
        if own is not None and own.removed:
            raise FailedPrecondition(
                f"coordinator {own.id} was removed from this fabric",
                reason="CoordinatorRemoved",
                remedy="empty the data folder; to use this machine again, add it under a new id with "
                "`cloudlessctl cluster add`",
            )

    async def _set(self, ready: bool) -> None:
        if ready is self.ready:
            return
        self.ready = ready
        READY.set(ready)
        if not ready:
            log.warning("coordinator.not_ready", cause="no leader is known")
        await self._on_ready(ready)

    def _announcement(self) -> AnnounceCoordinator | None:
        """What the log does not know yet; None: it does."""
        directory = self._directory
        wanted = AnnounceCoordinator(
            coordinator_id=directory.coordinator_id,
            version=__version__,
            log_schema=self._log_schema,
            api_addresses=directory.own_api,
            enroll_addresses=directory.own_enroll,
            member_address=directory.own_member,
        )
        known = self._store.snapshot.state.coordinators.get(directory.coordinator_id)
        if known is None:
            return wanted
        said = AnnounceCoordinator(
            known.id,
            known.version,
            known.schema,
            tuple(known.api_addresses),
            tuple(known.enroll_addresses),
            known.member_address,
        )
        return None if known.removed or said == wanted else wanted

    async def _announce(self) -> None:
        command = self._announcement()
        if command is None:
            return
        self._announce_at_ms = self._clock.monotonic_ms() + _ANNOUNCE_RETRY_MS
        try:
            await self._store.propose(command, actor=f"coordinator/{command.coordinator_id}")
        except CloudlessError as error:
            if error.reason in _FATAL:
                raise
            log.warning("coordinator.not_announced", reason=error.reason, cause=error.message)
            return
        log.info("coordinator.announced", api=command.api_addresses, member=command.member_address)
