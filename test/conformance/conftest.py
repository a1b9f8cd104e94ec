"""Finds the providers: every `provider_<name>.py` beside this file that exists, in the order below."""

import asyncio
import importlib.util
import os
import sys
from pathlib import Path

import pytest
import pytest_asyncio

from cloudless.testing.runtime_provider import CAPABILITIES

NAMES = ("fake", "process", "containerd")
REQUIRED = os.environ.get("CI") == "true" or os.environ.get("CLOUDLESS_REQUIRE_CONTAINERD") == "1"


def _load():
    providers = []
    for name in NAMES:
        path = Path(__file__).with_name(f"provider_{name}.py")
        if not path.exists():
            continue
        spec = importlib.util.spec_from_file_location(f"cloudless_conformance_{name}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        for provider in getattr(module, "PROVIDERS", None) or (module.PROVIDER,):
            assert provider.name.startswith(name)
            assert provider.capabilities <= CAPABILITIES
            providers.append(provider)
    return providers


PROVIDERS = _load()


def pytest_configure(config):
    config.addinivalue_line("markers", "needs(*capabilities): generated only for providers that have them")


def pytest_generate_tests(metafunc):
    if "provider" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("needs")
        needed = set(marker.args if marker else ())
        assert needed <= CAPABILITIES
        chosen = [p for p in PROVIDERS if needed <= p.capabilities]
        marks = {"containerd": [pytest.mark.containerd, pytest.mark.xdist_group("containerd")]}
        metafunc.parametrize(
            "provider",
            [pytest.param(p, id=p.name, marks=marks.get(p.name, [])) for p in chosen],
            indirect=True,
        )


@pytest.fixture(scope="session")
def begun(tmp_path_factory):
    """Starts each provider at most once a session, and ends those that were started."""
    started = {}

    def begin(provider):
        if provider.name not in started:
            started[provider.name] = provider
            asyncio.run(provider.begin(tmp_path_factory.mktemp(provider.name)))

    yield begin
    for provider in started.values():
        asyncio.run(provider.end())


@pytest.fixture
def provider(request, begun):
    reason = request.param.missing()
    if reason and REQUIRED:
        pytest.fail(f"{request.param.name} is required here: {reason}")
    elif reason:
        pytest.skip(reason)  # a developer's machine; never in CI
    begun(request.param)
    return request.param


@pytest_asyncio.fixture
async def device(provider, tmp_path):
    device = await provider.device(tmp_path)
    try:
        yield device
    finally:
        await device.close()


@pytest_asyncio.fixture
async def runtime(device):
    runtime = await device.open()
    try:
        yield runtime
    finally:
        await runtime.close()
