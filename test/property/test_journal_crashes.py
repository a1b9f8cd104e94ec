"""A journal that is killed in the middle of any write holds one of the sets that were written, never a mixture."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudless.agent.journal import Journal, decode_assignments, frame, unframe
from cloudless.core.model import Assignment
from cloudless.errors import Corrupt


class Killed(BaseException):
    pass


@settings(max_examples=60, deadline=None)
@given(point=st.integers(0, 40), sets=st.integers(1, 4))
def test_any_kill_leaves_a_whole_set(point: int, sets: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        calls = 0

        def counted(function):
            def call(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == point:
                    raise Killed
                return function(*args, **kwargs)

            return call

        acknowledged = 0

        async def write() -> None:
            nonlocal acknowledged
            journal = Journal(directory)
            journal.load()
            for revision in range(1, sets + 1):
                await journal.save_assignments(revision, [Assignment(f"r{revision}")])
                acknowledged = revision

        patches = [mock.patch.object(os, f, counted(getattr(os, f))) for f in ("fsync", "replace", "open", "fchmod")]
        try:
            for patch in patches:
                patch.start()
            with contextlib.suppress(Killed):
                asyncio.run(write())
        finally:
            for patch in patches:
                patch.stop()
        found = Journal(directory).load()
        assert found.revision in (acknowledged, acknowledged + 1)
        if found.revision:
            assert found.assignments == (Assignment(f"r{found.revision}"),)


@given(st.binary(max_size=300), st.text("abc", max_size=5))
def test_frames_hold_what_was_put_in(payload: bytes, fabric: str) -> None:
    assert unframe(frame(payload, fabric=fabric), fabric=fabric) == payload


@given(payload=st.binary(max_size=200), at=st.integers(0, 250), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(payload: bytes, at: int, bit: int) -> None:
    data = bytearray(frame(payload, fabric="f"))
    data[at % len(data)] ^= 1 << bit
    with pytest.raises(Corrupt):
        unframe(bytes(data), fabric="f")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_set_or_corrupt(payload: bytes) -> None:
    with contextlib.suppress(Corrupt):
        decode_assignments(payload)
