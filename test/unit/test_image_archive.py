"""Reading image archives: OCI layouts and `docker save`, good ones and broken ones."""

import gzip
import hashlib
import io
import json
import tarfile

import pytest

from cloudless.agent.runtime.containerd import archive
from cloudless.agent.runtime.containerd.images import chain_ids
from cloudless.agent.runtime.containerd.tarindex import BadArchive, read_index
from cloudless.dev.image import build_image
from cloudless.errors import InvalidArgument

AMD64 = archive.Platform("amd64")
ARM64 = archive.Platform("arm64", variant="v8")
LAYER = b"not really a tar, which nobody looks at here"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(data, media_type="", **more):
    return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}


def dump(document):
    return json.dumps(document).encode()


def write_tar(path, files, *, links=(), format=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return path


def make_image(*, architecture="amd64", layers=(LAYER,), config_changes=None, manifest_changes=None):
    """(blobs, manifest bytes) of one image."""
    document = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": ["x"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        **(config_changes or {}),
    }
    config = dump(document)
    manifest = dump(
        {
            "schemaVersion": 2,
            "config": descriptor(config, archive.CONFIG),
            "layers": [descriptor(layer, archive.LAYER) for layer in layers],
            **(manifest_changes or {}),
        }
    )
    blobs = [config, manifest, *layers]
    return {"blobs/" + digest(blob).replace(":", "/"): blob for blob in blobs}, manifest


def oci_archive(path, *, name="docker.io/library/web:1", index_changes=None, blob_changes=None, **image):
    files, manifest = make_image(**image)
    entry = descriptor(manifest, archive.MANIFEST)
    if name:
        entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    files["index.json"] = dump({"schemaVersion": 2, "manifests": [entry], **(index_changes or {})})
    files.update(blob_changes or {})
    return write_tar(path, {k: v for k, v in files.items() if v is not None})


def read(path, *, platform=AMD64, reference=""):
    return archive.read_archive(path, platform=platform, reference=reference)


def test_an_oci_archive_is_read_whole(tmp_path):
    path = oci_archive(tmp_path / "a.tar", layers=(LAYER, b"second"))
    (image,) = read(path)
    assert image.names == ("docker.io/library/web:1",)
    assert image.diff_ids == (digest(LAYER), digest(b"second"))
    with path.open("rb") as file:
        for blob, content in zip(image.layers, (LAYER, b"second"), strict=True):
            assert b"".join(archive.blob_chunks(file, blob)) == content
            assert b"".join(archive.blob_chunks(file, blob, start=3)) == content[3:]


def test_a_reference_names_the_image_whatever_the_archive_says(tmp_path):
    for name in ("docker.io/library/web:1", "", "latest"):
        (image,) = read(oci_archive(tmp_path / "a.tar", name=name), reference="other:2")
        assert image.names == ("other:2",)


@pytest.mark.parametrize("name", ["", "latest", "Bad Name:1"])
def test_an_archive_without_a_name_asks_for_one(tmp_path, name):
    with pytest.raises(InvalidArgument, match="--reference") as refused:
        read(oci_archive(tmp_path / "a.tar", name=name))
    assert refused.value.reason == "BadReference"


def test_the_own_builder_writes_what_is_read_and_the_same_bytes_twice(tmp_path):
    one, two = (build_image(tmp_path / f"{n}.tar", "box:1", files={"/www/a": "x"}, cmd=["sh"]) for n in (1, 2))
    assert one == two
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    platform = archive.Platform(json.loads(read_any_config(tmp_path / "1.tar"))["architecture"])
    (image,) = read(tmp_path / "1.tar", platform=platform)
    assert image.manifest.digest == one
    assert image.names == ("box:1",)


def read_any_config(path):
    with tarfile.open(path) as tar:
        for member in tar.getmembers():
            data = tar.extractfile(member).read()
            if b'"rootfs"' in data[:100_000] and data.startswith(b"{"):
                return data
    raise AssertionError


def test_the_platform_is_chosen_from_a_nested_index(tmp_path):
    amd, amd_manifest = make_image()
    arm, arm_manifest = make_image(architecture="arm64", layers=(b"arm",))
    inner = dump(
        {
            "manifests": [
                descriptor(arm_manifest, archive.MANIFEST, platform={"os": "linux", "architecture": "arm64"}),
                descriptor(amd_manifest, archive.MANIFEST, platform={"os": "linux", "architecture": "amd64"}),
                descriptor(b"x", archive.MANIFEST, platform={"os": "unknown", "architecture": "unknown"}),
            ]
        }
    )
    annotations = {"io.containerd.image.name": "web:1"}
    files = {
        **amd,
        **arm,
        "blobs/" + digest(inner).replace(":", "/"): inner,
        "index.json": dump({"manifests": [descriptor(inner, archive.INDEX, annotations=annotations)]}),
    }
    path = write_tar(tmp_path / "multi.tar", files)
    (found,) = read(path)
    assert found.manifest.data == amd_manifest
    (found,) = read(path, platform=ARM64)
    assert found.manifest.data == arm_manifest
    with pytest.raises(InvalidArgument, match="riscv64"):
        read(path, platform=archive.Platform("riscv64"))


def docker_archive(path, **changes):
    config = dump({"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [digest(LAYER), digest(LAYER)]}})
    entry = {
        "Config": "c.json",
        "RepoTags": ["web:1", "web:2"],
        "Layers": ["one/layer.tar", "two/layer.tar"],
        **changes,
    }
    files = {"manifest.json": dump([entry]), "c.json": config, "one/layer.tar": LAYER}
    return write_tar(path, files, links=[("two/layer.tar", "../one/layer.tar")])


def test_docker_save_is_read_with_its_names_and_shared_layers(tmp_path):
    (image,) = read(docker_archive(tmp_path / "d.tar"))
    assert image.names == ("web:1", "web:2")
    assert [layer.digest for layer in image.layers] == [digest(LAYER)] * 2
    manifest = json.loads(image.manifest.data)
    assert manifest["config"]["digest"] == image.config.digest
    assert image.manifest.digest == digest(image.manifest.data)


def test_compressed_layers_of_docker_save_are_recognised(tmp_path):
    packed = gzip.compress(LAYER)
    config = dump({"rootfs": {"diff_ids": [digest(LAYER)]}})
    entry = {"Config": "c.json", "RepoTags": ["web:1"], "Layers": ["l"]}
    path = write_tar(tmp_path / "d.tar", {"manifest.json": dump([entry]), "c.json": config, "l": packed})
    (image,) = read(path)
    assert image.layers[0].media_type.endswith("+gzip")
    assert image.layers[0].digest == digest(packed)


BROKEN_OCI = {
    "no-manifests": {"index_changes": {"manifests": []}},
    "manifests-not-a-list": {"index_changes": {"manifests": {"a": 1}}},
    "descriptor-not-an-object": {"index_changes": {"manifests": ["x"]}},
    "digest-of-another-kind": {"index_changes": {"manifests": [{"digest": "md5:00", "size": 1}]}},
    "digest-as-a-path": {"index_changes": {"manifests": [{"digest": "sha256:../../../etc/passwd", "size": 1}]}},
    "negative-size": {"index_changes": {"manifests": [{"digest": "sha256:" + "0" * 64, "size": -1}]}},
    "size-of-a-wrong-type": {"index_changes": {"manifests": [{"digest": "sha256:" + "0" * 64, "size": True}]}},
    "missing-manifest": {"index_changes": {"manifests": [{"digest": "sha256:" + "0" * 64, "size": 5}]}},
    "index-is-not-json": {"blob_changes": {"index.json": b"{"}},
    "index-is-a-list": {"blob_changes": {"index.json": b"[]"}},
    "index-is-too-deep": {"blob_changes": {"index.json": b"[" * 100_000}},
    "index-is-too-large": {"blob_changes": {"index.json": b" " * (archive.DOCUMENT_BYTES_MAX + 1)}},
    "no-index": {"blob_changes": {"index.json": None}},
    "no-layers": {"manifest_changes": {"layers": None}},
    "too-many-layers": {"manifest_changes": {"layers": [{}] * 1000}},
    "layer-missing": {"manifest_changes": {"layers": [{"digest": "sha256:" + "1" * 64, "size": 3}]}},
    "layer-count-differs": {"manifest_changes": {"layers": []}},
    "no-config": {"manifest_changes": {"config": None}},
    "no-diff-ids": {"config_changes": {"rootfs": {}}},
    "diff-ids-of-a-wrong-type": {"config_changes": {"rootfs": {"diff_ids": [7]}}},
    "another-architecture": {"architecture": "s390x"},
    "another-system": {"config_changes": {"os": "windows"}},
    "manifest-does-not-match": {
        "blob_changes": {"blobs/" + digest(make_image()[1]).replace(":", "/"): b"something else"}
    },
    "layer-size-does-not-match": {"blob_changes": {"blobs/" + digest(LAYER).replace(":", "/"): LAYER + b"!"}},
}


@pytest.mark.parametrize("case", BROKEN_OCI.values(), ids=BROKEN_OCI.keys())
def test_broken_layouts_are_refused_with_a_reason(tmp_path, case):
    with pytest.raises(InvalidArgument) as refused:
        read(oci_archive(tmp_path / "bad.tar", **case))
    assert refused.value.reason == "BadArchive"
    assert "bad.tar" in refused.value.message


@pytest.mark.parametrize(
    "changes",
    [
        {"Config": None},
        {"Config": "missing.json"},
        {"Layers": "one/layer.tar"},
        {"Layers": ["missing"]},
        {"Layers": ["one/layer.tar"]},
        {"RepoTags": "web:1"},
        {"RepoTags": ["not a name"]},
    ],
)
def test_broken_docker_archives_are_refused(tmp_path, changes):
    with pytest.raises(InvalidArgument):
        read(docker_archive(tmp_path / "bad.tar", **changes))


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 1024, b"not a tar", b"x" * 2000, gzip.compress(b"\0" * 10240), b"\x1f\x8b" + b"\0" * 2000],
    ids=["empty", "zeros", "text", "noise", "gzip", "gzip-head"],
)
def test_what_is_no_tar_is_refused(tmp_path, content):
    path = tmp_path / "bad.tar"
    path.write_bytes(content)
    with pytest.raises(InvalidArgument):
        read(path)


def test_a_missing_file_and_a_bad_reference_are_refused(tmp_path):
    with pytest.raises(InvalidArgument):
        read(tmp_path / "none.tar")
    with pytest.raises(InvalidArgument):
        read(oci_archive(tmp_path / "a.tar"), reference="not a name")


def test_a_cut_archive_is_refused_at_every_length(tmp_path):
    path = oci_archive(tmp_path / "a.tar")
    whole = path.read_bytes()
    content_end = max(i for i, byte in enumerate(whole) if byte) // 512 * 512
    for length in range(0, content_end, 512):
        path.write_bytes(whole[:length])
        with pytest.raises(InvalidArgument):
            read(path)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x"])
def test_names_that_leave_the_archive_are_refused(tmp_path, name):
    path = write_tar(tmp_path / "a.tar", {name: b"x"})
    with path.open("rb") as file, pytest.raises(BadArchive, match="leaves"):
        read_index(file, total_bytes=path.stat().st_size)


def test_links_are_followed_a_bounded_number_of_times(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"real": b"x"}, links=[("a", "b"), ("b", "a"), ("c", "./real")])
    with path.open("rb") as file:
        index = read_index(file, total_bytes=path.stat().st_size)
    assert "a" not in index
    assert index.find("c").size == 1


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_every_length_are_read(tmp_path, format):
    names = ["a", "b" * 99, "/".join(["c" * 60] * 3)]
    if format != tarfile.USTAR_FORMAT:
        names += ["d" * 200, "é" * 80]
    path = write_tar(tmp_path / "a.tar", {name: name.encode() for name in names}, format=format)
    with path.open("rb") as file:
        index = read_index(file, total_bytes=path.stat().st_size)
        for name in names:
            member = index.find(name)
            file.seek(member.offset)
            assert file.read(member.size) == name.encode()


def test_chain_ids_are_those_of_the_specification():
    one, two, three = (digest(bytes([n])) for n in range(3))
    second = digest(f"{one} {two}".encode())
    assert chain_ids((one, two, three)) == [one, second, digest(f"{second} {three}".encode())]
    assert chain_ids(()) == []


@pytest.mark.parametrize(
    ("reference", "valid"),
    [
        ("web", True),
        ("web:1", True),
        ("host:5000/a/b_c:v1.2", True),
        ("ghcr.io/a/b@sha256:" + "0" * 64, True),
        ("a" * 300, False),
        ("", False),
        ("web:", False),
        ("web 1", False),
        ("-web", False),
        ("web@sha256:12", False),
        ("web\n", False),
    ],
)
def test_references(reference, valid):
    assert archive.valid_reference(reference) is valid
