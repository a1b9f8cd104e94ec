"""One call, asked of several coordinators: the next one is asked when the one before failed, or says nothing for a
while; the first answer counts, and the others are let go of. A write carries one request id, so that it is done once.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc

from cloudless.errors import CloudlessError, DeadlineExceeded, Unauthenticated, Unavailable

# Without a word for so long, the next coordinator is asked as well: this one may be dead without having said so.
HEDGE_MS: Final = 1_000
# What a broken handshake may mean while a coordinator comes up or goes down: another one is asked before it is said.
_OF_ONE: Final = frozenset({"CoordinatorNotTrusted", "CertificateRefused"})


def first_answer(
    addresses: Sequence[str],
    begin: Callable[[str], Any],
    *,
    explain: Callable[[str, grpc.RpcError], CloudlessError],
    left_ms: Callable[[], int],
    hedge_ms: int = HEDGE_MS,
) -> tuple[str, Any]:
    """Asks them in this order; returns who answered and its finished call (a grpc.Future).

    `begin` starts the call to one address. `explain` says what a failure means. Raises what a coordinator refused the
    call with; where all failed to answer, the last failure; DeadlineExceeded when no time is left.
    """
    ended: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    waiting, running = list(addresses), dict[str, Any]()
    refusal: CloudlessError | None = None
    try:
        while True:
            if waiting:
                address = waiting.pop(0)
                call = running[address] = begin(address)
                call.add_done_callback(lambda done, asked=address: ended.put((asked, done)))
            if not running:
                raise refusal or Unavailable("no coordinator is known")
            patience_ms = min(hedge_ms, left_ms()) if waiting else left_ms()
            try:
                address, call = ended.get(timeout=max(patience_ms, 1) / 1000)
            except queue.Empty:
                if left_ms() <= 0:
                    raise DeadlineExceeded("no coordinator answered in time") from None
                continue
            del running[address]
            try:
                call.result()
            except grpc.RpcError as error:
                failure = explain(address, error)
                if not moves_on(failure):
                    raise failure from None
                if refusal is None or not was_never_sent(failure):
                    refusal = failure  # the word of one that is there says more than that another is not
            else:
                return address, call
    finally:
        for call in running.values():
            call.cancel()


def answers(channel: grpc.Channel, *, timeout_ms: int) -> bool:
    """Whether a coordinator is there, and says anything at all, within the time."""
    try:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=timeout_ms / 1000)
    except grpc.RpcError as error:
        code: Any = getattr(error, "code", lambda: grpc.StatusCode.UNAVAILABLE)
        return code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return True


def was_never_sent(error: CloudlessError) -> bool:
    """Whether no connection came about at all."""
    return "failed to connect" in error.message


def moves_on(error: CloudlessError) -> bool:
    """Whether another coordinator may answer better."""
    return isinstance(error, Unavailable) or (isinstance(error, Unauthenticated) and error.reason in _OF_ONE)
