"""The score's weights, as the settings give them."""

from __future__ import annotations

from cloudless.config import SchedulerConfig
from cloudless.coordinator.core.scheduler.score import Weights


def weights_of(settings: SchedulerConfig) -> Weights:
    return Weights(
        locality=settings.weight_locality,
        reliability=settings.weight_reliability,
        cost=settings.weight_cost,
        utilization=settings.weight_utilization,
        network=settings.weight_network,
    )
