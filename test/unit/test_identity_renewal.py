"""The renewer on virtual time: when it renews, how it retries, and that it never gives up."""

import asyncio
import itertools

import pytest

from cloudless.errors import Unauthenticated, Unavailable
from cloudless.identity.renewal import Renewer
from cloudless.identity.spiffe import SpiffeId
from cloudless.testing.identity import Fabric
from cloudless.testing.simloop import SimClock, run

WHO = SpiffeId("fabric.example", "node", "n1")
HOUR_MS = 3_600_000


class Rig:
    """A node that enrolled at the start of virtual time, and an authority that can be made to fail."""

    def __init__(self, loop, directory, *, ttl_ms=24 * HOUR_MS, node_skew_ms=0, jitter=0.0):
        self.loop = loop
        self.true_clock = SimClock(loop)
        self.clock = SimClock(loop, skew_ms=node_skew_ms)
        self.ttl_ms = ttl_ms
        self.fabric = Fabric(directory / "ca", clock=self.true_clock)
        self.failures: list[Exception] = []
        self.asked_at_s: list[float] = []
        self.saved: list[object] = []
        self.renewed = asyncio.Queue()
        self.subject = WHO
        self.renewer = Renewer(
            self.fabric.member("node", "n1", ttl_ms=ttl_ms),
            renew=self.renew,
            save=self.saved.append,
            on_renewed=self.renewed.put_nowait,
            clock=self.clock,
            jitter=lambda: jitter,
        )

    async def renew(self, csr_der):
        self.asked_at_s.append(self.loop.time())
        if self.failures:
            raise self.failures.pop(0)
        issued = self.fabric.ca.sign_csr(csr_der, self.subject, self.ttl_ms)
        return issued.chain_pem, issued.expires_at_ms

    async def until_renewed(self, count=1):
        task = asyncio.create_task(self.renewer.run())
        for _ in range(count):
            await self.renewed.get()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(("jitter", "earliest_h", "latest_h"), [(0.0, 15.8, 16.1), (0.99, 14.6, 15.0)])
def test_at_two_thirds_or_a_little_earlier(tmp_path, jitter, earliest_h, latest_h):
    async def main(loop):
        rig = Rig(loop, tmp_path, jitter=jitter)
        await rig.until_renewed(3)
        hours = [at / 3600 for at in rig.asked_at_s]
        assert earliest_h < hours[0] < latest_h
        assert all(earliest_h < b - a < latest_h for a, b in itertools.pairwise(hours))
        assert rig.saved[-1] == rig.renewer.credentials
        assert rig.renewer.credentials.key_pem == rig.saved[0].key_pem

    run(main, limit_s=1e6)


def test_it_repeats_with_growing_delays_and_outlives_expiry(tmp_path):
    async def main(loop):
        rig = Rig(loop, tmp_path)
        rig.failures = [Unavailable("away")] * 1000
        await rig.until_renewed()
        gaps = [b - a for a, b in itertools.pairwise(rig.asked_at_s)]
        assert gaps[0] < 2
        assert max(gaps) <= 75
        assert gaps[20] > 40
        assert rig.asked_at_s[-1] > 16 * 3600 + 1000 * 40
        assert rig.clock.now_ms() < rig.renewer.credentials.expires_at_ms

    run(main, limit_s=1e6)


def test_any_failure_is_survived_and_a_wrong_answer_is_not_taken(tmp_path):
    async def main(loop):
        rig = Rig(loop, tmp_path)
        before = rig.renewer.credentials
        rig.failures = [ValueError("a bug"), OSError("disk full")]
        rig.subject = SpiffeId("fabric.example", "node", "n1")
        await rig.until_renewed()
        assert rig.renewer.credentials != before
        assert len(rig.asked_at_s) == 3
        kept = rig.renewer.credentials

        async def another(csr_der):
            return rig.fabric.member("node", "n2").chain_pem, 0

        rig.renewer._renew = another
        with pytest.raises(Unauthenticated):
            await rig.renewer.renew_now()
        assert rig.renewer.credentials == kept

    run(main, limit_s=1e6)


def test_a_certificate_that_was_not_saved_is_not_used(tmp_path):
    async def main(loop):
        rig = Rig(loop, tmp_path)
        before = rig.renewer.credentials

        def full(_):
            raise OSError(28, "No space left on device")

        rig.renewer._save = full
        with pytest.raises(OSError, match="No space"):
            await rig.renewer.renew_now()
        assert rig.renewer.credentials == before

    run(main)


@pytest.mark.parametrize("skew_ms", [-50 * 365 * 24 * HOUR_MS, 365 * 24 * HOUR_MS])
def test_a_wrong_clock_neither_forgets_nor_floods(tmp_path, skew_ms):
    """A device in 1970 renews by its monotonic clock; one in the future renews too often, but boundedly."""

    async def main(loop):
        rig = Rig(loop, tmp_path, node_skew_ms=skew_ms)
        await rig.until_renewed(3)
        gaps = [b - a for a, b in itertools.pairwise(rig.asked_at_s)]
        assert all(2.3 * 3600 < gap < 16.2 * 3600 for gap in gaps)

    run(main, limit_s=1e6)


def test_a_minute_long_life(tmp_path):
    async def main(loop):
        rig = Rig(loop, tmp_path, ttl_ms=60_000)
        rig.failures = [Unavailable("away")] * 3
        await rig.until_renewed()
        assert 36 < rig.asked_at_s[0] < 40
        assert rig.asked_at_s[-1] < 55  # three retries still fit into the life

    run(main)
