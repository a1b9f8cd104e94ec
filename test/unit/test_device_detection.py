"""Four devices as trees of files: what the agent says about each."""

import asyncio
import dataclasses
import os
import sys
import tempfile
import types
from pathlib import Path

import pytest

from cloudless.agent.device import (
    Conditions,
    System,
    UsageSampler,
    capacity,
    classify,
    detect,
    features,
    iops,
    network,
    power,
)
from cloudless.agent.runtime.process.findings import Finding
from cloudless.config import AgentConfig, OwnerConfig
from cloudless.core.model import DeviceClass, Feature, RuntimeInfo
from cloudless.errors import InvalidArgument

GIB = 2**30
MEMINFO = "MemTotal:       {total} kB\nMemFree:  100000 kB\nMemAvailable:   {available} kB\n"
ROUTE = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
SIX = "fd000000000000000000000000000002 02 40 00 00     eth0\nfe80000000000000000000000000abcd 02 40 20 80     eth0\n"
TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.0.0.7
        /32 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 10.0.0.255
        /32 link BROADCAST
Local:
     |-- 10.0.0.7
        /32 host LOCAL
        /32 host LOCAL
"""
PROBES = {
    "seccomp": Finding(True, ""),
    "landlock": Finding(True, "ABI 4"),
    "userns": Finding(False, "Operation not permitted"),
}


def route(interface, metric=100):
    return f"{interface}\t00000000\t0101A8C0\t0003\t0\t0\t{metric}\t00000000\t0\t0\t0\n"


@pytest.fixture
def make(tmp_path):
    def build(files, *, machine="x86_64", cpus=4, kernel="6.1.0", probes=PROBES):
        root = tmp_path / "root"
        for name, text in files.items():
            path = root / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        root.mkdir(exist_ok=True)
        stat = types.SimpleNamespace(f_bavail=1000, f_bfree=1200, f_blocks=5000, f_frsize=4096)
        return System(root, machine, "linux", kernel, "host", cpus, lambda _: stat, lambda: probes)

    return build


RASPBERRY_PI = {
    "/proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "/proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
    "/proc/cpuinfo": "Features\t: fp asimd\nModel : Raspberry Pi 4\n",
    "/proc/meminfo": MEMINFO.format(total=3_884_000, available=3_000_000),
    "/proc/mounts": "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n",
    "/proc/self/cgroup": "0::/system.slice/cloudless.service\n",
    "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n",  # the Pi's default: memory is off
    "/sys/fs/cgroup/system.slice/cpu.max": "max 100000\n",
    "/sys/fs/cgroup/system.slice/cloudless.service/cpu.max": "150000 100000\n",
    "/proc/net/route": ROUTE + route("eth0"),
    "/sys/class/net/eth0/speed": "1000\n",
    "/proc/net/fib_trie": TRIE,
    "/proc/net/if_inet6": SIX,
    "/proc/sys/kernel/pid_max": "32768\n",
    "/proc/self/status": "CapEff:\t000001ffffffffff\n",
    "/dev/net/tun": "",
    "/dev/dri/card0": "",
    "/dev/dri/renderD128": "",
}
PHONE = {
    "/system/build.prop": "ro.build.version.sdk=33\n",
    "/proc/meminfo": MEMINFO.format(total=7_800_000, available=2_000_000),
    "/sys/class/power_supply/battery/type": "Battery\n",
    "/sys/class/power_supply/battery/capacity": "37\n",
    "/sys/class/power_supply/battery/status": "Discharging\n",
    "/sys/class/power_supply/usb/type": "USB\n",
    "/sys/class/power_supply/usb/online": "0\n",
    "/proc/net/route": ROUTE + route("rmnet_data1"),
    "/proc/self/status": "CapEff:\t0000000000000000\n",
}
LAPTOP = {
    "/sys/class/dmi/id/sys_vendor": "LENOVO\n",
    "/sys/class/dmi/id/product_name": "20XW00\n",
    "/sys/class/dmi/id/chassis_type": "10\n",
    "/proc/cpuinfo": "flags\t\t: fpu vme vmx\n",
    "/proc/meminfo": MEMINFO.format(total=16_000_000, available=8_000_000),
    "/sys/class/power_supply/AC/type": "Mains\n",
    "/sys/class/power_supply/AC/online": "0\n",
    "/sys/class/power_supply/BAT0/type": "Battery\n",
    "/sys/class/power_supply/BAT0/present": "1\n",
    "/sys/class/power_supply/BAT0/status": "Discharging\n",
    "/sys/class/power_supply/BAT0/energy_now": "20000000\n",
    "/sys/class/power_supply/BAT0/energy_full": "50000000\n",
    "/sys/class/power_supply/hidpp_battery_0/type": "Battery\n",
    "/sys/class/power_supply/hidpp_battery_0/scope": "Device\n",
    "/sys/class/power_supply/hidpp_battery_0/capacity": "100\n",
    "/sys/module/apparmor/parameters/enabled": "Y\n",
    "/sys/kernel/security/lsm": "lockdown,capability,landlock,yama,apparmor",
    "/proc/net/route": ROUTE + route("wlp3s0", 600) + route("wwan0", 700),
    "/proc/self/status": "CapEff:\t0000000000000000\n",
}
VPS = {
    "/sys/class/dmi/id/sys_vendor": "QEMU\n",
    "/sys/class/dmi/id/product_name": "Standard PC (Q35 + ICH9, 2009)\n",
    "/sys/class/dmi/id/chassis_type": "1\n",
    "/proc/meminfo": MEMINFO.format(total=4_000_000, available=1_000_000),
    "/proc/mounts": "c /sys/fs/cgroup/memory cgroup rw,memory 0 0\nc /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\n",
    "/proc/self/cgroup": "4:memory:/limited\n3:cpu,cpuacct:/limited\n",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "/sys/fs/cgroup/memory/limited/memory.limit_in_bytes": f"{2 * GIB}\n",
    "/sys/fs/cgroup/memory/limited/memory.usage_in_bytes": f"{GIB}\n",
    "/sys/fs/cgroup/memory/limited/memory.stat": f"cache 1\ntotal_inactive_file {GIB // 4}\n",
    "/sys/fs/cgroup/cpu/limited/cpu.cfs_quota_us": "-1\n",
    "/sys/fs/cgroup/cpu/limited/cpu.cfs_period_us": "100000\n",
    "/sys/fs/selinux/enforce": "1",
    "/proc/self/status": "CapEff:\t000001fffeffffff\n",
}


def found(system, name):
    return next(f for f in features.device_features(system) if f.name == name)


@pytest.mark.parametrize(
    ("files", "machine", "expected"),
    [
        (RASPBERRY_PI, "aarch64", (DeviceClass.GATEWAY, "arm64", "linux", "mains", False, 1500, 1)),
        (PHONE, "aarch64", (DeviceClass.PHONE, "arm64", "android", "battery", True, 4000, 0)),
        (LAPTOP, "x86_64", (DeviceClass.LAPTOP, "amd64", "linux", "battery", False, 4000, 0)),
        (VPS, "x86_64", (DeviceClass.VPS, "amd64", "linux", "mains", False, 4000, 0)),
    ],
    ids=["raspberry-pi", "phone", "laptop", "vps"],
)
def test_devices(make, tmp_path, monkeypatch, files, machine, expected):
    monkeypatch.setenv("PATH", "/nowhere")  # no NetworkManager here
    info = detect(AgentConfig(data_dir=tmp_path / "data"), system=make(files, machine=machine))
    assert expected == (
        info.device_class,
        info.arch,
        info.os,
        info.power_source,
        info.metered,
        info.capacity.cpu_millis,
        info.gpus,
    )
    assert info.iops_class in ("low", "medium", "high", "premium")
    assert info.capacity.storage_bytes == 4_096_000
    assert info.hostname == "host"
    assert [f.name for f in info.features if not f.available and not f.detail] == []


@pytest.mark.parametrize(
    ("machine", "arch"),
    [("x86_64", "amd64"), ("AMD64", "amd64"), ("aarch64", "arm64"), ("armv7l", "arm"), ("riscv64", "riscv64")],
)
def test_architectures(make, machine, arch):
    assert make({}, machine=machine).arch == arch


@pytest.mark.parametrize(
    ("files", "machine", "expected"),
    [
        ({"/sys/class/dmi/id/chassis_type": "3\n"}, "x86_64", DeviceClass.DESKTOP),
        ({"/sys/class/dmi/id/chassis_type": "9\n"}, "x86_64", DeviceClass.LAPTOP),
        ({"/sys/class/dmi/id/chassis_type": "23\n"}, "x86_64", DeviceClass.SERVER),
        ({"/sys/class/dmi/id/chassis_type": "33\n"}, "x86_64", DeviceClass.GATEWAY),
        ({}, "x86_64", DeviceClass.SERVER),
        ({"/proc/cpuinfo": "flags : fpu hypervisor sse\n"}, "x86_64", DeviceClass.VPS),
        ({"/sys/hypervisor/type": "xen\n"}, "x86_64", DeviceClass.VPS),
        ({"/proc/device-tree/model": "Olimex\0"}, "armv7l", DeviceClass.GATEWAY),
        (
            {"/proc/device-tree/model": "linux,dummy-virt\0", "/proc/device-tree/compatible": "linux,dummy-virt\0"},
            "aarch64",
            DeviceClass.VPS,
        ),
        (
            {"/sys/class/power_supply/mouse/type": "Battery\n", "/sys/class/power_supply/mouse/scope": "Device\n"},
            "x86_64",
            DeviceClass.SERVER,
        ),
    ],
)
def test_classes(make, files, machine, expected):
    assert classify.device_class(make(files, machine=machine)) is expected


def test_the_owner_names_the_class_and_a_wrong_word_is_refused(make, tmp_path):
    config = AgentConfig(data_dir=tmp_path / "data", device_class="gateway")
    assert detect(config, system=make(LAPTOP)).device_class is DeviceClass.GATEWAY
    with pytest.raises(InvalidArgument, match="toaster"):
        detect(dataclasses.replace(config, device_class="toaster"), system=make(LAPTOP))


def test_cgroup_limits_above_count_too(make):
    pi = make(RASPBERRY_PI, machine="aarch64")
    assert capacity.cpu_millis(pi) == 1500
    assert capacity.memory_limit(pi) == (3_884_000 * 1024, "")


def test_cgroup_v1_limits(make):
    system = make(VPS)
    assert capacity.memory_limit(system) == (2 * GIB, "/sys/fs/cgroup/memory/limited")
    assert capacity.cpu_millis(system) == 4000


@pytest.mark.parametrize(
    ("owner", "cpu", "memory"),
    [
        (OwnerConfig(), 4000, 2 * GIB),
        (OwnerConfig(share=0.5), 2000, GIB),
        (OwnerConfig(cpu_millis=300, memory_bytes=64 * 2**20), 300, 64 * 2**20),
        (OwnerConfig(share=0.1, cpu_millis=3000), 3000, int(2 * GIB * 0.1)),
        (OwnerConfig(cpu_millis=99_000, memory_bytes=99 * GIB), 4000, 2 * GIB),
        (OwnerConfig(share=7.0), 4000, 2 * GIB),
        (OwnerConfig(share=0.0), 0, 0),
    ],
)
def test_owners_offer_less_never_more(make, tmp_path, owner, cpu, memory):
    offered = capacity.offered(make(VPS), owner, tmp_path)
    assert (offered.cpu_millis, offered.memory_bytes) == (cpu, memory)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ("mains", -1)),
        (LAPTOP, ("battery", 40)),
        (LAPTOP | {"/sys/class/power_supply/AC/online": "1\n"}, ("mains", 40)),
        (PHONE, ("battery", 37)),
        (PHONE | {"/sys/class/power_supply/battery/status": "Full\n"}, ("mains", 37)),
        (PHONE | {"/sys/class/power_supply/battery/status": "Unknown\n"}, ("battery", 37)),
        (PHONE | {"/sys/class/power_supply/battery/capacity": "180\n"}, ("battery", 100)),
        ({"/sys/class/power_supply/b/type": "Battery\n", "/sys/class/power_supply/b/status": "?\n"}, ("unknown", -1)),
        (
            {"/sys/class/power_supply/u/type": "UPS\n", "/sys/class/power_supply/u/status": "Discharging\n"},
            ("battery", -1),
        ),
    ],
)
def test_power(make, files, expected):
    read = power.read(make(files))
    assert (read.source, read.battery_percent) == expected


def test_addresses_leave_out_what_nobody_reaches(make):
    assert network.addresses(make(RASPBERRY_PI)) == ("10.0.0.7", "fd00::2")


def test_addresses_leave_out_the_replicas_bridge(make):
    trie = TRIE + "     |-- 10.88.0.1\n        /32 host LOCAL\n     |-- 10.89.0.1\n        /32 host LOCAL\n"
    order = "0000580A 00FFFFFF 0000590A" if sys.byteorder == "little" else "0A580000 FFFFFF00 0A590000"
    mine, mask, other = order.split()
    routes = "".join(
        f"{link}\t{network}\t00000000\t0001\t0\t0\t0\t{mask}\t0\t0\t0\n"
        for link, network in (("cloudless0", mine), ("br0", other))
    )
    six = SIX + "fd880000000000000000000000000001 03 40 00 80 cloudless0\n"
    device = RASPBERRY_PI | {
        "/proc/net/fib_trie": trie,
        "/proc/net/route": ROUTE + route("eth0") + routes,
        "/proc/net/if_inet6": six,
    }
    assert network.addresses(make(device), bridge="cloudless0") == ("10.0.0.7", "10.89.0.1", "fd00::2")


@pytest.mark.parametrize(
    ("files", "interface", "cellular"),
    [
        (PHONE, "rmnet_data1", True),
        (LAPTOP, "wlp3s0", False),
        ({"/proc/net/route": ROUTE + route("usb7"), "/sys/class/net/usb7/uevent": "DEVTYPE=wwan\n"}, "usb7", True),
        (
            {"/proc/net/ipv6_route": f"{'0' * 32} 00 {'0' * 32} 00 {'f' * 32} 00000400 1 0 00000003 eth9\n"},
            "eth9",
            False,
        ),
        ({}, "", False),
    ],
)
def test_the_link(make, files, interface, cellular):
    system = make(files)
    assert network.default_interface(system) == interface
    assert network.is_cellular(system, interface) is cellular


def test_the_speed_of_the_link(make):
    assert network.egress_bps(make(RASPBERRY_PI)) == 1_000_000_000
    assert network.egress_bps(make(PHONE)) == 0


def test_features_say_why_not(make):
    pi = make(RASPBERRY_PI)
    assert found(pi, "landlock") == Feature("landlock", True, "ABI 4")
    assert found(pi, "cgroup-v2") == Feature("cgroup-v2", True, "cpu pids")
    assert found(pi, "sys-resource").available
    assert found(pi, "tun").available
    assert "AppArmor" in found(pi, "apparmor").detail
    assert "not permitted" in found(pi, "userns").detail


def test_features_of_the_others(make, tmp_path):
    laptop = make(LAPTOP)
    assert found(laptop, "apparmor").available
    assert not found(laptop, "selinux").available
    assert not found(laptop, "sys-resource").available
    assert "/dev/net/tun" in found(laptop, "tun").detail


def test_security_modules_and_capabilities_of_a_vps(make):
    vps = make(VPS)
    assert found(vps, "selinux") == Feature("selinux", True, "enforcing")
    assert not found(vps, "sys-resource").available
    assert found(vps, "sys-admin").available
    assert found(vps, "cgroup-v1") == Feature("cgroup-v1", True, "cpu memory")
    assert found(vps, "cgroup-v2").detail == "not mounted"


def test_a_feature_that_one_part_lacks_is_lacking():
    first = (Feature("seccomp", True, ""), Feature("tun", False, "no device"))
    second = (Feature("seccomp", False, "runc was built without it"), Feature("tun", True, ""))
    assert features.combined(first, second) == (
        Feature("seccomp", False, "runc was built without it"),
        Feature("tun", False, "no device"),
    )


def test_runtimes_are_carried_over(make, tmp_path):
    runtime = RuntimeInfo("containerd", "1.6", True, "")
    info = detect(
        AgentConfig(data_dir=tmp_path / "data"), [(runtime, (Feature("overlayfs", True, ""),))], system=make(VPS)
    )
    assert info.runtimes == (runtime,)
    assert Feature("overlayfs", True, "") in info.features


def test_storage_is_offered_once(make, tmp_path):
    """Workloads fill what they were given; the offer stays. Another disk is another offer."""
    system = make(VPS)
    assert capacity.storage_free(system, tmp_path / "data") == 1000 * 4096
    fuller = types.SimpleNamespace(f_bavail=10, f_bfree=20, f_blocks=5000, f_frsize=4096)
    later = dataclasses.replace(system, statvfs=lambda _: fuller)
    assert capacity.storage_free(later, tmp_path / "data") == 1000 * 4096
    smaller = types.SimpleNamespace(f_bavail=10, f_bfree=20, f_blocks=500, f_frsize=4096)
    shrunk = dataclasses.replace(system, statvfs=lambda _: smaller)
    assert capacity.storage_free(shrunk, tmp_path / "data") == 500 * 4096
    (tmp_path / "data/storage.json").write_text('{"device": 0, "bytes": 1}')
    assert capacity.storage_free(later, tmp_path / "data") == 10 * 4096


@pytest.mark.parametrize(
    ("value", "expected"), [(0, "low"), (99, "low"), (100, "medium"), (500, "high"), (2999, "high"), (3000, "premium")]
)
def test_iops_classes(value, expected):
    assert iops.classify(value) == expected


def test_iops_are_measured_once_a_week_and_leave_no_file(tmp_path, monkeypatch):
    first = iops.iops_class(tmp_path, now_ms=1000)
    assert os.listdir(tmp_path) == ["iops.json"]
    monkeypatch.setattr(iops, "measure", lambda _directory: 50.0)
    assert iops.iops_class(tmp_path, now_ms=2000) == first
    assert iops.iops_class(tmp_path, now_ms=1000 + 8 * 24 * 3_600_000) == "low"
    (tmp_path / "iops.json").write_text("{broken")
    assert iops.iops_class(tmp_path, now_ms=3000) == "low"


def test_iops_of_a_file_system_without_direct_writes(tmp_path):
    shm = "/dev/shm" if os.path.isdir("/dev/shm") else tmp_path
    with tempfile.TemporaryDirectory(dir=shm) as directory:
        assert iops.measure(Path(directory), budget_s=0.02) > 0
        assert os.listdir(directory) == []


def test_a_folder_that_cannot_be_written_has_no_class(tmp_path):
    (tmp_path / "file").write_text("")
    assert iops.iops_class(tmp_path / "file" / "data", now_ms=0) == ""


class Clock:
    ms = 0

    def monotonic_ms(self):
        return self.ms

    def now_ms(self):
        return self.ms


STAT = "cpu  {user} 0 0 {idle} 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\n"


def test_samples_tell_use_since_the_last_one(make, tmp_path):
    files = LAPTOP | {"/proc/stat": STAT.format(user=100, idle=900)}
    clock = Clock()
    sampler = UsageSampler(tmp_path, system=make(files), clock=clock)
    make({"/proc/stat": STAT.format(user=150, idle=1050)})  # 50 of 200 ticks on two CPUs
    usage = sampler.sample(rtt_us=1234)
    assert usage.cpu_millis == 500
    assert usage.memory_bytes == 8_000_000 * 1024
    assert usage.storage_bytes == 3800 * 4096
    assert (usage.battery_percent, usage.power_source, usage.rtt_us) == (40, "battery", 1234)
    assert sampler.sample().cpu_millis == 0


def test_power_and_link_are_looked_at_now_and_then(make, tmp_path):
    clock = Clock()
    sampler = UsageSampler(tmp_path, system=make(LAPTOP), clock=clock, metered=True)
    make({"/sys/class/power_supply/AC/online": "1\n"})
    clock.ms = 4_999
    assert sampler.sample().power_source == "battery"
    clock.ms = 5_000
    assert sampler.sample().power_source == "mains"
    assert sampler.sample().metered  # the same link that was found metered
    make({"/proc/net/route": ROUTE + route("eth0")})
    clock.ms = 20_000
    assert not sampler.sample().metered
    make({"/proc/net/route": ROUTE + route("wwan0")})
    clock.ms = 30_000
    assert sampler.sample().metered


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('{"percentage": 64, "plugged": "UNPLUGGED", "status": "DISCHARGING"}', power.Power("battery", 64)),
        ('{"percentage": 99, "plugged": "PLUGGED_USB", "status": "CHARGING"}', power.Power("mains", 99)),
        ("", power.Power("unknown", -1)),
        ('{"percentage": "unknown"}', power.Power("unknown", -1)),
    ],
)
async def test_android_is_asked_for_the_battery_that_it_hides(make, tmp_path, monkeypatch, said, expected):
    program = tmp_path / "bin" / "termux-battery-status"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/bin")
    files = {name: text for name, text in PHONE.items() if "power_supply" not in name}
    system = make(files, machine="aarch64")
    assert detect(AgentConfig(data_dir=tmp_path / "data"), system=system).power_source == expected.source
    clock = Clock()
    conditions = Conditions(system, clock)
    asking = asyncio.ensure_future(conditions.ask_programs())
    async with asyncio.timeout(10):
        while conditions.power != expected:
            clock.ms += 5_000
            conditions.refresh()
            await asyncio.sleep(0.01)
    asking.cancel()
    assert power.termux_program(make(PHONE)) == ""  # where files tell, they are believed


def test_power_supplies_can_be_shown_elsewhere(make, tmp_path):
    system = make({"/host/supplies/BAT0/type": "Battery", "/host/supplies/BAT0/capacity": "12"})
    system = dataclasses.replace(system, supplies="/host/supplies")
    assert power.read(system).battery_percent == 12


@pytest.mark.parametrize("name", ["dev/kgsl-3d0", "dev/mali0", "dev/nvidia0", "dev/dri/renderD128"])
def test_gpus_of_each_maker_are_counted(make, tmp_path, name):
    assert detect(AgentConfig(data_dir=tmp_path / "data"), system=make({name: ""})).gpus == 1


def test_what_waits_for_memory_is_read_where_the_kernel_tells(make, tmp_path):
    text = "some avg10=50.00 avg60=1 avg300=0 total=1\nfull avg10=12.50 avg60=1 avg300=0 total=1\n"
    sampler = UsageSampler(tmp_path, system=make({**LAPTOP, "/proc/pressure/memory": text}), clock=Clock())
    assert sampler.memory_stall_percent() == 12.5
    assert UsageSampler(tmp_path, system=make(VPS), clock=Clock()).memory_stall_percent() == 0.0


def test_memory_of_a_limited_agent_is_its_cgroups(make, tmp_path):
    sampler = UsageSampler(tmp_path, system=make(VPS), clock=Clock())
    assert sampler.sample().memory_bytes == GIB - GIB // 4


def test_this_machine(tmp_path):
    config = AgentConfig(data_dir=tmp_path / "data")
    info = detect(config)
    assert info.capacity.cpu_millis > 0
    assert info.capacity.memory_bytes > 0
    assert info.capacity.storage_bytes > 0
    assert info.iops_class
    assert {f.name for f in info.features} >= {"seccomp", "landlock", "cgroup-v1", "cgroup-v2", "userns", "tun"}
    usage = UsageSampler(config.data_dir).sample()
    assert 0 < usage.memory_bytes <= info.capacity.memory_bytes
