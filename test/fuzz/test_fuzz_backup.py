"""A backup that is not exactly what was written is refused, whatever happened to it."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudless import backup
from cloudless.errors import Corrupt

STATE = b"a small state"
INFO = backup.BackupInfo("f.example", 9, 2, hashlib.sha256(STATE).hexdigest(), 17, "1.0", 2, "single")
GOOD = b"".join(backup.pieces(INFO, STATE, {"ca/root.pem": b"root", "tokens.key": b"key"}))


def refused(data: bytes) -> None:
    with pytest.raises(Corrupt) as caught:
        backup.read_backup(io.BytesIO(data))
    assert caught.value.reason == "BackupDamaged"


def test_it_is_good_as_it_is() -> None:
    assert backup.read_backup(io.BytesIO(GOOD)) == INFO


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_altered_byte_is_noticed(mask: int) -> None:
    for position in range(len(GOOD)):
        data = bytearray(GOOD)
        data[position] ^= mask
        refused(bytes(data))


def test_every_truncation_is_noticed() -> None:
    for length in range(len(GOOD)):
        refused(GOOD[:length])


def test_every_missing_or_doubled_byte_is_noticed() -> None:
    for position in range(len(GOOD)):
        refused(GOOD[:position] + GOOD[position + 1 :])
        refused(GOOD[:position] + GOOD[position : position + 1] + GOOD[position:])


@given(st.integers(0, len(GOOD)), st.integers(0, len(GOOD)), st.binary(max_size=40))
@settings(max_examples=500, deadline=None)
def test_every_replaced_part_is_noticed(start: int, end: int, replacement: bytes) -> None:
    data = GOOD[:start] + replacement + GOOD[end:]
    if data != GOOD:
        refused(data)


@given(st.binary(max_size=200), st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_arbitrary_bytes_behind_a_good_start(head: bytes, tail: bytes) -> None:
    refused(head)
    refused(GOOD[:16] + tail)
    header_end = 16 + len(backup.encode_header(INFO))
    refused(GOOD[:header_end] + tail)
    body = GOOD[:header_end] + tail
    refused(body + hashlib.sha256(body).digest())
