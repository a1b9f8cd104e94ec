"""What the values of settings may be: how help shows them, and which ones are refused.

A check raises ValueError with what is wrong and what is right, before the program has made or opened anything. Pure.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cloudless.core import hours
from cloudless.core.labels import is_dns_label
from cloudless.core.model import DeviceClass
from cloudless.core.validation import validate_labels
from cloudless.identity.spiffe import COORDINATOR, is_name, is_trust_domain

_PORT_MAX: Final = 65535
_LINK_NAME_MAX: Final = 15  # IFNAMSIZ without the final zero
_CONTAINERD_NAMESPACE_MAX: Final = 76
_SUBNET_PREFIXES: Final = range(8, 30)
_RUNTIMES: Final = ("containerd", "process")

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?")
_LINK = re.compile(r"[A-Za-z0-9._-]+")
_CONTAINERD_NAME = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of value. `check` gets the parsed value and raises ValueError."""

    metavar: str
    check: Callable[[Any], None]


def _accept(value: Any) -> None:
    """Anything goes."""


def _require(good: bool, value: object, rule: str) -> None:
    if not good:
        raise ValueError(f"{str(value)[:200]!r} is not {rule}")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_host(text: str) -> bool:
    return _HOST.fullmatch(text) is not None or _is_ip(text)


def _is_host_port(text: str, *, lowest: int) -> bool:
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not ((_is_host(host) and ":" not in host) or (host == f"[{bare}]" and _is_ip(bare))):
        return False
    return port.isascii() and port.isdigit() and len(port) <= 5 and lowest <= int(port) <= _PORT_MAX


def _listener(text: str) -> None:
    _require(_is_host_port(text, lowest=0), text, "HOST:PORT, for example 0.0.0.0:8443")


def _dialled(addresses: tuple[str, ...]) -> None:
    for address in addresses:
        _require(_is_host_port(address, lowest=1), address, "HOST:PORT, for example 192.0.2.10:8443")


def _advertised(addresses: tuple[str, ...]) -> None:
    for address in addresses:
        bare = address.removeprefix("[").removesuffix("]")
        _require(_is_host_port(address, lowest=0) or _is_host(bare), address, "HOST:PORT or HOST")


def _certificate_names(names: tuple[str, ...]) -> None:
    for name in names:
        _require(_is_host(name.removeprefix("*.")), name, "a DNS name or an IP address")


def _subnet(text: str) -> None:
    network = ipaddress.IPv4Network(text)
    _require(network.prefixlen in _SUBNET_PREFIXES, text, f"between /{_SUBNET_PREFIXES[0]} and /{_SUBNET_PREFIXES[-1]}")


def _runtimes(names: tuple[str, ...]) -> None:
    for name in names:
        _require(name in _RUNTIMES, name, f"a runtime: {', '.join(_RUNTIMES)}")


def _cgroup(text: str) -> None:
    good = all(_LINK.fullmatch(part) and part not in (".", "..") for part in text.split("/"))
    _require(good, text, "a cgroup's name: letters, digits, '.', '_', '-'")


def _labels(labels: Mapping[str, str]) -> None:
    for violation in validate_labels(labels, "labels"):
        raise ValueError(f"{violation.message} ({violation.remedy})" if violation.remedy else violation.message)


def _hours(windows: tuple[str, ...]) -> None:
    for text in windows:
        hours.parse(text)


def _namespaces(names: tuple[str, ...]) -> None:
    for name in names:
        _require(is_dns_label(name), name, "a namespace: at most 63 lower-case letters, digits and dashes")


def at_least(lowest: int) -> Kind:
    return Kind("NUMBER", lambda value: _require(value >= lowest, value, f"{lowest} or more"))


def one_of(*words: str) -> Kind:
    """One of these words. The empty one is not shown."""
    shown = [word for word in words if word]
    return Kind("|".join(shown), lambda text: _require(text in words, text, f"one of {', '.join(shown)}"))


ANYTHING: Final = Kind("TEXT", _accept)
TEXTS: Final = Kind("LIST", _accept)
NUMBER: Final = Kind("NUMBER", lambda value: _require(value >= 0, value, "0 or more"))
SWITCH: Final = Kind("true|false", _accept)
WEIGHT: Final = Kind(
    "NUMBER", lambda value: _require(math.isfinite(value) and value >= 0, value, "a number of 0 or more")
)
SHARE: Final = Kind("NUMBER", lambda value: _require(0 <= value <= 1, value, "between 0 and 1"))
PERCENT: Final = Kind("PERCENT", lambda value: _require(0 <= value <= 100, value, "between 0 and 100"))
HOURS: Final = Kind("LIST", _hours)
NAMESPACES: Final = Kind("LIST", _namespaces)
DURATION: Final = Kind("DURATION", lambda ms: _require(ms > 0, f"{ms}ms", "longer than 0"))
SIZE: Final = Kind("SIZE", lambda size: _require(size > 0, size, "more than 0 bytes"))
SIZE_OR_NONE: Final = Kind("SIZE", _accept)
CPUS: Final = Kind("CPUS", _accept)
FILE: Final = Kind("FILE", _accept)
FOLDER: Final = Kind("DIR", _accept)
LISTENER: Final = Kind("HOST:PORT", _listener)
OPTIONAL_LISTENER: Final = Kind("HOST:PORT", lambda text: _listener(text) if text else None)
DIALLED: Final = Kind("LIST", _dialled)
ADVERTISED: Final = Kind("LIST", _advertised)
CERTIFICATE_NAMES: Final = Kind("LIST", _certificate_names)
IP_ADDRESS: Final = Kind("ADDRESS", lambda text: _require(_is_ip(text), text, "an IP address"))
TRUST_DOMAIN: Final = Kind(
    "NAME", lambda text: _require(is_trust_domain(text), text, "a trust domain: lower-case DNS labels, at most 200")
)
COORDINATOR_ID: Final = Kind(
    "NAME",
    lambda text: _require(
        is_name(COORDINATOR, text), text, "a name: at most 63 letters, digits, dots, dashes and underscores"
    ),
)
OPTIONAL_NODE_NAME: Final = Kind(
    "NAME",
    lambda text: _require(
        not text or is_dns_label(text), text, "a node's name: at most 63 lower-case letters, digits and dashes"
    ),
)
DEVICE_CLASS: Final = one_of("", *DeviceClass)
LABELS: Final = Kind("LIST", _labels)
RUNTIMES: Final = Kind("LIST", _runtimes)
LINK_NAME: Final = Kind(
    "NAME",
    lambda text: _require(
        _LINK.fullmatch(text) is not None and len(text) <= _LINK_NAME_MAX and text not in (".", ".."),
        text,
        f"a link's name: at most {_LINK_NAME_MAX} letters, digits, '.', '_', '-'",
    ),
)
SUBNET: Final = Kind("SUBNET", _subnet)
CGROUP: Final = Kind("NAME", _cgroup)
CONTAINERD_NAMESPACE: Final = Kind(
    "NAME",
    lambda text: _require(
        _CONTAINERD_NAME.fullmatch(text) is not None and len(text) <= _CONTAINERD_NAMESPACE_MAX,
        text,
        "a containerd namespace: letters and digits, with single '.', '_', '-' between them",
    ),
)
