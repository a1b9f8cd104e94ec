"""Image archives from anywhere: whatever the bytes, either images or InvalidArgument, in bounded time."""

import io
import json
import tarfile

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudless.agent.runtime.containerd import archive, users
from cloudless.agent.runtime.containerd.tarindex import BadArchive, TarIndex, read_index
from cloudless.errors import InvalidArgument

AMD64 = archive.Platform("amd64")
FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DIGEST = "sha256:" + "0" * 64

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(DIGEST)
_OCI_KEYS = ("manifests", "digest", "size", "layers", "config", "rootfs", "diff_ids", "mediaType", "platform", "os")
_OTHER_KEYS = ("architecture", "annotations", "org.opencontainers.image.ref.name", "Config", "RepoTags", "Layers")
keys = st.sampled_from((*_OCI_KEYS, *_OTHER_KEYS))
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=25
)


def outcome(path):
    refusal = None
    try:
        images = archive.read_archive(path, platform=AMD64)
    except InvalidArgument as error:
        refusal = error
    if refusal is None:
        assert images
        assert all(image.names for image in images)
    else:
        assert refusal.reason in ("BadArchive", "BadReference")
        str(refusal).encode()  # can be sent to whoever asked


def tar_of(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


GOOD = tar_of({"oci-layout": b"{}", "index.json": b'{"manifests":[]}', "a" * 150: b"x" * 700})


@FUZZ
@given(st.binary(max_size=3000))
def test_any_bytes(tmp_path, data):
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    outcome(path)


@FUZZ
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=12), st.booleans())
def test_a_good_archive_with_flipped_bytes_and_right_checksums(tmp_path, changes, repair):
    data = bytearray(GOOD)
    for position, value in changes:
        data[position] = value
        block = position // 512 * 512
        if repair:  # so that what stands behind the checksum is reached
            data[block + 148 : block + 156] = b" " * 8
            data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    outcome(path)
    with path.open("rb") as file:
        try:
            index = read_index(file, total_bytes=len(data))
        except BadArchive:
            return
    assert isinstance(index, TarIndex)
    for name in ("index.json", "a" * 150):
        if name in index:
            member = index.find(name)
            assert 0 <= member.offset <= member.offset + member.size <= len(data)


@FUZZ
@given(documents, st.sampled_from(["index.json", "manifest.json"]))
def test_any_documents_in_a_good_tar(tmp_path, document, name):
    path = tmp_path / "a.tar"
    encoded = json.dumps(document).encode()
    blob = "blobs/" + archive.digest_of(encoded).replace(":", "/")
    path.write_bytes(tar_of({name: encoded, blob: encoded, "c.json": encoded}))
    outcome(path)


@FUZZ
@given(documents)
def test_any_config_and_manifest(document):
    encoded = json.dumps(document).encode()
    for parse in (archive.parse_config, lambda data: archive.parse_manifest(archive.parse_document(data))):
        try:
            parse(encoded)
        except BadArchive:
            continue


@FUZZ
@given(st.text(max_size=40), st.text(max_size=200), st.text(max_size=200), st.booleans())
def test_any_account_files(user, passwd, group, non_root):
    try:
        found = users.resolve(user, run_as_user=None, run_as_group=None, non_root=non_root, passwd=passwd, group=group)
    except InvalidArgument:
        return
    assert 0 <= found.uid < 2**31
    assert 0 <= found.gid < 2**31
    assert not (non_root and found.uid == 0)
