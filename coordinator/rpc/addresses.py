"""Addresses: of listeners, and what others are told to dial."""

from __future__ import annotations

import ipaddress
import socket

from cloudless.errors import FailedPrecondition, InvalidArgument


def split(address: str, setting: str) -> tuple[str, int]:
    """`HOST:PORT` or `[V6]:PORT`, port 0 for any. Raises InvalidArgument (BadSetting) that names the setting."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(
            f"{setting} {address!r} is not HOST:PORT", reason="BadSetting", remedy="for example 0.0.0.0:8443"
        )
    return host, int(port)


def joined(host: str, port: int) -> str:
    bare = host.removeprefix("[").removesuffix("]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def in_use(address: str, setting: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"cannot listen on {address} ({setting}): the port is in use, or the address is not this host's",
        reason="PortInUse",
        remedy=f"end what uses it, or set {setting} to another address",
    )


def check_free(address: str, setting: str) -> None:
    """Raises FailedPrecondition (PortInUse) when nobody could listen there now, InvalidArgument (BadSetting)."""
    host, port = split(address, setting)
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, target = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
            probe.listen(1)
    except OSError as error:
        raise in_use(address, setting) from error


def advertised(configured: tuple[str, ...], listening: str) -> list[str]:
    """What others dial: the configured addresses (port 0 or none stands for the listener's), else the listener's own
    address, where a wildcard becomes the address that this host uses towards others."""
    host, port = split(listening, "listen")
    if configured:
        result = []
        for address in configured:
            given_host, separator, given_port = address.rpartition(":")
            plain = not separator or not given_port.isdigit()
            result.append(joined(address, port) if plain else joined(given_host, int(given_port) or port))
        return result
    bare = host.removeprefix("[").removesuffix("]")
    try:
        wildcard = ipaddress.ip_address(bare).is_unspecified
    except ValueError:
        wildcard = False
    return [joined(_own_address() if wildcard else bare, port)]


def _own_address() -> str:
    """The source address of a packet to the outside; nothing is sent. Loopback on a host without a route."""
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return "127.0.0.1"
