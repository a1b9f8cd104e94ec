"""Which node, and why.

`plan.Board` puts replicas one after another on a working copy of the nodes: `filters` and `company` say which nodes
cannot take one (each of them speaks about every node), `score` ranks the rest by the formula of REQ-021, `verdicts` and
`explain` turn both into the decision that is stored with the replica.

Everything is computed for all nodes at once, on the columns of a `table` that is derived from the one of an earlier
state. `cloudless.testing.plain_scheduler` says the same of one node after another; tests hold this package to it.
"""

from cloudless.coordinator.core.scheduler.plan import place
from cloudless.coordinator.core.scheduler.score import Weights

__all__ = ["Weights", "place"]
