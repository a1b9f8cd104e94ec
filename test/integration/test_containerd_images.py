"""Images on a real containerd: imported from archives of both kinds, reused, refused without a trace."""

import asyncio
import gzip
import hashlib
import io
import json
import subprocess
import tarfile

import pytest
import pytest_asyncio

from cloudless.agent.runtime.base import ContainerState, Sandbox
from cloudless.agent.runtime.containerd import ContainerdRuntime
from cloudless.clock import SystemClock
from cloudless.core.spec import Container, WorkloadSpec
from cloudless.dev.image import build_image, build_web_image
from cloudless.errors import Corrupt, FailedPrecondition, InvalidArgument
from cloudless.testing.containerd import BOX, ContainerdMachine
from cloudless.testing.fabric import require_containerd

pytestmark = [pytest.mark.containerd, pytest.mark.xdist_group("containerd-isolation")]


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    require_containerd()
    machine = ContainerdMachine(tmp_path_factory.mktemp("images"))
    machine.start()
    yield machine
    machine.stop()


@pytest.fixture
def place(machine, tmp_path):
    return machine.agent(tmp_path / "agent")


@pytest_asyncio.fixture
async def runtime(place):
    runtime = ContainerdRuntime(place.config, data_dir=place.data_dir, clock=SystemClock())
    await runtime.start()
    yield runtime
    await runtime.close()
    await place.purge()
    assert place.leftovers() == []


def stored(place):
    """Everything that images take up in containerd."""
    return (
        place.ctr("images", "list", "-q"),
        place.ctr("content", "list", "-q"),
        place.ctr("content", "active")[1:],
        place.ctr("snapshots", "--snapshotter", place.snapshotter, "list")[1:],
        place.ctr("leases", "list", "-q"),
    )


NOTHING = ([], [], [], [], [])


async def output_of(runtime, image, *, command=(), name="r1"):
    container = Container(name="main", image=image, command=command)
    sandbox = Sandbox(name, "default", "web", 1, WorkloadSpec(containers=(container,)))
    await runtime.ensure_sandbox(sandbox)
    await runtime.start_container(sandbox, container, attempt=0)
    async with asyncio.timeout(15):
        while (await runtime.list())[0].containers[0].state is not ContainerState.EXITED:
            await asyncio.sleep(0.01)
    text = runtime.log_path(name, "main").read_text()
    await runtime.remove_sandbox(name)
    return text


def flip(path, needle):
    data = bytearray(path.read_bytes())
    data[data.index(needle)] ^= 0xFF
    path.write_bytes(data)


async def test_import_is_repeatable_and_another_name_shares_everything(machine, place, runtime):
    (first,) = await runtime.import_image(machine.box_archive)
    before = stored(place)
    assert list(await runtime.import_image(machine.box_archive)) == [first]
    assert stored(place) == before
    (second,) = await runtime.import_image(machine.box_archive, reference="registry.test:5000/other:2")
    assert (second.digest, second.size_bytes) == (first.digest, first.size_bytes)
    assert stored(place)[1:] == before[1:]
    assert {image.reference for image in await runtime.images()} == {BOX, "registry.test:5000/other:2"}
    assert first in await runtime.images()


async def test_an_image_that_ctr_imported_is_found_under_every_spelling(place, runtime, tmp_path):
    build_image(tmp_path / "a.tar", "docker.io/library/hello:latest", cmd=["echo", "hello"])
    place.ctr("images", "import", str(tmp_path / "a.tar"))
    for name in ("hello", "hello:latest", "docker.io/library/hello:latest"):
        assert await output_of(runtime, name) == "hello\n"


async def test_an_image_that_was_not_unpacked_is_unpacked_when_it_is_needed(place, runtime, tmp_path):
    build_image(tmp_path / "a.tar", "docker.io/library/hello:latest", cmd=["echo", "hello"])
    place.ctr("images", "import", "--no-unpack", str(tmp_path / "a.tar"))
    assert stored(place)[3] == []
    assert await output_of(runtime, "hello") == "hello\n"
    assert len(stored(place)[3]) == 1


async def test_deleting_the_name_frees_everything(machine, place, runtime):
    await runtime.import_image(machine.box_archive)
    await output_of(runtime, BOX, command=("true",))
    place.ctr("images", "remove", "--sync", BOX)
    assert stored(place) == NOTHING
    with pytest.raises(FailedPrecondition) as refused:
        await output_of(runtime, BOX, command=("true",))
    assert refused.value.reason == "ImageMissing"
    await runtime.import_image(machine.box_archive)
    await runtime.remove_sandbox("r1")
    assert await output_of(runtime, BOX, command=("echo", "back")) == "back\n"


def docker_save(source, path, *, compress=False):
    """What `docker save` would write of an image that the builder made."""
    with tarfile.open(source) as tar:
        blobs = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    manifest = json.loads(
        blobs["blobs/sha256/" + json.loads(blobs["index.json"])["manifests"][0]["digest"].removeprefix("sha256:")]
    )
    layer = blobs["blobs/" + manifest["layers"][0]["digest"].replace(":", "/")]
    files = {
        "cfg.json": blobs["blobs/" + manifest["config"]["digest"].replace(":", "/")],
        "l0/layer.tar": gzip.compress(layer, 1) if compress else layer,
        "manifest.json": json.dumps(
            [{"Config": "cfg.json", "RepoTags": ["saved:1"], "Layers": ["l0/layer.tar"]}]
        ).encode(),
    }
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("compress", [False, True])
async def test_docker_save_archives_are_imported(runtime, machine, tmp_path, compress):
    path = docker_save(machine.box_archive, tmp_path / "saved.tar", compress=compress)
    (image,) = await runtime.import_image(path)
    assert image.reference == "saved:1"
    assert await output_of(runtime, "saved:1", command=("echo", "runs")) == "runs\n"


async def test_layers_stack_and_whiteouts_hide(runtime, place, tmp_path):
    base = tmp_path / "base.tar"
    build_image(base, "x:1", files={"/etc/one": "1", "/etc/two": "2"})
    with tarfile.open(base) as tar:
        blobs = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    entry = json.loads(blobs["index.json"])["manifests"][0]
    manifest = json.loads(blobs["blobs/" + entry["digest"].replace(":", "/")])
    config = json.loads(blobs["blobs/" + manifest["config"]["digest"].replace(":", "/")])
    top = io.BytesIO()
    with tarfile.open(fileobj=top, mode="w") as tar:
        for name, data in (("etc/.wh.one", b""), ("etc/two", b"changed")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

    def digest(data):
        return "sha256:" + hashlib.sha256(data).hexdigest()

    config["rootfs"]["diff_ids"].append(digest(top.getvalue()))
    config_data = json.dumps(config).encode()
    manifest["config"] |= {"digest": digest(config_data), "size": len(config_data)}
    layer = manifest["layers"][0] | {"digest": digest(top.getvalue()), "size": len(top.getvalue())}
    manifest["layers"].append(layer)
    manifest_data = json.dumps(manifest).encode()
    index = {"manifests": [entry | {"digest": digest(manifest_data), "size": len(manifest_data)}]}
    for blob in (config_data, manifest_data, top.getvalue()):
        blobs["blobs/" + digest(blob).replace(":", "/")] = blob
    blobs["index.json"] = json.dumps(index).encode()
    with tarfile.open(tmp_path / "two.tar", "w") as tar:
        for name, data in blobs.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    await runtime.import_image(tmp_path / "two.tar")
    command = ("/bin/sh", "-c", "cat /etc/two; test -e /etc/one || echo ' hidden'")
    assert await output_of(runtime, "x:1", command=command) == "changed hidden\n"
    assert len(stored(place)[3]) == 2


async def test_a_damaged_layer_is_refused_and_nothing_is_left(place, runtime, tmp_path):
    path = tmp_path / "bad.tar"
    build_image(path, "bad:1", files={"/www/needle": b"find-this-needle"})
    flip(path, b"find-this-needle")
    with pytest.raises(InvalidArgument, match="digest") as refused:
        await runtime.import_image(path)
    assert refused.value.reason == "BadArchive"
    assert stored(place) == NOTHING


async def test_a_layer_that_is_no_tar_or_another_than_the_config_says_leaves_nothing(place, runtime, tmp_path):
    for number, layer in enumerate((b"this is no tar" * 100, None)):
        path = tmp_path / f"{number}.tar"
        content = layer if layer is not None else empty_tar()
        config = json.dumps(
            {"os": "linux", "rootfs": {"diff_ids": ["sha256:" + hashlib.sha256(layer or b"else").hexdigest()]}}
        ).encode()
        entry = [{"Config": "c", "RepoTags": ["bad:1"], "Layers": ["l"]}]
        with tarfile.open(path, "w") as tar:
            for name, data in (("manifest.json", json.dumps(entry).encode()), ("c", config), ("l", content)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        with pytest.raises(InvalidArgument) as refused:
            await runtime.import_image(path)
        assert refused.value.reason == "BadArchive"
        assert stored(place) == NOTHING


def empty_tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w"):
        pass
    return buffer.getvalue()


async def test_a_layer_cannot_write_outside_of_its_image(place, runtime, tmp_path):
    buffer = io.BytesIO()
    target = tmp_path / "escaped"
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(link)
        for name in ("out/escaped", f"../../../../../../../..{target}"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    layer = buffer.getvalue()
    config = json.dumps({"rootfs": {"diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]}}).encode()
    entry = [{"Config": "c", "RepoTags": ["bad:1"], "Layers": ["l"]}]
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in (("manifest.json", json.dumps(entry).encode()), ("c", config), ("l", layer)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    await asyncio.gather(runtime.import_image(path), return_exceptions=True)
    assert not target.exists()


async def test_imports_at_the_same_time(machine, place, runtime, tmp_path):
    archives = [machine.box_archive]
    for number in range(2):
        archives.append(tmp_path / f"{number}.tar")
        build_image(archives[-1], f"many:{number}", files={"/www/n": str(number)})
    results = await asyncio.gather(*(runtime.import_image(path) for path in archives * 2))
    assert {images[0].reference for images in results} == {BOX, "many:0", "many:1"}
    assert stored(place)[2] == []


async def test_content_that_got_damaged_is_said_to_be(machine, place, runtime):
    (image,) = await runtime.import_image(machine.box_archive)
    blob = machine.daemon.root / "io.containerd.content.v1.content/blobs/sha256" / image.digest.removeprefix("sha256:")
    whole = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(whole.replace(b"schemaVersion", b"schemaVersioN"))
    try:
        with pytest.raises(Corrupt):
            await output_of(runtime, BOX, command=("true",))
    finally:
        blob.write_bytes(whole)
    await runtime.remove_sandbox("r1")


async def test_the_web_image_serves_a_page_that_names_its_replica(runtime, tmp_path):
    build_web_image(tmp_path / "web.tar", "web:1", www={"extra.txt": "extra\n"})
    await runtime.import_image(tmp_path / "web.tar")
    container = Container(name="main", image="web:1")
    sandbox = Sandbox("page", "default", "web", 1, WorkloadSpec(containers=(container,)))
    view = await runtime.ensure_sandbox(sandbox)
    await runtime.start_container(sandbox, container, attempt=0)
    pages = {}
    async with asyncio.timeout(10):
        for name in ("", "extra.txt"):
            while not pages.get(name):
                fetched = await asyncio.to_thread(
                    subprocess.run,
                    ["busybox", "wget", "-q", "-O", "-", f"http://{view.address}:8080/{name}"],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                pages[name] = fetched.stdout
    assert "replica: page" in pages[""]
    assert pages["extra.txt"] == "extra\n"
    await runtime.remove_sandbox("page")
