"""ProcessRuntime under the conformance suite: with all that this machine has, and as on a device where no cgroup
can be written."""

import functools
import os
import uuid
from pathlib import Path

from cloudless.agent.runtime.process import findings
from cloudless.agent.runtime.process.cgroups import Cgroups
from cloudless.agent.runtime.process.runtime import ProcessRuntime
from cloudless.clock import SystemClock
from cloudless.core.spec import Container
from cloudless.testing import runtime_provider as programs


class Device(programs.ShellDevice):
    shell = ("/bin/busybox", "sh", "-c")

    def __init__(self, directory, root):
        self._root = root
        self._directory = directory / "process"
        self._prefix = f"cloudless-test-{uuid.uuid4().hex[:8]}"

    async def open(self):
        runtime = ProcessRuntime(self._directory, clock=SystemClock(), cgroup_prefix=self._prefix, root=self._root)
        await runtime.start()
        return runtime

    async def close(self):
        runtime = await self.open()
        await runtime.purge()
        assert self.leftovers() == []
        # of every hierarchy, and not below: other tests' cgroups come and go there
        mounted = Path("/sys/fs/cgroup")
        assert [*mounted.glob(self._prefix), *mounted.glob(f"*/{self._prefix}")] == []

    def leftovers(self):
        groups = Cgroups.prepare(self._prefix, root=self._root)
        found = groups.existing()
        if not found:
            groups.remove_parents()
        if self._directory.exists():
            found += [str(path) for path in self._directory.iterdir()]
        mark = os.fsencode(self._directory)
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if mark in path.read_bytes():
                    found.append(f"process {path.parent.name}")
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def container(self, name, program, *, limits=programs.NO_LIMITS, ports=(), env=()):
        return Container(
            name=name, process=self.command(program), resources=programs.limited(limits), ports=ports, env=env
        )


class Provider(programs.RuntimeProvider):
    name = "process"

    @functools.cached_property
    def capabilities(self):
        found = {"real-processes", "network"}
        if findings.run()["seccomp"].available:
            found.add("seccomp")
        groups = Cgroups.prepare("cloudless-test-collect")
        groups.remove_parents()
        found |= {f"{name}-limit" for name in ("cpu", "memory", "pids") if name in groups.parents}
        return frozenset(found)

    def missing(self):
        return "" if Path("/bin/busybox").exists() else "busybox-static is not installed"

    async def device(self, directory):
        return Device(directory, Path("/"))


class BareProvider(Provider):
    name = "process-without-cgroups"
    runtime_name = "process"

    @functools.cached_property
    def capabilities(self):
        return super().capabilities - {"cpu-limit", "memory-limit", "pids-limit"}

    async def device(self, directory):
        return Device(directory, directory / "no-proc-mounts-here")


PROVIDERS = (Provider(), BareProvider())
