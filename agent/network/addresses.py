"""Which replica has which address. Pure: a function of the subnet, the replica's id and what is taken.

The place where the search begins is derived from the replica's id: a replica that is made anew usually gets its old
address, and a freed address is not handed to the next replica at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container as Collection
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from cloudless.errors import InvalidArgument, ResourceExhausted

_RESERVED = 2  # the network itself and the gateway
_PREFIX_MIN, _PREFIX_MAX = 8, 29


def parse_subnet(text: str) -> IPv4Network:
    """The subnet of a node's bridge. Raises InvalidArgument(reason="BadSetting")."""
    try:
        network = IPv4Network(text)
    except ValueError as error:
        raise InvalidArgument(f"runtime.subnet: {error}", reason="BadSetting") from None
    if not _PREFIX_MIN <= network.prefixlen <= _PREFIX_MAX:
        raise InvalidArgument(
            f"runtime.subnet: {text} must be between /{_PREFIX_MIN} and /{_PREFIX_MAX}", reason="BadSetting"
        )
    return network


def gateway(network: IPv4Network) -> IPv4Interface:
    """The bridge's own address: the first of the subnet."""
    return IPv4Interface((network.network_address + 1, network.prefixlen))


def capacity(network: IPv4Network) -> int:
    """How many replicas have room."""
    return network.num_addresses - _RESERVED - 1


def choose(network: IPv4Network, replica_id: str, *, taken: Collection[IPv4Address]) -> IPv4Address:
    """A free address for a replica. Raises ResourceExhausted(reason="NoAddress")."""
    size = capacity(network)
    start = int.from_bytes(hashlib.sha256(replica_id.encode()).digest()[:8], "big") % size
    for step in range(size):
        address = network.network_address + _RESERVED + (start + step) % size
        if address not in taken:
            return address
    raise ResourceExhausted(
        f"all {size} addresses of {network} are in use", reason="NoAddress", remedy="give the node a larger subnet"
    )


class AddressBook:
    """The addresses in use. What runs is its only source: `restore` fills it from there."""

    def __init__(self, network: IPv4Network) -> None:
        self.network = network
        self._by_replica: dict[str, IPv4Address] = {}

    def restore(self, known: Mapping[str, IPv4Address]) -> None:
        """Takes over what is in use now; forgets the rest."""
        self._by_replica = dict(known)

    def allocate(self, replica_id: str) -> IPv4Address:
        """The replica's address; the same one when asked again. Raises ResourceExhausted."""
        if replica_id not in self._by_replica:
            taken = frozenset(self._by_replica.values())
            self._by_replica[replica_id] = choose(self.network, replica_id, taken=taken)
        return self._by_replica[replica_id]

    def release(self, replica_id: str) -> None:
        self._by_replica.pop(replica_id, None)

    def __len__(self) -> int:
        return len(self._by_replica)
