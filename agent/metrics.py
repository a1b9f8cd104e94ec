"""Metrics that several modules of the agent move. Labels are bounded: no replica or node in them."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

CONTAINERS = Gauge("cloudless_containers", "Containers of this node by stage.", ["state"])
RESTARTS = Counter("cloudless_replica_restarts_total", "Containers restarted, by why the last run ended.", ["reason"])
PROBE_FAILURES = Counter("cloudless_probe_failures_total", "Failed health checks.", ["type"])
OPERATIONS = Counter("cloudless_container_operations_total", "Runtime operations.", ["operation", "result"])
OPERATION_SECONDS = Histogram(
    "cloudless_container_operation_duration_seconds",
    "How long runtime operations took.",
    ["operation"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
SESSION_CONNECTED = Gauge("cloudless_session_connected", "1 while a coordinator has welcomed this agent.")
SESSION_CONNECTS = Counter("cloudless_session_connects_total", "Attempts to open a session.", ["result"])
SESSION_RTT = Gauge("cloudless_session_rtt_seconds", "Round trip of the last heartbeat.")
CHANNELS = Gauge("cloudless_agent_channels", "Open logs, exec and import channels.", ["kind"])
