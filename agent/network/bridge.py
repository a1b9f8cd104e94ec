"""The replicas' network on one node: a bridge, one namespace and one address for each replica, host ports.

Everything is named after the agent's bridge and lies in its data folder, so that several agents share a machine, and
nothing else on it is touched. One setting belongs to the whole machine: forwarding (net.ipv4.ip_forward) is switched
on where it is off, because replicas could not reach beyond the node otherwise; it is never switched off again, since
others may rely on it by then.

What exists is the truth: a restarted agent passes in the replicas that it found, and `reconcile` removes the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TypeVar

import structlog
from prometheus_client import Gauge, Histogram

from cloudless.agent.network import addresses, conntrack, namespaces, ports
from cloudless.agent.network.netlink import Netlink
from cloudless.core.model import PortBinding
from cloudless.errors import FailedPrecondition, InvalidArgument

T = TypeVar("T")
log = structlog.get_logger(__name__)
SETUP_SECONDS = Histogram(
    "cloudless_network_setup_seconds",
    "Making one replica's network",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2),
)
ADDRESSES_USED = Gauge("cloudless_network_addresses_used", "Addresses of the node's subnet in use")

_MTU = 1500
_INNER = "eth0"
_HARDWARE_PREFIX = b"\x02\xc1"  # locally administered
_BRIDGE_NAME_MAX = 15
_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
# a handful: the kernel makes network namespaces one at a time
_THREADS = 4


class ReplicaNetworks:
    """All replica networks of one agent. Event loop only; the system calls run in threads."""

    def __init__(self, *, bridge: str, subnet: str, directory: Path) -> None:
        """`directory` holds the namespaces' files. Raises InvalidArgument for a bad bridge or subnet."""
        if not 0 < len(bridge) <= _BRIDGE_NAME_MAX or not all(char.isalnum() or char in "._-" for char in bridge):
            raise InvalidArgument(
                f"runtime.bridge: {bridge!r} is not a link name of at most {_BRIDGE_NAME_MAX} characters",
                reason="BadSetting",
            )
        self.bridge = bridge
        self.network = addresses.parse_subnet(subnet)
        self._directory = Path(os.path.realpath(directory))
        self._gateway = addresses.gateway(self.network)
        self._book = addresses.AddressBook(self.network)
        self._ports = ports.HostPorts(bridge, self.network)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="network")
        self._table = asyncio.Lock()  # one writer of the nftables table

    @property
    def gateway(self) -> IPv4Address:
        return self._gateway.ip

    def namespace_path(self, replica_id: str) -> Path:
        return self._directory / replica_id

    def reserve(self, replica_id: str) -> IPv4Address:
        """The replica's address, before anything is made. Raises ResourceExhausted."""
        address = self._book.allocate(replica_id)
        ADDRESSES_USED.set(len(self._book))
        return address

    async def start(
        self,
        known: Mapping[str, tuple[IPv4Address, Sequence[PortBinding]]],
        *,
        owners: Mapping[str, str] | None = None,
    ) -> None:
        """Makes the bridge and the table, takes over the networks of `known` replicas and removes all others of
        this agent; all of them serve their host ports until `set_serving`. `owners`: as in `ensure`, by replica.
        Repeatable. Raises FailedPrecondition(reason="NetworkUnavailable")."""
        self._book.restore({replica: address for replica, (address, _) in known.items()})
        ADDRESSES_USED.set(len(self._book))
        self._ports.close()
        self._ports.shares = await self._run(ports.can_share)
        for replica, (address, bindings) in known.items():
            owner = (owners or {}).get(replica, "")
            self._ports.claim(replica, ports.forwards(address, bindings), owner=owner, adopted=True)
        try:
            await self._run(self._make_bridge)
            await self._run(self._reattach, frozenset(known))
            removed = await self._run(self._remove_unknown, frozenset(known))
        except OSError as error:
            raise FailedPrecondition(
                f"cannot make the bridge {self.bridge}: {error.strerror}",
                reason="NetworkUnavailable",
                remedy="the agent needs root and the kernel's bridge and veth drivers",
            ) from None
        await self._write_table()
        for replica in removed:
            log.info("network.leftover_removed", replica=replica, bridge=self.bridge)

    async def ensure(self, replica_id: str, bindings: Sequence[PortBinding], *, owner: str = "") -> IPv4Address:
        """The replica's network, with its host ports, which replicas of the same `owner` share ("": not at all).
        Repeatable; repairs what a reboot took away. Raises
        FailedPrecondition(reason="HostPortInUse"), ResourceExhausted(reason="NoAddress")."""
        address = self.reserve(replica_id)
        wanted = ports.forwards(address, bindings)
        self._ports.claim(replica_id, wanted, owner=owner)
        began = time.monotonic()
        try:
            await self._run(self._make, replica_id, address, bool(wanted))
        except OSError as error:
            raise FailedPrecondition(
                f"cannot make the network of {replica_id}: {error.strerror}", reason="NetworkUnavailable"
            ) from None
        if wanted:
            await self._write_table()
        SETUP_SECONDS.observe(time.monotonic() - began)
        return address

    async def set_serving(self, replica_ids: frozenset[str]) -> None:
        """Only these get new connections through their host ports from now on. Repeatable."""
        if self._ports.set_serving(replica_ids):
            await self._write_table()

    async def remove(self, replica_id: str) -> None:
        """Takes the replica's network away. Repeatable."""
        flows = self._ports.datagram_addresses(replica_id)
        if self._ports.release(replica_id):
            await self._write_table()
        await self._run(self._unmake, replica_id)
        for address in flows:  # after the table, so that what is sent from now on goes to somebody who is there
            try:
                await self._run(conntrack.forget_datagrams, address)
            except OSError as error:
                log.warning("network.flows_kept", replica=replica_id, address=str(address), cause=error.strerror)
        self._book.release(replica_id)
        ADDRESSES_USED.set(len(self._book))

    async def remove_all(self) -> None:
        """Removes every namespace, link and table of this agent, the bridge last. Repeatable."""
        self._ports.close()
        self._book.restore({})
        ADDRESSES_USED.set(0)
        await self._run(self._remove_unknown, frozenset())
        await self._run(self._remove_bridge)
        async with self._table:
            await self._run(ports.remove_table, self.bridge)

    def close(self) -> None:
        """Lets go of threads and sockets; the networks stay."""
        self._ports.close()
        self._threads.shutdown(wait=False)

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def _write_table(self) -> None:
        async with self._table:
            await self._run(ports.run_nft, self._ports.table())

    def _make_bridge(self) -> None:
        with Netlink() as kernel:
            link = kernel.link(self.bridge)
            if link is None:
                # a hardware address of its own: otherwise it changes whenever a replica comes or goes
                kernel.add_bridge(self.bridge, address=b"\x02" + _digest(self.bridge)[:5])
                link = kernel.link(self.bridge)
            if link is None or link.kind != "bridge":
                raise OSError(errno.EEXIST, f"{self.bridge} exists and is not a bridge")
            kernel.set_up(link.index)
            kernel.add_address(link.index, self._gateway)
        self._set("route_localnet", "1")
        self._set("forwarding", "1")
        if _IP_FORWARD.read_text().strip() == "0":
            _IP_FORWARD.write_text("1")
            log.info("network.forwarding_enabled", setting="net.ipv4.ip_forward")

    def _reattach(self, known: frozenset[str]) -> None:
        """Links that lost their bridge go to the new one."""
        with Netlink() as kernel:
            bridge = kernel.link(self.bridge)
            mine = {self._link_name(replica) for replica in known}
            for link in kernel.links():
                if bridge is not None and link.name in mine and link.master != bridge.index:
                    kernel.set_master(link.index, master=bridge.index)

    def _set(self, name: str, value: str) -> None:
        Path(f"/proc/sys/net/ipv4/conf/{self.bridge}/{name}").write_text(value)

    def _make(self, replica_id: str, address: IPv4Address, hairpin: bool) -> None:
        path, outer = self.namespace_path(replica_id), self._link_name(replica_id)
        with Netlink() as kernel:
            link, bridge = kernel.link(outer), kernel.link(self.bridge)
            if bridge is None:
                raise OSError(errno.ENODEV, f"the bridge {self.bridge} is gone")
            if not namespaces.exists(path):  # what runs in one keeps it, whatever happened to the rest
                if link is not None:
                    kernel.delete_link(link.index)
                    link = None
                namespaces.create(path)
            if link is None:
                self._connect(kernel, outer, path, bridge=bridge.index, address=address)
            elif link.master != bridge.index:
                kernel.set_master(link.index, master=bridge.index)
            # also for one that was there: an agent may have been killed before this
            namespaces.inside(path, lambda: self._configure(address))
            if hairpin:  # a replica may reach itself through its host port
                made = kernel.link(outer)
                assert made is not None
                kernel.set_hairpin(made.index)

    def _connect(self, kernel: Netlink, outer: str, path: Path, *, bridge: int, address: IPv4Address) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            kernel.add_veth(
                outer,
                master=bridge,
                peer=_INNER,
                peer_namespace=handle,
                # the same for the same address: neighbours who remember the last replica there go on
                peer_address=_HARDWARE_PREFIX + address.packed,
                mtu=_MTU,
            )
        finally:
            os.close(handle)

    def _configure(self, address: IPv4Address) -> None:
        with Netlink() as kernel:
            inner = kernel.link(_INNER)
            if inner is None:
                raise OSError(errno.ENODEV, "the replica's link is gone")
            kernel.set_up(1)  # lo is the first link of every namespace
            kernel.add_address(inner.index, IPv4Interface((address, self.network.prefixlen)))
            kernel.set_up(inner.index)
            kernel.add_default_route(inner.index, self._gateway.ip)

    def _unmake(self, replica_id: str) -> None:
        with Netlink() as kernel:
            link = kernel.link(self._link_name(replica_id))
            if link is not None:
                kernel.delete_link(link.index)
        namespaces.remove(self.namespace_path(replica_id))

    def _remove_unknown(self, known: frozenset[str]) -> list[str]:
        """Namespaces and links of this agent without a replica. Returns the replicas' ids."""
        removed = []
        if self._directory.is_dir():
            for path in list(self._directory.iterdir()):
                if path.name not in known:
                    self._unmake(path.name)
                    removed.append(path.name)
        mine = {self._link_name(replica) for replica in known}
        with Netlink() as kernel:
            bridge = kernel.link(self.bridge)
            for link in kernel.links() if bridge is not None else ():
                if bridge and link.master == bridge.index and link.kind == "veth" and link.name not in mine:
                    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                        kernel.delete_link(link.index)
        return removed

    def _remove_bridge(self) -> None:
        with Netlink() as kernel:
            link = kernel.link(self.bridge)
            if link is not None and link.kind == "bridge":
                kernel.delete_link(link.index)
        with contextlib.suppress(OSError):
            self._directory.rmdir()

    def _link_name(self, replica_id: str) -> str:
        return "cl" + _digest(f"{self.bridge}/{self._directory}/{replica_id}").hex()[:12]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
