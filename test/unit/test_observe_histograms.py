"""The histogram of the event loop shows what prometheus_client's own would."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from cloudless.observe.histograms import LoopHistogram

BUCKETS = (0.001, 0.01, 0.5)


@pytest.mark.parametrize("amounts", [(), (0.001,), (0.0, 0.0011, 0.01, 0.4, 0.5, 0.6, 100.0)])
def test_it_is_exposed_as_the_usual_one(amounts: tuple[float, ...]) -> None:
    mine, usual = CollectorRegistry(), CollectorRegistry()
    histogram = LoopHistogram("seconds", "How long.", buckets=BUCKETS, registry=mine)
    reference = Histogram("seconds", "How long.", buckets=BUCKETS, registry=usual)
    for amount in amounts:
        histogram.observe(amount)
        reference.observe(amount)
    assert _lines(mine) == _lines(usual)


def _lines(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]
