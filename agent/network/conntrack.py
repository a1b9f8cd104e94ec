"""Forgetting tracked flows (ctnetlink): where a replica went, its datagrams must not go on being sent to its address.

A flow of UDP has no end: for as long as a client keeps sending, the kernel follows the decision that it made for the
first datagram, to an address where nobody is any more, or somebody else's replica is by then.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Final

_NETLINK_NETFILTER: Final = 12
_GET, _DELETE = 0x0101, 0x0102  # of the connection tracking subsystem
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_F_REQUEST, _F_ACK, _F_DUMP = 0x1, 0x4, 0x300
_TUPLE_ORIG, _TUPLE_REPLY, _TUPLE_IP, _TUPLE_PROTO, _IP_SRC, _PROTO_NUM = 1, 2, 1, 2, 1, 1
_TYPE_MASK: Final = 0x3FFF
_NESTED: Final = 0x8000
_BUFFER: Final = 1 << 16
_HEADER: Final = struct.pack("=BBH", socket.AF_INET, 0, 0)


def forget_datagrams(address: IPv4Address) -> int:
    """Deletes every tracked UDP flow that is answered from this address; how many there were. Blocks for as long as
    the kernel takes to tell its table. Raises OSError where connection tracking cannot be reached."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as kernel:
        kernel.bind((0, 0))
        stale = []
        for payload in _talk(kernel, _GET, _F_DUMP, _HEADER):
            found = dict(_attributes(payload[4:]))
            reply = dict(_attributes(found.get(_TUPLE_REPLY, b"")))
            source = dict(_attributes(reply.get(_TUPLE_IP, b""))).get(_IP_SRC)
            protocol = dict(_attributes(reply.get(_TUPLE_PROTO, b""))).get(_PROTO_NUM)
            if source == address.packed and protocol == bytes([socket.IPPROTO_UDP]):
                stale.append(found[_TUPLE_ORIG])
        for original in stale:
            header = struct.pack("=HH", 4 + len(original), _TUPLE_ORIG | _NESTED)
            try:
                list(_talk(kernel, _DELETE, _F_ACK, _HEADER + header + original))
            except OSError as error:
                if error.errno != errno.ENOENT:  # it ended by itself
                    raise
        return len(stale)


def _talk(kernel: socket.socket, kind: int, flags: int, body: bytes) -> Iterator[bytes]:
    """The payloads of the answer, to its end. Raises OSError with the kernel's number."""
    kernel.send(struct.pack("=IHHII", 16 + len(body), kind, _F_REQUEST | flags, 1, 0) + body)
    while True:
        data = kernel.recv(_BUFFER)
        while len(data) >= 16:
            length, answer, _, _, _ = struct.unpack_from("=IHHII", data)
            payload, data = data[16:length], data[(length + 3) & ~3 :]
            if answer == _NLMSG_DONE:
                return
            if answer == _NLMSG_ERROR:
                number = -struct.unpack_from("=i", payload)[0]
                if number:
                    raise OSError(number, "connection tracking refused")
                return
            yield payload


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind & _TYPE_MASK, data[4:length]
        data = data[(length + 3) & ~3 :]
