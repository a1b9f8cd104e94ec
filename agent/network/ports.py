"""Host ports: nftables forwards them to replicas, a bound socket keeps them from everybody else.

One table per agent, named after its bridge, replaced as a whole in one transaction. Reached from other machines, from
this host by any of its addresses including 127.0.0.1 (which is why the bridge has route_localnet, and why packets
to 127.0.0.0/8 that come in from it are dropped), and from replicas, also the same one (hairpin).

Replicas of one owner (a workload) may share a host port: each new connection goes to the next of those that serve. A
replica that is told not to serve keeps the connections it has, which the kernel tracks, and gets no new one. Where
none serves a connection is refused, by the socket below.

The socket is bound and never listens: it makes the port visibly taken, for another agent on this machine as well.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from cloudless.core.model import PortBinding
from cloudless.core.spec import Protocol
from cloudless.errors import CloudlessError, FailedPrecondition, Internal

_NFT = "nft"
_TIMEOUT_S = 20
_SOCKETS = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}


@dataclass(frozen=True, slots=True, order=True)
class Forward:
    """One host port and where it leads."""

    protocol: str  # tcp, udp
    host_port: int
    address: IPv4Address
    port: int


def forwards(address: IPv4Address, ports: Sequence[PortBinding]) -> tuple[Forward, ...]:
    """What the bindings of one replica ask for; those without a host port ask for nothing."""
    return tuple(
        Forward((binding.protocol or Protocol.TCP).value.lower(), binding.host_port, address, binding.container_port)
        for binding in ports
        if binding.host_port
    )


def table_name(bridge: str) -> str:
    return "cloudless_" + "".join(char if char.isalnum() else "_" for char in bridge)


def ruleset(bridge: str, network: IPv4Network, wanted: Sequence[Forward]) -> str:
    """The agent's whole table as an nft script that replaces it atomically. Pure."""
    table = table_name(bridge)
    maps, chains, rules = [], [], []
    for protocol in ("tcp", "udp"):
        backends: dict[int, list[str]] = {}
        for forward in sorted(forward for forward in wanted if forward.protocol == protocol):
            backends.setdefault(forward.host_port, []).append(f"{forward.address} . {forward.port}")
        single = ", ".join(f"{port} : {found[0]}" for port, found in backends.items() if len(found) == 1)
        shared = {port: found for port, found in backends.items() if len(found) > 1}
        for port, found in shared.items():
            targets = ", ".join(f"{index} : {backend}" for index, backend in enumerate(found))
            pick = f"numgen inc mod {len(found)} map {{ {targets} }}"
            chains += [
                f"  chain {protocol}_{port} {{",
                f"    meta l4proto {protocol} dnat ip addr . port to {pick}",
                "  }",
            ]
        content = f" elements = {{ {single} }}" if single else ""
        maps.append(f"  map {protocol}_ports {{ type inet_service : ipv4_addr . inet_service;{content} }}")
        if shared:
            jumps = ", ".join(f"{port} : goto {protocol}_{port}" for port in shared)
            rules.append(f"    {protocol} dport vmap {{ {jumps} }}")
        rules.append(f"    meta l4proto {protocol} dnat ip addr . port to {protocol} dport map @{protocol}_ports")
    return "\n".join(
        [
            f"add table ip {table}",
            f"delete table ip {table}",
            f"table ip {table} {{",
            *maps,
            *chains,
            "  chain host_ports {",
            *rules,
            "  }",
            "  chain guard {",
            "    type filter hook prerouting priority raw;",
            f'    iifname "{bridge}" ip daddr 127.0.0.0/8 drop',
            "  }",
            "  chain incoming {",
            "    type nat hook prerouting priority dstnat;",
            "    fib daddr type local jump host_ports",
            "  }",
            "  chain local {",
            "    type nat hook output priority -100;",
            "    fib daddr type local jump host_ports",
            "  }",
            "  chain outgoing {",
            "    type nat hook postrouting priority srcnat;",
            f'    oifname "{bridge}" ip saddr 127.0.0.0/8 masquerade',
            f"    ip saddr {network} ip daddr {network} ct status dnat masquerade",
            f'    ip saddr {network} oifname != "{bridge}" masquerade',
            "  }",
            "}",
            "",
        ]
    )


class HostPorts:
    """The host ports of one agent. Not for several threads at once."""

    def __init__(self, bridge: str, network: IPv4Network) -> None:
        self.shares = True  # whether the kernel can; else a port belongs to one replica
        self._bridge = bridge
        self._network = network
        self._forwards: dict[str, tuple[Forward, ...]] = {}  # by replica
        self._owners: dict[str, str] = {}  # by replica
        self._sockets: dict[tuple[str, int], socket.socket] = {}
        self._serving: frozenset[str] | None = None  # None: nobody said yet, and all serve

    def claim(self, replica_id: str, wanted: Sequence[Forward], *, owner: str = "", adopted: bool = False) -> None:
        """Takes the ports, or none of them. Repeatable. Replicas of the same `owner` share; one of none shares with
        nobody. `adopted`: the replica already runs with them, and a port that somebody took meanwhile does not matter,
        because forwarding comes first. Raises FailedPrecondition(reason="HostPortInUse")."""
        if replica_id in self._forwards:
            return
        bound: list[tuple[str, int]] = []
        try:
            for forward in wanted:
                key = (forward.protocol, forward.host_port)
                holders = self._holders(key)
                shared = bool(owner) and self.shares and all(self._owners[holder] == owner for holder in holders)
                if key in bound or (holders and not shared and not adopted):
                    raise _in_use(forward, f"by {self._name(holders)} on this node")
                if key in self._sockets:
                    continue
                try:
                    self._sockets[key] = _bind(forward)
                    bound.append(key)
                except OSError as error:
                    if not adopted and not holders:
                        raise _in_use(forward, "on this machine", error) from None
        except FailedPrecondition:
            for key in bound:
                self._sockets.pop(key).close()
            raise
        self._forwards[replica_id] = tuple(wanted)
        self._owners[replica_id] = owner

    def release(self, replica_id: str) -> bool:
        """Gives the ports back. True: the table must be written again."""
        forwards = self._forwards.pop(replica_id, ())
        self._owners.pop(replica_id, None)
        for forward in forwards:
            key = (forward.protocol, forward.host_port)
            if not self._holders(key) and (held := self._sockets.pop(key, None)) is not None:
                held.close()
        return bool(forwards)

    def datagram_addresses(self, replica_id: str) -> frozenset[IPv4Address]:
        """Where the replica's UDP host ports lead."""
        return frozenset(f.address for f in self._forwards.get(replica_id, ()) if f.protocol == "udp")

    def set_serving(self, replica_ids: frozenset[str]) -> bool:
        """Which replicas get new connections. True: the table must be written again."""
        before = self._wanted()
        self._serving = replica_ids
        return self._wanted() != before

    def table(self) -> str:
        """The script for `run_nft` that brings this into the kernel."""
        return ruleset(self._bridge, self._network, self._wanted())

    def _wanted(self) -> list[Forward]:
        serving = self._serving
        wanted = [
            forward
            for replica, mine in sorted(self._forwards.items())
            if serving is None or replica in serving
            for forward in mine
        ]
        if self.shares:
            return wanted
        # Adopted from a time when it could: better one of them than none.
        return list({(forward.protocol, forward.host_port): forward for forward in wanted}.values())

    def close(self) -> None:
        """Lets go of the sockets; forwarding stays."""
        for held in self._sockets.values():
            held.close()
        self._sockets.clear()
        self._forwards.clear()
        self._owners.clear()
        self._serving = None

    def snapshot(self) -> Mapping[str, tuple[Forward, ...]]:
        return dict(self._forwards)

    def _holders(self, key: tuple[str, int]) -> list[str]:
        return [
            replica
            for replica, mine in self._forwards.items()
            if any((forward.protocol, forward.host_port) == key for forward in mine)
        ]

    def _name(self, holders: Sequence[str]) -> str:
        return f"replica {holders[0]}" if holders else "another container of this replica"


def can_share() -> bool:
    """Whether this kernel can send connections round several replicas. Asked of the kernel itself, in a transaction
    that leaves nothing. Blocks for about 10 ms."""
    table = f"cloudless_probe_{os.getpid()}_{threading.get_ident()}"
    rule = "meta l4proto tcp dnat ip addr . port to numgen inc mod 2 map { 0 : 127.0.0.1 . 1, 1 : 127.0.0.1 . 2 }"
    script = f"add table ip {table}\nadd chain ip {table} c {{ type nat hook prerouting priority dstnat; }}\n"
    try:
        run_nft(f"{script}add rule ip {table} c {rule}\ndelete table ip {table}\n")
    except CloudlessError:
        return False
    return True


def remove_table(bridge: str) -> None:
    """Deletes the agent's table. Repeatable."""
    table = table_name(bridge)
    run_nft(f"add table ip {table}\ndelete table ip {table}\n")


def run_nft(script: str) -> None:
    """Blocks for about 10 ms. Raises Internal where nft refuses the script, FailedPrecondition where there is none."""
    try:
        done = subprocess.run(
            [_NFT, "-f", "-"], input=script, text=True, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise FailedPrecondition(
            "nft is not installed", reason="FeatureMissing", remedy="install the package nftables"
        ) from None
    except subprocess.TimeoutExpired:
        raise Internal(f"nft did not end within {_TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise Internal(f"nft refused the table: {done.stderr.strip().splitlines()[0] if done.stderr else '?'}")


def _bind(forward: Forward) -> socket.socket:
    held = socket.socket(socket.AF_INET, _SOCKETS[Protocol(forward.protocol.upper())] | socket.SOCK_CLOEXEC)
    try:
        held.bind(("0.0.0.0", forward.host_port))  # noqa: S104 - a host port is meant for every address
    except OSError:
        held.close()
        raise
    return held


def _in_use(forward: Forward, where: str, error: OSError | None = None) -> FailedPrecondition:
    cause = f": {error.strerror}" if error is not None and error.errno != errno.EADDRINUSE else ""
    return FailedPrecondition(
        f"host port {forward.host_port}/{forward.protocol} is in use {where}{cause}",
        reason="HostPortInUse",
        remedy="choose another hostPort, or leave it out",
    )
