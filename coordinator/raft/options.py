"""What `open_raft` is told beyond what every engine gets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RaftOptions:
    """`address`: host:port at which the other members reach this one's member listener.

    `bootstrap`: where the log holds no configuration yet (it is empty, or the single engine wrote it), begin a cluster
    of this one member, called `cluster_id`; everything in the log stays. Without it such a member is joining: it waits
    for a leader that adds it, and never stands for election. A log with a configuration goes on with it, whatever is
    given here.
    """

    address: str
    bootstrap: bool = False
    cluster_id: str = ""
