"""Pauses of the garbage collector are counted, so that they may overlap."""

import gc
import sys
import threading

from cloudless.coordinator.wal import collector


def test_the_collector_is_back_after_the_last_pause_ends():
    assert gc.isenabled()
    with collector.paused():
        assert not gc.isenabled()
        with collector.paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_pauses_of_two_threads_overlap():
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with collector.paused():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with collector.paused():
        thread.start()
        assert inside.wait(10)
    assert not gc.isenabled(), "the other thread is not done"
    leave.set()
    thread.join()
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with collector.paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_preferring_latency_freezes_what_exists():
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    try:
        collector.prefer_latency()
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)


def test_freezing_keeps_what_was_made_out_of_later_collections():
    made = []
    try:
        before = gc.get_freeze_count()
        with collector.paused(freeze=True):
            made += [[number] for number in range(20_000)]
        assert gc.get_freeze_count() >= before + 20_000
        assert not any(each is made[5] for each in gc.get_objects())
        assert gc.isenabled()
    finally:
        gc.unfreeze()
