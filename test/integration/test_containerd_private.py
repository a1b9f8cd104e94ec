"""The private containerd of demo and tests: started, found again, killed, stopped without a trace."""

import os
import subprocess
from pathlib import Path

import pytest

from cloudless.dev import containerd, mounts
from cloudless.dev.image import build_image
from cloudless.dev.processes import ProcessId, end, with_arguments
from cloudless.testing.containerd import BOX
from cloudless.testing.fabric import require_containerd

pytestmark = [pytest.mark.containerd, pytest.mark.xdist_group("containerd-private")]
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def daemon(tmp_path):
    require_containerd()
    daemon = containerd.PrivateContainerd(tmp_path / "containerd")
    yield daemon
    daemon.stop(remove=True)


def run_container(daemon, directory, name):
    """A container in a namespace that nobody else has; returns its pid and the namespace."""
    namespace = f"private-{directory.name}"[:60].rstrip("-_").replace("_", "-")
    base = ["ctr", "-a", daemon.address, "-n", namespace]
    build_image(directory / "box.tar", BOX)
    subprocess.run([*base, "images", "import", str(directory / "box.tar")], check=True, capture_output=True)
    command = [*base, "run", "-d", "--fifo-dir", str(directory / "fifo"), BOX, name, "sleep", "1000"]
    subprocess.run(command, check=True, capture_output=True)
    listed = subprocess.run([*base, "tasks", "list"], check=True, capture_output=True, text=True)
    return int(listed.stdout.splitlines()[1].split()[1]), namespace


def shims(daemon):
    return with_arguments(lambda arguments: "containerd-shim" in arguments[0] and daemon.address in arguments)


def test_start_is_repeatable_and_another_process_finds_it(daemon):
    daemon.start()
    first = daemon.process()
    daemon.start()
    assert daemon.process() == first
    assert containerd.PrivateContainerd(daemon.directory).process() == first


def test_containers_outlive_a_kill_and_are_ended_by_stop(daemon, tmp_path):
    daemon.start()
    pid, namespace = run_container(daemon, tmp_path, "one")
    container = ProcessId.of(pid)
    daemon.kill()
    assert daemon.process() is None
    assert container.alive()
    assert len(shims(daemon)) == 1
    assert mounts.mounted_below(daemon.directory)
    containerd.PrivateContainerd(daemon.directory).stop()
    assert not container.alive()
    assert shims(daemon) == []
    assert mounts.mounted_below(daemon.directory) == []
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        assert not (hierarchy / namespace / "one").exists()
    assert not (Path("/run/containerd/runc") / namespace).exists()
    assert not daemon.socket.exists()
    daemon.stop(remove=True)
    assert not daemon.directory.exists()
    daemon.stop(remove=True)
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        if (hierarchy / namespace).is_dir():
            (hierarchy / namespace).rmdir()


def test_a_deep_directory_has_its_socket_elsewhere_and_removes_it(tmp_path):
    require_containerd()
    daemon = containerd.PrivateContainerd(tmp_path / ("d" * 60) / ("e" * 60))
    daemon.start()
    assert len(os.fsencode(daemon.address)) < 108
    folder = daemon.socket.parent
    assert folder != daemon.directory
    daemon.stop(remove=True)
    assert not folder.exists()


def test_the_scripts_start_and_stop_it(tmp_path):
    require_containerd()
    directory = tmp_path / "made"
    for _ in range(2):
        done = subprocess.run([SCRIPTS / "containerd-up", directory], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == containerd.PrivateContainerd(directory).address
    for _ in range(2):
        subprocess.run([SCRIPTS / "containerd-down", directory], check=True, capture_output=True)
        assert not directory.exists()


def test_what_cannot_start_says_why(tmp_path):
    require_containerd()
    daemon = containerd.PrivateContainerd(tmp_path / "containerd")
    daemon.directory.mkdir()
    daemon.root.write_text("not a directory")
    with pytest.raises((containerd.ContainerdFailed, OSError)):
        daemon.start()
    daemon.root.unlink()
    daemon.stop(remove=True)


def test_overlays_are_tried_not_assumed(tmp_path):
    require_containerd()
    assert containerd.overlay_possible(tmp_path) in (True, False)
    assert list(tmp_path.iterdir()) == []
    assert mounts.mounted_below(tmp_path) == []


def test_a_process_is_its_pid_and_its_start(tmp_path):
    child = subprocess.Popen(["sleep", "1000"])
    process = ProcessId.of(child.pid)
    assert process.alive()
    assert not ProcessId(child.pid, process.started_ticks + 1).alive()
    assert end(ProcessId(child.pid, process.started_ticks + 1), grace_ms=10)
    assert process.alive(), "another process with this pid is not ours to end"
    assert end(process, grace_ms=5000)
    child.wait()
    assert ProcessId.of(child.pid) is None
