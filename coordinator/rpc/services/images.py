"""ImageService: an archive from the client's disk into a node's image store, and what is there already."""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

from typing import Any, Final

import structlog

from cloudless.api.v1 import control_pb2, control_pb2_grpc, session_pb2
from cloudless.coordinator.channels import Channel
from cloudless.coordinator.rpc import listing
from cloudless.coordinator.rpc.call import current
from cloudless.coordinator.rpc.kinds import NODES
from cloudless.coordinator.rpc.services.backend import Backend, required
from cloudless.coordinator.rpc.services.interactive import beside, raise_failure, received
from cloudless.coordinator.rpc.streams import GrpcMessageStream
from cloudless.errors import CloudlessError, InvalidArgument, ResourceExhausted

PROGRESS_BYTES: Final = 4 * 2**20
IMAGES_MAX: Final = 5000  # that one node may name in one answer

ImportStream = GrpcMessageStream[control_pb2.ImportImageResponse, control_pb2.ImportImageRequest]

log = structlog.get_logger(__name__)


class Images(control_pb2_grpc.ImageServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def ImportImage(self, stream: ImportStream, context: Any) -> None:
        first = await stream.receive()
        if first is None or first.WhichOneof("message") != "start":
            raise InvalidArgument("the first message of ImportImage must be `start`", reason="FirstMessageMissing")
        node = listing.by_prefix(NODES, self._backend.state, required(first.start.node_id, "node_id"))
        opening = session_pb2.OpenChannel(import_image=session_pb2.ImportOpen(reference=first.start.reference))
        upload = _Upload(stream)
        async with await self._backend.hub.open_channel(node.id, opening) as channel, beside(upload.run(channel)):
            images = await _images(channel)
        log.info(
            "image.imported",
            caller=current().caller.actor,
            node=node.id,
            images=[image.reference for image in images],
            bytes=upload.received_bytes,
        )
        await stream.send(control_pb2.ImportImageResponse(received_bytes=upload.received_bytes, images=images))

    async def ListImages(self, request: Any, context: Any) -> Any:
        node = listing.by_prefix(NODES, self._backend.state, required(request.node_id, "node_id"))
        opening = session_pb2.OpenChannel(list_images=session_pb2.ListImagesOpen())
        async with await self._backend.hub.open_channel(node.id, opening) as channel:
            images = await _images(channel)
        images.sort(key=lambda image: (image.reference, image.digest))
        return control_pb2.ListImagesResponse(images=images)


class _Upload:
    """The client's archive on its way to the node, with a progress message for each few megabytes."""

    def __init__(self, stream: ImportStream) -> None:
        self._stream = stream
        self.received_bytes = 0

    async def run(self, channel: Channel) -> None:
        try:
            await self._forward(channel)
        except CloudlessError:
            await channel.close()  # the node discards what it has
            raise

    async def _forward(self, channel: Channel) -> None:
        told = 0
        async for message in self._stream:
            kind = message.WhichOneof("message")
            if kind == "end":
                await channel.send(session_pb2.ChannelResponse(data_end=True))
                return
            if kind != "data":
                raise InvalidArgument("after `start`, ImportImage takes `data` and `end`", reason="BadImportMessage")
            await channel.send(session_pb2.ChannelResponse(data=message.data))
            self.received_bytes += len(message.data)
            if self.received_bytes - told >= PROGRESS_BYTES:
                told = self.received_bytes
                await self._stream.send(control_pb2.ImportImageResponse(received_bytes=told))
        raise InvalidArgument("the archive ended without `end`", reason="ArchiveIncomplete")


async def _images(channel: Channel) -> list[session_pb2.ImageInfo]:
    """The images that the node names until it ends the channel. Raises what it ended with."""
    images: list[session_pb2.ImageInfo] = []
    while True:
        frame = await received(channel)
        kind = frame.WhichOneof("frame")
        if kind == "image":
            if len(images) == IMAGES_MAX:
                raise ResourceExhausted(
                    f"node {channel.node_id} names more than {IMAGES_MAX} images", reason="TooManyImages"
                )
            images.append(frame.image)
        elif kind == "end":
            raise_failure(frame.end)
            return images
