"""What this member tells about replication. Those that the single engine has as well are in `wal.single`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

ELECTIONS = Counter("cloudless_raft_elections_total", "Elections in which this member stood.")
LEADER_CHANGES = Counter("cloudless_raft_leader_changes_total", "Times that this member learned of another leader.")
PEER_LAG = Gauge(
    "cloudless_raft_peer_lag_entries", "On the leader: entries that a member has not confirmed yet.", ["member"]
)
SNAPSHOT_SENT_BYTES = Counter("cloudless_raft_snapshot_sent_bytes_total", "Bytes of snapshots sent to other members.")
SNAPSHOTS_INSTALLED = Counter("cloudless_raft_snapshots_installed_total", "Snapshots received whole and installed.")
FORWARDED = Counter("cloudless_raft_forwarded_total", "Proposals that this member passed on to the leader.")
