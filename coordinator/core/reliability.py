"""How steady a node is: what the log saw of it, weighing less the older it is.

The proposer of a node's transition computes the record from the one before and the time since, and the entry carries
it (`ReportNode.reliability`); apply only stores it. So it may be computed with floats, and changed from version to
version.

Shares are whole permille, and steps may be far smaller than one: they are rounded up as often as their fraction says,
by the time of the proposal, which keeps many small steps true on average. Uptime never lowers the share and downtime
never raises it.
"""

from __future__ import annotations

from typing import Final

from cloudless.core.model import Node, NodeReliability, NodeState
from cloudless.core.replacing import replace

HALF_LIFE_MS: Final = 7 * 86_400_000
AVAILABLE_PERMILLE_FIRST: Final = 750  # of a node that is new: more than of one that comes and goes
COUNT_MILLI_MAX: Final = 1_000_000
_ONE: Final = 1_000


def observed(
    node: Node, *, now_ms: int, state: NodeState, lost: bool = False, failed_starts: int = 0
) -> NodeReliability:
    """The node's record at `now_ms` (wall clock), when it enters, or stays in, `state`. `lost`: it fell silent just
    now, without a goodbye; `failed_starts`: replicas that could not be started there since the record before.

    A node that was never ready has a record that says nothing yet. Where the clock went back, no time has passed.
    """
    before = node.reliability
    if before is None or not before.first_ready_at_ms:
        first_ms = now_ms if state is NodeState.READY else 0
        if node.state is NodeState.READY:  # since before anybody kept records
            first_ms = min(node.state_since_ms, now_ms)
        before = NodeReliability(
            available_permille=AVAILABLE_PERMILLE_FIRST, updated_at_ms=first_ms, first_ready_at_ms=first_ms
        )
        if not first_ms:
            return replace(before, updated_at_ms=now_ms)
    elapsed_ms = max(now_ms - before.updated_at_ms, 0)
    ready_ms = 0
    if node.state is NodeState.READY:
        ready_ms = max(min(now_ms - node.state_since_ms, elapsed_ms), 0)
    share = _moved(before.available_permille, 0, elapsed_ms - ready_ms)
    share = _moved(share, _ONE, ready_ms)
    kept = _kept(elapsed_ms)
    return NodeReliability(
        available_permille=_bounded(rounded(share, now_ms), _ONE),
        losses_milli=_bounded(rounded(before.losses_milli * kept, now_ms) + _ONE * lost, COUNT_MILLI_MAX),
        failed_starts_milli=_bounded(
            rounded(before.failed_starts_milli * kept, now_ms) + _ONE * failed_starts, COUNT_MILLI_MAX
        ),
        updated_at_ms=max(now_ms, before.updated_at_ms),
        first_ready_at_ms=before.first_ready_at_ms,
    )


def _kept(elapsed_ms: int) -> float:
    """What is left of an old observation's weight."""
    return float(0.5 ** (elapsed_ms / HALF_LIFE_MS))


def _moved(share: float, goal: int, elapsed_ms: int) -> float:
    return goal + (share - goal) * _kept(elapsed_ms)


def _bounded(value: int, most: int) -> int:
    return min(max(value, 0), most)


def rounded(value: float, now_ms: int) -> int:
    """A whole number that is the value on average over many times. One time rounds all values alike, so that the
    greater one is never rounded below the lesser."""
    # Knuth's multiplicative hash: times that are near each other give thresholds that are far apart.
    threshold = (now_ms * 2_654_435_761 % 2**32) / 2**32
    whole = int(value // 1)
    return whole + (value - whole > threshold)
