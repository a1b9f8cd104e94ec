"""Which node, and why.

`plan.place` puts replicas one after another on a working copy of the nodes: `filters` say which nodes cannot take
one (each of them speaks about every node), `score` ranks the rest by the formula of REQ-021, `explain` turns both
into the decision that is stored with the replica.
"""

from cloudless.coordinator.core.scheduler.plan import place
from cloudless.coordinator.core.scheduler.score import Weights

__all__ = ["Weights", "place"]
