"""A local fabric as a test fixture: started, handed over, and removed whatever happened."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cloudless.dev import containerd
from cloudless.dev.fabric import AgentPlan, Hosts, LocalFabric


def require_containerd() -> None:
    """Skips where containers are impossible; fails instead where they were promised (CI)."""
    reason = containerd.missing()
    if not reason:
        return
    if os.environ.get("CLOUDLESS_REQUIRE_CONTAINERD") or os.environ.get("CI"):
        pytest.fail(f"a real containerd is required here: {reason}")
    pytest.skip(reason)


@contextmanager
def running_fabric(
    directory: Path,
    *,
    tag: str,
    agents: Sequence[AgentPlan],
    subnet_prefix: str = "10.202",
    with_containerd: bool = True,
    coordinator_settings: dict[str, str] | None = None,
    coordinators: int = 1,
    hosts: Hosts | None = None,
    agent_hosts: Hosts | None = None,
) -> Iterator[LocalFabric]:
    """Coordinators and agents as real processes, ready; everything is removed at the end."""
    with ExitStack() as stack:
        address, snapshotter = "", "overlayfs"
        if with_containerd:
            daemon = containerd.PrivateContainerd(directory / "containerd")
            stack.callback(daemon.stop, remove=True)
            daemon.start()
            address = daemon.address
            snapshotter = "overlayfs" if containerd.overlay_possible(directory) else "native"
        local = LocalFabric(
            directory,
            tag=tag,
            subnet_prefix=subnet_prefix,
            containerd_address=address,
            containerd_snapshotter=snapshotter,
            coordinator_settings=coordinator_settings,
            hosts=hosts,
            agent_hosts=agent_hosts,
        )
        stack.callback(lambda: local.stop_together([local.coordinator_process(each) for each in local.coordinators()]))
        local.start_coordinators(coordinators)
        for plan in agents:
            if with_containerd:
                stack.callback(local.purge_agent, plan)
            stack.callback(local.stop, f"agent-{plan.name}")
            local.start_agent(plan)
        names = {plan.name for plan in agents}
        local.wait_for(lambda: names <= set(local.ready_nodes()), what=f"{len(names)} ready nodes", timeout_s=40)
        yield local
