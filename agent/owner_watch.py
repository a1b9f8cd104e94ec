"""Keeps track of what the owner of the device allows now, and says when that changes.

Looked at every second: the owner's files by their time stamps, the device's clock, power and link. A file that cannot
be read changes nothing: the last good terms hold, also those of an earlier life of the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import Gauge

from cloudless.agent import owner_file
from cloudless.agent.core import owner
from cloudless.agent.device import Conditions
from cloudless.agent.device.power import Power
from cloudless.clock import Clock
from cloudless.config import AgentConfig, OwnerConfig
from cloudless.core.model import OwnerTerms
from cloudless.errors import CloudlessError, InvalidArgument
from cloudless.identity.files import write_private

log = structlog.get_logger(__name__)

ACCEPTING = Gauge("cloudless_owner_accepting", "1 while the owner of this device lets it take new work.")
EVICTING = Gauge("cloudless_owner_evicting", "1 while the owner of this device lets nothing run.")

_INTERVAL_S: Final = 1.0
_ASK_ANDROID: Final = "on Android, install Termux:API and its app"
STATE_FILE: Final = "owner.state.json"


class OwnerWatch:
    """Event loop only. `terms`, `verdict` and `told` are as of the last `look`; `terms` is None while nobody knows
    them. `on_change` is called whenever one of them became another, from `run` alone."""

    def __init__(self, config: AgentConfig, conditions: Conditions, clock: Clock) -> None:
        """Raises InvalidArgument when the settings themselves are wrong."""
        self._config = config
        self._conditions = conditions
        self._clock = clock
        self._zone = owner_file.zone_of(config.owner)
        self._settings = owner_file.read_terms(config.owner)
        self._terms_path, self._pause_path = owner_file.terms_file(config), owner_file.pause_file(config)
        self._seen: tuple[object, object] | None = None
        self._pause: owner_file.Pause | None = None
        self._problem = ""
        self._warning = ""
        self._started = False
        self._poked = asyncio.Event()
        self._since_ms = clock.now_ms()
        self.terms: owner.Terms | None = self._settings
        self.verdict = owner.Verdict()
        self.told = OwnerTerms()

    @property
    def limits(self) -> OwnerConfig:
        """The owner's limits of the device's capacity, now."""
        if self.terms is None:
            return self._config.owner
        terms = self.terms
        return dataclasses.replace(
            self._config.owner, share=terms.share, cpu_millis=terms.cpu_millis, memory_bytes=terms.memory_bytes
        )

    def poke(self) -> None:
        """Has the files read again at once, changed or not."""
        self._seen = None
        self._poked.set()

    async def start(self) -> None:
        """A look, before anything is run. Repeatable."""
        await self.look()
        self._started = True
        await self._note()

    async def run(self, on_change: Callable[[], None]) -> None:
        """Looks until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL_S):
                    await self._poked.wait()
            self._poked.clear()
            before = self._all()
            await self.look()
            if self._all() != before:
                await self._note()
                on_change()

    def _all(self) -> object:
        return self.terms, self.told, self._problem, self._warning

    async def look(self) -> None:
        """One look, without telling anybody."""
        seen = (_stamp(self._terms_path), _stamp(self._pause_path))
        if seen != self._seen:
            await asyncio.to_thread(self._read)
            self._seen = seen
        self._conditions.refresh()
        now_ms, power = self._clock.now_ms(), self._conditions.power
        weekday, minute = local_time(now_ms, self._zone)
        situation = owner.Situation(
            weekday=weekday,
            minute=minute,
            paused=self._pause is not None and self._pause.holds(now_ms),
            power_source=power.source,
            battery_percent=power.battery_percent,
            metered=self._conditions.metered,
        )
        before = self.verdict
        self.verdict = owner.decide(self.terms, situation, battery_low=before.battery_low)
        self.told = owner.told(self.terms, self.verdict)
        if (before.accepting, before.reason) != (self.verdict.accepting, self.verdict.reason):
            self._since_ms = now_ms
            step = f"{before.reason or 'Accepting'}->{self.verdict.reason or 'Accepting'}"
            log.info("owner.changed", transition=step, evicting=self.verdict.evicting, message=self.verdict.message)
        self._warn(power)
        ACCEPTING.set(self.verdict.accepting)
        EVICTING.set(self.verdict.evicting)

    def _warn(self, power: Power) -> None:
        """Says once that a floor is stated which nobody can hold the device to."""
        floor = self.terms.battery_floor_percent if self.terms else 0
        blind = floor > 0 and power.source != "mains" and power.battery_percent < 0
        if blind and not self._warning:
            log.warning("owner.battery_unknown", floor_percent=floor, remedy=_ASK_ANDROID)
        self._warning = (
            f"the battery's level cannot be read, so its floor does nothing: {_ASK_ANDROID}" if blind else ""
        )

    def _read(self) -> None:
        """What the files say. In a thread: a card that stalls must not hold up the agent."""
        good = owner_file.good_file(self._config)
        self._pause = owner_file.read_pause(self._pause_path)
        try:
            found = owner_file.read_terms(self._config.owner, self._terms_path)
        except InvalidArgument as error:
            if error.message != self._problem:
                log.error("owner.terms_bad", cause=error.message, remedy=error.remedy)
            if not self._started:
                self.terms = self._remembered(good)
            self._problem = error.message
            return
        if found != self.terms or self._problem:
            log.info("owner.terms", hours=list(found.hours), share=found.share, namespaces=list(found.namespaces))
        self.terms, self._problem = found, ""
        try:
            if self._terms_path.exists():
                data = self._terms_path.read_bytes()
                if not good.exists() or good.read_bytes() != data:
                    write_private(good, data)
            else:
                good.unlink(missing_ok=True)
        except OSError as error:
            log.warning("owner.not_remembered", cause=str(error))

    def _remembered(self, good: Path) -> owner.Terms | None:
        if not good.exists():
            return None
        with contextlib.suppress(CloudlessError):
            return owner_file.read_terms(self._config.owner, good)
        return None

    async def _note(self) -> None:
        """Leaves word for `cloudless-agent owner show`."""
        state = {
            "accepting": self.verdict.accepting,
            "reason": self.verdict.reason,
            "message": self.verdict.message,
            "evicting": self.verdict.evicting,
            "sinceMs": self._since_ms,
            "problem": self._problem,
            "warning": self._warning,
            "pid": os.getpid(),
        }
        try:
            data = (json.dumps(state) + "\n").encode()
            await asyncio.to_thread(write_private, self._config.data_dir / STATE_FILE, data)
        except OSError as error:
            log.warning("owner.not_noted", cause=str(error))


def local_time(now_ms: int, zone: object = None) -> tuple[int, int]:
    """(weekday, 0 for Monday; minute of the day) as the clock on the wall shows them in `zone` (None: the device's own
    time zone, as it is set now)."""
    if zone is None:
        time.tzset()  # the device may have travelled
        local = time.localtime(now_ms / 1000)
        return local.tm_wday, local.tm_hour * 60 + local.tm_min
    there = datetime.fromtimestamp(now_ms / 1000, zone)  # type: ignore[arg-type]
    return there.weekday(), there.hour * 60 + there.minute


def _stamp(path: Path) -> object:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
