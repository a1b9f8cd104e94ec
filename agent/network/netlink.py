"""Enough of rtnetlink (RFC 3549) to make bridges, veth pairs, addresses and routes.

A socket belongs to the network namespace of the thread that opened it, wherever it is used later. Written on its
own because a replica starts within tens of milliseconds and an idle agent has little memory: the general library
takes 90 ms and 23 MiB to import for the dozen messages that are needed here.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Self

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_SETLINK, _RTM_NEWADDR = 19, 20
_RTM_NEWROUTE = 24
_AF_BRIDGE = 7  # not on every system that Python has sockets for
_F_REQUEST, _F_ACK, _F_REPLACE, _F_EXCL, _F_CREATE, _F_DUMP = 0x1, 0x4, 0x100, 0x200, 0x400, 0x300
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 1, 3, 4, 10, 18, 28
_IFLA_PROTINFO, _BRPORT_MODE, _F_NESTED = 12, 4, 0x8000
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_GATEWAY, _RTA_OIF = 5, 4
_IFF_UP = 1
_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST = 254, 4, 0, 1
_NAME_BYTES_MAX = 15
_BUFFER = 1 << 16


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    kind: str  # bridge, veth, ...; empty: a device
    master: int  # index of the bridge it belongs to; 0: none
    up: bool


class Netlink:
    """A connection to the kernel's routing tables, for one thread at a time. Errors are OSError with the kernel's
    number."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def links(self) -> list[Link]:
        """Every link of the namespace."""
        found = []
        for kind, payload in self._request(_RTM_GETLINK, _F_DUMP, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
            if kind == _RTM_NEWLINK:
                found.append(_parse_link(payload))
        return found

    def link(self, name: str) -> Link | None:
        """The link of this name; None: there is none."""
        header = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
        try:
            for kind, payload in self._request(_RTM_GETLINK, _F_ACK, header + _attribute(_IFLA_IFNAME, _name(name))):
                if kind == _RTM_NEWLINK:
                    return _parse_link(payload)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
        return None

    def add_bridge(self, name: str, *, address: bytes = b"") -> None:
        """A bridge, up. `address`: its hardware address, 6 bytes."""
        info = _attribute(_IFLA_LINKINFO, _attribute(_INFO_KIND, b"bridge\0"))
        if address:
            info += _attribute(_IFLA_ADDRESS, address)
        header = struct.pack("=BxHiII", 0, 0, 0, _IFF_UP, _IFF_UP)
        self._change(_RTM_NEWLINK, _F_CREATE | _F_EXCL, header + _attribute(_IFLA_IFNAME, _name(name)) + info)

    def add_veth(
        self, name: str, *, master: int, peer: str, peer_namespace: int, peer_address: bytes, mtu: int
    ) -> None:
        """A veth pair: `name` here, up and on the bridge with index `master`; `peer` in the namespace of the file
        descriptor `peer_namespace`, with the hardware address `peer_address` (6 bytes)."""
        other = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + _attribute(_IFLA_IFNAME, _name(peer))
        other += _attribute(_IFLA_MTU, struct.pack("=I", mtu)) + _attribute(_IFLA_ADDRESS, peer_address)
        other += _attribute(_IFLA_NET_NS_FD, struct.pack("=I", peer_namespace))
        info = _attribute(_INFO_KIND, b"veth\0") + _attribute(_INFO_DATA, _attribute(_VETH_PEER, other))
        body = struct.pack("=BxHiII", 0, 0, 0, _IFF_UP, _IFF_UP) + _attribute(_IFLA_IFNAME, _name(name))
        body += _attribute(_IFLA_MTU, struct.pack("=I", mtu)) + _attribute(_IFLA_MASTER, struct.pack("=I", master))
        self._change(_RTM_NEWLINK, _F_CREATE | _F_EXCL, body + _attribute(_IFLA_LINKINFO, info))

    def delete_link(self, index: int) -> None:
        self._change(_RTM_DELLINK, 0, struct.pack("=BxHiII", 0, 0, index, 0, 0))

    def set_up(self, index: int) -> None:
        self._change(_RTM_NEWLINK, 0, struct.pack("=BxHiII", 0, 0, index, _IFF_UP, _IFF_UP))

    def set_master(self, index: int, *, master: int) -> None:
        """Puts a link on the bridge with index `master`. Repeatable."""
        header = struct.pack("=BxHiII", 0, 0, index, 0, 0)
        self._change(_RTM_NEWLINK, 0, header + _attribute(_IFLA_MASTER, struct.pack("=I", master)))

    def set_hairpin(self, index: int) -> None:
        """Lets the bridge send back what comes from this link. Repeatable."""
        header = struct.pack("=BxHiII", _AF_BRIDGE, 0, index, 0, 0)
        mode = _attribute(_BRPORT_MODE, b"\1")
        self._change(_RTM_SETLINK, 0, header + _attribute(_IFLA_PROTINFO | _F_NESTED, mode))

    def add_address(self, index: int, interface: IPv4Interface) -> None:
        """Repeatable."""
        local = interface.ip.packed
        body = struct.pack("=BBBBi", socket.AF_INET, interface.network.prefixlen, 0, 0, index)
        body += _attribute(_IFA_LOCAL, local) + _attribute(_IFA_ADDRESS, local)
        if interface.network.prefixlen < 31:
            body += _attribute(_IFA_BROADCAST, interface.network.broadcast_address.packed)
        self._change(_RTM_NEWADDR, _F_CREATE | _F_REPLACE, body)

    def add_default_route(self, index: int, gateway: IPv4Address) -> None:
        """Repeatable."""
        body = struct.pack(
            "=BBBBBBBBI",
            socket.AF_INET,
            0,
            0,
            0,
            _RT_TABLE_MAIN,
            _RTPROT_STATIC,
            _RT_SCOPE_UNIVERSE,
            _RTN_UNICAST,
            0,
        )
        body += _attribute(_RTA_GATEWAY, gateway.packed) + _attribute(_RTA_OIF, struct.pack("=i", index))
        self._change(_RTM_NEWROUTE, _F_CREATE | _F_REPLACE, body)

    def _change(self, kind: int, flags: int, body: bytes) -> None:
        for _ in self._request(kind, flags | _F_ACK, body):
            pass

    def _request(self, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
        self._sequence += 1
        header = struct.pack("=IHHII", 16 + len(body), kind, flags | _F_REQUEST, self._sequence, 0)
        self._socket.send(header + body)
        while True:
            data = self._socket.recv(_BUFFER)
            position = 0
            while position + 16 <= len(data):
                length, answer, _, sequence, _ = struct.unpack_from("=IHHII", data, position)
                payload = data[position + 16 : position + length]
                position += (length + 3) & ~3
                if sequence != self._sequence:
                    continue
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", payload)[0]
                    if number:
                        raise OSError(number, os.strerror(number))
                    return
                yield answer, payload


def _name(name: str) -> bytes:
    encoded = name.encode()
    if not 0 < len(encoded) <= _NAME_BYTES_MAX:
        raise OSError(errno.EINVAL, f"a link's name has 1 to {_NAME_BYTES_MAX} characters", name)
    return encoded + b"\0"


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, position)
        if length < 4:
            return
        yield kind & 0x3FFF, data[position + 4 : position + length]
        position += (length + 3) & ~3


def _parse_link(payload: bytes) -> Link:
    _, _, index, flags, _ = struct.unpack_from("=BxHiII", payload)
    name, kind, master = "", "", 0
    for attribute, value in _attributes(payload[16:]):
        if attribute == _IFLA_IFNAME:
            name = value.rstrip(b"\0").decode(errors="replace")
        elif attribute == _IFLA_MASTER:
            master = struct.unpack("=I", value)[0]
        elif attribute == _IFLA_LINKINFO:
            for info, inner in _attributes(value):
                if info == _INFO_KIND:
                    kind = inner.rstrip(b"\0").decode(errors="replace")
    return Link(index, name, kind, master, bool(flags & _IFF_UP))
