"""What is written into cgroup files, on v1, v2 and where neither can be had. (That the kernel then limits is shown
by the conformance suite.)"""

import pytest

from cloudless.agent.runtime.process.cgroups import Cgroups, Usage
from cloudless.core.spec import ResourceAmounts, Resources

LIMITS = Resources(
    requests=ResourceAmounts(cpu_millis=250, memory_bytes=2**20),
    limits=ResourceAmounts(cpu_millis=500, memory_bytes=64 * 2**20, pids=20),
)
V1 = """cgroup /cg/cpu cgroup rw,cpu 0 0
cgroup /cg/cpuacct cgroup rw,cpuacct 0 0
cgroup /cg/memory cgroup rw,memory 0 0
cgroup /cg/pids cgroup rw,pids 0 0
cgroup2 /cg/unified cgroup2 rw 0 0
"""
V2 = "cgroup2 /cg cgroup2 rw,nosuid,nsdelegate 0 0\n"
HYBRID = "cgroup /cg/memory cgroup rw,memory 0 0\ncgroup2 /cg/unified cgroup2 rw 0 0\n"


@pytest.fixture
def prepare(tmp_path):
    def make(mounts):
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/mounts").write_text(mounts)
        for line in mounts.splitlines():
            (tmp_path / line.split()[1].lstrip("/")).mkdir(parents=True, exist_ok=True)
        return Cgroups.prepare("a/b", root=tmp_path)

    return make


def written(root):
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def test_v1(prepare, tmp_path):
    groups = prepare(V1)
    groups.make("r1.main", LIMITS)
    found = written(tmp_path / "cg")
    assert found == {
        "cpu/a/b/process/r1.main/cpu.shares": "256",
        "cpu/a/b/process/r1.main/cpu.cfs_period_us": "100000",
        "cpu/a/b/process/r1.main/cpu.cfs_quota_us": "50000",
        "memory/a/b/process/r1.main/memory.limit_in_bytes": str(64 * 2**20),
        "memory/a/b/process/r1.main/memory.memsw.limit_in_bytes": str(64 * 2**20),
        "pids/a/b/process/r1.main/pids.max": "20",
    }
    assert len(groups.folders("r1.main")) == 4
    assert groups.oom_files("r1.main") == [str(tmp_path / "cg/memory/a/b/process/r1.main/memory.oom_control")]
    assert groups.missing == {}
    assert len(groups.existing()) == 4


def test_v2(prepare, tmp_path):
    groups = prepare(V2)
    groups.make("r1.main", LIMITS)
    found = written(tmp_path / "cg")
    group = "a/b/process/r1.main"
    assert {name: text for name, text in found.items() if name.startswith(group)} == {
        f"{group}/cpu.weight": "10",
        f"{group}/cpu.max": "50000 100000",
        f"{group}/memory.max": str(64 * 2**20),
        f"{group}/memory.oom.group": "1",
        f"{group}/pids.max": "20",
    }
    for folder in ("", "a/", "a/b/", "a/b/process/"):
        assert found[f"{folder}cgroup.subtree_control"] == "+pids"  # the last of three writes to a plain file
    assert groups.folders("r1.main") == [str(tmp_path / "cg" / group)]
    assert groups.oom_files("r1.main") == [str(tmp_path / "cg" / group / "memory.events")]
    assert groups.missing == {}


def test_hybrid_takes_each_controller_where_it_is(prepare, tmp_path):
    groups = prepare(HYBRID)
    assert groups.unified == {"cpu", "pids"}
    assert groups.parents["memory"] == tmp_path / "cg/memory/a/b/process"


def test_no_cgroups_say_so(prepare):
    groups = prepare("proc /proc proc rw 0 0\n")
    assert set(groups.missing) == {"cpu", "cpuacct", "memory", "pids"}
    assert groups.folders("x") == groups.oom_files("x") == groups.existing() == []
    assert groups.usage("x") == Usage()
    groups.make("x", LIMITS)
    groups.remove("x")


def test_read_only_cgroups_say_where(tmp_path, monkeypatch):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/mounts").write_text(V1)
    (tmp_path / "cg").write_text("not a folder")
    groups = Cgroups.prepare("a", root=tmp_path)
    assert groups.parents == {}
    assert all("cg" in why for why in groups.missing.values())


@pytest.mark.parametrize(
    ("millis", "quota"), [(1, "1000 100000"), (9, "1000 100000"), (250, "25000 100000"), (4000, "400000 100000")]
)
def test_quotas_the_kernel_would_refuse_are_raised(prepare, tmp_path, millis, quota):
    groups = prepare(V2)
    groups.make("g", Resources(limits=ResourceAmounts(cpu_millis=millis)))
    assert (tmp_path / "cg/a/b/process/g/cpu.max").read_text() == quota


def test_what_is_not_limited_is_not_written(prepare, tmp_path):
    groups = prepare(V1)
    groups.make("g", Resources())
    assert written(tmp_path / "cg") == {}


def test_usage_of_v1(prepare, tmp_path):
    groups = prepare(V1)
    groups.make("g", Resources())
    for name, text in (
        ("cpuacct/a/b/process/g/cpuacct.usage", "5000999\n"),
        ("memory/a/b/process/g/memory.usage_in_bytes", "4096\n"),
        ("pids/a/b/process/g/pids.current", "3\n"),
    ):
        (tmp_path / "cg" / name).write_text(text)
    assert groups.usage("g") == Usage(5000, 4096, 3)


def test_usage_of_v2(prepare, tmp_path):
    groups = prepare(V2)
    groups.make("g", Resources())
    folder = tmp_path / "cg/a/b/process/g"
    for name, text in (
        ("cpu.stat", "usage_usec 77\nuser_usec 7\n"),
        ("memory.current", "8192\n"),
        ("pids.current", "2\n"),
    ):
        (folder / name).write_text(text)
    assert groups.usage("g") == Usage(77, 8192, 2)
