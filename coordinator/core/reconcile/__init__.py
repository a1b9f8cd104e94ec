"""From what is wanted and what is to what shall be done next.

`reconcile` looks at one workload in one state and returns a plan. It is level-triggered: it remembers nothing,
so that it may be called at any time, any number of times, by any leader. `census` sorts a workload's replicas by
their condition; `service` and `system` decide; `dirty_keys` says which workloads a change concerns.
"""

from cloudless.coordinator.core.reconcile.dirty import dirty_keys, in_order
from cloudless.coordinator.core.reconcile.workload import Plan, reconcile

__all__ = ["Plan", "dirty_keys", "in_order", "reconcile"]
