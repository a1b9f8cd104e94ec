"""Certificates renew themselves at two thirds of their life, without a restart and without a failed call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from cloudless.clock import Clock
from cloudless.errors import CloudlessError
from cloudless.identity.credentials import Credentials
from cloudless.identity.csr import make_csr
from cloudless.identity.keys import load_key_pem

log = structlog.get_logger(__name__)

LOOK_INTERVAL_MS = 60_000
RETRY_DELAY_MS_MIN = 1_000
RETRY_DELAY_MS_MAX = 60_000


class Renewer:
    """Keeps one member's certificate fresh.

    `renew(csr_der)` asks the authority and gives back the chain (PEM) and its end (wall clock ms); `save` stores the
    credentials durably; `on_renewed` tells the owner, who opens a new channel and drains the old one. `jitter`
    gives numbers in [0, 1), so that nodes that enrolled together do not renew together.

    The wall clock may be wrong on a device without a battery clock, so a certificate obtained here is also renewed
    two thirds of its life after it came, by the monotonic clock, and one that the wall clock says is of the future
    at once; but never more often than once in a tenth of its
    life. The key stays: it is the member's identity, and an answer that was lost must leave the old certificate
    usable.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        renew: Callable[[bytes], Awaitable[tuple[bytes, int]]],
        save: Callable[[Credentials], None],
        on_renewed: Callable[[Credentials], None],
        clock: Clock,
        jitter: Callable[[], float],
    ) -> None:
        self.credentials = credentials
        self._renew = renew
        self._save = save
        self._on_renewed = on_renewed
        self._clock = clock
        self._jitter = jitter
        self._obtained_at_ms: int | None = None  # monotonic; None: before this process
        self._spread = jitter()

    def delay_ms(self) -> int:
        """How long until the certificate is due, 0 when it is: by whichever clock comes first."""
        life_ms = self.credentials.expires_at_ms - self.credentials.not_before_ms
        # Up to a twentieth of the life early.
        early_ms = int(life_ms * 0.05 * self._spread)
        now_ms = self._clock.now_ms()
        wall_ms = self.credentials.renew_at_ms - early_ms - now_ms
        if self._obtained_at_ms is None:
            # Before the certificate's begin the clock is wrong, and the age is not known.
            return 0 if now_ms < self.credentials.not_before_ms else max(0, wall_ms)
        age_ms = self._clock.monotonic_ms() - self._obtained_at_ms
        own_ms = life_ms * 2 // 3 - early_ms - age_ms
        return max(0, life_ms // 10 - age_ms, min(wall_ms, own_ms))

    async def run(self) -> None:
        """Renews for ever; ends only by cancellation. A failure is logged and repeated with growing delays, also
        after the certificate has expired: the coordinator decides whom it lets in."""
        attempt = 0
        while True:
            delay_ms = self.delay_ms()
            if delay_ms > 0:
                # In steps: the wall clock may jump, and a sleeping device's monotonic clock stands still.
                await asyncio.sleep(min(delay_ms, LOOK_INTERVAL_MS) / 1000)
                continue
            try:
                await self.renew_now()
                attempt = 0
            except Exception as error:
                retry_ms = min(RETRY_DELAY_MS_MIN * 2 ** min(attempt, 16), RETRY_DELAY_MS_MAX)
                # A short-lived certificate leaves no time for long pauses.
                life_ms = self.credentials.expires_at_ms - self.credentials.not_before_ms
                retry_ms = max(RETRY_DELAY_MS_MIN // 4, min(retry_ms, life_ms // 20))
                attempt += 1
                log.warning(
                    "certificate.renewal_failed",
                    id=str(self.credentials.spiffe_id),
                    cause=str(error) or type(error).__name__,
                    reason=error.reason if isinstance(error, CloudlessError) else type(error).__name__,
                    attempt=attempt,
                    retry_in_ms=retry_ms,
                    expires_at_ms=self.credentials.expires_at_ms,
                )
                await asyncio.sleep(retry_ms * (0.75 + 0.5 * self._jitter()) / 1000)

    async def renew_now(self) -> Credentials:
        """One renewal: request, check, save, tell. Raises what `renew` and `save` raise, and Unauthenticated when the
        answer is for another id or key; the present credentials then stay."""
        key = load_key_pem(self.credentials.key_pem)
        chain_pem, _ = await self._renew(make_csr(key, self.credentials.spiffe_id))
        fresh = self.credentials.renewed(chain_pem)
        await asyncio.to_thread(self._save, fresh)
        self.credentials = fresh
        self._obtained_at_ms = self._clock.monotonic_ms()
        self._spread = self._jitter()
        log.info("certificate.renewed", id=str(fresh.spiffe_id), expires_at_ms=fresh.expires_at_ms)
        self._on_renewed(fresh)
        return fresh
