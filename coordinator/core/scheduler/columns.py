"""The score's terms of all nodes at once: what `score` says of each, to the bit."""

from __future__ import annotations

from typing import Final

import numpy as np

from cloudless.coordinator.core.scheduler import score
from cloudless.coordinator.core.scheduler.table import (
    AVAILABLE,
    CAPACITY,
    FAILED,
    FIRST_READY,
    KNOWN,
    LOSSES,
    NEAR,
    PRIOR,
    READY,
    SINCE,
    UPDATED,
    Floats,
    Ints,
    NodeTable,
)
from cloudless.core.spec import Placement, ResourceAmounts

_FADING: Final = np.array(score.FADING)


def locality(table: NodeTable, placement: Placement) -> Floats:
    near = table.judged[NEAR]
    measured = ~np.isnan(near)
    total: Floats = np.where(measured, near, 0.0)
    count: Floats = measured.astype(np.float64)
    if placement.regions or placement.zones:
        place = table.facet("place")
        known = [score.places_known(placement, region, zone) for region, zone in place.values]
        stated = np.array([value for value, _ in known])[place.codes]
        total = np.where(measured, stated + near, stated)
        count = count + sum((bool(placement.regions), bool(placement.zones)))
    found: Floats = np.divide(total, count, out=np.full(len(table), score.UNKNOWN), where=count > 0)
    return found


def reliability(table: NodeTable, *, now_ms: int) -> Floats:
    facts = table.facts
    minutes = np.maximum(0, now_ms - facts[SINCE]) // 60_000
    value: Floats = 0.5 + 0.5 * minutes / (minutes + score.SETTLED_MINUTES)
    if facts[KNOWN].any():
        value = np.where(facts[KNOWN] > 0, _by_record(facts, value, now_ms), value)
    if table.weeks is not None:
        value = value * (table.weeks[score.hours_ahead(now_ms)].min(axis=0) / 1000)
    return np.where(facts[READY] > 0, value, 0.0)


def _by_record(facts: Ints, value: Floats, now_ms: int) -> Floats:
    since = np.maximum(0, now_ms - facts[FIRST_READY]) // score.HOUR_MS
    hours = np.where(facts[FIRST_READY] != 0, since, 0)
    known = hours / (hours + score.KNOWN_HOURS)
    available = known * (facts[AVAILABLE] / 1000) + (1 - known) * (facts[PRIOR] / 1000)
    age = np.maximum(0, now_ms - facts[UPDATED]) // score.HOUR_MS
    fading = _FADING[np.minimum(age, len(_FADING) - 1)]
    lost = facts[LOSSES] / 1000 * fading
    failed = facts[FAILED] / 1000 * fading
    found: Floats = value * available / (1 + lost / score.LOSSES_HALF) / (1 + failed / score.FAILED_STARTS_HALF)
    return found


def utilization(table: NodeTable, ask: ResourceAmounts, *, own: Ints, wanted: int) -> Floats:
    capacity = table.facts[CAPACITY]
    total, count = np.zeros(len(table)), np.zeros(len(table))
    for row, more in ((0, ask.cpu_millis), (1, ask.memory_bytes)):
        stated = capacity[row] > 0
        fill = (table.used[row].astype(np.float64) + float(more)) / np.where(stated, capacity[row], 1)
        total += np.where(stated, np.minimum(1.0, fill), 0.0)
        count += stated
    mean = np.divide(total, count, out=np.zeros(len(table)), where=count > 0)
    found: Floats = np.maximum(0.0, mean - own / np.maximum(own, max(1, wanted)))
    return found


def points(excess: Ints) -> Floats:
    """`score.points` of each."""
    over = np.maximum(excess, 0)
    found: Floats = np.where(over > 0, 1 + over / (1 + over), 0.0)
    return found
