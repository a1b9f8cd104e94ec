"""The agent's session with a coordinator: one outgoing stream, kept up for ever.

`Session.run` dials, greets, and runs a `Link` until it breaks; then it tries another coordinator at once, in an order
of its own, so that the agents of one that fell spread over the others; with growing and jittered pauses once all were
tried. A second link is opened beside the first when the certificate was renewed, and to another coordinator when the
present one is in doubt (silent, or without a leader); the first is let go of only when the second was welcomed. While
no coordinator answers, the supervisor goes on from its journal.

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
from cloudless.agent.link import LEADERLESS, Link, LinkServices, Stream
from cloudless.errors import CloudlessError

log = structlog.get_logger(__name__)

Connect: TypeAlias = Callable[[str], Awaitable[Stream]]

CONNECT_TIMEOUT_S: Final = 10.0
# Where there are others to try; grows with each round, so that a slow network gets its time.
CONNECT_TIMEOUT_S_FIRST: Final = 2.5
GOODBYE_TIMEOUT_S: Final = 2.0
RETRY_DELAY_S_MIN: Final = 0.25
RETRY_DELAY_S_MAX: Final = 15.0
LEADERLESS_DELAY_S_MAX: Final = 60.0  # there is a session, and nobody may know a leader for long
# A link that lasted so long was fine: the next failure starts from the shortest pause again.
_LASTED_S: Final = 30.0
_LASTED_S_OF_SEVERAL: Final = 5.0  # where coordinators fall one after the other, that is not this one's fault
# Pauses after another live agent with this identity took the session, or has it. Two of them would take it from each
# other, or ask for it, for ever; a person has to say which one stays.
CONTESTED: Final = ("SessionReplaced", "IdentityInUse")
CONTESTED_DELAY_S_MIN: Final = 60.0
CONTESTED_DELAY_S_MAX: Final = 30 * 60.0
_UNDISPUTED_S: Final = 2 * CONTESTED_DELAY_S_MAX


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
        self._round: list[str] = []  # addresses that are still to be tried before the next pause
        self._round_for = ("", "")  # what they are tried for: see `_next_address`
        self._last_address = ""  # of the link that broke last
        self._contested = 0  # how often in a row another agent took the session or had it

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
        failures, failures_beside = 0, 0  # without a link, and beside one
        try:
            while True:
                if self.connected and not self._rotate and not self._doubt():
                    failures_beside = 0
                    await self._wake.wait()
                    self._wake.clear()
                    continue
                failures = await self._after_end(failures)
                beside = self._live
                opened = await self._open_next(failures if beside is None else failures_beside)
                if opened is None and beside is not None:
                    failures_beside += 1
                    await self._pause(failures_beside, until=beside.task)
                    continue
                if opened is None:
                    failures += 1
                    await self._pause(failures)
                    continue
                self._rotate, failures_beside = False, 0
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
        self._last_address = live.address
        metrics.SESSION_CONNECTED.set(0)
        error = _failure(live.task)
        lasted_s = asyncio.get_running_loop().time() - live.opened_s
        if lasted_s >= _UNDISPUTED_S:
            self._contested = 0
        if isinstance(error, CloudlessError) and error.reason in CONTESTED:
            await self._yield_to_other(live.address, error)
            return 0
        log.warning("session.lost", coordinator=live.address, cause=_words(error), lasted_ms=int(lasted_s * 1000))
        if lasted_s >= (_LASTED_S if len(self._addresses()) == 1 else _LASTED_S_OF_SEVERAL):
            failures = 0
        if failures:
            await self._pause(failures)
        return failures + 1

    async def _yield_to_other(self, address: str, error: CloudlessError) -> None:
        self._contested += 1
        delay_s = min(CONTESTED_DELAY_S_MIN * 2.0 ** min(self._contested - 1, 16), CONTESTED_DELAY_S_MAX)
        delay_s *= 0.5 + 0.5 * self._jitter()
        log.error(
            "session.contested",
            coordinator=address,
            reason=error.reason,
            cause=error.message,
            times=self._contested,
            retry_in_ms=int(delay_s * 1000),
            remedy="two agents run with one identity: stop one, empty its data folder, and enrol it under its own "
            "name; restart the other to have it connected at once",
        )
        await asyncio.sleep(delay_s)

    async def _pause(self, failures: int, *, until: asyncio.Task[None] | None = None) -> None:
        """Waits before the next attempt; not at all between the addresses of one round, and no longer than the link
        that stands, where there is one."""
        count = max(1, len(self._addresses()))
        rounds, place = divmod(failures, count)
        if place:
            return
        longest_s = LEADERLESS_DELAY_S_MAX if self._doubt() == LEADERLESS else RETRY_DELAY_S_MAX
        delay_s = min(RETRY_DELAY_S_MIN * 2.0 ** min(rounds, 16), longest_s) * (0.5 + 0.5 * self._jitter())
        if until is None:
            await asyncio.sleep(delay_s)
        else:
            await asyncio.wait([until], timeout=delay_s)

    async def _open_next(self, failures: int) -> _Live | None:
        addresses = tuple(dict.fromkeys(self._addresses()))
        if not addresses:
            log.error("session.no_address", cause="no coordinator is known", remedy="set coordinators")
            return None
        doubt = self._doubt()
        address = self._next_address(addresses, doubt)
        timeout_s = CONNECT_TIMEOUT_S
        if len(addresses) > 1:
            timeout_s = min(CONNECT_TIMEOUT_S_FIRST * 2.0 ** min(failures // len(addresses), 8), CONNECT_TIMEOUT_S)
        try:
            async with asyncio.timeout(timeout_s):
                link = await self._greet(address, only_with_leader=doubt == LEADERLESS)
        except (CloudlessError, OSError, TimeoutError) as error:
            metrics.SESSION_CONNECTS.labels("failed").inc()
            reason = error.reason if isinstance(error, CloudlessError) else type(error).__name__
            log.warning(
                "session.connect_failed",
                coordinator=address,
                reason=reason,
                cause=str(error) or "timed out",
                attempt=failures + 1,
            )
            # Beside a link that stands, it is no contest: that link has the identity.
            if isinstance(error, CloudlessError) and error.reason in CONTESTED and not self.connected:
                await self._yield_to_other(address, error)
            return None
        metrics.SESSION_CONNECTS.labels("ok").inc()
        log.info("session.established", coordinator=address, id=link.coordinator_id, rotation=self._live is not None)
        task = asyncio.get_running_loop().create_task(link.run())
        task.add_done_callback(lambda _: self._wake.set())
        return _Live(link, task, address, asyncio.get_running_loop().time())

    def _doubt(self) -> str:
        """Why another coordinator than the present one is wanted; empty: it is not, or there is none."""
        live = self._live
        if live is None or live.task.done() or self._rotate:
            return ""
        return live.link.doubt if any(address != live.address for address in self._addresses()) else ""

    def _next_address(self, addresses: Sequence[str], doubt: str) -> str:
        """The next one of this round. A new round has all of them in random order, the one whose link broke last at its
        end; the present one first where it only gets a new certificate, and not at all where it is in doubt."""
        live = self._live if self.connected else None
        wanted = (doubt, live.address if live is not None else "")
        self._round = [address for address in self._round if address in addresses]
        if self._round_for != wanted or not self._round:
            shuffled = sorted(addresses, key=lambda _: self._jitter())
            if live is not None and doubt:
                self._round = [address for address in shuffled if address != live.address]
            elif live is not None:
                self._round = sorted(shuffled, key=lambda address: address != live.address)
            else:
                self._round = sorted(shuffled, key=lambda address: address == self._last_address)
            self._round_for = wanted
        return self._round.pop(0)

    async def _greet(self, address: str, *, only_with_leader: bool) -> Link:
        stream = await self._connect(address)
        try:
            link = Link(stream, self._services, on_doubt=self._wake.set)
            await link.greet(only_with_leader=only_with_leader)
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
