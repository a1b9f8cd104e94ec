"""containerd's content store: reading documents, streaming blobs in."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import grpc

from cloudless.agent.runtime.containerd.api import content_pb2
from cloudless.agent.runtime.containerd.archive import (
    DOCUMENT_BYTES_MAX,
    Blob,
    blob_chunks,
    parse_document,
)
from cloudless.agent.runtime.containerd.client import TASK_TIMEOUT_S, Client, translate
from cloudless.agent.runtime.containerd.tarindex import BadArchive
from cloudless.errors import AlreadyExists, CloudlessError, Corrupt, FailedPrecondition, InvalidArgument, NotFound


async def read_blob(client: Client, digest: str, *, limit: int = DOCUMENT_BYTES_MAX) -> bytes:
    """A small blob, checked against its digest. Raises NotFound, or Corrupt if it is not what it should be."""
    data = bytearray()
    request = content_pb2.ReadContentRequest(digest=digest)
    async for message in client.stream(client.content.Read, request):
        data += message.data
        if len(data) > limit:
            raise Corrupt(f"the document {digest} is larger than {limit} bytes")
    if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
        raise Corrupt(f"the content of {digest} does not match its digest", remedy="import the image again")
    return bytes(data)


async def read_document(client: Client, digest: str) -> Mapping[str, Any]:
    try:
        return parse_document(await read_blob(client, digest))
    except BadArchive as error:
        raise Corrupt(f"{digest}: {error}", remedy="import the image again") from None


async def write_blob(client: Client, blob: Blob, file: BinaryIO, *, labels: Mapping[str, str]) -> None:
    """Brings a blob into the store and labels it; one that is there is only labelled. What an earlier attempt
    wrote is continued. Raises InvalidArgument if the bytes do not match the digest; nothing of them stays."""
    reference = f"cloudless-{blob.digest}"
    try:
        await _write(client, blob, file, reference, labels)
    except AlreadyExists:
        await set_labels(client, blob.digest, labels)
    except CloudlessError as error:
        if error.retryable:
            raise
        with contextlib.suppress(NotFound):
            await client.call(client.content.Abort, content_pb2.AbortRequest(ref=reference))
        if isinstance(error, FailedPrecondition | InvalidArgument):
            raise InvalidArgument(
                f"the content of {blob.digest} does not match its digest",
                reason="BadArchive",
                remedy="the archive is damaged: copy or export it again",
            ) from None
        raise


async def _write(client: Client, blob: Blob, file: BinaryIO, reference: str, labels: Mapping[str, str]) -> None:
    call = client.content.Write(metadata=client.metadata, timeout=TASK_TIMEOUT_S * 10)

    async def exchange(request: content_pb2.WriteContentRequest) -> Any:
        # one at a time: containerd answers AlreadyExists to the first, and a stream of writes would race with it
        await call.write(request)
        answer: Any = await call.read()
        if answer is grpc.aio.EOF:
            raise translate(grpc.aio.AioRpcError(await call.code(), (), (), await call.details()))
        return answer

    stat = content_pb2.WriteContentRequest(
        action=content_pb2.STAT, ref=reference, total=blob.size, expected=blob.digest
    )
    try:
        offset = (await exchange(stat)).offset
        chunks = blob_chunks(file, blob, start=offset)
        while (piece := await asyncio.to_thread(next, chunks, None)) is not None:
            write = content_pb2.WriteContentRequest(
                action=content_pb2.WRITE, ref=reference, offset=offset, data=piece, total=blob.size
            )
            await exchange(write)
            offset += len(piece)
        commit = content_pb2.WriteContentRequest(
            action=content_pb2.COMMIT,
            ref=reference,
            offset=offset,
            total=blob.size,
            expected=blob.digest,
            labels=dict(labels),
        )
        await exchange(commit)
        await call.done_writing()
    except grpc.aio.AioRpcError as error:
        raise translate(error) from None
    finally:
        call.cancel()


async def set_labels(client: Client, digest: str, labels: Mapping[str, str]) -> None:
    request = content_pb2.UpdateRequest(info=content_pb2.Info(digest=digest, labels=dict(labels)))
    request.update_mask.paths.extend(f"labels.{name}" for name in labels)
    if labels:
        await client.call(client.content.Update, request)
