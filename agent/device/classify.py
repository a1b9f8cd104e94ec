"""Phone, laptop, desktop, server, gateway or vps: the first sign that is there decides."""

from __future__ import annotations

from cloudless.agent.device import power
from cloudless.agent.device.system import System
from cloudless.core.model import DeviceClass

# SMBIOS 3.7, table 17 (System Enclosure or Chassis Types)
_CHASSIS = (
    dict.fromkeys((3, 4, 5, 6, 7, 13, 15, 16, 24, 35, 36), DeviceClass.DESKTOP)
    | dict.fromkeys((8, 9, 10, 12, 14, 30, 31, 32), DeviceClass.LAPTOP)
    | dict.fromkeys((17, 23, 25, 27, 28, 29), DeviceClass.SERVER)
    | dict.fromkeys((33, 34), DeviceClass.GATEWAY)
    | {11: DeviceClass.PHONE}
)
_VIRTUAL = (
    "qemu",
    "kvm",
    "vmware",
    "virtualbox",
    "innotek",
    "xen",
    "bochs",
    "parallels virtual",
    "virtual machine",
    "amazon ec2",
    "google compute engine",
    "openstack",
    "digitalocean",
    "hetzner",
    "scaleway",
    "linode",
    "vultr",
    "alibaba cloud",
    "oraclecloud",
    "firecracker",
)


def is_virtual(system: System) -> bool:
    dmi = " ".join(system.read(f"/sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name", "bios_vendor"))
    if any(word in dmi.lower() for word in _VIRTUAL):
        return True
    if system.read("/sys/hypervisor/type") or "dummy-virt" in system.read("/proc/device-tree/compatible"):
        return True
    flags = next((line for line in system.read("/proc/cpuinfo").splitlines() if line.startswith("flags")), "")
    return "hypervisor" in flags.split()


def device_class(system: System) -> DeviceClass:
    if power.is_android(system):
        return DeviceClass.PHONE
    if power.batteries(system):
        return DeviceClass.LAPTOP
    if is_virtual(system):
        return DeviceClass.VPS
    if system.arch.startswith("arm") and system.read("/proc/device-tree/model"):
        return DeviceClass.GATEWAY
    chassis = system.number("/sys/class/dmi/id/chassis_type")
    return _CHASSIS.get(chassis or 0, DeviceClass.SERVER)
