"""A network of real kernel namespaces for tests: one host per name on one bridge, with cuts in either direction.

    with Underlay(("c1", "c2", "c3")) as net:
        subprocess.Popen([*net.enter("c1"), "program"])      # runs on host c1, address net.address("c1")
        net.cut("c1", "c2")                                  # nothing that c1 sends reaches c2
        net.heal()

The machine itself is on the bridge too (`net.gateway`), so that a test reaches every host. Needs root. Everything is
removed at the end, and what an earlier run under the same tag left behind is removed at the start.
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
from collections.abc import Iterable
from typing import Self

_TABLE = "inet cuts"


class Underlay:
    """`tag`: at most 6 characters, part of every name in the kernel; the process id unless given."""

    def __init__(self, names: Iterable[str], *, tag: str = "", subnet: str = "") -> None:
        self.names = tuple(names)
        self.tag = tag or f"{os.getpid() % 0x1000000:x}"
        number = int.from_bytes(self.tag.encode()[-2:], "big") % 250
        network = ipaddress.ip_network(subnet or f"10.213.{number}.0/24")
        hosts = list(network.hosts())
        self._prefix = network.prefixlen
        self.gateway = str(hosts[-1])
        self._addresses = {name: str(hosts[at]) for at, name in enumerate(self.names)}
        self._spare = [str(host) for host in reversed(hosts)]
        self._bridge = f"clb{self.tag}"

    def __enter__(self) -> Self:
        self.remove()
        try:
            self._create()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def address(self, name: str) -> str:
        return self._addresses[name]

    def enter(self, name: str) -> list[str]:
        """What stands before the command line of a program that shall run on this host. It sees the machine's mounts:
        network namespaces that it makes are found by others."""
        return ["nsenter", f"--net=/run/netns/{self._namespace(name)}", "--"]

    # Faults

    def cut(self, source: str, target: str) -> None:
        """Nothing that `source` sends reaches `target` any more, on connections that stand as well; one way only.
        Either may be "gateway", the machine itself."""
        if target == "gateway":
            chain, field, address, where = "output", "daddr", self.gateway, source
        else:
            address = self.gateway if source == "gateway" else self.address(source)
            chain, field, where = "input", "saddr", target
        self._in(where, "nft", "add", "rule", *_TABLE.split(), chain, "ip", field, address, "drop")

    def split(self, *groups: Iterable[str]) -> None:
        """Cuts every pair of hosts of different groups in both directions."""
        listed = [tuple(group) for group in groups]
        for at, group in enumerate(listed):
            for other in listed[at + 1 :]:
                for one in group:
                    for two in other:
                        self.cut(one, two)
                        self.cut(two, one)

    def lose(self, name: str, percent: int) -> None:
        """So many of the packets that this host sends, and of those that it is sent, are lost at random."""
        for chain in ("input", "output"):
            rule = ["numgen", "random", "mod", "100", "<", str(percent), "drop"]
            self._in(name, "nft", "add", "rule", *_TABLE.split(), chain, "iifname" if chain == "input" else "oifname",
                     "eth0", *rule)  # fmt: skip

    def unplug(self, name: str) -> None:
        """The cable is out: nobody is told anything, on either side."""
        _run("ip", "link", "set", self._veth(name), "nomaster")

    def plug(self, name: str) -> None:
        _run("ip", "link", "set", self._veth(name), "master", self._bridge)

    def readdress(self, name: str) -> str:
        """The host gets another address, and loses the one that it has, with every connection on it. Returns it."""
        before = self.address(name)
        used = {*self._addresses.values(), self.gateway}
        after = next(address for address in self._spare if address not in used)
        self._addresses[name] = after
        self._in(name, "ip", "address", "delete", f"{before}/{self._prefix}", "dev", "eth0")
        self._in(name, "ip", "address", "add", f"{after}/{self._prefix}", "dev", "eth0")
        return after

    def heal(self) -> None:
        for name in self.names:
            self._in(name, "nft", "flush", "table", *_TABLE.split())
            self.plug(name)

    # Life

    def _create(self) -> None:
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "address", "add", f"{self.gateway}/{self._prefix}", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")
        for name in self.names:
            namespace, outside = self._namespace(name), self._veth(name)
            _run("ip", "netns", "add", namespace)
            _run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            _run("ip", "link", "set", outside, "master", self._bridge, "up")
            self._in(name, "ip", "link", "set", "lo", "up")
            self._in(name, "ip", "address", "add", f"{self.address(name)}/{self._prefix}", "dev", "eth0")
            self._in(name, "ip", "link", "set", "eth0", "up")
            self._in(name, "nft", "add", "table", *_TABLE.split())
            for hook in ("input", "output"):
                chain = f"{{ type filter hook {hook} priority 0 ; }}"
                self._in(name, "nft", "add", "chain", *_TABLE.split(), hook, chain)

    def remove(self) -> None:
        """May be repeated. Programs that run in a namespace keep it alive, unnamed, until they end."""
        for name in self.names:
            _try("ip", "netns", "delete", self._namespace(name))
            _try("ip", "link", "delete", self._veth(name))
        _try("ip", "link", "delete", self._bridge)

    def _namespace(self, name: str) -> str:
        return f"cloudless-{self.tag}-{name}"

    def _veth(self, name: str) -> str:
        return f"cv{self.tag}{self.names.index(name)}"

    def _in(self, name: str, *argv: str) -> None:
        _run(*self.enter(name), *argv)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")


def _try(*argv: str) -> None:
    subprocess.run(argv, capture_output=True, check=False)
