"""The files of a replica on the node: logs, and what its containers see as /etc/hosts and the like."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

_LOOPBACK_RESOLVERS = ("127.", "::1")
# where systemd-resolved, which itself answers on loopback only, writes the servers behind it
_RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_HOSTNAME_MAX = 63


class Folders:
    """Everything below one directory, which other users cannot enter."""

    def __init__(self, root: Path) -> None:
        # mounts and URIs need the one true path
        self.root = Path(os.path.realpath(root))
        self.network = self.root / "netns"
        self.fifos = self.root / "fifo"
        self._logs = self.root / "logs"
        self._replicas = self.root / "replicas"

    def prepare(self) -> None:
        for directory in (self._logs, self._replicas, self.fifos):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def log(self, replica_id: str, container: str) -> Path:
        return self._logs / replica_id / f"{container}.log"

    def make(self, replica_id: str, *, address: str) -> None:
        """The replica's folders and files. Repeatable. `address` is empty on the host's network."""
        own = self._replicas / replica_id
        own.mkdir(parents=True, exist_ok=True, mode=0o711)
        (self._logs / replica_id).mkdir(parents=True, exist_ok=True, mode=0o700)
        name = hostname(replica_id)
        hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
        _write(own / "hosts", hosts + (f"{address}\t{name}\n" if address else ""))
        _write(own / "hostname", f"{name}\n")
        _write(own / "resolv.conf", resolver_configuration(keep_loopback=not address))

    def mounted_files(self, replica_id: str) -> Mapping[str, Path]:
        """By path in the container."""
        own = self._replicas / replica_id
        return {f"/etc/{name}": own / name for name in ("hosts", "hostname", "resolv.conf")}

    def known(self) -> set[str]:
        """Replicas that have a folder."""
        found: set[str] = set()
        for directory in (self._logs, self._replicas):
            if directory.is_dir():
                found |= {entry.name for entry in directory.iterdir()}
        return found

    def remove(self, replica_id: str) -> None:
        """Repeatable."""
        for directory in (self._logs / replica_id, self._replicas / replica_id):
            shutil.rmtree(directory, ignore_errors=True)

    def remove_all(self) -> None:
        for directory in (self._logs, self._replicas, self.fifos):
            shutil.rmtree(directory, ignore_errors=True)


def hostname(replica_id: str) -> str:
    return replica_id[:_HOSTNAME_MAX].rstrip("-._")


def resolver_configuration(*, keep_loopback: bool) -> str:
    """The host's resolv.conf without servers on loopback, which a replica's own network does not reach."""
    for path in _RESOLV_CONF:
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        kept = [line for line in lines if keep_loopback or not _is_loopback_server(line)]
        if keep_loopback or any(line.split()[:1] == ["nameserver"] for line in kept):
            return "\n".join(kept) + "\n"
    return ""


def _is_loopback_server(line: str) -> bool:
    words = line.split()
    return len(words) > 1 and words[0] == "nameserver" and words[1].startswith(_LOOPBACK_RESOLVERS)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)
