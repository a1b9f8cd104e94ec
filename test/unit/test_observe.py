"""Logs hide secrets, metrics answer on their listener, settings load from every source."""

import asyncio
import contextlib
import io
import json

import pytest
import structlog

from cloudless.config import LogConfig, MetricsConfig
from cloudless.errors import FailedPrecondition, InvalidArgument
from cloudless.observe import log, metrics


@pytest.fixture
def logged():
    stream = io.StringIO()
    log.configure(LogConfig(), "test", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()


def test_lines_are_json_with_component_and_level(logged):
    structlog.get_logger("x").info("replica.started", replica="web-1")
    (line,) = logged()
    assert line["event"] == "replica.started"
    assert line["component"] == "test"
    assert line["level"] == "info"
    assert line["replica"] == "web-1"


def test_secrets_never_reach_the_log(logged):
    jwt = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJub2RlLSoifQ.c2lnbmF0dXJlLWhlcmU"
    structlog.get_logger("x").info(
        "token.created",
        token=jwt,
        text=f"use {jwt} now",
        pem="-----BEGIN PRIVATE KEY-----\nabc",
        db_password="hunter2",
        token_id="t1",
        inside=[{"password": "hunter2", "text": jwt}, (jwt,)],
    )
    try:
        raise ValueError(f"cannot read {jwt}")
    except ValueError:
        structlog.get_logger("x").error("enrollment.failed", exc_info=True)
    line, failed = logged()
    assert "ValueError: cannot read [redacted]" in failed["exception"]
    text = json.dumps([line, failed])
    assert jwt not in text
    assert "hunter2" not in text
    assert "abc" not in text
    assert line["token_id"] == "t1"


@pytest.mark.parametrize("config", [LogConfig(level="loud"), LogConfig(format="xml")])
def test_bad_log_settings_are_refused(config):
    with pytest.raises(InvalidArgument):
        log.configure(config, "test")


async def _get(address: str, path: str, method: str = "GET") -> tuple[int, str]:
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    return int(answer.split(" ")[1]), answer.split("\r\n\r\n", 1)[1]


async def test_metrics_health_and_unknown_paths():
    healthy = True
    server = await metrics.serve(MetricsConfig(listen="127.0.0.1:0"), health=lambda: healthy)
    assert server is not None
    status, body = await _get(server.address, "/metrics")
    assert status == 200
    assert "cloudless_build_info" in body
    assert (await _get(server.address, "/healthz"))[0] == 200
    healthy = False
    assert (await _get(server.address, "/healthz"))[0] == 503
    assert (await _get(server.address, "/"))[0] == 404
    assert (await _get(server.address, "/metrics", "POST"))[0] == 405
    with pytest.raises(FailedPrecondition, match="cannot listen"):
        await metrics.serve(MetricsConfig(listen=server.address), health=lambda: True)
    await server.close()


async def test_peers_that_ask_slowly_or_do_not_read_hold_nothing_up(monkeypatch):
    monkeypatch.setattr(metrics, "_REQUEST_TIMEOUT_S", 0.2)
    monkeypatch.setattr(metrics, "_REQUESTS_AT_ONCE", 2)
    server = await metrics.serve(MetricsConfig(listen="127.0.0.1:0"), health=lambda: True)
    assert server is not None
    host, port = server.address.rsplit(":", 1)
    silent = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
    for _, writer in silent:
        writer.write(b"GET /metrics HTTP/1.1\r\n")
    await asyncio.sleep(0)
    surplus, writer = await asyncio.open_connection(host, int(port))
    with contextlib.suppress(ConnectionError):
        assert await surplus.read() == b""
    writer.close()
    for reader, writer in silent:
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
    assert (await _get(server.address, "/healthz"))[0] == 200
    await server.close()


async def test_metrics_switched_off_or_misspelt():
    assert await metrics.serve(MetricsConfig(listen=""), health=lambda: True) is None
    with pytest.raises(InvalidArgument):
        await metrics.serve(MetricsConfig(listen="nine-thousand"), health=lambda: True)
