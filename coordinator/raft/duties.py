"""What a member does now and then: gives up what waited too long, measures, and what else a leader owes the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from cloudless.coordinator.raft import metrics
from cloudless.coordinator.raft.core.events import Measured
from cloudless.coordinator.raft.core.model import Role
from cloudless.errors import FailedPrecondition, Unavailable

if TYPE_CHECKING:
    from cloudless.coordinator.raft.driver import Driver

log = structlog.get_logger(__name__)

PERIOD_S: Final = 0.2
MEASURE_S: Final = 1.0
HAND_OVER_AGAIN_S: Final = 1.0  # of a leader with a full disk


class Duties:
    """`address` is that of this member, as it is now."""

    def __init__(self, driver: Driver, *, address: str) -> None:
        self._driver = driver
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._measured_s = self._loop.time()
        self._handed_over_s = self._measured_s - HAND_OVER_AGAIN_S
        self.handing_over = False  # because the disk is full
        self._announcing = False
        self._stopped = False

    def arm(self) -> None:
        """At the end of each turn: a member alone that has nothing to do is left asleep."""
        if self._timer is None and not self._stopped and self._needed():
            self._timer = self._loop.call_later(PERIOD_S, self._do)

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _needed(self) -> bool:
        driver = self._driver
        return bool(
            len(driver.state.configuration.members) > 1
            or driver.proposals.held
            or not driver.reads.idle
            or driver.writer.full is not None
        )

    def _do(self) -> None:
        self._timer = None
        driver, now_s = self._driver, self._loop.time()
        state = driver.state
        leads = state.role is Role.LEADER
        driver.proposals.sweep(leading=leads)
        driver.forwarding.sweep()
        driver.reads.sweep()
        driver.serving.sweep()
        if now_s - self._measured_s >= MEASURE_S:
            self._measured_s = now_s
            self._measure()
        if leads and state.hand_over is None:
            self._lead_on()
        if state.role is not Role.FOLLOWER:
            driver.connections.introduce(member.id for member in state.configuration.members)
        self._announce_when_moved()
        driver.wake()

    def _measure(self) -> None:
        driver = self._driver
        state = driver.state
        others = tuple(voter for voter in state.voters if voter != state.id)
        driver.feed(Measured(driver.round_trips.slowest_ms(others), driver.sync_ms.value_ms))
        for member, progress in state.progress.items():
            metrics.PEER_LAG.labels(member).set(state.log.last_index - progress.match_index)

    def _lead_on(self) -> None:
        """Learners that have caught up become voters; with a full disk somebody else had better lead."""
        driver = self._driver
        state = driver.state
        if driver.writer.full is not None and len(state.voters) > 1:
            self.hand_over()
        elif not driver.changes.under_way:
            learner = next((m.id for m in state.configuration.members if not m.voter and self._caught_up(m.id)), "")
            if learner:
                driver.spawn(self._ask("promote", learner))

    def hand_over(self) -> bool:
        """Of a leader whose disk is full. False: there is nobody to hand it to, or that was tried a moment ago."""
        now_s = self._loop.time()
        alone = len(self._driver.state.voters) < 2
        if alone or self.handing_over or now_s - self._handed_over_s < HAND_OVER_AGAIN_S:
            return self.handing_over
        self._handed_over_s = now_s
        self.handing_over = True
        self._driver.spawn(self._hand_over())
        return True

    async def _hand_over(self) -> None:
        try:
            await self._ask("transfer", "")
        finally:
            self.handing_over = False
            self._driver.wake()

    def _caught_up(self, member: str) -> bool:
        """As far as it is worth asking the core."""
        state = self._driver.state
        progress = state.progress.get(member)
        return progress is not None and progress.match_index >= state.term_start > 0

    async def _ask(self, kind: str, member: str) -> None:
        reason, leader = await self._driver.changes.here(kind, member)
        log.info("raft.asked", change=kind, member=member, reason=reason, leader=leader)

    def _announce_when_moved(self) -> None:
        state = self._driver.state
        own = state.configuration.get(state.id)
        if own is not None and own.address != self._address and state.leader and not self._announcing:
            self._announcing = True
            self._driver.spawn(self._announce())

    async def _announce(self) -> None:
        """Tells the others where this member is now."""
        member = self._driver.state.id
        try:
            await self._driver.changes.change("add", member, self._address)
        except (FailedPrecondition, Unavailable) as error:
            log.info("raft.not_announced", member=member, address=self._address, cause=error.message)
        finally:
            self._announcing = False
