"""Decisions in words: rejections by reason, and one line for people."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from cloudless.coordinator.core.scheduler.filters import Candidate, Filter
from cloudless.core.model import FilterRejection, PlacementDecision

NODE_IDS_STORED: Final = 50  # ids kept with each reason in the log

_WORDS: Final[Mapping[str, str]] = {
    "ready": "not ready",
    "cordoned": "cordoned or draining",
    "taints": "taint not tolerated",
    "selector": "node selector does not match",
    "locality": "outside the required regions and zones",
    "runtime": "no suitable runtime",
    "features": "a required feature is missing",
    "host_ports": "host port taken",
    "anti_affinity": "anti-affinity",
}


def rejections(filters: Sequence[Filter], candidates: Sequence[Candidate]) -> tuple[FilterRejection, ...]:
    """Every reason against every node: grouped by filter and reason, in the order of the filters."""
    describe = {f.name: f.describe for f in filters}
    order = {f.name: position for position, f in enumerate(filters)}
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in candidates:
        for failing in candidate.failing:
            groups.setdefault(failing, []).append(candidate)
    rows = []
    for (name, reason), rejected in sorted(groups.items(), key=lambda item: (order[item[0][0]], item[0][1])):
        word = describe[name]
        ids = tuple(c.node.id for c in rejected)
        rows.append(FilterRejection(name, reason if word is None else word(rejected), ids, len(ids)))
    return tuple(rows)


def obstacles(candidates: Sequence[Candidate]) -> str:
    """Counts each rejected node once, under its first obstacle: "insufficient memory on 3 nodes; cordoned: 1"."""
    counts = Counter(c.failing[0][0] for c in candidates if c.failing)
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
