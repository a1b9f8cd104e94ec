"""What an image archive holds: an OCI layout or the output of `docker save`, read as one list of images.

Pure apart from reading the file. Everything in the archive is outside bytes: documents are bounded, digests are
checked, and the manifest of this platform is chosen. Raises InvalidArgument(reason="BadArchive").
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cloudless.agent.runtime.containerd.tarindex import BadArchive, Member, TarIndex, read_bytes, read_index
from cloudless.errors import InvalidArgument

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFESTS = (MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
INDEXES = (INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")

DOCUMENT_BYTES_MAX = 4 * 2**20
_INDEX_DEPTH_MAX = 4
_LAYERS_MAX = 500  # an overlay takes about as many
_IMAGES_MAX = 100
_CHUNK = 2**20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# a name with an optional tag and digest, as in the distribution specification, host and port included
_REFERENCE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]{1,5})?(/[A-Za-z0-9][A-Za-z0-9._-]*)*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?"
    r"(@sha256:[0-9a-f]{64})?"
)


@dataclass(frozen=True, slots=True)
class Platform:
    """As OCI names it: `amd64`, `arm64`, `arm` with variant `v7`."""

    architecture: str
    os: str = "linux"
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes for the content store: either in memory or a part of the archive."""

    media_type: str
    digest: str
    size: int
    data: bytes | None = None
    offset: int = 0  # in the archive, when `data` is None


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """An image's documents, whichever way they are stored."""

    config: Mapping[str, Any]
    diff_ids: tuple[str, ...]  # of the unpacked layers, the lowest first


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    names: tuple[str, ...]
    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]  # the lowest first
    diff_ids: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        return self.config.size + sum(layer.size for layer in self.layers)


def read_archive(path: Path, *, platform: Platform, reference: str = "") -> tuple[ArchivedImage, ...]:
    """The images of an archive. `reference` names the only image of an archive, whatever it calls it itself."""
    if reference and not valid_reference(reference):
        raise InvalidArgument(f"{reference!r} is not an image reference", reason="BadReference")
    try:
        with path.open("rb") as file:
            index = read_index(file, total_bytes=path.stat().st_size)
            images = tuple(_images(file, index, platform))
            return _named(images, reference)
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}", reason="BadArchive") from None
    except BadArchive as error:
        raise InvalidArgument(
            f"{path.name} is not an image archive: {error}",
            reason="BadArchive",
            remedy="export the image with `docker save` or as an OCI archive",
        ) from None


def blob_chunks(file: BinaryIO, blob: Blob, *, start: int = 0) -> Iterator[bytes]:
    """The bytes of a blob from `start`, in pieces of 1 MiB. Raises InvalidArgument if the archive got shorter."""
    if blob.data is not None:
        yield blob.data[start:]
        return
    position, end = blob.offset + start, blob.offset + blob.size
    while position < end:
        file.seek(position)
        piece = file.read(min(_CHUNK, end - position))
        if not piece:
            raise InvalidArgument("the archive became shorter while it was read", reason="BadArchive")
        yield piece
        position += len(piece)


def valid_reference(reference: str) -> bool:
    return len(reference) <= 255 and _REFERENCE.fullmatch(reference) is not None


def parse_document(data: bytes) -> Mapping[str, Any]:
    """A JSON object. Raises BadArchive."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise BadArchive("a document is not JSON") from None
    if not isinstance(document, dict):
        raise BadArchive("a document is not a JSON object")
    return document


def parse_manifest(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[Mapping[str, Any], ...]]:
    """The config and layer descriptors of a manifest, checked. Raises BadArchive."""
    layers = document.get("layers")
    if not isinstance(layers, list) or len(layers) > _LAYERS_MAX:
        raise BadArchive("a manifest has no list of layers, or too many")
    return check_descriptor(document.get("config")), tuple(check_descriptor(layer) for layer in layers)


def parse_config(data: bytes) -> ImageManifest:
    """An image's config document with its layers' digests, checked. Raises BadArchive."""
    document = parse_document(data)
    rootfs = document.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) > _LAYERS_MAX:
        raise BadArchive("an image's config has no list of layers")
    return ImageManifest(document, tuple(check_digest(diff_id) for diff_id in diff_ids))


def check_digest(value: object) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise BadArchive("a digest is not sha256")
    return value


def check_descriptor(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadArchive("a descriptor is missing")
    check_digest(value.get("digest"))
    size = value.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**50:
        raise BadArchive("a descriptor has no size")
    if not isinstance(value.get("mediaType", ""), str):
        raise BadArchive("a descriptor has no media type")
    return value


def choose_platform(manifests: object, platform: Platform) -> list[Mapping[str, Any]]:
    """The descriptors of an index that this platform can run, the best first. Raises BadArchive."""
    if not isinstance(manifests, list):
        raise BadArchive("an index has no manifests")
    ranked: list[tuple[int, Mapping[str, Any]]] = []
    for entry in manifests[:_IMAGES_MAX]:
        descriptor = check_descriptor(entry)
        wanted = descriptor.get("platform")
        if not isinstance(wanted, dict):
            ranked.append((1, descriptor))
        elif wanted.get("os") == platform.os and wanted.get("architecture") == platform.architecture:
            ranked.append((0 if wanted.get("variant", "") in ("", platform.variant) else 2, descriptor))
    return [descriptor for _, descriptor in sorted(ranked, key=lambda pair: pair[0])]


def _images(file: BinaryIO, index: TarIndex, platform: Platform) -> Iterator[ArchivedImage]:
    if "index.json" in index:
        document = parse_document(read_bytes(file, index.find("index.json"), limit=DOCUMENT_BYTES_MAX))
        manifests = document.get("manifests")
        if not isinstance(manifests, list) or len(manifests) > _IMAGES_MAX:
            raise BadArchive("index.json lists no images, or too many")
        by_name: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
        for entry in manifests:
            by_name.setdefault(_annotated_names(check_descriptor(entry)), []).append(entry)
        for names, entries in by_name.items():
            yield _oci_image(file, index, names, entries, platform, depth=0)
    elif "manifest.json" in index:
        yield from _docker_images(file, index)
    else:
        raise BadArchive("it has neither index.json nor manifest.json")


def _annotated_names(descriptor: Mapping[str, Any]) -> tuple[str, ...]:
    annotations = descriptor.get("annotations")
    if not isinstance(annotations, dict):
        return ()
    for key in ("io.containerd.image.name", "org.opencontainers.image.ref.name"):
        name = annotations.get(key)
        # a bare tag, as some tools write, names nothing
        if isinstance(name, str) and valid_reference(name) and re.search("[:/]", name):
            return (name,)
    return ()


def _oci_image(
    file: BinaryIO,
    index: TarIndex,
    names: tuple[str, ...],
    entries: object,
    platform: Platform,
    *,
    depth: int,
) -> ArchivedImage:
    if depth > _INDEX_DEPTH_MAX:
        raise BadArchive("an index is nested too deeply")
    candidates = choose_platform(entries, platform)
    if not candidates:
        raise BadArchive(f"it has no image for {platform.os}/{platform.architecture}")
    blob = _document(file, index, candidates[0])
    assert blob.data is not None
    document = parse_document(blob.data)
    if "manifests" in document:
        return _oci_image(file, index, names, document["manifests"], platform, depth=depth + 1)
    config_descriptor, layer_descriptors = parse_manifest(document)
    config = _document(file, index, config_descriptor)
    assert config.data is not None
    parsed = parse_config(config.data)
    _check_architecture(parsed.config, platform)
    layers = tuple(_layer(index, descriptor) for descriptor in layer_descriptors)
    if len(layers) != len(parsed.diff_ids):
        raise BadArchive("manifest and config do not list the same layers")
    media_type = blob.media_type if blob.media_type in MANIFESTS else MANIFEST
    manifest = Blob(media_type, blob.digest, blob.size, blob.data)
    return ArchivedImage(names, manifest, config, layers, parsed.diff_ids)


def _check_architecture(config: Mapping[str, Any], platform: Platform) -> None:
    if config.get("os", platform.os) != platform.os or config.get("architecture") not in (
        None,
        "",
        platform.architecture,
    ):
        raise BadArchive(
            f"its image is for {config.get('os')}/{config.get('architecture')}, this node is "
            f"{platform.os}/{platform.architecture}"
        )


def _blob_name(descriptor: Mapping[str, Any]) -> str:
    return "blobs/" + str(descriptor["digest"]).replace(":", "/")


def _document(file: BinaryIO, index: TarIndex, descriptor: Mapping[str, Any]) -> Blob:
    member = index.find(_blob_name(descriptor))
    data = read_bytes(file, member, limit=DOCUMENT_BYTES_MAX)
    if len(data) != descriptor["size"] or digest_of(data) != descriptor["digest"]:
        raise BadArchive(f"the content of {descriptor['digest']} does not match its digest")
    return Blob(str(descriptor.get("mediaType", "")), str(descriptor["digest"]), len(data), data)


def _layer(index: TarIndex, descriptor: Mapping[str, Any]) -> Blob:
    member = index.find(_blob_name(descriptor))
    if member.size != descriptor["size"]:
        raise BadArchive(f"the layer {descriptor['digest']} does not have the size that its manifest says")
    media_type = str(descriptor.get("mediaType", "")) or LAYER
    return Blob(media_type, str(descriptor["digest"]), member.size, offset=member.offset)


def _docker_images(file: BinaryIO, index: TarIndex) -> Iterator[ArchivedImage]:
    data = read_bytes(file, index.find("manifest.json"), limit=DOCUMENT_BYTES_MAX)
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError):
        raise BadArchive("manifest.json is not JSON") from None
    if not isinstance(entries, list) or not 0 < len(entries) <= _IMAGES_MAX:
        raise BadArchive("manifest.json lists no images, or too many")
    hashed: dict[Member, Blob] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("Config"), str):
            raise BadArchive("manifest.json has an image without a config")
        names, files = entry.get("RepoTags") or [], entry.get("Layers")
        if not isinstance(files, list) or len(files) > _LAYERS_MAX or not all(isinstance(f, str) for f in files):
            raise BadArchive("manifest.json has an image without layers")
        if not isinstance(names, list) or not all(isinstance(n, str) and valid_reference(n) for n in names):
            raise BadArchive("manifest.json has a bad name")
        config_data = read_bytes(file, index.find(entry["Config"]), limit=DOCUMENT_BYTES_MAX)
        parsed = parse_config(config_data)
        layers = []
        for name in files:
            member = index.find(name)
            if member not in hashed:
                hashed[member] = _hashed_layer(file, member)
            layers.append(hashed[member])
        if len(layers) != len(parsed.diff_ids):
            raise BadArchive("manifest.json and the config do not list the same layers")
        config = Blob(CONFIG, digest_of(config_data), len(config_data), config_data)
        manifest_data = _manifest_of(config, layers)
        manifest = Blob(MANIFEST, digest_of(manifest_data), len(manifest_data), manifest_data)
        yield ArchivedImage(tuple(names), manifest, config, tuple(layers), parsed.diff_ids)


def _manifest_of(config: Blob, layers: list[Blob]) -> bytes:
    def descriptor(blob: Blob) -> dict[str, object]:
        return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}

    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(config),
        "layers": [descriptor(layer) for layer in layers],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _hashed_layer(file: BinaryIO, member: Member) -> Blob:
    file.seek(member.offset)
    compressed = file.read(2) == b"\x1f\x8b"
    blob = Blob(f"{LAYER}+gzip" if compressed else LAYER, "", member.size, offset=member.offset)
    digest = hashlib.sha256()
    for piece in blob_chunks(file, blob):
        digest.update(piece)
    return Blob(blob.media_type, f"sha256:{digest.hexdigest()}", member.size, offset=member.offset)


def _named(images: tuple[ArchivedImage, ...], reference: str) -> tuple[ArchivedImage, ...]:
    if reference:
        if len(images) != 1:
            raise BadArchive(f"it holds {len(images)} images; a reference can name only one")
        one = images[0]
        return (ArchivedImage((reference,), one.manifest, one.config, one.layers, one.diff_ids),)
    if not images:
        raise BadArchive("it holds no image")
    for image in images:
        if not image.names:
            raise InvalidArgument(
                "the archive does not name its image", reason="BadReference", remedy="give it a name with --reference"
            )
    return images


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
