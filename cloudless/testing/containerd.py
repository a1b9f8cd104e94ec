"""A real containerd for tests, and agents on it whose traces on the machine can be counted."""

from __future__ import annotations

import dataclasses
import os
import secrets
import subprocess
import uuid
from ipaddress import IPv4Address
from pathlib import Path
from socket import AF_INET

import psutil

from cloudless.agent.network.ports import table_name
from cloudless.agent.purge import remove_all
from cloudless.config import AgentConfig, RuntimeConfig
from cloudless.dev import containerd, mounts
from cloudless.dev.image import build_image

BOX = "cloudless.test/box:1"  # busybox with a shell, and no command of its own


@dataclasses.dataclass(frozen=True)
class AgentPlace:
    """Names of one agent that nobody else on the machine has, and what is left of it."""

    data_dir: Path
    config: RuntimeConfig

    @classmethod
    def new(cls, data_dir: Path, *, address: str, snapshotter: str, subnet: str) -> AgentPlace:
        tag = uuid.uuid4().hex[:8]
        config = RuntimeConfig(
            containerd_address=address,
            containerd_snapshotter=snapshotter,
            containerd_namespace=f"test-{tag}",
            cgroup_prefix=f"cltest-{tag}",
            bridge=f"clt{tag}",
            subnet=subnet,
        )
        return cls(data_dir, config)

    def ctr(self, *arguments: str) -> list[str]:
        """The lines that ctr prints for the agent's namespace."""
        done = subprocess.run(
            ["ctr", "-a", self.config.containerd_address, "-n", self.config.containerd_namespace, *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    def cgroups(self) -> list[str]:
        root = Path("/sys/fs/cgroup")
        hierarchies = [root, *(entry for entry in root.iterdir() if entry.is_dir())]
        return [str(h / self.config.cgroup_prefix) for h in hierarchies if (h / self.config.cgroup_prefix).is_dir()]

    def links(self) -> list[str]:
        """Links on the agent's bridge, without the bridge."""
        bridge = Path("/sys/class/net") / self.config.bridge / "brif"
        return sorted(os.listdir(bridge)) if bridge.is_dir() else []

    def nft_table(self) -> str:
        """The agent's table; empty: there is none."""
        done = subprocess.run(
            ["nft", "list", "table", "ip", table_name(self.config.bridge)], capture_output=True, text=True, check=False
        )
        return done.stdout if done.returncode == 0 else ""

    def replica_leftovers(self) -> list[str]:
        """Everything on the machine that belongs to one of this agent's replicas."""
        found = [f"container {line}" for line in self.ctr("containers", "list", "-q")]
        found += [f"task {line}" for line in self.ctr("tasks", "list", "-q")]
        snapshots = [line.split() for line in self.ctr("snapshots", "--snapshotter", self.snapshotter, "list")[1:]]
        found += [f"snapshot {words[0]}" for words in snapshots if words[-1] != "Committed"]
        found += [f"lease {line}" for line in self.ctr("leases", "list", "-q")]
        found += [f"link {link}" for link in self.links()]
        found += [f"mount {point}" for point in mounts.mounted_below(self.data_dir)]
        for parent in self.cgroups():
            found += [f"cgroup {parent}/{child.name}" for child in Path(parent).iterdir() if child.is_dir()]
        for folder in ("replicas", "logs", "netns", "fifo"):
            if (self.data_dir / folder).is_dir():
                found += [f"file {path}" for path in (self.data_dir / folder).iterdir()]
        if "elements" in self.nft_table():
            found.append("a host port")
        return found

    @property
    def snapshotter(self) -> str:
        return self.config.containerd_snapshotter

    def leftovers(self) -> list[str]:
        """Everything on the machine that belongs to this agent."""
        found = [f"namespace {line}" for line in self._namespaces() if line == self.config.containerd_namespace]
        found += [f"mount {point}" for point in mounts.mounted_below(self.data_dir)]
        found += [f"cgroup {path}" for path in self.cgroups()]
        if (Path("/sys/class/net") / self.config.bridge).exists():
            found.append(f"bridge {self.config.bridge}")
        state = Path("/run/containerd/runc") / self.config.containerd_namespace
        if state.exists():
            found.append(f"file {state}")
        if self.nft_table():
            found.append(f"table {table_name(self.config.bridge)}")
        if self.data_dir.is_dir():
            found += [f"file {path}" for path in self.data_dir.iterdir()]
        return found

    async def purge(self) -> None:
        await remove_all(dataclasses.replace(AgentConfig(), data_dir=self.data_dir, runtime=self.config))

    def _namespaces(self) -> list[str]:
        done = subprocess.run(
            ["ctr", "-a", self.config.containerd_address, "namespaces", "list", "-q"],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()


class ContainerdMachine:
    """A private containerd and an archive to import. `start` and `stop` frame the tests that share it."""

    def __init__(self, directory: Path) -> None:
        self.daemon = containerd.PrivateContainerd(directory / "containerd")
        self.box_archive = directory / "box.tar"

    def start(self) -> None:
        self.daemon.start()
        build_image(self.box_archive, BOX, user="", labels={"test": "box"})

    def stop(self) -> None:
        self.daemon.stop(remove=True)

    def agent(self, data_dir: Path) -> AgentPlace:
        """A place for one more agent, with a subnet of its own."""
        snapshotter = "overlayfs" if containerd.overlay_possible(self.daemon.directory) else "native"
        return AgentPlace.new(data_dir, address=self.daemon.address, snapshotter=snapshotter, subnet=spare_subnet())


def spare_subnet() -> str:
    """A /24 that no link of this machine uses; by chance, so that test runs beside each other differ."""
    used = {tuple(address.packed[:3]) for address in local_addresses()}
    while (chosen := (10, 208 + secrets.randbelow(32), secrets.randbelow(256))) in used:
        continue
    return f"{chosen[0]}.{chosen[1]}.{chosen[2]}.0/24"


def local_addresses() -> list[IPv4Address]:
    entries = [entry for entries in psutil.net_if_addrs().values() for entry in entries]
    return [IPv4Address(entry.address) for entry in entries if entry.family == AF_INET]
