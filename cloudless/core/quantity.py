"""Quantities as people write them: CPU `250m`, bytes `128Mi`, bit rates `5Mbps`, durations `1m30s`.

Parsing is exact (decimal, no floating point) and refuses what cannot be held in the canonical unit without
loss; formatting gives the shortest form that parses back to the same integer.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal
from typing import Final

_NUMBER: Final = r"(\d+(?:\.\d+)?)"
_MAX: Final = 2**63 - 1
_LENGTH_MAX: Final = 32
_CONTEXT: Final = Context(prec=80)  # 32 digits times the largest unit, exactly

_BYTE_UNITS: Final = {
    "": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip
_RATE_UNITS: Final = {"bps": 1, "kbps": 10**3, "Kbps": 10**3, "Mbps": 10**6, "Gbps": 10**9}
_DURATION_UNITS_NS: Final = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


class QuantityError(ValueError):
    """The text is no quantity of this kind; the message says what was expected."""


def _times(number: str, unit: int) -> Decimal:
    return _CONTEXT.multiply(Decimal(number), Decimal(unit))


def _exact(value: Decimal, *, text: str, unit: str) -> int:
    if value != value.to_integral_value(context=_CONTEXT):
        raise QuantityError(f"{text!r} is finer than one {unit}")
    if value > _MAX:
        raise QuantityError(f"{text!r} is too large")
    return int(value)


def _match(pattern: str, text: str, expected: str) -> re.Match[str]:
    # Longer text would be rounded to the 28 digits of decimal's context instead of being refused.
    found = re.fullmatch(pattern, text, re.ASCII) if len(text) <= _LENGTH_MAX else None
    if found is None:
        shown = text if len(text) <= _LENGTH_MAX else text[:_LENGTH_MAX] + "..."
        raise QuantityError(f"{shown!r} is not {expected}")
    return found


def parse_cpu(text: str) -> int:
    """Milli-CPUs of `2`, `0.5` or `250m`."""
    found = _match(_NUMBER + "(m?)", text, "a CPU quantity such as 250m, 0.5 or 2")
    return _exact(_times(found[1], 1 if found[2] else 1000), text=text, unit="milli-CPU (1m)")


def parse_bytes(text: str) -> int:
    """Bytes of `1024`, `128Mi`, `1.5Gi` or `1G`."""
    found = _match(_NUMBER + "([kKMGTP]i?)?", text, "a size such as 128Mi, 2Gi or 500M")
    unit = found[2] or ""
    if unit == "ki":
        raise QuantityError(f"{text!r} is not a size such as 128Mi, 2Gi or 500M; write Ki")
    return _exact(_times(found[1], _BYTE_UNITS[unit]), text=text, unit="byte")


def parse_bitrate(text: str) -> int:
    """Bits per second of `5Mbps`, `500kbps` or a plain number."""
    found = _match(_NUMBER + "((?:[kKMG])?bps)?", text, "a bit rate such as 5Mbps or 500kbps")
    return _exact(_times(found[1], _RATE_UNITS[found[2] or "bps"]), text=text, unit="bit per second")


def parse_duration(text: str) -> int:
    """Milliseconds of a Go-style duration: `1m30s`, `250ms`, `1.5h`, `0`."""
    if text == "0":
        return 0
    expected = "a duration such as 30s, 1m30s or 250ms"
    _match(f"(?:{_NUMBER}(?:ns|us|ms|s|m|h))+", text, expected)
    total_ns = Decimal(0)
    for number, unit in re.findall(_NUMBER + "(ns|us|ms|s|m|h)", text):
        total_ns = _CONTEXT.add(total_ns, _times(number, _DURATION_UNITS_NS[unit]))
    return _exact(_CONTEXT.divide(total_ns, Decimal(10**6)), text=text, unit="millisecond (1ms)")


def parse_pause(text: str) -> int:
    """Milliseconds of a duration, -1 for `manual`."""
    if text == "manual":
        return -1
    try:
        return parse_duration(text)
    except QuantityError:
        raise QuantityError(f"{text[:40]!r} is not a duration or the word manual such as 1m") from None


def format_pause(ms: int) -> str:
    return "manual" if ms < 0 else format_duration(ms)


def format_cpu(millis: int) -> str:
    return str(millis // 1000) if millis % 1000 == 0 else f"{millis}m"


def format_bytes(count: int) -> str:
    for unit in ("Pi", "Ti", "Gi", "Mi", "Ki", "P", "T", "G", "M", "k"):
        if count and count % _BYTE_UNITS[unit] == 0:
            return f"{count // _BYTE_UNITS[unit]}{unit}"
    return str(count)


def format_bitrate(bps: int) -> str:
    for unit in ("Gbps", "Mbps", "kbps"):
        if bps and bps % _RATE_UNITS[unit] == 0:
            return f"{bps // _RATE_UNITS[unit]}{unit}"
    return f"{bps}bps"


def format_duration(ms: int) -> str:
    if ms == 0:
        return "0s"
    parts = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, ms = divmod(ms, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)
