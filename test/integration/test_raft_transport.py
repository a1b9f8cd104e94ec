"""Messages between coordinators over real sockets and mutual TLS: who gets in, who is refused and reported, and what
happens when connections break. On both event loops: asyncio's own, and uvloop, which coordinators use."""

import asyncio
import contextlib
import os
import ssl

import psutil
import pytest
import uvloop

from cloudless.api.v1 import raft_pb2 as pb
from cloudless.clock import SystemClock
from cloudless.coordinator.raft import wire
from cloudless.coordinator.raft.core.messages import SnapshotChunk, TimeoutNow
from cloudless.coordinator.raft.link import Forward
from cloudless.coordinator.raft.transport import TlsTransport, TransportTiming
from cloudless.errors import FailedPrecondition, InvalidArgument
from cloudless.identity.channel import ServerCertificate
from cloudless.identity.spiffe import COORDINATOR, NODE, USER
from cloudless.identity.tls import MutualTls
from cloudless.testing.identity import Fabric

QUICK = TransportTiming(hello_s=0.4, retry_s_min=0.01, retry_s_max=0.05)


pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")


@pytest.fixture(params=["asyncio", "uvloop"])
def event_loop_policy(request):
    return uvloop.EventLoopPolicy() if request.param == "uvloop" else asyncio.DefaultEventLoopPolicy()


@pytest.fixture(scope="module")
def fabric(tmp_path_factory):
    return Fabric(tmp_path_factory.mktemp("fabric") / "ca")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Another authority that calls itself by the same name."""
    return Fabric(tmp_path_factory.mktemp("stranger") / "ca")


class Member:
    """A transport, and all that it told its owner."""

    def __init__(self, fabric, name, *, listen="127.0.0.1:0", cluster="k1", credentials=None, timing=QUICK):
        self.name = name
        self.cluster = cluster
        self.got = asyncio.Queue()
        self.lost = asyncio.Queue()
        self.refused = asyncio.Queue()
        self.certificate = ServerCertificate(credentials or fabric.member(COORDINATOR, name))
        self.transport = TlsTransport(
            name,
            listen=listen,
            identity=self.certificate,
            trust_domain=fabric.trust_domain,
            cluster_id=lambda: self.cluster,
            clock=SystemClock(),
            on_refused=self.refused.put_nowait,
            timing=timing,
        )
        self.address = self.transport.address

    def start(self, *others):
        self.transport.start(lambda sender, message: self.got.put_nowait((sender, message)), self.lost.put_nowait)
        self.connect(*others)
        return self

    def connect(self, *others):
        self.transport.connect({other.name: other.address for other in (self, *others)})

    async def sent(self, to, message):
        """Once there is a connection."""
        async with asyncio.timeout(5):
            while not self.transport.send(to.name, message):
                await asyncio.sleep(0.005)

    async def refusal(self):
        async with asyncio.timeout(5):
            return await self.refused.get()

    async def next_lost(self):
        async with asyncio.timeout(5):
            return await self.lost.get()


async def received(member, message=None, *, sender=None):
    async with asyncio.timeout(5):
        while True:
            found = await member.got.get()
            if message is None or found[1] == message:
                assert sender is None or found[0] == sender
                return found


def connections():
    return {(found.fd, found.laddr, found.raddr) for found in psutil.Process().net_connections("tcp")}


@pytest.fixture
async def members(fabric):
    """Makes members that are closed in the end, and checks that nothing of them is left."""
    made = []

    def make(name, **options):
        member = Member(options.pop("fabric", fabric), name, **options)
        made.append(member)
        return member

    before = connections()
    yield make
    for member in made:
        await member.transport.close()
        await member.transport.close()
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("raft.")] == []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2):
            while not connections() <= before:
                await asyncio.sleep(0.005)
    assert connections() <= before


@contextlib.asynccontextmanager
async def caller(member, credentials, *, fabric=None, plain=False):
    """A raw connection to the member's port; with its own idea of what is right."""
    context = None
    if not plain:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if credentials is not None:
            context = MutualTls.of(credentials).dialling
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = member.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def frame(message):
    data = message if isinstance(message, bytes) else message.SerializeToString()
    return len(data).to_bytes(4, "big") + data


def hello(name, to, **fields):
    return frame(pb.MemberHello(**{"protocol": 1, "protocol_oldest": 1, "member_id": name, "to": to, **fields}))


async def answer(reader):
    """What it says to a caller; None: it hung up."""
    async with asyncio.timeout(5):
        try:
            size = int.from_bytes(await reader.readexactly(4), "big")
            return pb.MemberWelcome.FromString(await reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError):
            return None


async def test_messages_go_both_ways_in_order(members):
    a, b = members("a"), members("b")
    a.start(b)
    b.start(a)
    await a.sent(b, TimeoutNow(0))
    for number in range(1, 500):
        assert a.transport.send("b", TimeoutNow(number))
    assert [(await received(b))[1].term for _ in range(500)] == list(range(500))
    await b.sent(a, Forward(7, (b"x" * 300_000, b"")))
    assert await received(a) == ("b", Forward(7, (b"x" * 300_000, b"")))
    chunk = SnapshotChunk(3, 9, 2, 0, 20 * 2**20, b"cf", os.urandom(20 * 2**20), 1)
    assert a.transport.send("b", chunk)
    assert a.transport.send("b", TimeoutNow(1000))
    assert a.transport.backlog_bytes("b") > 19 * 2**20
    assert await received(b) == ("a", chunk)
    assert await received(b) == ("a", TimeoutNow(1000))
    assert a.transport.backlog_bytes("b") == 0
    assert a.refused.empty()
    assert b.refused.empty()


async def test_what_cannot_be_sent_is_dropped(members):
    a, b = members("a"), members("b")
    a.start(b)
    assert not a.transport.send("b", TimeoutNow(1))
    assert not a.transport.send("c", TimeoutNow(1))
    assert not a.transport.send("a", TimeoutNow(1))
    assert a.transport.backlog_bytes("b") == a.transport.backlog_bytes("c") == 0
    b.start(a)
    await a.sent(b, TimeoutNow(0))
    big = Forward(1, (bytes(30 * 2**20),))
    accepted = [a.transport.send("b", big) for _ in range(4)]
    assert accepted == [True, True, True, False]
    for _ in range(3):
        await received(b, big)


async def test_one_that_joins_may_dial_before_it_is_known(members):
    leader, learner = members("leader"), members("learner", cluster="")
    learner.start()
    leader.start(learner)
    await leader.sent(learner, TimeoutNow(1))
    assert await received(learner) == ("leader", TimeoutNow(1))


async def test_a_restarted_member_is_reached_again(members):
    a, b = members("a"), members("b")
    a.start(b)
    b.start(a)
    await a.sent(b, TimeoutNow(1))
    await b.sent(a, TimeoutNow(2))
    address = b.address
    await b.transport.close()
    assert {await a.next_lost() for _ in range(2)} == {"b"}  # either way
    assert not a.transport.send("b", TimeoutNow(3))
    again = members("b", listen=address)
    again.start(a)
    await a.sent(again, TimeoutNow(4))
    await received(again, TimeoutNow(4), sender="a")
    await again.sent(a, TimeoutNow(5))
    await received(a, TimeoutNow(5), sender="b")


async def test_a_member_that_moved_is_dialled_at_its_new_address(members):
    a, b = members("a"), members("b")
    a.start(b)
    b.start()
    await a.sent(b, TimeoutNow(1))
    await received(b)
    moved = members("b").start()
    a.connect(moved)
    assert await a.next_lost() == "b"
    await a.sent(moved, TimeoutNow(2))
    assert await received(moved) == ("a", TimeoutNow(2))
    a.connect()
    assert not a.transport.send("b", TimeoutNow(3))
    assert await moved.next_lost() == "a"


async def test_nothing_is_said_before_start_and_after_close(members):
    a, b = members("a"), members("b")
    a.connect(b)
    assert not a.transport.send("b", TimeoutNow(1))
    b.start(a)
    a.start(b)
    await a.sent(b, TimeoutNow(1))
    await b.sent(a, TimeoutNow(1))
    await a.transport.close()
    assert a.lost.empty()
    assert not a.transport.send("b", TimeoutNow(2))


async def test_what_was_sent_before_close_arrives(members):
    a, b = members("a"), members("b")
    a.start(b)
    b.start(a)
    await a.sent(b, TimeoutNow(1))
    big = Forward(1, (bytes(10 * 2**20),))
    a.transport.send("b", big)
    a.transport.send("b", TimeoutNow(2))
    await a.transport.close()
    await received(b, big)
    await received(b, TimeoutNow(2))


async def test_a_port_in_use_and_a_bad_address_are_said_at_once(members, fabric):
    a = members("a").start()
    with pytest.raises(FailedPrecondition, match="in use") as error:
        Member(fabric, "b", listen=a.address)
    assert error.value.reason == "PortInUse"
    for bad in ("nothing", ":1", "127.0.0.1:x", "127.0.0.1:70000", "no.such.host.invalid:1"):
        with pytest.raises(InvalidArgument):
            Member(fabric, "b", listen=bad)


# who is refused


async def refused_caller(member, credentials, said):
    async with caller(member, credentials) as (reader, writer):
        writer.write(said)
        welcome = await answer(reader)
        assert welcome is None or welcome.refused
        assert await answer(reader) is None
    return await member.refusal(), welcome


@pytest.mark.parametrize(
    ("kind", "name", "said", "reason"),
    [
        (COORDINATOR, "b", {"name": "c"}, "WrongMember"),
        (COORDINATOR, "b", {"name": ""}, "WrongMember"),
        (NODE, "b", {"name": "b"}, "NotACoordinator"),
        (USER, "b", {"name": "b"}, "NotACoordinator"),
        (COORDINATOR, "a", {"name": "a"}, "OwnId"),
        (COORDINATOR, "gone", {"name": "gone"}, "Removed"),
        (COORDINATOR, "b", {"name": "b", "cluster_id": "k2"}, "WrongCluster"),
        (COORDINATOR, "b", {"name": "b", "to": "c"}, "WrongAddress"),
        (COORDINATOR, "b", {"name": "b", "protocol": 0}, "UnknownProtocol"),
        (COORDINATOR, "b", {"name": "b", "protocol": 9, "protocol_oldest": 2}, "UnknownProtocol"),
    ],
)
async def test_a_caller_with_a_certificate_of_the_fabric_is_refused(members, fabric, kind, name, said, reason):
    a = members("a").start()
    a.transport.refuse(frozenset({"gone"}))
    found, welcome = await refused_caller(a, fabric.member(kind, name), hello(**{"to": "a", **said}))
    assert found.reason == welcome.refused == reason
    assert found.certificate == f"spiffe://fabric.example/{kind}/{name}"
    assert found.peer.startswith("127.0.0.1:")
    assert not found.dialled
    if reason != "NotACoordinator":  # of those not a word is read
        assert found.claimed == said["name"]
    assert a.got.empty()
    assert a.lost.empty()


async def test_a_newer_protocol_is_spoken_down_to(members, fabric):
    a = members("a").start()
    async with caller(a, fabric.member(COORDINATOR, "b")) as (reader, writer):
        writer.write(hello("b", "a", protocol=9))
        welcome = await answer(reader)
        assert (welcome.protocol, welcome.member_id, welcome.cluster_id, welcome.refused) == (1, "a", "k1", "")
        writer.write(frame(wire.encode(TimeoutNow(4))))
        assert await received(a) == ("b", TimeoutNow(4))


async def test_strangers_fail_in_the_handshake(members, fabric, stranger):
    a = members("a").start()
    cases = [
        (stranger.member(COORDINATOR, "b"), "NotTrusted"),
        (fabric.member(COORDINATOR, "b", ttl_ms=60_000, issued_ago_ms=120_000), "CertificateExpired"),
        (fabric.member(COORDINATOR, "b", issued_ago_ms=-3_600_000), "CertificateNotYetValid"),
        (None, "CertificateMissing"),
    ]
    for credentials, reason in cases:
        found, welcome = await refused_caller(a, credentials, hello("b", "a"))
        assert (found.reason, found.certificate, welcome) == (reason, "", None)
        assert found.detail
    assert a.got.empty()


async def test_plain_text_is_refused(members, fabric):
    a = members("a").start()
    for said in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x00" * 64, hello("b", "a"), os.urandom(300)):
        async with caller(a, None, plain=True) as (reader, writer):
            writer.write(said)
            assert await answer(reader) is None
        assert (await a.refusal()).reason == "HandshakeFailed"
    async with caller(a, None, plain=True):
        pass  # one that only looks whether the port is open is nobody's business
    await asyncio.sleep(0.05)
    assert a.refused.empty()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"\xff\xff\xff\xff", "BadHello"),
        (frame(bytes(5000)), "BadHello"),
        (frame(b"\xff\xff"), "BadHello"),
        (hello("b", "a") + bytes(5000), "BadHello"),
        (hello("b", "a")[:9], "HelloTimeout"),
        (b"", "HelloTimeout"),
    ],
    ids=["length", "long", "garbage", "more", "part", "nothing"],
)
async def test_a_bad_hello_is_refused(members, fabric, said, reason):
    a = members("a").start()
    found, _ = await refused_caller(a, fabric.member(COORDINATOR, "b"), said)
    assert (found.reason, found.certificate) == (reason, "spiffe://fabric.example/coordinator/b")


@pytest.mark.parametrize(
    "said",
    [(wire.MESSAGE_BYTES_MAX + 1).to_bytes(4, "big"), frame(b""), frame(b"garbage")],
    ids=["large", "none", "bad"],
)
async def test_a_frame_that_is_no_message_ends_the_connection(members, fabric, said):
    a = members("a").start()
    async with caller(a, fabric.member(COORDINATOR, "b")) as (reader, writer):
        writer.write(hello("b", "a"))
        assert not (await answer(reader)).refused
        writer.write(frame(wire.encode(TimeoutNow(4))) + said + frame(wire.encode(TimeoutNow(5))))
        assert await answer(reader) is None
    found = await a.refusal()
    assert (found.reason, found.claimed) == ("BadFrame", "b")
    assert await a.next_lost() == "b"
    assert await received(a) == ("b", TimeoutNow(4))
    assert a.got.empty()


async def test_slow_callers_do_not_keep_members_out(members, fabric):
    slow = TransportTiming(hello_s=5.0, retry_s_min=0.01, retry_s_max=0.05, pending_max=8)
    a, b = members("a", timing=slow), members("b", timing=slow)
    a.start()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(12):
            await stack.enter_async_context(caller(a, None, plain=True))
        assert [(await a.refusal()).reason for _ in range(4)] == ["TooManyHandshakes"] * 4
        b.start(a)
        await b.sent(a, TimeoutNow(1))
        await received(a, TimeoutNow(1), sender="b")


async def test_a_slow_handshake_ends_in_time(members):
    a = members("a").start()
    async with caller(a, None, plain=True) as (reader, writer):
        writer.write(b"\x16\x03\x01")
        assert await answer(reader) is None
    assert (await a.refusal()).reason == "HandshakeTimeout"


# whom this member dials


@contextlib.asynccontextmanager
async def answering(credentials, welcome=None, *, verify=True):
    """Somebody else at a member's address: (host:port, what he was told)."""
    told = asyncio.Queue()
    context = MutualTls.of(credentials).accepting

    async def serve(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            size = int.from_bytes(await reader.readexactly(4), "big")
            told.put_nowait(pb.MemberHello.FromString(await reader.readexactly(size)))
            if welcome is not None:
                writer.write(frame(pb.MemberWelcome(**welcome)))
            await reader.read()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", told
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("kind", "name", "welcome", "reason"),
    [
        (COORDINATOR, "c", None, "WrongMember"),
        (COORDINATOR, "a", None, "WrongMember"),
        (NODE, "b", None, "CertificateInvalid"),
        (USER, "b", None, "CertificateInvalid"),
        (COORDINATOR, "b", {"protocol": 1, "member_id": "b", "cluster_id": "k2"}, "WrongCluster"),
        (COORDINATOR, "b", {"protocol": 1, "member_id": "c"}, "BadHello"),
        (COORDINATOR, "b", {"protocol": 2, "member_id": "b"}, "BadHello"),
    ],
)
async def test_who_is_not_whom_was_dialled_hears_no_message(members, fabric, kind, name, welcome, reason):
    a = members("a")
    async with answering(fabric.member(kind, name), welcome) as (address, told):
        a.start()
        a.transport.connect({"b": address})
        found = await a.refusal()
        assert (found.reason, found.claimed, found.dialled, found.peer) == (reason, "b", True, address)
        assert not a.transport.send("b", TimeoutNow(1))
        assert told.empty() == (welcome is None)
        await a.transport.close()


async def test_a_stranger_at_a_members_address_is_reported(members, fabric, stranger):
    a = members("a")
    expired = fabric.member(COORDINATOR, "b", ttl_ms=60_000, issued_ago_ms=120_000)
    for credentials, reason in ((stranger.member(COORDINATOR, "b"), "NotTrusted"), (expired, "CertificateExpired")):
        async with answering(credentials) as (address, told):
            if not a.transport._tasks:
                a.start()
            a.transport.connect({"b": address})
            found = await a.refusal()
            while found.peer != address:
                found = await a.refusal()
            assert (found.reason, found.dialled) == (reason, True)
            assert told.empty()
            a.transport.connect({})
            await asyncio.sleep(0.05)


async def test_being_refused_is_not_reported_as_a_refusal(members, fabric):
    a, b = members("a"), members("b", cluster="k2")
    b.start()
    a.start(b)
    assert (await b.refusal()).reason == "WrongCluster"
    assert (await b.refusal()).reason == "WrongCluster"  # it goes on trying: clusters can be told apart later
    assert a.refused.empty()


async def test_a_member_that_speaks_where_it_was_dialled_is_hung_up_on(members, fabric):
    a = members("a")
    welcome = {"protocol": 1, "member_id": "b"}
    async with answering(fabric.member(COORDINATOR, "b"), welcome) as (address, told):
        a.start()
        a.transport.connect({"b": address})
        async with asyncio.timeout(5):
            first = await told.get()
            assert (first.member_id, first.to, first.protocol, first.cluster_id) == ("a", "b", 1, "k1")
        await a.transport.close()


# removal, renewal, expiry, repeated ids


async def test_a_removed_member_is_cut_off_and_kept_out(members):
    a, b = members("a"), members("b")
    a.start(b)
    b.start(a)
    await a.sent(b, TimeoutNow(1))
    await b.sent(a, TimeoutNow(1))
    a.transport.refuse(frozenset({"b"}))
    assert {await a.next_lost() for _ in range(2)} == {"b"}
    assert {(await a.refusal()).reason for _ in range(3)} == {"Removed"}  # the connection, and attempts
    assert not a.transport.send("b", TimeoutNow(2))
    assert await b.next_lost() == "a"
    assert not b.transport.send("a", TimeoutNow(2))
    a.transport.refuse(frozenset())
    await a.sent(b, TimeoutNow(3))
    await b.sent(a, TimeoutNow(3))


async def test_a_renewed_certificate_is_used_for_the_next_connection(members, fabric, stranger):
    a, b = members("a", credentials=stranger.member(COORDINATOR, "a")), members("b")
    a.start(b)
    b.start(a)
    assert (await b.refusal()).reason == "NotTrusted"
    a.certificate.replace(fabric.member(COORDINATOR, "a"))
    await a.sent(b, TimeoutNow(1))
    await b.sent(a, TimeoutNow(1))


async def test_a_connection_ends_with_the_certificate_and_the_renewed_one_follows(members, fabric):
    a, b = members("a"), members("b", credentials=fabric.member(COORDINATOR, "b", ttl_ms=3_000))
    a.start(b)
    b.start(a)
    await a.sent(b, TimeoutNow(1))
    await b.sent(a, TimeoutNow(1))
    b.certificate.replace(fabric.member(COORDINATOR, "b"))
    assert a.lost.empty()
    assert {await a.next_lost() for _ in range(2)} == {"b"}  # as soon as its certificate has ended
    await a.sent(b, TimeoutNow(2))
    await b.sent(a, TimeoutNow(2))
    await received(a, TimeoutNow(2))


async def test_the_newest_connection_of_a_member_stands(members, fabric):
    a = members("a").start()
    credentials = fabric.member(COORDINATOR, "b")
    async with caller(a, credentials) as (old_reader, old_writer):
        old_writer.write(hello("b", "a"))
        assert not (await answer(old_reader)).refused
        async with caller(a, credentials) as (reader, writer):
            writer.write(hello("b", "a"))
            assert not (await answer(reader)).refused
            assert await answer(old_reader) is None
            assert await a.next_lost() == "b"
            writer.write(frame(wire.encode(TimeoutNow(4))))
            assert await received(a) == ("b", TimeoutNow(4))
    assert await a.next_lost() == "b"
    assert a.refused.empty()


async def test_a_silent_cut_is_noticed_by_the_side_that_sends(members):
    """Packets vanish without a word: the other side's kernel still has the connection, but nobody reads from it, as
    behind a cut. (A real cut needs a namespace; TCP's user timeout treats both alike.)"""
    timing = TransportTiming(hello_s=1.0, retry_s_min=0.01, retry_s_max=0.05, silence_s=0.5)
    a, b = members("a", timing=timing), members("b", timing=timing)
    a.start(b)
    b.start()
    await a.sent(b, TimeoutNow(1))
    await received(b)
    (incoming,) = b.transport._callers.values()
    incoming.connection._transport.pause_reading()
    big = Forward(1, (bytes(8 * 2**20),))
    for _ in range(3):  # more than the kernel takes
        a.transport.send("b", big)
    assert await a.next_lost() == "b"


def test_the_key_never_lies_in_a_file(fabric, monkeypatch):
    opened = []
    load = ssl.SSLContext.load_cert_chain
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", lambda self, path: opened.append(path) or load(self, path))
    MutualTls.of(fabric.member(COORDINATOR, "a"))
    assert all(path.startswith("/proc/self/fd/") for path in opened)
    monkeypatch.delattr(os, "memfd_create")
    opened.clear()
    MutualTls.of(fabric.member(COORDINATOR, "a"))
    assert opened
    assert not any(os.path.exists(path) for path in opened)
