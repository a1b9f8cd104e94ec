"""Channels: asked for over the session, dialled by the node, joined by an id that is good once."""

import asyncio
import itertools

import pytest

from cloudless.api.v1 import session_pb2 as pb
from cloudless.coordinator import channels as module
from cloudless.coordinator.channels import ChannelTable
from cloudless.errors import FailedPrecondition, PermissionDenied, ResourceExhausted, Unavailable
from cloudless.testing.simloop import run
from cloudless.testing.streams import pair

LOGS = pb.OpenChannel(logs=pb.LogsOpen(replica_id="r1", follow=True))


class Rig:
    def __init__(self):
        numbers = itertools.count(1)
        self.table = ChannelTable(lambda: f"id-{next(numbers)}")
        self.asked: asyncio.Queue[pb.OpenChannel] = asyncio.Queue()

    def open(self, node="n1", request=LOGS):
        return asyncio.ensure_future(self.table.open(node, request, self.asked.put_nowait))

    async def dial(self, channel_id, node="n1", capacity=64):
        """The node's side: its stream and the call that serves it."""
        near, far = pair(capacity)
        serving = asyncio.ensure_future(self.table.accept(node, far))
        await near.send(pb.ChannelRequest(channel_id=channel_id))
        return near, serving

    async def joined(self, capacity=64):
        opening = self.open()
        near, serving = await self.dial((await self.asked.get()).channel_id, capacity=capacity)
        return await opening, near, serving


def scenario(test):
    def wrapped():
        async def main(loop):
            await test(Rig())

        run(main)

    wrapped.__name__ = test.__name__
    return wrapped


def log_frame(text):
    return pb.ChannelRequest(log=pb.LogChunk(data=text))


@scenario
async def test_frames_go_both_ways_until_the_node_ends_it(rig):
    opening = rig.open()
    message = await rig.asked.get()
    assert (message.logs, message.channel_id) == (LOGS.logs, "id-1")
    near, serving = await rig.dial("id-1")
    channel = await opening
    await channel.send(pb.ChannelResponse(stdin=b"in"))
    assert (await near.receive()).stdin == b"in"
    for text in (b"a", b"b"):
        await near.send(log_frame(text))
    await near.send(pb.ChannelRequest(end=pb.ChannelEnd(exit_code=3)))
    await near.close()
    assert [(await channel.receive()).log.data for _ in range(2)] == [b"a", b"b"]
    assert (await channel.receive()).end.exit_code == 3
    assert await channel.receive() is None
    assert await channel.receive() is None
    assert await serving is None
    with pytest.raises(Unavailable):
        await channel.send(pb.ChannelResponse(stdin=b"late"))
    assert LOGS.channel_id == ""  # the caller's message is left alone


@scenario
async def test_the_coordinator_ends_it(rig):
    channel, near, serving = await rig.joined()
    async with channel:
        waiting = asyncio.ensure_future(channel.receive())
        await asyncio.sleep(1)
    assert await waiting is None
    await serving
    assert await near.receive() is None
    await channel.close()


@scenario
async def test_a_break_reaches_the_reader_after_what_had_arrived(rig):
    channel, near, serving = await rig.joined()
    await near.send(log_frame(b"a"))
    await asyncio.sleep(1)
    near.break_off()
    await serving
    assert (await channel.receive()).log.data == b"a"
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            await channel.receive()
        assert caught.value.reason == "ChannelBroken"


@scenario
async def test_an_end_without_its_last_frame_is_a_break(rig):
    """gRPC shows a killed client as one that ended its stream."""
    channel, near, serving = await rig.joined()
    await near.send(log_frame(b"a"))
    await near.close()
    await serving
    assert (await channel.receive()).log.data == b"a"
    with pytest.raises(Unavailable):
        await channel.receive()


@scenario
async def test_a_cancelled_call_is_a_break(rig):
    """As gRPC ends a handler whose client has gone."""
    channel, _, serving = await rig.joined()
    waiting = asyncio.ensure_future(channel.receive())
    await asyncio.sleep(1)
    serving.cancel()
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await channel.send(pb.ChannelResponse(stdin=b""))


@scenario
async def test_a_slow_reader_slows_the_node_down_and_loses_nothing(rig):
    channel, near, serving = await rig.joined(capacity=4)
    sent = 0

    async def flood():
        nonlocal sent
        for number in range(500):
            await near.send(log_frame(b"%d" % number))
            sent += 1
        await near.send(pb.ChannelRequest(end=pb.ChannelEnd()))
        await near.close()

    flooding = asyncio.ensure_future(flood())
    await asyncio.sleep(60)
    assert sent < 30
    got = []
    while (frame := await channel.receive()) is not None and frame.HasField("log"):
        got.append(int(frame.log.data))
    assert await channel.receive() is None
    assert got == list(range(500))
    await flooding
    await serving


@scenario
async def test_an_id_is_good_once_and_for_its_node_alone(rig):
    opening = rig.open()
    channel_id = (await rig.asked.get()).channel_id
    _, thief = await rig.dial(channel_id, node="n2")
    _, guess = await rig.dial("id-2")
    _, empty = await rig.dial("")
    for refused in (thief, guess, empty):
        with pytest.raises(PermissionDenied) as caught:
            await refused
        assert caught.value.reason == "ChannelUnknown"
    _, serving = await rig.dial(channel_id)
    channel = await opening
    _, again = await rig.dial(channel_id)
    with pytest.raises(PermissionDenied):
        await again
    await channel.close()
    await serving


@scenario
async def test_a_first_frame_that_is_no_id(rig):
    near, far = pair()
    serving = asyncio.ensure_future(rig.table.accept("n1", far))
    await near.send(log_frame(b"x"))
    with pytest.raises(PermissionDenied):
        await serving
    _, silent = pair()
    with pytest.raises(PermissionDenied):
        await rig.table.accept("n1", silent)


@scenario
async def test_a_node_that_does_not_dial(rig):
    opening = rig.open()
    channel_id = (await rig.asked.get()).channel_id
    with pytest.raises(Unavailable) as caught:
        await opening
    assert caught.value.reason == "ChannelNotOpened"
    assert asyncio.get_running_loop().time() == pytest.approx(10)
    _, late = await rig.dial(channel_id)
    with pytest.raises(PermissionDenied):
        await late


@scenario
async def test_a_session_that_ends_meanwhile(rig):
    opening = rig.open()
    other = rig.open("n2")
    await rig.asked.get()
    rig.table.session_ended("n1")
    with pytest.raises(FailedPrecondition) as caught:
        await opening
    assert caught.value.reason == "NodeNotConnected"
    assert "n1" in caught.value.message
    assert not other.done()
    other.cancel()


@scenario
async def test_a_caller_that_gives_up_leaves_nothing_open(rig):
    opening = rig.open()
    channel_id = (await rig.asked.get()).channel_id
    _, serving = await rig.dial(channel_id)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    if not opening.cancelled():
        await opening.result().close()
    await asyncio.gather(serving, return_exceptions=True)
    assert rig.table._wanted == {}
    assert rig.table._open == {}


@scenario
async def test_a_removed_node_keeps_no_channel(rig):
    channel, near, serving = await rig.joined()
    waiting = rig.open()
    await asyncio.sleep(1)
    rig.table.end_all("n1")
    with pytest.raises(Unavailable):
        await channel.receive()
    with pytest.raises(FailedPrecondition):
        await waiting
    await serving
    assert await near.receive() is None


@scenario
async def test_the_number_is_bounded(rig):
    waiting = [rig.open() for _ in range(module.CHANNELS_PER_NODE_MAX)]
    await asyncio.sleep(1)
    with pytest.raises(ResourceExhausted) as caught:
        await rig.open()
    assert caught.value.reason == "TooManyChannels"
    rig.open("n2").cancel()
    for task in waiting:
        task.cancel()
