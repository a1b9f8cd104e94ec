"""A container's counters, from either version of the cgroups."""

from __future__ import annotations

from typing import Any

from cloudless.agent.runtime.base import ContainerStats
from cloudless.agent.runtime.containerd.api import cgroup1_metrics_pb2, cgroup2_metrics_pb2, tasks_pb2
from cloudless.agent.runtime.containerd.client import Client
from cloudless.errors import FailedPrecondition, Internal

_VERSION_1 = "io.containerd.cgroups.v1.Metrics"
_VERSION_2 = "io.containerd.cgroups.v2.Metrics"


async def read(client: Client, container_id: str) -> ContainerStats:
    """Raises FailedPrecondition(reason="ContainerNotRunning") when the task is gone."""
    answer: Any = await client.call(client.tasks.Metrics, tasks_pb2.MetricsRequest(filters=[f"id=={container_id}"]))
    if not answer.metrics:
        raise FailedPrecondition(f"{container_id} does not run", reason="ContainerNotRunning")
    return decode(answer.metrics[0].data.type_url, answer.metrics[0].data.value)


def decode(type_url: str, value: bytes) -> ContainerStats:
    """Memory is what cannot be given back at once: without the inactive part of the file cache. Raises Internal for
    a kind of metrics that is not known."""
    name = type_url.rpartition("/")[2]
    if name == _VERSION_1:
        first = cgroup1_metrics_pb2.Metrics.FromString(value)
        return ContainerStats(
            cpu_usage_us=first.cpu.usage.total // 1000,
            memory_bytes=max(0, first.memory.usage.usage - first.memory.total_inactive_file),
            pids=first.pids.current,
        )
    if name == _VERSION_2:
        second = cgroup2_metrics_pb2.Metrics.FromString(value)
        return ContainerStats(
            cpu_usage_us=second.cpu.usage_usec,
            memory_bytes=max(0, second.memory.usage - second.memory.inactive_file),
            pids=second.pids.current,
        )
    raise Internal(f"containerd sent metrics of an unknown kind: {type_url}")
