"""Calls to the coordinator: deadline, idempotency key, repeats, and errors in the fabric's own words.

The only module of the program that imports gRPC. A write carries a request id made once; while the coordinator is
away it is repeated under the same id until its deadline, which cannot do it twice. A read fails at once. When no
connection comes about at all, a write waits for `CONNECT_GRACE_MS` only: then nothing was sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import grpc

from cloudless.api.v1 import control_pb2_grpc
from cloudless.clock import Clock
from cloudless.errors import CloudlessError, DeadlineExceeded, Unavailable
from cloudless.identity.channel import REQUEST_ID_METADATA, error_from_rpc, open_sync_channel

if TYPE_CHECKING:
    from cloudless.identity.credentials import Credentials

CONNECT_GRACE_MS: Final = 5_000
BACKOFF_MS_FIRST: Final = 100
BACKOFF_MS_MAX: Final = 2_000
PAGE_SIZE: Final = 1000


class Client:
    """One fabric. Calls go to the first address that answers. Safe to use from several threads."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        credentials: Credentials | None,
        clock: Clock,
        timeout_ms: int,
        open_channel: Callable[[str], grpc.Channel] | None = None,
        trace: Callable[[str], None] | None = None,
        new_request_id: Callable[[], str],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.addresses = tuple(addresses)
        self.timeout_ms = timeout_ms
        self._credentials = credentials
        self._clock = clock
        self._open = open_channel
        self._trace = trace
        self._new_request_id = new_request_id
        self._sleep = sleep
        self._channels: dict[str, grpc.Channel] = {}
        self._at = 0

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    def call(
        self, service: str, method: str, request: Any, *, write: bool = False, timeout_ms: int | None = None
    ) -> Any:
        """One unary call, e.g. `call("Node", "GetNode", request)`. Raises CloudlessError."""
        deadline_ms = self._clock.monotonic_ms() + (timeout_ms if timeout_ms is not None else self.timeout_ms)
        started_ms = self._clock.monotonic_ms()
        request_id = self._new_request_id() if write else ""
        backoff_ms, failures = BACKOFF_MS_FIRST, 0
        while True:
            left_ms = deadline_ms - self._clock.monotonic_ms()
            try:
                return self._once(service, method, request, request_id, max(left_ms, 1))
            except grpc.RpcError as error:
                raised = self._error(error)
                failures += 1
                if isinstance(raised, DeadlineExceeded) and not raised.remedy:
                    raised = self._late(method, self._clock.monotonic_ms() - started_ms, write=write)
                if not isinstance(raised, Unavailable):
                    raise raised from None
                self._at += 1  # the next coordinator
                never_sent = "failed to connect" in str(getattr(error, "details", str)() or "")
                waited_ms = self._clock.monotonic_ms() - started_ms
                unasked = failures < len(self.addresses)
                patient = write and not (never_sent and waited_ms >= CONNECT_GRACE_MS)
                left_ms = deadline_ms - self._clock.monotonic_ms()
                if not (unasked or patient) or left_ms <= 0:
                    raise self._unreachable(raised) from None
            if not unasked:
                self._sleep(min(backoff_ms, left_ms) / 1000)
                backoff_ms = min(backoff_ms * 2, BACKOFF_MS_MAX)

    def stream(
        self, service: str, method: str, request: Any, *, timeout_ms: int | None = None
    ) -> tuple[Iterator[Any], Callable[[], None]]:
        """A call that answers with a stream: its messages, and a function that ends it. `request` may be an iterator
        of messages. The messages raise CloudlessError where the call fails; after being ended they just stop."""
        address = self._address()
        started_ms = self._clock.monotonic_ms()
        invoke = getattr(self._stub(address, service), method)
        timeout_s = None if timeout_ms is None else max(timeout_ms, 1) / 1000
        running = invoke(request, timeout=timeout_s, metadata=((REQUEST_ID_METADATA, self._new_request_id()),))

        def messages() -> Iterator[Any]:
            try:
                yield from running
            except grpc.RpcError as error:
                if running.cancelled():
                    return
                raised = self._error(error)
                if isinstance(raised, Unavailable):
                    self._at += 1
                    raised = self._unreachable(raised)
                raise raised from None
            finally:
                self._log(f"{service}.{method} {address} stream", started_ms)

        return messages(), running.cancel

    def pages(self, service: str, method: str, request: Any, field: str) -> tuple[list[Any], int]:
        """Every item of a list, over all its pages, and the revision to watch from (0 where the list has none)."""
        options = request.options if "options" in request.DESCRIPTOR.fields_by_name else request
        options.page_size = options.page_size or PAGE_SIZE
        items: list[Any] = []
        revision = 0
        while True:
            answer = self.call(service, method, request)
            items += getattr(answer, field)
            revision = revision or getattr(answer, "revision", 0)
            options.page_token = answer.next_page_token
            if not answer.next_page_token:
                return items, revision

    def _address(self) -> str:
        return self.addresses[self._at % len(self.addresses)]

    def _stub(self, address: str, service: str) -> Any:
        channel = self._channels.get(address)
        if channel is None:
            if self._open is not None:
                channel = self._open(address)
            else:
                assert self._credentials is not None
                channel = open_sync_channel(address, self._credentials)
            self._channels[address] = channel
        return getattr(control_pb2_grpc, f"{service}ServiceStub")(channel)

    def _once(self, service: str, method: str, request: Any, request_id: str, timeout_ms: int) -> Any:
        address = self._address()
        metadata = ((REQUEST_ID_METADATA, request_id),) if request_id else ()
        started_ms = self._clock.monotonic_ms()
        try:
            invoke = getattr(self._stub(address, service), method)
            return invoke(request, timeout=timeout_ms / 1000, metadata=metadata)
        finally:
            self._log(f"{service}.{method} {address}{f' request_id={request_id}' if request_id else ''}", started_ms)

    def _log(self, text: str, started_ms: int) -> None:
        if self._trace is not None:
            self._trace(f"# {text} {self._clock.monotonic_ms() - started_ms} ms")

    def _error(self, error: grpc.RpcError) -> CloudlessError:
        return error_from_rpc(error, credentials=self._credentials, now_ms=self._clock.now_ms())

    def _late(self, method: str, waited_ms: int, *, write: bool) -> DeadlineExceeded:
        unknown = "whether it was done is not known: look, then repeat it if needed; " if write else ""
        return DeadlineExceeded(
            f"{method} was not answered within {max(waited_ms, 1) / 1000:.3g} s",
            reason="NotAnswered",
            remedy=f"{unknown}--request-timeout gives it more time",
        )

    def _unreachable(self, error: Unavailable) -> CloudlessError:
        if error.remedy or error.reason not in ("CoordinatorUnreachable", "Unavailable"):
            return error
        where = " or ".join(self.addresses)
        return Unavailable(
            f"no coordinator answers at {where}",
            reason="CoordinatorUnreachable",
            remedy="check that it runs and that this machine reaches it; `cloudlessctl config view` shows the context",
        )


def deadline(clock: Clock, timeout_ms: int) -> Callable[[], int]:
    """A function that says how many ms are left, at least 1; raises DeadlineExceeded when none are."""
    end_ms = clock.monotonic_ms() + timeout_ms

    def left_ms() -> int:
        left = end_ms - clock.monotonic_ms()
        if left <= 0:
            raise DeadlineExceeded("took too long")
        return left

    return left_ms


def gather(functions: Iterable[Callable[[], Any]], *, threads: int = 16) -> list[Any]:
    """Runs calls side by side; each answer, or the CloudlessError that it raised, in order."""
    from concurrent.futures import ThreadPoolExecutor

    def run(function: Callable[[], Any]) -> Any:
        try:
            return function()
        except CloudlessError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, functions))
