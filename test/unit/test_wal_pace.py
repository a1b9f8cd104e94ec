"""When a sync is done on the event loop."""

from __future__ import annotations

from cloudless.coordinator.wal.pace import STALL_S, Pace

LIMIT_S = 0.001


def after(*syncs_s: float) -> Pace:
    pace = Pace(LIMIT_S)
    for _ in range(16):
        pace.took(0.0001)
    for sync_s in syncs_s:
        pace.took(sync_s)
    return pace


def test_a_new_disk_is_trusted_after_some_fast_syncs() -> None:
    pace = Pace(LIMIT_S)
    assert not pace.quick
    for _ in range(8):
        pace.took(LIMIT_S)
    assert pace.quick


def test_interrupted_syncs_among_fast_ones_say_nothing() -> None:
    assert after(0.01, 0.0001, 0.02, 0.0001, 0.004).quick


def test_a_disk_that_is_usually_slow_is_left_to_a_thread() -> None:
    assert not after(*[2 * LIMIT_S] * 9).quick


def test_one_stall_is_remembered_for_long() -> None:
    assert not after(10 * STALL_S).quick
    assert not after(10 * STALL_S, *[0.0001] * 100).quick
    assert after(10 * STALL_S, *[0.0001] * 120).quick
