"""The agent's session with a coordinator: one outgoing stream, kept up for ever.

`Session.run` dials, greets, and runs a `Link` until it breaks; then it tries the next address, with growing and
jittered pauses once all were tried. A renewed certificate opens a second link beside the first and lets go of the
old one only when the new one was welcomed. While no coordinator answers, the supervisor goes on from its journal.

Written against `MessageStream`, the Clock and injected randomness: the simulator runs it as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import structlog

from cloudless.agent import metrics
from cloudless.agent.link import Link, LinkServices, Stream
from cloudless.errors import CloudlessError

log = structlog.get_logger(__name__)

Connect: TypeAlias = Callable[[str], Awaitable[Stream]]

CONNECT_TIMEOUT_S: Final = 10.0
GOODBYE_TIMEOUT_S: Final = 2.0
RETRY_DELAY_S_MIN: Final = 0.25
RETRY_DELAY_S_MAX: Final = 15.0
# A link that lasted so long was fine: the next failure starts from the shortest pause again.
_LASTED_S: Final = 30.0
# Pauses after another live agent with this identity took the session. Two of them would take it from each other for
# ever, and each time the node's work would change hands; a person has to say which one stays.
REPLACED: Final = "SessionReplaced"
REPLACED_DELAY_S_MIN: Final = 60.0
REPLACED_DELAY_S_MAX: Final = 30 * 60.0
_UNDISPUTED_S: Final = 2 * REPLACED_DELAY_S_MAX


@dataclass(slots=True)
class _Live:
    link: Link
    task: asyncio.Task[None]
    address: str
    opened_s: float


class Session:
    """One per agent. `addresses` gives what is known of coordinators now; `jitter` numbers in [0, 1).

    `connect` opens a stream to one address with the present credentials, and raises a CloudlessError or OSError.
    """

    def __init__(
        self,
        connect: Connect,
        services: LinkServices,
        *,
        addresses: Callable[[], Sequence[str]],
        jitter: Callable[[], float],
    ) -> None:
        self._connect = connect
        self._services = services
        self._addresses = addresses
        self._jitter = jitter
        self._live: _Live | None = None
        self._wake = asyncio.Event()  # the live link ended, or a rotation is wanted
        self._rotate = False
        self._next_address = 0
        self._replaced = 0  # how often in a row another agent took the session

    @property
    def connected(self) -> bool:
        """Whether a coordinator has welcomed this agent and the link stands."""
        return self._live is not None and not self._live.task.done()

    @property
    def stream(self) -> Stream | None:
        """The stream of the link that stands now."""
        return self._live.link.stream if self._live is not None and self.connected else None

    def rotate(self) -> None:
        """Asks for a new link (the credentials changed); the old one serves until the new one is welcomed."""
        self._rotate = True
        self._wake.set()

    def device_changed(self) -> None:
        """Tells the coordinator of `services.device()` as it is now."""
        if self._live is not None:
            self._live.link.device_changed()

    async def run(self) -> None:
        """Keeps a link up until cancelled."""
        failures = 0
        try:
            while True:
                if self.connected and not self._rotate:
                    await self._wake.wait()
                    self._wake.clear()
                    continue
                failures = await self._after_end(failures)
                opened = await self._open_next(failures)
                if opened is None:
                    failures += 1
                    await self._pause(failures)
                    continue
                self._rotate = False
                previous, self._live = self._live, opened
                metrics.SESSION_CONNECTED.set(1)
                if previous is not None:
                    await _end(previous)
        finally:
            if self._live is not None:
                await _end(self._live)
                self._live = None
            metrics.SESSION_CONNECTED.set(0)

    async def goodbye(self, reason: str) -> None:
        """A graceful leave: tells the coordinator, within a short time, that this agent ends. The owner cancels `run`
        next."""
        live = self._live
        if live is None or live.task.done():
            return
        with contextlib.suppress(CloudlessError, TimeoutError):
            async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                await live.link.goodbye(reason)

    async def _after_end(self, failures: int) -> int:
        """Takes note of a link that broke, and returns how many failures in a row that makes."""
        live = self._live
        if live is None or not live.task.done():
            return failures
        self._live = None
        metrics.SESSION_CONNECTED.set(0)
        error = _failure(live.task)
        lasted_s = asyncio.get_running_loop().time() - live.opened_s
        if lasted_s >= _UNDISPUTED_S:
            self._replaced = 0
        if isinstance(error, CloudlessError) and error.reason == REPLACED:
            await self._yield_to_other(live, error)
            return 0
        log.warning("session.lost", coordinator=live.address, cause=_words(error), lasted_ms=int(lasted_s * 1000))
        if lasted_s >= _LASTED_S:
            failures = 0
        if failures:
            await self._pause(failures)
        return failures + 1

    async def _yield_to_other(self, live: _Live, error: CloudlessError) -> None:
        self._replaced += 1
        delay_s = min(REPLACED_DELAY_S_MIN * 2.0 ** min(self._replaced - 1, 16), REPLACED_DELAY_S_MAX)
        delay_s *= 0.5 + 0.5 * self._jitter()
        log.error(
            "session.replaced",
            coordinator=live.address,
            cause=error.message,
            times=self._replaced,
            retry_in_ms=int(delay_s * 1000),
            remedy="two agents run with one identity: stop one, empty its data folder, and enrol it under its own name",
        )
        await asyncio.sleep(delay_s)

    async def _pause(self, failures: int) -> None:
        """Waits before the next attempt; not at all between the addresses of one round."""
        count = max(1, len(self._addresses()))
        rounds, place = divmod(failures, count)
        if place:
            return
        delay_s = min(RETRY_DELAY_S_MIN * 2.0 ** min(rounds, 16), RETRY_DELAY_S_MAX)
        await asyncio.sleep(delay_s * (0.5 + 0.5 * self._jitter()))

    async def _open_next(self, failures: int) -> _Live | None:
        addresses = list(self._addresses())
        if not addresses:
            log.error("session.no_address", cause="no coordinator is known", remedy="set coordinators")
            return None
        address = addresses[self._next_address % len(addresses)]
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                link = await self._greet(address)
        except (CloudlessError, OSError, TimeoutError) as error:
            self._next_address += 1
            metrics.SESSION_CONNECTS.labels("failed").inc()
            reason = error.reason if isinstance(error, CloudlessError) else type(error).__name__
            log.warning(
                "session.connect_failed",
                coordinator=address,
                reason=reason,
                cause=str(error) or "timed out",
                attempt=failures + 1,
            )
            return None
        metrics.SESSION_CONNECTS.labels("ok").inc()
        log.info("session.established", coordinator=address, id=link.coordinator_id, rotation=self._live is not None)
        task = asyncio.get_running_loop().create_task(link.run())
        task.add_done_callback(lambda _: self._wake.set())
        return _Live(link, task, address, asyncio.get_running_loop().time())

    async def _greet(self, address: str) -> Link:
        stream = await self._connect(address)
        try:
            link = Link(stream, self._services)
            await link.greet()
            return link
        except BaseException:
            await stream.close()
            raise


async def _end(live: _Live) -> None:
    live.task.cancel()
    await asyncio.wait([live.task])
    _failure(live.task)  # how it ended matters to nobody any more; a bug is logged
    await live.link.close()


def _failure(task: asyncio.Task[None]) -> BaseException | None:
    """What a link ended with; None when the coordinator ended the stream."""
    error: BaseException | None = None if task.cancelled() else task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None and not isinstance(error, CloudlessError | OSError | TimeoutError):
        log.error("session.broke", exc_info=error)
    return error


def _words(error: BaseException | None) -> str:
    return "the coordinator ended the stream" if error is None else str(error) or type(error).__name__
