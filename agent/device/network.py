"""Addresses, the link to the outside and whether its traffic costs money."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import struct
import subprocess

from cloudless.agent.device.system import System

_CELLULAR = ("wwan", "rmnet", "ccmni", "ppp", "wwp")


def default_interface(system: System) -> str:
    """The interface of the default route with the least metric, IPv4 before IPv6; "" without one."""
    best: tuple[int, str] | None = None
    for line in system.read("/proc/net/route").splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[1] == "00000000" and fields[7] == "00000000":
            best = min(best or (1 << 32, ""), (int(fields[6]), fields[0]))
    if best is None:
        for line in system.read("/proc/net/ipv6_route").splitlines():
            fields = line.split()
            if len(fields) > 9 and fields[0] == "0" * 32 and fields[1] == "00" and fields[9] != "lo":
                best = min(best or (1 << 33, ""), (int(fields[5], 16), fields[9]))
    return best[1] if best else ""


def addresses(system: System, *, bridge: str = "") -> tuple[str, ...]:
    """Own addresses that others may reach: no loopback, no link-local ones, none of the link `bridge`, which leads to
    the replicas alone. IPv4 first."""
    inside = _networks(system, bridge)
    found: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    leaf = ""
    for line in system.read("/proc/net/fib_trie").splitlines():
        if "|--" in line:
            leaf = line.split()[-1]
        elif "/32 host LOCAL" in line:  # more than once where two interfaces have the address
            found.append(ipaddress.IPv4Address(leaf))
    for line in system.read("/proc/net/if_inet6").splitlines():
        number, _, _, _, _, link = line.split()
        if link != bridge:
            found.append(ipaddress.IPv6Address(int(number, 16)))
    usable = {
        address
        for address in found
        if not (address.is_loopback or address.is_link_local or address.is_unspecified)
        and not any(address in network for network in inside)
    }
    return tuple(str(a) for a in sorted(usable, key=lambda a: (a.version, int(a))))


def _networks(system: System, link: str) -> list[ipaddress.IPv4Network]:
    """The IPv4 networks that lie directly behind a link: the kernel's table of addresses names no links."""
    found = []
    for line in system.read("/proc/net/route").splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[0] == link and fields[2] == "00000000":
            # the kernel prints the bytes of an address as a number of the machine's own order
            start, mask = (socket.inet_ntoa(struct.pack("=I", int(fields[at], 16))) for at in (1, 7))
            found.append(ipaddress.IPv4Network((start, mask)))
    return found


def egress_bps(system: System) -> int:
    interface = default_interface(system)
    speed_mbps = system.number(f"/sys/class/net/{interface}/speed") if interface else None
    return speed_mbps * 1_000_000 if speed_mbps and speed_mbps > 0 else 0


def is_cellular(system: System, interface: str) -> bool:
    return interface.startswith(_CELLULAR) or "DEVTYPE=wwan" in system.read(f"/sys/class/net/{interface}/uevent")


def networkmanager_program() -> str:
    return shutil.which("nmcli") or ""


def networkmanager_says_metered(interface: str) -> bool:
    """NetworkManager's word, which knows phones' hotspots and what the owner ticked. False without it."""
    program = networkmanager_program()
    if not program or not interface:
        return False
    try:
        done = subprocess.run(
            [program, "-g", "GENERAL.METERED", "device", "show", interface],
            capture_output=True,
            text=True,
            timeout=2,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.startswith("yes")
