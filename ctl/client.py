"""Calls to the coordinators: deadline, idempotency key, repeats, and errors in the fabric's own words.

With `hedging` the only module of the program that imports gRPC. A call goes to the coordinator that answered last; when
that one fails, or says nothing for a second, the next one is asked at once. A write carries a request id made once;
while no coordinator answers it is repeated under the same id until its deadline, which cannot do it twice. A read then
fails, after a moment in which a new leader may have been elected. When no connection comes about at all, a write waits
for `CONNECT_GRACE_MS` only: then nothing was sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import grpc

from cloudless.api.v1 import control_pb2_grpc
from cloudless.clock import Clock
from cloudless.ctl.hedging import HEDGE_MS, answers, first_answer, moves_on, was_never_sent
from cloudless.errors import CloudlessError, DeadlineExceeded, Unauthenticated, Unavailable
from cloudless.identity.channel import (
    CONSISTENCY_METADATA,
    COORDINATORS_METADATA,
    COORDINATORS_NOW_TRAILER,
    ERROR_TRAILER,
    LINEARIZABLE,
    REQUEST_ID_METADATA,
    addresses_digest,
    error_from_rpc,
    open_sync_channel,
)

if TYPE_CHECKING:
    from cloudless.identity.credentials import Credentials

CONNECT_GRACE_MS: Final = 5_000
LEADERLESS_GRACE_MS: Final = 5_000  # that a read waits for a leader
# A coordinator that refuses a certificate can only hang up, and so does one that is killed during a handshake.
HUNG_UP: Final = "CertificateRefused"
HUNG_UP_GRACE_MS: Final = 1_000
BACKOFF_MS_FIRST: Final = 100
BACKOFF_MS_SOON: Final = 200  # at most, while a new leader may be a moment away
BACKOFF_MS_MAX: Final = 2_000
# A coordinator that no connection came about to is asked last for so long.
AVOIDED_MS: Final = 5_000
PAGE_SIZE: Final = 1000

Metadata = tuple[tuple[str, str], ...]


class Client:
    """One fabric. Safe to use from several threads.

    `consistency`: `linearizable`, or `stale` for reads that any coordinator may answer from what it has. `on_learnt` is
    told the coordinators' addresses when they are others than `addresses`, the one that answered first, and the client
    goes on with those; without it, it asks nobody but `addresses`.
    """

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
        consistency: str = LINEARIZABLE,
        on_learnt: Callable[[tuple[str, ...]], None] | None = None,
    ) -> None:
        self.addresses = tuple(addresses)
        self.timeout_ms = timeout_ms
        self.consistency = consistency
        self._credentials = credentials
        self._clock = clock
        self._open = open_channel
        self._trace = trace
        self._new_request_id = new_request_id
        self._sleep = sleep
        self._on_learnt = on_learnt
        self._lock = threading.Lock()
        self._channels: dict[str, grpc.Channel] = {}
        self._first = self.addresses[0] if self.addresses else ""  # the one that answered last
        self._answered: set[str] = set()
        self._accepted = False  # this certificate, by any coordinator, ever
        self._avoided_until_ms: dict[str, int] = {}
        self._digest = addresses_digest(self.addresses)

    def close(self) -> None:
        with self._lock:
            channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close()

    # Unary calls

    def call(
        self, service: str, method: str, request: Any, *, write: bool = False, timeout_ms: int | None = None
    ) -> Any:
        """One unary call, e.g. `call("Node", "GetNode", request)`. Raises CloudlessError."""
        started_ms = self._clock.monotonic_ms()
        deadline_ms = started_ms + (timeout_ms if timeout_ms is not None else self.timeout_ms)
        request_id = self._new_request_id() if write else ""
        backoff_ms = BACKOFF_MS_FIRST
        refusal: Unavailable | None = None
        while True:
            try:
                return self._ask(service, method, request, request_id, deadline_ms)
            except DeadlineExceeded as late:
                if late.remedy:
                    raise
                if refusal is not None and not write:
                    raise self._unreachable(refusal) from None
                waited_ms = self._clock.monotonic_ms() - started_ms
                raise self._late(method, waited_ms, write=write, said=refusal) from None
            except Unauthenticated as raised:
                now_ms = self._clock.monotonic_ms()
                left_ms = deadline_ms - now_ms
                if raised.reason != HUNG_UP or left_ms <= 0 or now_ms - started_ms >= HUNG_UP_GRACE_MS:
                    raise
            except Unavailable as raised:
                refusal = raised
                now_ms = self._clock.monotonic_ms()
                left_ms = deadline_ms - now_ms
                if left_ms <= 0 or not _is_patient(raised, now_ms - started_ms, write=write):
                    raise self._unreachable(raised) from None
            self._sleep(min(backoff_ms, left_ms) / 1000)
            soon = self._clock.monotonic_ms() - started_ms < LEADERLESS_GRACE_MS
            backoff_ms = min(backoff_ms * 2, BACKOFF_MS_SOON if soon else BACKOFF_MS_MAX)

    def _ask(self, service: str, method: str, request: Any, request_id: str, deadline_ms: int) -> Any:
        """Every coordinator once, until one answers."""
        metadata = self._metadata(request_id)
        suffix = f" request_id={request_id}" if request_id else ""

        def left_ms() -> int:
            return deadline_ms - self._clock.monotonic_ms()

        def explain(address: str, error: grpc.RpcError) -> CloudlessError:
            self._log(f"{service}.{method} {address}{suffix}", started_ms)
            return self._failed(address, error)

        started_ms = self._clock.monotonic_ms()
        candidates = self._candidates()
        if len(candidates) == 1:
            address = candidates[0]
            invoke = getattr(self._stub(address, service), method)
            try:
                answer, call = invoke.with_call(request, timeout=max(left_ms(), 1) / 1000, metadata=metadata)
            except grpc.RpcError as error:
                raise explain(address, error) from None
        else:

            def begin(address: str) -> Any:
                invoke = getattr(self._stub(address, service), method)
                return invoke.future(request, timeout=max(left_ms(), 1) / 1000, metadata=metadata)

            address, call = first_answer(candidates, begin, explain=explain, left_ms=left_ms)
            answer = call.result()
        self._log(f"{service}.{method} {address}{suffix}", started_ms)
        self._succeeded(address, call)
        return answer

    # Streams

    def stream(
        self, service: str, method: str, request: Any, *, timeout_ms: int | None = None
    ) -> tuple[Iterator[Any], Callable[[], None]]:
        """A call that answers with a stream: its messages, and a function that ends it. `request` may be an iterator
        of messages. The messages raise CloudlessError where the call fails; after being ended they just stop.

        While nothing came yet, a coordinator that fails is replaced by the next, unless `request` is an iterator, which
        cannot be had twice. A stream that breaks later is not resumed here: `watching` and `logs` know from where."""
        once = isinstance(request, Iterator)
        metadata = self._metadata(self._new_request_id())
        timeout_s = None if timeout_ms is None else max(timeout_ms, 1) / 1000
        waiting = self._candidates()
        running: list[Any] = []
        ended = threading.Event()

        def begin() -> str:
            address = self._reachable(waiting)
            running[:] = [getattr(self._stub(address, service), method)(request, timeout=timeout_s, metadata=metadata)]
            if ended.is_set():
                running[0].cancel()
            return address

        def cancel() -> None:
            ended.set()
            running[0].cancel()

        def messages(address: str) -> Iterator[Any]:
            begun = False
            while True:
                started_ms = self._clock.monotonic_ms()
                try:
                    for message in running[0]:
                        begun = True
                        yield message
                    return
                except grpc.RpcError as error:
                    if ended.is_set():
                        return
                    raised = self._failed(address, error)
                    if begun or once or not waiting or not moves_on(raised):
                        raise self._broke(raised, address, begun=begun, once=once) from None
                finally:
                    self._log(f"{service}.{method} {address} stream", started_ms)
                address = begin()

        return messages(begin()), cancel

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

    # Where to

    def _candidates(self) -> list[str]:
        """All coordinators: first the one that answered last, last those that could not be reached a moment ago."""
        if len(self.addresses) == 1:
            return [self.addresses[0]]
        now_ms = self._clock.monotonic_ms()
        with self._lock:
            avoided = {address for address, until_ms in self._avoided_until_ms.items() if now_ms < until_ms}
            return sorted(self.addresses, key=lambda address: (address in avoided, address != self._first))

    def _reachable(self, waiting: list[str]) -> str:
        """Takes the next coordinator that answers; the last one without a look."""
        while len(waiting) > 1:
            address = waiting.pop(0)
            if address in self._answered:
                return address
            if answers(self._channel(address), timeout_ms=HEDGE_MS):
                return address
            self._avoid(address)
        return waiting.pop(0)

    def _avoid(self, address: str) -> None:
        with self._lock:
            self._answered.discard(address)
            self._avoided_until_ms[address] = self._clock.monotonic_ms() + AVOIDED_MS

    def _succeeded(self, address: str, call: Any) -> None:
        with self._lock:
            self._first = address
            self._accepted = True
            self._answered.add(address)
            self._avoided_until_ms.pop(address, None)
        for key, value in call.trailing_metadata() or ():
            if key == COORDINATORS_NOW_TRAILER and self._on_learnt is not None:
                self._learn(address, tuple(part for part in str(value).split(",") if part))

    def _learn(self, answered: str, now: tuple[str, ...]) -> None:
        """Takes over the coordinators' addresses as they are now. The one that was used stays, whatever they call
        themselves: it may lead there through a tunnel. A single coordinator has nothing to add to it."""
        others = tuple(address for address in now if address != answered)
        if answered not in now and len(now) == 1:
            others = ()
        learnt = (answered, *others)
        if set(learnt) == set(self.addresses):
            return
        with self._lock:
            self.addresses = learnt
            self._digest = addresses_digest(learnt)
        assert self._on_learnt is not None
        self._on_learnt(learnt)

    def _failed(self, address: str, error: grpc.RpcError) -> CloudlessError:
        """What the failure means. A coordinator that cannot be reached is asked last for a while."""
        raised = error_from_rpc(error, credentials=self._credentials, now_ms=self._clock.now_ms())
        code = getattr(error, "code", None)
        if callable(code) and code() is grpc.StatusCode.CANCELLED and not _is_named(error):
            # Not by us: a coordinator that stops ends what it has not answered.
            raised = Unavailable(f"the coordinator at {address} ended the call", reason="CoordinatorUnreachable")
        if moves_on(raised) and not _is_named(error):
            self._avoid(address)
        if raised.reason == HUNG_UP and self._accepted:
            # With this certificate others answered: it was a coordinator that ended during the handshake.
            return Unavailable(f"the coordinator at {address} hung up", reason="CoordinatorUnreachable")
        return raised

    def _channel(self, address: str) -> grpc.Channel:
        with self._lock:
            channel = self._channels.get(address)
            if channel is None:
                if self._open is not None:
                    channel = self._open(address)
                else:
                    assert self._credentials is not None
                    channel = open_sync_channel(address, self._credentials)
                self._channels[address] = channel
            return channel

    def _stub(self, address: str, service: str) -> Any:
        return getattr(control_pb2_grpc, f"{service}ServiceStub")(self._channel(address))

    def _metadata(self, request_id: str) -> Metadata:
        metadata: Metadata = ((REQUEST_ID_METADATA, request_id),) if request_id else ()
        if self._on_learnt is not None:
            metadata = (*metadata, (COORDINATORS_METADATA, self._digest))
        if self.consistency != LINEARIZABLE:
            metadata = (*metadata, (CONSISTENCY_METADATA, self.consistency))
        return metadata

    def _log(self, text: str, started_ms: int) -> None:
        if self._trace is not None:
            self._trace(f"# {text} {self._clock.monotonic_ms() - started_ms} ms")

    def _late(self, method: str, waited_ms: int, *, write: bool, said: Unavailable | None = None) -> DeadlineExceeded:
        """`said`: what a coordinator answered meanwhile."""
        unknown = "whether it was done is not known: look, then repeat it if needed; " if write else ""
        cause = None if said is None or was_never_sent(said) else said
        return DeadlineExceeded(
            f"{method} was not answered within {max(waited_ms, 1) / 1000:.3g} s{f': {cause.message}' if cause else ''}",
            reason=cause.reason if cause else "NotAnswered",
            remedy=f"{unknown}--request-timeout gives it more time",
        )

    def _broke(self, error: CloudlessError, address: str, *, begun: bool, once: bool) -> CloudlessError:
        if begun and once and isinstance(error, Unavailable) and not error.remedy:
            return Unavailable(
                f"the connection through coordinator {address} broke",
                reason="StreamBroken",
                remedy="what was started may still run: look before you start it again",
            )
        return self._unreachable(error) if isinstance(error, Unavailable) else error

    def _unreachable(self, error: Unavailable) -> CloudlessError:
        if error.remedy or error.reason not in ("CoordinatorUnreachable", "Unavailable"):
            return error
        where = " or ".join(self.addresses)
        return Unavailable(
            f"no coordinator answers at {where}",
            reason="CoordinatorUnreachable",
            remedy="check that it runs and that this machine reaches it; `cloudlessctl config view` shows the context",
        )


def _is_named(error: grpc.RpcError) -> bool:
    """Whether a coordinator gave the error, not the way to it."""
    trailing = getattr(error, "trailing_metadata", None)
    return any(key == ERROR_TRAILER for key, _ in (trailing() if callable(trailing) else None) or ())


def _is_patient(error: Unavailable, waited_ms: int, *, write: bool) -> bool:
    """Whether to ask again. What was never sent is not worth a long wait; an election is over soon."""
    if not write:
        return error.reason == "NoLeader" and waited_ms < LEADERLESS_GRACE_MS
    return not (was_never_sent(error) and waited_ms >= CONNECT_GRACE_MS)


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
