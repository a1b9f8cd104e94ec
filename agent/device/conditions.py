"""Power and link as they change from minute to minute, read once for all who ask."""

from __future__ import annotations

import asyncio

from cloudless.agent.device import network, power
from cloudless.agent.device.system import System
from cloudless.clock import Clock

_INTERVAL_MS = 5_000  # embedded controllers take milliseconds to tell the battery's state
_PROGRAMS_INTERVAL_S = 30.0


class Conditions:
    """Event loop only. `power` and `metered` are as of the last `refresh`. `metered`: what `detect` found for the
    link of that moment; it holds until the default route moves or the system says otherwise."""

    def __init__(self, system: System, clock: Clock, *, metered: bool = False) -> None:
        self._system = system
        self._clock = clock
        self._interface = network.default_interface(system)
        self._asked: power.Power | None = None  # what a program of the system told
        self.power = power.read(system)
        self.metered = metered
        self._read_at_ms = clock.monotonic_ms()

    def refresh(self) -> None:
        """Reads again what is older than 5 s; a few milliseconds at most."""
        now_ms = self._clock.monotonic_ms()
        if now_ms - self._read_at_ms < _INTERVAL_MS:
            return
        self._read_at_ms = now_ms
        self.power = self._asked or power.read(self._system)
        interface = network.default_interface(self._system)
        if interface != self._interface:
            self._interface = interface
            self.metered = network.is_cellular(self._system, interface)

    async def ask_programs(self) -> None:
        """Asks, now and then until cancelled, the programs that know more than files do: Termux for the battery where
        files show none (Android), NetworkManager for the link. Returns at once where there are none."""
        battery = power.termux_program(self._system)
        link = network.networkmanager_program()
        while battery or link:
            if battery:
                self._asked = await asyncio.to_thread(power.ask_termux, battery) or self._asked
            if link:
                interface = self._interface
                said = await asyncio.to_thread(network.networkmanager_says_metered, interface)
                if interface == self._interface:
                    self.metered = said or network.is_cellular(self._system, interface)
            await asyncio.sleep(_PROGRAMS_INTERVAL_S)
