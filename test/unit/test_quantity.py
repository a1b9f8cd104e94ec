"""Quantities: exact parsing, shortest formatting, clear refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudless.core import quantity as q

PAIRS = [
    (q.parse_cpu, q.format_cpu),
    (q.parse_bytes, q.format_bytes),
    (q.parse_bitrate, q.format_bitrate),
    (q.parse_duration, q.format_duration),
]


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (q.parse_cpu, "250m", 250),
        (q.parse_cpu, "0.5", 500),
        (q.parse_cpu, "2", 2000),
        (q.parse_cpu, "0.001", 1),
        (q.parse_bytes, "128Mi", 128 * 2**20),
        (q.parse_bytes, "1.5Gi", 3 * 2**29),
        (q.parse_bytes, "500M", 500 * 10**6),
        (q.parse_bytes, "7", 7),
        (q.parse_bytes, "0.5k", 500),
        (q.parse_bitrate, "5Mbps", 5 * 10**6),
        (q.parse_bitrate, "0.5kbps", 500),
        (q.parse_bitrate, "12", 12),
        (q.parse_duration, "1m30s", 90_000),
        (q.parse_duration, "1.5h", 5_400_000),
        (q.parse_duration, "250ms", 250),
        (q.parse_duration, "0", 0),
        (q.parse_duration, "1000us", 1),
        (q.parse_duration, "500us500us", 1),
    ],
)
def test_parses(parse: Callable[[str], int], text: str, expected: int) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (q.parse_cpu, "0.5m", "finer than one milli-CPU"),
        (q.parse_cpu, "1.0000000000000000000000000001", "finer than one milli-CPU"),
        (q.parse_cpu, "-1", "not a CPU quantity"),
        (q.parse_cpu, "1e3", "not a CPU quantity"),
        (q.parse_cpu, "", "not a CPU quantity"),
        (q.parse_cpu, "٣", "not a CPU quantity"),
        (q.parse_cpu, "9" * 30, "too large"),
        (q.parse_cpu, "9" * 5000, "not a CPU quantity"),
        (q.parse_bytes, "128mi", "not a size"),
        (q.parse_bytes, "128ki", "write Ki"),
        (q.parse_bytes, "1.5", "finer than one byte"),
        (q.parse_bytes, "1 Gi", "not a size"),
        (q.parse_bytes, "8193Pi", "too large"),
        (q.parse_bitrate, "5MB", "not a bit rate"),
        (q.parse_duration, "30", "not a duration"),
        (q.parse_duration, "1s\n", "not a duration"),
        (q.parse_duration, "1us", "finer than one millisecond"),
        (q.parse_duration, "1d", "not a duration"),
    ],
)
def test_refuses(parse: Callable[[str], int], text: str, message: str) -> None:
    with pytest.raises(q.QuantityError, match=message):
        parse(text)


@pytest.mark.parametrize(("parse", "write"), PAIRS)
@given(value=st.integers(0, 2**63 - 1) | st.integers(0, 10**7))
def test_what_is_written_reads_back(parse: Callable[[str], int], write: Callable[[int], str], value: int) -> None:
    assert parse(write(value)) == value


@pytest.mark.parametrize(("parse", "write"), PAIRS)
@given(text=st.text(max_size=40) | st.from_regex(r"\A[0-9.]{1,20}[A-Za-z]{0,4}\Z"))
def test_any_text_reads_or_is_refused(parse: Callable[[str], int], write: Callable[[int], str], text: str) -> None:
    try:
        value = parse(text)
    except q.QuantityError:
        return
    assert 0 <= value < 2**63
    assert parse(write(value)) == value


@given(whole=st.integers(0, 10**6), fraction=st.integers(0, 999))
def test_decimal_cpus_are_exact(whole: int, fraction: int) -> None:
    assert q.parse_cpu(f"{whole}.{fraction:03}") == whole * 1000 + fraction
