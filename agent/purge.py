"""Removes everything that an agent has made on its device: the way back from an installation.

    python -m cloudless.agent.purge --yes --data-dir /var/lib/cloudless/agent

Takes the agent's own settings (flags, environment, `--config`). Containers, images and the containerd namespace,
processes, networks with their bridge and nftables table, cgroups, logs. What it keeps: the identity and the journal in
the data folder, and net.ipv4.ip_forward. The agent must not be running.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from cloudless.agent.network.bridge import ReplicaNetworks
from cloudless.agent.runtime.containerd import cgroups
from cloudless.agent.runtime.containerd.client import Client
from cloudless.agent.runtime.containerd.folders import Folders
from cloudless.agent.runtime.containerd.purge import purge_namespace, remove_runtime_state
from cloudless.agent.runtime.process.runtime import ProcessRuntime
from cloudless.clock import SystemClock
from cloudless.config import AgentConfig, load
from cloudless.errors import CloudlessError, Unavailable

_PROGRAM = "cloudless-agent purge"


async def remove_all(config: AgentConfig) -> list[str]:
    """Removes all of it; repeatable. Returns what could not be looked at, for people: a containerd that does not answer
    (its containers are left then). Raises CloudlessError when something refuses to go."""
    skipped: list[str] = []
    runtime = config.runtime
    client = Client(runtime.containerd_address, runtime.containerd_namespace)
    try:
        if await asyncio.to_thread(os.path.exists, client.address):
            await purge_namespace(client)
    except Unavailable as error:
        skipped.append(error.message)
    finally:
        await client.close()
    await asyncio.to_thread(remove_runtime_state, runtime.containerd_namespace)
    folders = Folders(config.data_dir)
    if os.geteuid() == 0:  # nobody else can have made one
        networks = ReplicaNetworks(bridge=runtime.bridge, subnet=runtime.subnet, directory=folders.network)
        try:
            await networks.remove_all()
        finally:
            networks.close()
    await asyncio.to_thread(folders.remove_all)
    processes = config.data_dir / "process"
    if await asyncio.to_thread(processes.is_dir):
        await ProcessRuntime(processes, clock=SystemClock(), cgroup_prefix=runtime.cgroup_prefix).purge()
    await asyncio.to_thread(cgroups.remove, runtime.cgroup_prefix)
    # an agent waits for a runtime that it has used before; there is nothing of it to wait for any more
    await asyncio.to_thread((config.data_dir / "runtimes").unlink, missing_ok=True)
    return skipped


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    confirmed = "--yes" in arguments
    try:
        config = load(AgentConfig, _PROGRAM, [a for a in arguments if a != "--yes"], os.environ)
        if not confirmed:
            print(  # noqa: T201 - this is a program
                f"This removes every container, image and network of the agent in {config.data_dir}: add --yes",
                file=sys.stderr,
            )
            return 2
        skipped = asyncio.run(remove_all(config))
    except CloudlessError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    for reason in skipped:
        print(f"warning: {reason}", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
