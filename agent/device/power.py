"""Where the power comes from (Documentation/ABI/testing/sysfs-class-power)."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass

from cloudless.agent.device.system import System

_MAINS = ("Mains", "USB", "Wireless")
NO_BATTERY = -1


@dataclass(frozen=True, slots=True)
class Power:
    source: str  # mains, battery, unknown
    battery_percent: int  # -1: no battery


def _supplies(system: System, *kinds: str) -> list[str]:
    return [
        f"{system.supplies}/{name}"
        for name in system.names(system.supplies)
        if system.read(f"{system.supplies}/{name}/type") in kinds
        and system.read(f"{system.supplies}/{name}/scope") != "Device"  # a mouse's or a headset's
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
    """A device without any power supply in sysfs has no battery: it runs from the mains (boards, servers, VMs). Android
    hides its supplies from programs: there that says nothing."""
    cells = batteries(system) or _supplies(system, "UPS")
    known = [percent for path in cells if (percent := _percent(system, path)) is not None]
    level = max(0, min(100, sum(known) // len(known))) if known else NO_BATTERY
    states = {system.read(f"{path}/status") for path in cells}
    online = [system.number(f"{path}/online") for path in _supplies(system, *_MAINS)]
    if any(online):
        return Power("mains", level)
    if not cells:
        return Power("unknown" if is_android(system) else "mains", NO_BATTERY)
    if "Discharging" in states:
        return Power("battery", level)
    if states & {"Charging", "Full", "Not charging"}:
        return Power("mains", level)
    return Power("battery" if online else "unknown", level)


def is_android(system: System) -> bool:
    return system.exists("/system/build.prop") or "android" in system.kernel.lower()


def termux_program(system: System) -> str:
    """Termux:API's command for the battery, where it is needed; else empty."""
    if not is_android(system) or batteries(system):
        return ""
    return shutil.which("termux-battery-status") or ""


def ask_termux(program: str) -> Power | None:
    """What Android says of the battery; None when it does not answer in 5 s, as without the Termux:API app."""
    try:
        done = subprocess.run([program], capture_output=True, text=True, timeout=5, check=True)
        told = json.loads(done.stdout)
        level = max(0, min(100, int(told["percentage"])))
        plugged = str(told.get("plugged", ""))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return None
    return Power("mains" if plugged.startswith("PLUGGED") else "battery", level)
