"""The composition of what the other modules find into a DeviceInfo."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cloudless import __version__
from cloudless.agent.device import capacity, classify, features, iops, network, power
from cloudless.agent.device.system import System
from cloudless.clock import Clock, SystemClock
from cloudless.config import AgentConfig
from cloudless.core.model import DeviceClass, DeviceInfo, Feature, RuntimeInfo
from cloudless.errors import InvalidArgument


def gpus(system: System) -> int:
    """Render nodes, or the own devices of NVIDIA's, Qualcomm's and ARM's drivers where those make none."""
    render = [name for name in system.names("/dev/dri") if name.startswith("renderD")]
    nvidia = [name for name in system.names("/dev") if re.fullmatch(r"nvidia\d+", name)]
    mobile = [name for name in system.names("/dev") if re.fullmatch(r"kgsl-3d\d+|mali\d+", name)]
    return max(len(render), len(nvidia), len(mobile))


def _power(system: System) -> power.Power:
    program = power.termux_program(system)
    return (power.ask_termux(program) if program else None) or power.read(system)


def _class_of(config: AgentConfig, system: System) -> DeviceClass:
    if not config.device_class:
        return classify.device_class(system)
    try:
        return DeviceClass(config.device_class)
    except ValueError:
        words = ", ".join(DeviceClass)
        raise InvalidArgument(
            f"device class {config.device_class!r} is none of {words}", reason="BadSetting", remedy="set device_class"
        ) from None


def detect(
    config: AgentConfig,
    runtimes: Sequence[tuple[RuntimeInfo, tuple[Feature, ...]]] = (),
    *,
    system: System | None = None,
    clock: Clock | None = None,
) -> DeviceInfo:
    """What this device is, now. `runtimes`: what each runtime's `describe` returned. Blocks for up to 0.4 s (the
    first time; 0.15 s less later; up to 5 s where Android is asked for its battery): call it in a thread. Raises
    InvalidArgument for an unknown device class."""
    system = system or System.here(config.power_supply_dir)
    clock = clock or SystemClock()
    interface = network.default_interface(system)
    return DeviceInfo(
        device_class=_class_of(config, system),
        arch=system.arch,
        os="android" if power.is_android(system) else system.os,
        kernel=system.kernel,
        hostname=system.hostname,
        agent_version=__version__,
        capacity=capacity.offered(system, config.owner, config.data_dir),
        iops_class=iops.iops_class(config.data_dir, now_ms=clock.now_ms()),
        gpus=gpus(system),
        power_source=_power(system).source,
        metered=network.is_cellular(system, interface) or network.networkmanager_says_metered(interface),
        runtimes=tuple(info for info, _ in runtimes),
        features=features.combined(features.device_features(system), *(found for _, found in runtimes)),
        addresses=network.addresses(system, bridge=config.runtime.bridge),
    )
