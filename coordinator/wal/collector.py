"""Keeping Python's cyclic garbage collector away from work that only makes it scan.

The state and the log's entries hold no cycles; they are freed by reference counts. But each object counts towards the
next collection, which stops all threads while it scans: the objects of a state that is being read, again and again, and
in a full collection every object of the process (with 30 000 users, up to 2 s).
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
def paused(*, freeze: bool = False) -> Iterator[None]:
    """No automatic collection inside, in any thread. May be nested and used from several threads.

    `freeze`: for work that makes very many objects which stay, done rarely while the process serves: nothing that
    exists at its end is scanned any more. Otherwise the next collection would look at all of them at once (a second for
    100 000 replicas). Cycles that are garbage by then are never freed.
    """
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
            if freeze:
                gc.freeze()
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
