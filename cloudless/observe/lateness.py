"""How long an event loop keeps others waiting: the one number that says whether a process still keeps up."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from cloudless.observe.histograms import LoopHistogram

INTERVAL_S: Final = 0.1

LATENESS = LoopHistogram(
    "cloudless_event_loop_lateness_seconds",
    "How much later than asked for the event loop came to a timer; ten samples a second.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2.5, 5),
)


async def watch() -> None:
    """Measures the running loop, for ever."""
    while True:
        due = time.monotonic() + INTERVAL_S
        await asyncio.sleep(INTERVAL_S)
        LATENESS.observe(max(0.0, time.monotonic() - due))
