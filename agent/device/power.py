"""Where the power comes from (Documentation/ABI/testing/sysfs-class-power)."""

from __future__ import annotations

from dataclasses import dataclass

from cloudless.agent.device.system import System

_SUPPLIES = "/sys/class/power_supply"
_MAINS = ("Mains", "USB", "Wireless")
NO_BATTERY = -1


@dataclass(frozen=True, slots=True)
class Power:
    source: str  # mains, battery, unknown
    battery_percent: int  # -1: no battery


def _supplies(system: System, *kinds: str) -> list[str]:
    return [
        f"{_SUPPLIES}/{name}"
        for name in system.names(_SUPPLIES)
        if system.read(f"{_SUPPLIES}/{name}/type") in kinds
        and system.read(f"{_SUPPLIES}/{name}/scope") != "Device"  # a mouse's or a headset's
    ]


def batteries(system: System) -> list[str]:
    """Batteries that feed the device itself and are in it."""
    return [path for path in _supplies(system, "Battery") if system.read(f"{path}/present") != "0"]


def _percent(system: System, path: str) -> int | None:
    capacity = system.number(f"{path}/capacity")
    if capacity is not None:
        return capacity
    for quantity in ("energy", "charge"):
        now, full = system.number(f"{path}/{quantity}_now"), system.number(f"{path}/{quantity}_full")
        if now is not None and full:
            return now * 100 // full
    return None


def read(system: System) -> Power:
    """A device without any power supply in sysfs has no battery: it runs from the mains (boards, servers, VMs)."""
    cells = batteries(system) or _supplies(system, "UPS")
    known = [percent for path in cells if (percent := _percent(system, path)) is not None]
    level = max(0, min(100, sum(known) // len(known))) if known else NO_BATTERY
    states = {system.read(f"{path}/status") for path in cells}
    online = [system.number(f"{path}/online") for path in _supplies(system, *_MAINS)]
    if any(online):
        return Power("mains", level)
    if not cells:
        return Power("mains", NO_BATTERY)
    if "Discharging" in states:
        return Power("battery", level)
    if states & {"Charging", "Full", "Not charging"}:
        return Power("mains", level)
    return Power("battery" if online else "unknown", level)
