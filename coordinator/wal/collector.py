"""Keeping Python's cyclic garbage collector away from work that only makes it scan.

The state, its snapshot messages and the log's entries hold no cycles; they are freed by reference counts. But each
object counts towards the next full collection, which scans every object of the process and stops all threads:
with 30 000 users, writing snapshots one after the other made 17 full collections in 11 s, of up to 2 s each.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_guard = threading.Lock()
_paused = 0
_resume = False


@contextmanager
def paused() -> Iterator[None]:
    """No automatic collection inside, in any thread. May be nested and used from several threads."""
    global _paused, _resume
    with _guard:
        if _paused == 0:
            _resume = gc.isenabled()
            gc.disable()
        _paused += 1
    try:
        yield
    finally:
        with _guard:
            _paused -= 1
            if _paused == 0 and _resume:
                gc.enable()


def prefer_latency() -> None:
    """For a coordinator's `main`, once the store is open: short collections of young objects, full ones hardly ever.

    What exists now (the recovered state, the program's code) is never scanned again; it is still freed when its
    last reference goes, only cycles that are garbage already stay. Cycles made later are found while they are
    young, or after a hundred million allocations. Threads change places every millisecond instead of every five, so
    that writes wait less for the thread that encodes a snapshot (measured: half as long).
    """
    sys.setswitchinterval(0.001)
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 5, 4000)
