"""Following changes: a watch that goes on when its stream breaks, from where it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from cloudless.ctl.client import Client
from cloudless.errors import Compacted, DeadlineExceeded, Unavailable, WatchLagged

RECONNECT_MS_FIRST: Final = 200
RECONNECT_MS_MAX: Final = 3_000
RECONNECT_ATTEMPTS_MAX: Final = 20  # without any message in between


def follow(
    client: Client,
    service: str,
    method: str,
    make_request: Callable[[int], Any],
    *,
    from_revision: int = 0,
    revision_of: Callable[[Any], int] = lambda message: int(message.revision),
    left_ms: Callable[[], int] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Any]:
    """Every message of a watch. When the stream breaks it is opened again after the last revision seen, with another
    coordinator at once where there is one; when that revision is too old, from the present state (revision 0), so that
    a message can come twice.

    `left_ms` bounds it all and raises DeadlineExceeded. Raises Unavailable when the coordinator stays away.
    """
    revision, failures = from_revision, 0
    while True:
        timeout_ms = left_ms() if left_ms is not None else None
        messages, cancel = client.stream(service, method, make_request(revision), timeout_ms=timeout_ms)
        try:
            for message in messages:
                failures = 0
                revision = max(revision, revision_of(message))
                yield message
            failures += 1  # ended in good order: the coordinator stops
        except (Compacted, WatchLagged):
            revision = 0
            failures += 1
        except Unavailable:
            failures += 1
            if failures > RECONNECT_ATTEMPTS_MAX or not revision:
                raise
        except DeadlineExceeded:
            if left_ms is not None:
                left_ms()
            failures += 1
        finally:
            cancel()
        if failures < len(client.addresses):
            continue
        delay_ms = min(RECONNECT_MS_FIRST * 2 ** min(failures, 8), RECONNECT_MS_MAX)
        if left_ms is not None:
            delay_ms = min(delay_ms, left_ms())
        sleep(delay_ms / 1000)
