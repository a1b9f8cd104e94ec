"""ContainerdRuntime under the conformance suite, against a private containerd."""

import asyncio
import dataclasses

from cloudless.agent.runtime.containerd import ContainerdRuntime
from cloudless.clock import SystemClock
from cloudless.core.spec import Container
from cloudless.dev import containerd
from cloudless.testing import runtime_provider as programs
from cloudless.testing.containerd import BOX, ContainerdMachine


class Device(programs.ShellDevice):
    """The machine's one agent with a data folder of its own; the image is there from the beginning."""

    def __init__(self, machine, place):
        self._machine = machine
        self._place = place

    async def open(self):
        runtime = ContainerdRuntime(self._place.config, data_dir=self._place.data_dir, clock=SystemClock())
        await runtime.start()
        return runtime

    async def close(self):
        runtime = await self.open()
        try:
            await asyncio.gather(*(runtime.remove_sandbox(view.replica_id) for view in await runtime.list()))
        finally:
            await runtime.close()
        assert self.leftovers() == []

    def leftovers(self):
        return self._place.replica_leftovers()

    def container(self, name, program, *, limits=programs.NO_LIMITS, ports=(), env=()):
        return Container(
            name=name,
            image=BOX,
            command=self.command(program),
            resources=programs.limited(limits),
            ports=ports,
            env=env,
        )

    def image_archive(self, reference):
        return self._machine.box_archive


class Provider(programs.RuntimeProvider):
    name = "containerd"
    capabilities = programs.CAPABILITIES

    def missing(self):
        return containerd.missing()

    async def begin(self, directory):
        self._machine = ContainerdMachine(directory)
        self._machine.start()
        self._place = self._machine.agent(directory / "agent")
        runtime = await Device(self._machine, self._place).open()
        await runtime.import_image(self._machine.box_archive)
        await runtime.close()

    async def end(self):
        try:
            await self._place.purge()
            assert self._place.leftovers() == []
        finally:
            self._machine.stop()

    async def device(self, directory):
        return Device(self._machine, dataclasses.replace(self._place, data_dir=directory / "agent"))


PROVIDER = Provider()
