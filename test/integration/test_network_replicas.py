"""Replica networks in the real kernel: reachability, host ports, coexistence, repair, removal."""

import asyncio
import contextlib
import os
import socket
import socketserver
import subprocess
import threading
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from cloudless.agent.network import namespaces
from cloudless.agent.network.bridge import ReplicaNetworks
from cloudless.agent.network.netlink import Netlink
from cloudless.agent.network.ports import table_name
from cloudless.core.model import PortBinding
from cloudless.core.spec import Protocol
from cloudless.dev import mounts
from cloudless.errors import FailedPrecondition
from cloudless.testing.containerd import spare_subnet
from cloudless.testing.fabric import require_containerd

pytestmark = [pytest.mark.containerd, pytest.mark.xdist_group("replica-networks")]


def rules():
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout


def machine_state(directory):
    with Netlink() as kernel:
        links = sorted(link.name for link in kernel.links())
    return links, rules(), mounts.mounted_below(directory)


@pytest.fixture
def clean(tmp_path):
    """Links, nftables and mounts must be the same afterwards, apart from those of other tests in parallel."""
    require_containerd()
    tag = uuid.uuid4().hex[:6]
    yield lambda name: f"t{name}{tag}"
    links, ruleset, mounted = machine_state(tmp_path)
    assert [link for link in links if tag in link] == []
    assert tag not in ruleset
    assert mounted == []


@pytest_asyncio.fixture
async def network(clean, tmp_path):
    network = ReplicaNetworks(bridge=clean("a"), subnet=spare_subnet(), directory=tmp_path / "netns")
    await network.start({})
    try:
        yield network
    finally:
        await network.remove_all()
        network.close()
    assert not (tmp_path / "netns").exists()


@contextmanager
def serving(network, replica, port, *, kind=socket.SOCK_STREAM):
    """Answers with the replica's id on a port inside its namespace."""

    def listen():
        server = socket.socket(socket.AF_INET, kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("0.0.0.0", port))
        if kind == socket.SOCK_STREAM:
            server.listen()
        return server

    server = namespaces.inside(network.namespace_path(replica), listen)
    ended = threading.Event()

    def serve():
        while not ended.is_set():
            try:
                if kind == socket.SOCK_STREAM:
                    connection, peer = server.accept()
                    with connection:
                        connection.sendall(f"{replica} to {peer[0]}".encode())
                else:
                    _, peer = server.recvfrom(100)
                    server.sendto(replica.encode(), peer)
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        server.shutdown(socket.SHUT_RDWR) if kind == socket.SOCK_STREAM else server.settimeout(0)
        if kind == socket.SOCK_DGRAM:
            namespaces.inside(network.namespace_path(replica), lambda: poke(port))
        server.close()
        thread.join()


def poke(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"", ("127.0.0.1", port))


def ask(host, port, *, timeout=2.0):
    with socket.create_connection((str(host), port), timeout=timeout) as connection:
        connection.settimeout(timeout)
        return connection.recv(100).decode()


def ask_from(network, replica, host, port, **changes):
    return namespaces.inside(network.namespace_path(replica), lambda: ask(host, port, **changes))


def host_address():
    """An address of this machine that is neither loopback nor a bridge of ours; None: it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return probe.getsockname()[0]


async def test_replicas_reach_each_other_and_the_host_reaches_them(network):
    one, two = await network.ensure("one", []), await network.ensure("two", [])
    assert one != two
    with serving(network, "one", 80):
        assert ask_from(network, "two", one, 80) == f"one to {two}"
        assert ask(one, 80) == f"one to {network.gateway}"
    assert namespaces.inside(network.namespace_path("one"), lambda: sorted(os.listdir("/proc/self/net/dev_snmp6")))


async def test_a_new_network_has_loopback_and_one_link_with_a_route(network):
    await network.ensure("one", [])

    def look():
        with Netlink() as kernel:
            return {link.name: link.up for link in kernel.links()}

    found = namespaces.inside(network.namespace_path("one"), look)
    assert found["lo"] is True
    assert found["eth0"] is True
    routes = namespaces.inside(network.namespace_path("one"), lambda: Path("/proc/thread-self/net/route").read_text())
    assert any(line.split()[:2] == ["eth0", "00000000"] for line in routes.splitlines())


async def test_ensure_is_repeatable_and_many_at_once_are_distinct(network):
    names = [f"r{n}" for n in range(12)]
    first = await asyncio.gather(*(network.ensure(name, []) for name in names))
    again = await asyncio.gather(*(network.ensure(name, []) for name in names))
    assert first == again
    assert len(set(first)) == len(names)


async def test_a_host_port_is_reached_from_everywhere(network, unused_tcp_port):
    await network.ensure("web", [PortBinding("http", 8080, unused_tcp_port, Protocol.TCP)])
    await network.ensure("other", [])
    with serving(network, "web", 8080):
        assert ask("127.0.0.1", unused_tcp_port).startswith("web")
        assert ask(network.gateway, unused_tcp_port).startswith("web")
        assert ask_from(network, "other", network.gateway, unused_tcp_port).startswith("web")
        assert ask_from(network, "web", network.gateway, unused_tcp_port).startswith("web"), "its own host port"
        if address := host_address():
            assert ask(address, unused_tcp_port).startswith("web")
    await network.remove("web")
    with pytest.raises(OSError, match="refused"):
        ask("127.0.0.1", unused_tcp_port)


async def test_replicas_of_one_workload_share_a_host_port(network, unused_tcp_port):
    """Each new connection goes to the next that serves; those that are there stay where they are."""
    binding = [PortBinding("http", 8080, unused_tcp_port, Protocol.TCP)]
    for name in ("old", "new"):
        await network.ensure(name, binding, owner="d/web")
    with echoing(network, "old", 8080), echoing(network, "new", 8080), contextlib.ExitStack() as open_ones:

        def connect():
            connection = open_ones.enter_context(socket.create_connection(("127.0.0.1", unused_tcp_port), timeout=2))
            return connection.recv(100).decode(), connection

        both = dict(connect() for _ in range(4))
        assert set(both) == {"old", "new"}
        await network.set_serving(frozenset({"old"}))
        assert {connect()[0] for _ in range(6)} == {"old"}
        await network.set_serving(frozenset({"new"}))
        assert {connect()[0] for _ in range(6)} == {"new"}
        for name, connection in both.items():  # through three tables since it was made
            connection.sendall(b"still there")
            assert connection.recv(100) == b"still there", name
        await network.set_serving(frozenset())
        with pytest.raises(OSError, match="refused"):
            connect()
        both["old"].sendall(b"and still")
        assert both["old"].recv(100) == b"and still"
    await network.remove("old")
    await network.set_serving(frozenset({"new"}))
    with serving(network, "new", 8080):
        assert ask("127.0.0.1", unused_tcp_port).startswith("new")


@contextmanager
def echoing(network, replica, port):
    """Says the replica's name on each connection, and then what it hears."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(replica.encode())
            while heard := self.request.recv(100):
                self.request.sendall(heard)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        block_on_close = False

    server = namespaces.inside(network.namespace_path(replica), lambda: Server(("0.0.0.0", port), Handler))
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def test_a_udp_host_port(network, unused_udp_port):
    await network.ensure("dns", [PortBinding("dns", 5353, unused_udp_port, Protocol.UDP)])
    with (
        serving(network, "dns", 5353, kind=socket.SOCK_DGRAM),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(2)
        client.sendto(b"?", ("127.0.0.1", unused_udp_port))
        assert client.recv(100) == b"dns"


async def test_a_client_of_a_udp_host_port_goes_over_to_the_next_replica(network, unused_udp_port):
    """It has one socket and never pauses: the kernel would follow its first decision for ever."""
    binding = [PortBinding("dns", 5353, unused_udp_port, Protocol.UDP)]
    await network.ensure("old", binding, owner="d/dns")
    await network.ensure("new", binding, owner="d/dns")
    await network.set_serving(frozenset({"old"}))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.connect(("127.0.0.1", unused_udp_port))

        def asked():
            client.send(b"?")
            return client.recv(100)

        with serving(network, "new", 5353, kind=socket.SOCK_DGRAM):
            with serving(network, "old", 5353, kind=socket.SOCK_DGRAM):
                assert asked() == b"old"
                await network.set_serving(frozenset({"new"}))
                assert asked() == b"old", "what has begun is not interrupted"
            await network.remove("old")
            assert asked() == b"new"


async def test_replicas_do_not_reach_what_listens_on_the_hosts_loopback(network):
    """route_localnet on the bridge, without the guard, would let a replica's raw packets reach 127.0.0.1."""
    await network.ensure("one", [])

    def prepare():
        """As a replica with power over its own network would: 127.0.0.1 by way of the bridge."""
        for command in (
            "ip addr del 127.0.0.1/8 dev lo",
            f"ip route add 127.0.0.1/32 via {network.gateway} dev eth0",
        ):
            subprocess.run(command.split(), check=True, capture_output=True)
        Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text("1")

    namespaces.inside(network.namespace_path("one"), prepare)
    with socket.create_server(("127.0.0.1", 0)) as private:
        port = private.getsockname()[1]
        with pytest.raises(TimeoutError):
            ask_from(network, "one", "127.0.0.1", port, timeout=0.5)
        table = table_name(network.bridge)
        subprocess.run(["nft", "flush", "chain", "ip", table, "guard"], check=True)
        private.settimeout(2)
        asking = asyncio.to_thread(connect_from, network, "one", port)
        reached = await asyncio.gather(asking, asyncio.to_thread(private.accept))
        reached[1][0].close()


def connect_from(network, replica, port):
    def connect():
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True

    return namespaces.inside(network.namespace_path(replica), connect)


async def test_a_host_port_in_use_is_refused_and_leaves_no_network(network, unused_tcp_port):
    binding = [PortBinding("http", 80, unused_tcp_port, Protocol.TCP)]
    await network.ensure("one", binding)
    with pytest.raises(FailedPrecondition) as refused:
        await network.ensure("two", binding)
    assert refused.value.reason == "HostPortInUse"
    assert not namespaces.exists(network.namespace_path("two"))


async def test_two_agents_coexist_and_removing_one_leaves_the_other(network, clean, tmp_path, unused_tcp_port_factory):
    ports = unused_tcp_port_factory(), unused_tcp_port_factory()
    other = ReplicaNetworks(bridge=clean("b"), subnet=spare_subnet(), directory=tmp_path / "other")
    await other.start({})
    try:
        await network.ensure("same", [PortBinding("http", 80, ports[0])])
        theirs = await other.ensure("same", [PortBinding("http", 80, ports[1])])
        with serving(network, "same", 80), serving(other, "same", 80):
            assert ask("127.0.0.1", ports[0]).startswith("same")
            assert ask("127.0.0.1", ports[1]).startswith("same")
            assert ask_from(network, "same", theirs, 80).startswith("same"), "through the host, which forwards"
    finally:
        await other.remove_all()
        other.close()
    with serving(network, "same", 80):
        assert ask("127.0.0.1", ports[0]).startswith("same")


async def test_a_restarted_agent_keeps_what_it_knows_and_removes_the_rest(network, tmp_path, unused_tcp_port):
    binding = [PortBinding("http", 80, unused_tcp_port, Protocol.TCP)]
    kept = await network.ensure("kept", binding)
    await network.ensure("forgotten", [])
    again = ReplicaNetworks(bridge=network.bridge, subnet=str(network.network), directory=tmp_path / "netns")
    await again.start({"kept": (kept, binding)})
    try:
        assert not namespaces.exists(again.namespace_path("forgotten"))
        with serving(again, "kept", 80):
            assert ask("127.0.0.1", unused_tcp_port).startswith("kept")
        assert await again.ensure("kept", binding) == kept
        assert await again.ensure("new", []) != kept
    finally:
        again.close()


async def test_what_a_reboot_took_is_made_again_with_the_same_address(network):
    address = await network.ensure("one", [])
    namespaces.remove(network.namespace_path("one"))
    assert await network.ensure("one", []) == address
    with Netlink() as kernel:
        bridge = kernel.link(network.bridge)
        (veth,) = [link for link in kernel.links() if link.kind == "veth" and link.master == bridge.index]
        kernel.delete_link(veth.index)
    assert await network.ensure("one", []) == address
    with serving(network, "one", 80):
        assert ask(address, 80).startswith("one")


async def test_a_network_that_was_only_half_made_is_completed(network, monkeypatch):
    """The agent is killed at each step of making it."""
    for number, step in enumerate(("_connect", "_configure")):
        name = f"half{number}"

        def killed(*_arguments, **_more):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(network, step, killed)
            with pytest.raises(KeyboardInterrupt):
                network._make(name, network.reserve(name), False)
        address = await network.ensure(name, [])
        with serving(network, name, 80):
            assert ask(address, 80).startswith(name)


async def test_what_runs_keeps_its_namespace_when_bridge_or_link_are_lost(network):
    address = await network.ensure("one", [])
    other = await network.ensure("two", [])
    with serving(network, "one", 80):
        with Netlink() as kernel:
            kernel.delete_link(kernel.link(network.bridge).index)
        await network.start({"one": (address, []), "two": (other, [])})
        assert ask(address, 80).startswith("one")
        assert ask_from(network, "two", address, 80).startswith("one")
        with Netlink() as kernel:
            kernel.delete_link(kernel.link(network._link_name("one")).index)
        assert await network.ensure("one", []) == address
        assert ask(address, 80).startswith("one")


async def test_a_bridges_name_that_is_taken_by_another_link_is_refused(clean, tmp_path):
    name = clean("c")
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", clean("d")], check=True)
    try:
        network = ReplicaNetworks(bridge=name, subnet=spare_subnet(), directory=tmp_path / "netns")
        with pytest.raises(FailedPrecondition) as refused:
            await network.start({})
        assert refused.value.reason == "NetworkUnavailable"
        await network.remove_all()
        network.close()
        with Netlink() as kernel:
            assert kernel.link(name) is not None, "it is not ours to remove"
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)


async def test_only_the_own_table_is_written(network, clean, unused_tcp_port):
    foreign = clean("x")
    subprocess.run(["nft", "add", "table", "ip", foreign], check=True)
    try:
        await network.ensure("one", [PortBinding("http", 80, unused_tcp_port)])
        await network.remove("one")
        assert f"table ip {foreign}" in rules()
        assert f"table ip {table_name(network.bridge)}" in rules()
    finally:
        subprocess.run(["nft", "delete", "table", "ip", foreign], check=True)


def test_a_namespace_is_made_kept_and_removed(tmp_path):
    require_containerd()
    path = tmp_path / "ns"
    own = os.readlink("/proc/self/ns/net")
    namespaces.create(path)
    assert namespaces.exists(path)
    assert os.readlink("/proc/self/ns/net") == own
    assert namespaces.inside(path, lambda: os.readlink("/proc/thread-self/ns/net")) != own
    with pytest.raises(ZeroDivisionError):
        namespaces.inside(path, lambda: 1 // 0)
    namespaces.create(path)
    namespaces.remove(path)
    namespaces.remove(path)
    assert not path.exists()
    assert not namespaces.exists(path)
    assert mounts.mounted_below(tmp_path) == []
