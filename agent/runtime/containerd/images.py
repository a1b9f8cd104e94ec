"""Images of one containerd namespace: importing archives, finding what a workload names, unpacking.

An image is kept by its name: the name's target refers to config and layers, the config to the unpacked snapshot
(containerd's garbage collection labels), so that deleting the name frees all of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import platform as host
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import Counter

from cloudless.agent.runtime.base import Image
from cloudless.agent.runtime.containerd import archive, content, users
from cloudless.agent.runtime.containerd.api import diff_pb2, images_pb2, snapshots_pb2, types_pb2
from cloudless.agent.runtime.containerd.client import TASK_TIMEOUT_S, Client
from cloudless.agent.runtime.containerd.tarindex import BadArchive
from cloudless.errors import AlreadyExists, CloudlessError, Corrupt, FailedPrecondition, InvalidArgument, NotFound

log = structlog.get_logger(__name__)
IMPORTS = Counter("cloudless_image_imports_total", "Image archives imported", ["result"])

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386"}
_VARIANTS = {"armv7l": "v7", "armv6l": "v6", "aarch64": "v8"}
_CACHE_MAX = 256


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """An image that is ready to start: all that a container needs to know of it."""

    name: str  # as containerd has it
    digest: str  # of the manifest for this platform
    chain_id: str  # the unpacked snapshot; empty: the image has no layers
    config: Mapping[str, Any]  # the `config` object of the image's config document


def this_platform() -> archive.Platform:
    machine = host.machine()
    return archive.Platform(_ARCHITECTURES.get(machine, machine), "linux", _VARIANTS.get(machine, ""))


def reference_candidates(reference: str) -> tuple[str, ...]:
    """The names under which an image may be stored: as written, in full (`docker.io/library/x:latest`), and short."""
    name, at, digest = reference.partition("@")
    head, slash, rest = name.partition("/")
    registry = head if slash and ("." in head or ":" in head or head == "localhost") else ""
    path = rest if registry else name
    if registry in ("", "docker.io", "index.docker.io"):
        path = path if "/" in path else f"library/{path}"
        registry = "docker.io"
    if not at and ":" not in path.rpartition("/")[2]:
        path += ":latest"
    full = f"{registry}/{path}{at}{digest}"
    short = full.removeprefix("docker.io/").removeprefix("library/")
    return tuple(dict.fromkeys((reference, full, short)))


class ImageStore:
    """Event loop only. `snapshotter` is settled at start."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._platform = this_platform()
        self._resolved: dict[str, ResolvedImage] = {}  # by target digest; bounded
        self._accounts: dict[str, tuple[str, str]] = {}  # passwd and group by chain id; bounded
        self._importing = asyncio.Lock()  # containerd admits one writer of a blob
        self.snapshotter = "overlayfs"

    async def import_archive(self, path: Path, *, reference: str = "") -> list[Image]:
        """Imports and unpacks every image of an archive. Repeatable. Raises InvalidArgument for a broken archive;
        nothing of it is left then."""
        try:
            found = await asyncio.to_thread(archive.read_archive, path, platform=self._platform, reference=reference)
            async with self._importing, self._client.lease():
                with path.open("rb") as file:
                    for image in found:
                        await self._store(image, file)
                # only now may names be seen: an archive is imported whole or not at all
                for image in found:
                    for name in image.names:
                        await self._name(name, image.manifest)
        except CloudlessError:
            IMPORTS.labels("refused").inc()
            raise
        IMPORTS.labels("imported").inc()
        imported = [
            Image(reference=name, digest=image.manifest.digest, size_bytes=image.size_bytes)
            for image in found
            for name in image.names
        ]
        log.info("image.imported", archive=path.name, images=[image.reference for image in imported])
        return imported

    async def list(self) -> list[Image]:
        answer = await self._client.call(self._client.images.List, images_pb2.ListImagesRequest())
        return [await self._describe(image) for image in answer.images]

    async def resolve(self, reference: str) -> ResolvedImage:
        """The image that a workload names, unpacked. Raises FailedPrecondition(ImageMissing)."""
        for name in reference_candidates(reference):
            try:
                answer = await self._client.call(self._client.images.Get, images_pb2.GetImageRequest(name=name))
            except NotFound:
                continue
            target = answer.image.target
            known = self._resolved.get(target.digest)
            if known is not None and known.name == name:
                return known
            try:
                resolved = await self._resolve(name, target)
            except NotFound as error:
                raise FailedPrecondition(
                    f"the image {reference} is incomplete on this node: {error.message}",
                    reason="ImageMissing",
                    remedy=f"cloudlessctl image import <archive> --reference {reference}",
                ) from None
            if len(self._resolved) >= _CACHE_MAX:
                self._resolved.clear()
            self._resolved[target.digest] = resolved
            return resolved
        raise FailedPrecondition(
            f"the image {reference} is not on this node",
            reason="ImageMissing",
            remedy=f"cloudlessctl image import <archive> --reference {reference}",
        )

    def forget(self, digest: str) -> None:
        """Looks at the image anew next time: its snapshot turned out to be gone."""
        self._resolved = {key: image for key, image in self._resolved.items() if image.digest != digest}

    async def account_files(self, image: ResolvedImage) -> tuple[str, str]:
        """/etc/passwd and /etc/group of an image, read once. Raises FailedPrecondition(reason="ImageMissing")."""
        if image.chain_id in self._accounts or not image.chain_id:
            return self._accounts.get(image.chain_id, ("", ""))
        key, snapshots = f"accounts-{uuid.uuid4()}", self._client.snapshots
        async with self._client.lease():
            view = snapshots_pb2.ViewSnapshotRequest(snapshotter=self.snapshotter, key=key, parent=image.chain_id)
            try:
                mounts = (await self._client.call(snapshots.View, view)).mounts
            except NotFound:
                self.forget(image.digest)
                raise FailedPrecondition(f"the image {image.name} is not unpacked", reason="ImageMissing") from None
            try:
                passwd = await asyncio.to_thread(users.read_from_mounts, mounts, "/etc/passwd")
                group = await asyncio.to_thread(users.read_from_mounts, mounts, "/etc/group")
            finally:
                await self._discard(key)
        if len(self._accounts) >= _CACHE_MAX:
            self._accounts.clear()
        self._accounts[image.chain_id] = (passwd, group)
        return passwd, group

    async def _resolve(self, name: str, target: types_pb2.Descriptor) -> ResolvedImage:
        manifest_digest, document = await self._manifest(target.digest)
        try:
            config_descriptor, layers = archive.parse_manifest(document)
            config_digest = str(config_descriptor["digest"])
            image = archive.parse_config(await content.read_blob(self._client, config_digest))
        except BadArchive as error:
            raise Corrupt(f"the image {name} is damaged: {error}", remedy="import the image again") from None
        if len(layers) != len(image.diff_ids):
            raise Corrupt(f"the image {name} is damaged: its layers do not match", remedy="import the image again")
        chain_id = chain_ids(image.diff_ids)[-1] if image.diff_ids else ""
        if chain_id and not await self._unpacked(chain_id):
            blobs = tuple(
                archive.Blob(str(layer.get("mediaType", archive.LAYER)), str(layer["digest"]), int(layer["size"]))
                for layer in layers
            )
            async with self._client.lease():
                await self._unpack(blobs, image.diff_ids)
                await content.set_labels(self._client, config_digest, self._snapshot_label(chain_id))
        settings = image.config.get("config")
        return ResolvedImage(name, manifest_digest, chain_id, settings if isinstance(settings, dict) else {})

    async def _manifest(self, digest: str) -> tuple[str, Mapping[str, Any]]:
        """Digest and document of the manifest for this platform."""
        for _ in range(4):
            document = await content.read_document(self._client, digest)
            if "manifests" not in document:
                return digest, document
            try:
                candidates = archive.choose_platform(document["manifests"], self._platform)
            except BadArchive as error:
                raise Corrupt(f"{digest}: {error}") from None
            if not candidates:
                raise InvalidArgument(
                    f"the image has nothing for {self._platform.os}/{self._platform.architecture}",
                    reason="ImagePlatform",
                )
            digest = str(candidates[0]["digest"])
        raise Corrupt("an image index is nested too deeply")

    async def _describe(self, image: images_pb2.Image) -> Image:
        digest, size = image.target.digest, 0
        try:
            digest, document = await self._manifest(image.target.digest)
            config, layers = archive.parse_manifest(document)
            size = sum(int(descriptor["size"]) for descriptor in (config, *layers))
        except (CloudlessError, BadArchive) as error:  # an incomplete image is still an image that is there
            log.debug("image.incomplete", image=image.name, cause=str(error))
        return Image(reference=image.name, digest=digest, size_bytes=size)

    async def _store(self, image: archive.ArchivedImage, file: Any) -> None:
        chains = chain_ids(image.diff_ids)
        for layer in image.layers:
            await content.write_blob(self._client, layer, file, labels={})
        label = self._snapshot_label(chains[-1]) if chains else {}
        await content.write_blob(self._client, image.config, file, labels=label)
        references = {"containerd.io/gc.ref.content.config": image.config.digest}
        references |= {f"containerd.io/gc.ref.content.l.{n}": layer.digest for n, layer in enumerate(image.layers)}
        await content.write_blob(self._client, image.manifest, file, labels=references)
        await self._unpack(image.layers, image.diff_ids)

    async def _name(self, name: str, manifest: archive.Blob) -> None:
        target = types_pb2.Descriptor(media_type=manifest.media_type, digest=manifest.digest, size=manifest.size)
        image = images_pb2.Image(name=name, target=target)
        try:
            await self._client.call(self._client.images.Create, images_pb2.CreateImageRequest(image=image))
        except AlreadyExists:
            request = images_pb2.UpdateImageRequest(image=image)
            request.update_mask.paths.append("target")
            await self._client.call(self._client.images.Update, request)

    async def _unpack(self, layers: tuple[archive.Blob, ...], diff_ids: tuple[str, ...]) -> None:
        """Applies the layers that are not unpacked yet. Inside a lease."""
        parent = ""
        for layer, diff_id, chain in zip(layers, diff_ids, chain_ids(diff_ids), strict=True):
            if not await self._unpacked(chain):
                await self._apply(layer, diff_id, chain, parent)
            parent = chain

    async def _apply(self, layer: archive.Blob, diff_id: str, chain: str, parent: str) -> None:
        snapshots, key = self._client.snapshots, f"unpack-{uuid.uuid4()}"
        prepare = snapshots_pb2.PrepareSnapshotRequest(snapshotter=self.snapshotter, key=key, parent=parent)
        mounts = (await self._client.call(snapshots.Prepare, prepare)).mounts
        try:
            descriptor = types_pb2.Descriptor(media_type=layer.media_type, digest=layer.digest, size=layer.size)
            apply = diff_pb2.ApplyRequest(diff=descriptor, mounts=mounts)
            try:
                answer = await self._client.call(self._client.diff.Apply, apply, timeout=TASK_TIMEOUT_S * 10)
            except NotFound:
                raise
            except CloudlessError as error:
                if error.retryable:
                    raise
                raise InvalidArgument(
                    f"the layer {layer.digest} cannot be unpacked: {error.message}", reason="BadArchive"
                ) from None
            if answer.applied.digest != diff_id:
                raise InvalidArgument(
                    f"the layer {layer.digest} does not hold what the image's config says", reason="BadArchive"
                )
            commit = snapshots_pb2.CommitSnapshotRequest(snapshotter=self.snapshotter, name=chain, key=key)
            await self._client.call(snapshots.Commit, commit)
        except AlreadyExists:  # another import was faster
            await self._discard(key)
        except BaseException:
            await self._discard(key)
            raise

    async def _discard(self, key: str) -> None:
        try:
            request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=self.snapshotter, key=key)
            await self._client.call(self._client.snapshots.Remove, request)
        except CloudlessError as error:  # the end of the lease frees it as well
            log.debug("snapshot.kept", key=key, cause=str(error))

    async def _unpacked(self, chain: str) -> bool:
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=self.snapshotter, key=chain)
        try:
            await self._client.call(self._client.snapshots.Stat, request)
        except NotFound:
            return False
        return True

    def _snapshot_label(self, chain: str) -> dict[str, str]:
        return {f"containerd.io/gc.ref.snapshot.{self.snapshotter}": chain}


def chain_ids(diff_ids: tuple[str, ...]) -> list[str]:
    """The names of the stacked layers (OCI image specification, "Layer ChainID")."""
    chains: list[str] = []
    for diff_id in diff_ids:
        stacked = f"{chains[-1]} {diff_id}" if chains else diff_id
        chains.append("sha256:" + hashlib.sha256(stacked.encode()).hexdigest() if len(chains) else diff_id)
    return chains
