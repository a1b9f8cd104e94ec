"""How priorities of workloads compare: for who plans room, and for the log, which checks it again."""

from __future__ import annotations

from typing import Final

PRIORITY_GAP: Final = 10  # what stops for another has a priority lower by this much at least
