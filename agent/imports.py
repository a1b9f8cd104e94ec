"""An image archive on its way to the runtime: streamed to a file, never to fill the disk, always deleted."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from cloudless.errors import ResourceExhausted

# An import must leave the node this much to live on: the larger of the two.
_FREE_BYTES_MIN: Final = 256 * 2**20
_FREE_SHARE_MIN: Final = 0.03
_CHECK_EVERY_BYTES: Final = 16 * 2**20


@asynccontextmanager
async def receive_archive(data: AsyncIterator[bytes], spool: Path) -> AsyncIterator[tuple[Path, int]]:
    """Writes what comes to a file below `spool` (made if need be) and hands over its path and size; the file is
    deleted at the end of the block. Raises ResourceExhausted with reason `DiskFull` before the disk is full."""
    descriptor, path = _make_file(spool)
    try:
        size = 0
        unchecked = _CHECK_EVERY_BYTES
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            async for piece in data:
                unchecked += len(piece)
                if unchecked >= _CHECK_EVERY_BYTES:
                    unchecked = 0
                    # The runtime will unpack it to at least the same size again.
                    _check_space(spool, needed=_CHECK_EVERY_BYTES + size)
                try:
                    await asyncio.to_thread(file.write, piece)
                except OSError as error:
                    raise ResourceExhausted(f"cannot store the archive: {error.strerror}", reason="DiskFull") from None
                size += len(piece)
        yield path, size
    finally:
        os.unlink(path)


def _make_file(spool: Path) -> tuple[int, Path]:
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix="import-", suffix=".tar", dir=spool)
    return descriptor, Path(name)


def empty_spool(spool: Path) -> None:
    """Deletes what an earlier life of the agent left behind."""
    for leftover in spool.glob("import-*.tar"):
        leftover.unlink(missing_ok=True)


def _check_space(spool: Path, *, needed: int) -> None:
    status = os.statvfs(spool)
    free = status.f_bavail * status.f_frsize
    reserve = max(_FREE_BYTES_MIN, int(status.f_blocks * status.f_frsize * _FREE_SHARE_MIN))
    if free < reserve + needed:
        raise ResourceExhausted(
            f"not enough space for the archive: {free >> 20} MiB free, {(reserve + needed) >> 20} MiB needed",
            reason="DiskFull",
            remedy="free space on the node, or import on another",
        )
