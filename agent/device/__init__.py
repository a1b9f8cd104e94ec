"""What this device is, what it offers, and how much of that is in use.

`detect` is slow (a probe of the kernel, a short measurement of the disk: up to 0.4 s) and for the start of the agent
and for changes; `UsageSampler.sample` is cheap and for every heartbeat. Everything is read below `System.root`.
"""

from cloudless.agent.device.conditions import Conditions
from cloudless.agent.device.detect import detect
from cloudless.agent.device.sampler import UsageSampler
from cloudless.agent.device.system import System

__all__ = ["Conditions", "System", "UsageSampler", "detect"]
