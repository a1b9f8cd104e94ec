"""How many small writes a second the data folder takes, measured for a moment and remembered.

4 KiB writes with O_DIRECT, or with fdatasync where the file system refuses that (tmpfs, some FUSE): what a database
or the agent's journal would feel, and an SD card is told from a solid-state disk in a tenth of a second.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import time
from pathlib import Path

_BLOCK = 4096
_BLOCKS = 256
_BUDGET_S = 0.15
_CACHE_MS = 7 * 24 * 3_600_000
_CLASSES = ((100, "low"), (500, "medium"), (3000, "high"))


def classify(iops: float) -> str:
    return next((name for limit, name in _CLASSES if iops < limit), "premium")


def measure(directory: Path, *, budget_s: float = _BUDGET_S) -> float:
    """Writes a second. A single write may take longer than the budget; no second one is begun then. Raises
    OSError."""
    path = directory / f".iops-{os.getpid()}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    block = mmap.mmap(-1, _BLOCK)  # page-aligned, as O_DIRECT wants it
    block.write(os.urandom(_BLOCK))
    try:
        direct = hasattr(os, "O_DIRECT")
        try:
            descriptor = os.open(path, flags | (os.O_DIRECT if direct else 0), 0o600)
        except OSError:
            if not direct:
                raise
            direct = False
            path.unlink(missing_ok=True)  # some file systems make it before they refuse
            descriptor = os.open(path, flags, 0o600)
        try:
            started = time.perf_counter()
            os.ftruncate(descriptor, _BLOCK * _BLOCKS)
            count = 0
            while (elapsed := time.perf_counter() - started) < budget_s:
                os.pwrite(descriptor, block, count * 37 % _BLOCKS * _BLOCK)
                if not direct:
                    os.fdatasync(descriptor)
                count += 1
            return count / elapsed
        finally:
            os.close(descriptor)
    finally:
        block.close()
        path.unlink(missing_ok=True)


def iops_class(directory: Path, *, now_ms: int) -> str:
    """low (< 100), medium (< 500), high (< 3000) or premium; from the last week's measurement of the same file
    system where there is one. "" when the folder cannot be written."""
    cache = directory / "iops.json"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        device = directory.stat().st_dev
        with contextlib.suppress(ValueError, KeyError, TypeError, FileNotFoundError):
            known = json.loads(cache.read_text())
            if known["device"] == device and 0 <= now_ms - known["measured_at_ms"] < _CACHE_MS:
                return classify(known["iops"])
        iops = measure(directory)
        temporary = cache.with_suffix(".tmp")
        temporary.write_text(json.dumps({"device": device, "iops": round(iops, 1), "measured_at_ms": now_ms}))
        temporary.replace(cache)
    except OSError:
        return ""
    return classify(iops)
