"""Who leads, by a key in etcd that lives as long as its holder's lease.

The revision that created the key is the term: it only grows, and a transaction can ask for it. A holder counts its
lease from before it asked for it, and a tenth shorter: it stops to lead, by its own clock, before etcd gives the key
to another one. (Clocks that differ by more than a tenth in speed do no harm to the log: what a leader appends as such
carries its term, and etcd compares it.)
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from cloudless.coordinator.etcd.client import EtcdClient, get, if_created_at, put
from cloudless.coordinator.etcd.layout import Keys
from cloudless.errors import CloudlessError

log = structlog.get_logger(__name__)

_SAFETY: Final = 0.9
_RETRY_S: Final = 0.5


class Leadership:
    """Stands for election for as long as `run` runs."""

    def __init__(
        self,
        client: EtcdClient,
        keys: Keys,
        member: str,
        *,
        ttl_ms: int,
        catch_up: Callable[[], Awaitable[object]],
        on_change: Callable[[], None],
    ) -> None:
        """`catch_up` returns when this member has applied everything that was appended before it was elected."""
        self._client = client
        self._keys = keys
        self._member = member
        self._ttl_s = max(1, math.ceil(ttl_ms / 1000))
        self._catch_up = catch_up
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._deadline_s = 0.0
        self._watchdog: asyncio.TimerHandle | None = None
        self._lost: asyncio.Event = asyncio.Event()
        self._vacant: asyncio.Event = asyncio.Event()
        self._held_term = 0  # of the key that this member holds
        self.term = 0  # in which this member leads; 0: it does not
        self.holder = ""  # as the watch says
        self.holder_term = 0

    @property
    def leading(self) -> bool:
        # Also right in a process that was stopped beyond its deadline and runs its first instructions again.
        return self.term > 0 and self._loop.time() < self._deadline_s

    def seen(self, holder: str, term: int) -> None:
        """The watch, or a read, says who holds the key; "" and 0: nobody."""
        self.holder, self.holder_term = holder, term
        if not term:
            self._vacant.set()
        if self._held_term and term != self._held_term and term != 0:
            self._lost.set()

    def gone(self, revision: int) -> None:
        """The watch says that the key was deleted at this revision."""
        self.seen("", 0)
        if 0 < self._held_term < revision:
            self._lost.set()

    async def run(self) -> None:
        """For ever; when cancelled, gives leadership back to etcd at once."""
        while True:
            try:
                await self._campaign()
            except CloudlessError as error:
                log.info("etcd.campaign_failed", cause=error.message)
                await asyncio.sleep(_RETRY_S)

    async def _campaign(self) -> None:
        began_s = self._loop.time()
        self._vacant.clear()
        lease, ttl_s = await self._client.grant(self._ttl_s)
        try:
            answer = await self._client.txn(
                [if_created_at(self._keys.leader, 0)],
                [put(self._keys.leader, self._member.encode(), lease=lease)],
                [get(self._keys.leader)],
            )
            if not answer.succeeded:
                for pair in answer.responses[0].response_range.kvs:
                    self.seen(pair.value.decode("utf-8", "replace"), pair.create_revision)
                # Its end is seen by the watch; the time limit is for a watch that is away.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._ttl_s * 2):
                        await self._vacant.wait()
                return
            self._held_term = answer.header.revision
            self._lost.clear()
            self.seen(self._member, self._held_term)
            self._extend(began_s + ttl_s * _SAFETY)
            await self._lead(lease, ttl_s)
        finally:
            self._stand_down()
            await self._revoke(lease)

    async def _revoke(self, lease: int) -> None:
        """So that nobody has to wait for its end; also while being cancelled."""
        task = asyncio.ensure_future(self._client.revoke(lease))
        try:
            await asyncio.shield(task)
        except CloudlessError as error:
            log.info("etcd.lease_left_to_expire", cause=error.message)
        except asyncio.CancelledError:
            with contextlib.suppress(CloudlessError):
                await task
            raise

    async def _lead(self, lease: int, ttl_s: int) -> None:
        caught_up = asyncio.ensure_future(self._catch_up())
        caught_up.add_done_callback(self._caught_up)
        try:
            while not self._lost.is_set():
                left_s = self._deadline_s - self._loop.time()
                if left_s <= 0:
                    log.warning("etcd.lease_not_renewed", member=self._member)
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(ttl_s / 3, left_s)):
                        await self._lost.wait()
                    return
                began_s = self._loop.time()
                try:
                    life_s = await self._client.keep_alive(lease, timeout_s=max(0.1, self._deadline_s - began_s))
                except CloudlessError as error:
                    log.info("etcd.keep_alive_failed", cause=error.message)
                    await asyncio.sleep(0.1)
                    continue
                if not life_s:
                    return
                self._extend(began_s + life_s * _SAFETY)
        finally:
            caught_up.cancel()

    def _caught_up(self, task: asyncio.Future[object]) -> None:
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.warning("etcd.leader_not_current", cause=str(error))
            self._lost.set()
        elif self._loop.time() < self._deadline_s and not self._lost.is_set():
            self.term = self._held_term
            log.info("etcd.elected", member=self._member, term=self.term)
            self._on_change()

    def _extend(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watchdog = self._loop.call_at(deadline_s, self._stand_down)

    def _stand_down(self) -> None:
        self._deadline_s = 0.0
        self._held_term = 0
        self._lost.set()
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        if self.term:
            log.info("etcd.stood_down", member=self._member, term=self.term)
            self.term = 0
            self._on_change()
