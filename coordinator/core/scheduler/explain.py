"""Decisions in words: obstacles in one line for people, and what is stored of a decision."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from cloudless.core.model import PlacementDecision

NODE_IDS_STORED: Final = 50  # ids kept with each reason in the log

_WORDS: Final[Mapping[str, str]] = {
    "ready": "not ready",
    "cordoned": "cordoned or draining",
    "owner": "not admitted by the owner",
    "pressure": "under pressure",
    "taints": "taint not tolerated",
    "selector": "node selector does not match",
    "locality": "outside the required regions and zones",
    "runtime": "no suitable runtime",
    "features": "a required feature is missing",
    "host_ports": "host port taken",
    "affinity": "affinity",
    "anti_affinity": "anti-affinity",
    "spread": "spread",
}


def obstacles(counts: Mapping[str, int]) -> str:
    """In words, how many nodes each filter is the first obstacle of: "insufficient memory on 3 nodes; cordoned: 1"."""
    parts = []
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if name in _WORDS:
            parts.append(f"{_WORDS[name]}: {count}")
        else:
            parts.append(f"insufficient {name} on {count} node{'' if count == 1 else 's'}")
    return "; ".join(parts)


def compact(decision: PlacementDecision) -> PlacementDecision:
    """The decision as it is stored: with the first ids of each reason, and the number of all."""
    if all(len(r.node_ids) <= NODE_IDS_STORED for r in decision.rejections):
        return decision
    kept = tuple(dataclasses.replace(r, node_ids=r.node_ids[:NODE_IDS_STORED]) for r in decision.rejections)
    return dataclasses.replace(decision, rejections=kept)
