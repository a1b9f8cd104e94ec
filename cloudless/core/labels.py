"""The syntax of names and labels: DNS labels (RFC 1123), label keys with an optional DNS prefix, label values."""

from __future__ import annotations

import re
from typing import Final

NAME_LENGTH_MAX: Final = 63

_DNS_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DNS_NAME: Final = re.compile(rf"{_DNS_LABEL.pattern}(?:\.{_DNS_LABEL.pattern})*")
_PART: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


def is_dns_label(text: str) -> bool:
    """At most 63 of a-z, 0-9 and `-`, with a letter or digit at both ends."""
    return _DNS_LABEL.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """`name` or `prefix/name`: the prefix a DNS name, the name 1 to 63 of A-Z, a-z, 0-9, `-`, `_`, `.`."""
    prefix, slash, name = text.rpartition("/")
    if slash and (len(prefix) > 253 or _DNS_NAME.fullmatch(prefix) is None):
        return False
    return _PART.fullmatch(name) is not None


def is_label_value(text: str) -> bool:
    """Empty, or 1 to 63 of A-Z, a-z, 0-9, `-`, `_`, `.` with a letter or digit at both ends."""
    return text == "" or _PART.fullmatch(text) is not None
