"""Addresses, host ports and the nftables table as decisions; the kernel is asked elsewhere."""

import socket
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudless.agent.network import addresses, ports
from cloudless.agent.network.bridge import ReplicaNetworks
from cloudless.core.model import PortBinding
from cloudless.core.spec import Protocol
from cloudless.errors import FailedPrecondition, InvalidArgument, ResourceExhausted

NETWORK = IPv4Network("10.9.0.0/28")


@given(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=20))
def test_addresses_are_distinct_inside_the_subnet_and_stable(replicas):
    book = addresses.AddressBook(NETWORK)
    given_out = {}
    for replica in replicas:
        try:
            given_out[replica] = book.allocate(replica)
        except ResourceExhausted:
            assert len(given_out) == addresses.capacity(NETWORK)
    assert len(set(given_out.values())) == len(given_out)
    reserved = {NETWORK.network_address, addresses.gateway(NETWORK).ip, NETWORK.broadcast_address}
    assert not reserved & set(given_out.values())
    assert all(address in NETWORK for address in given_out.values())
    assert all(book.allocate(replica) == address for replica, address in given_out.items())


@given(st.sets(st.sampled_from(range(2, 15)), max_size=13), st.text(max_size=8))
def test_an_address_in_use_is_never_given_again_after_a_restart(used, replica):
    book = addresses.AddressBook(NETWORK)
    book.restore({f"old-{n}": NETWORK.network_address + n for n in used})
    if len(used) == addresses.capacity(NETWORK):
        with pytest.raises(ResourceExhausted):
            book.allocate(replica)
    else:
        assert book.allocate(replica) not in {NETWORK.network_address + n for n in used}


def test_the_same_replica_gets_the_same_address_again():
    first, second = addresses.AddressBook(NETWORK), addresses.AddressBook(NETWORK)
    assert first.allocate("web-1") == second.allocate("web-1")
    first.release("web-1")
    assert first.allocate("web-1") == second.allocate("web-1")
    first.release("never-was")


@pytest.mark.parametrize(
    "text", ["", "10.0.0.1/24", "10.0.0.0/33", "10.0.0.0/30", "10.0.0.0/7", "fe80::/64", "nonsense"]
)
def test_a_bad_subnet_is_refused(text):
    with pytest.raises(InvalidArgument):
        addresses.parse_subnet(text)


@pytest.mark.parametrize("bridge", ["", "a" * 16, "with space", 'quo"te', "a/b", "new\nline"])
def test_a_bad_bridge_is_refused(bridge, tmp_path):
    with pytest.raises(InvalidArgument):
        ReplicaNetworks(bridge=bridge, subnet="10.9.0.0/28", directory=tmp_path)


def test_the_table_holds_every_port_and_touches_nothing_else():
    wanted = [
        ports.Forward("tcp", 8080, IPv4Address("10.9.0.5"), 80),
        ports.Forward("udp", 53, IPv4Address("10.9.0.6"), 5353),
    ]
    script = ports.ruleset("br-0", NETWORK, wanted)
    assert "8080 : 10.9.0.5 . 80" in script
    assert "53 : 10.9.0.6 . 5353" in script
    tables = {line.split()[3] for line in script.splitlines() if line.startswith(("add table", "delete table"))}
    assert tables == {"cloudless_br_0"}
    assert "flush" not in script


def test_only_ports_with_a_host_port_are_forwarded():
    bindings = [
        PortBinding("a", 80, 0, Protocol.TCP),
        PortBinding("b", 81, 8081),
        PortBinding("c", 82, 82, Protocol.UDP),
    ]
    found = ports.forwards(IPv4Address("10.9.0.5"), bindings)
    assert [(f.protocol, f.host_port, f.port) for f in found] == [("tcp", 8081, 81), ("udp", 82, 82)]


def claim(held, replica, port, **changes):
    held.claim(replica, [ports.Forward("tcp", port, IPv4Address("10.9.0.5"), 80)], **changes)


def test_a_port_belongs_to_one_replica_and_is_free_again_afterwards(unused_tcp_port):
    held = ports.HostPorts("br0", NETWORK)
    claim(held, "one", unused_tcp_port)
    claim(held, "one", unused_tcp_port)
    with pytest.raises(FailedPrecondition, match="replica one") as refused:
        claim(held, "two", unused_tcp_port)
    assert refused.value.reason == "HostPortInUse"
    other_agent = ports.HostPorts("br1", NETWORK)
    with pytest.raises(FailedPrecondition):
        claim(other_agent, "three", unused_tcp_port)
    assert held.release("one") is True
    assert held.release("one") is False
    claim(other_agent, "three", unused_tcp_port)
    other_agent.close()


def test_a_port_that_a_program_uses_is_refused_and_none_of_the_others_is_taken(unused_tcp_port_factory):
    free, taken = unused_tcp_port_factory(), unused_tcp_port_factory()
    with socket.socket() as program:
        program.bind(("127.0.0.1", taken))
        program.listen()
        held = ports.HostPorts("br0", NETWORK)
        wanted = [ports.Forward("tcp", port, IPv4Address("10.9.0.5"), 80) for port in (free, taken)]
        with pytest.raises(FailedPrecondition, match=str(taken)):
            held.claim("one", wanted)
        claim(held, "two", free)
        held.claim("adopted", [wanted[1]], adopted=True)
        held.close()


def test_replicas_of_one_owner_share_a_port_until_the_last_of_them_goes(unused_tcp_port):
    held = ports.HostPorts("br0", NETWORK)
    claim(held, "one", unused_tcp_port, owner="d/web")
    claim(held, "two", unused_tcp_port, owner="d/web")
    for stranger in ("d/other", ""):
        with pytest.raises(FailedPrecondition, match="replica one"):
            claim(held, "three", unused_tcp_port, owner=stranger)
    assert held.release("one") is True
    other_agent = ports.HostPorts("br1", NETWORK)
    with pytest.raises(FailedPrecondition):
        claim(other_agent, "three", unused_tcp_port)
    held.release("two")
    claim(other_agent, "three", unused_tcp_port)
    other_agent.close()


def test_only_those_that_serve_get_connections(unused_tcp_port):
    held = ports.HostPorts("br0", NETWORK)
    for number in (5, 6, 7):
        forward = ports.Forward("tcp", unused_tcp_port, IPv4Address(f"10.9.0.{number}"), 80)
        held.claim(f"r{number}", [forward], owner="d/web")
    assert "numgen inc mod 3 map { 0 : 10.9.0.5 . 80, 1 : 10.9.0.6 . 80, 2 : 10.9.0.7 . 80 }" in held.table()
    assert held.set_serving(frozenset({"r6", "r7", "elsewhere"})) is True
    assert held.set_serving(frozenset({"r6", "r7"})) is False
    assert "numgen inc mod 2 map { 0 : 10.9.0.6 . 80, 1 : 10.9.0.7 . 80 }" in held.table()
    assert held.set_serving(frozenset({"r7"})) is True
    assert "numgen" not in held.table()
    assert f"{unused_tcp_port} : 10.9.0.7 . 80" in held.table()
    assert held.set_serving(frozenset()) is True
    assert "elements" not in held.table()
    held.close()


def test_where_the_kernel_cannot_share_a_port_belongs_to_one(unused_tcp_port):
    held = ports.HostPorts("br0", NETWORK)
    held.shares = False
    claim(held, "one", unused_tcp_port, owner="d/web")
    with pytest.raises(FailedPrecondition, match="replica one"):
        claim(held, "two", unused_tcp_port, owner="d/web")
    assert "numgen" not in held.table()
    held.close()
