"""First start, restarts, crashes between the steps, and the process around it: exit codes, signals, last words."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from cloudless import contexts
from cloudless.api.v1 import control_pb2, control_pb2_grpc
from cloudless.coordinator import bootstrap
from cloudless.coordinator import main as program
from cloudless.coordinator.core.snapshot import state_hash
from cloudless.core.model import JoinToken, Role
from cloudless.errors import CloudlessError, Corrupt, FailedPrecondition, InvalidArgument
from cloudless.identity.channel import open_channel
from cloudless.identity.tokens import TokenSigner
from cloudless.testing.coordinator import coordinator_config, running_coordinator


async def _who_am_i(c: Any) -> str:
    async with c.channel() as channel:
        return (await control_pb2_grpc.UserServiceStub(channel).WhoAmI(control_pb2.WhoAmIRequest())).id


async def test_the_first_start_makes_a_private_folder_and_an_admin(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path) as c:
        data = c.config.data_dir
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        assert stat.S_IMODE((data / "admin.yaml").stat().st_mode) == 0o600
        for private in ("ca/root.key", "ca/issuing.key", "tokens.key"):
            assert stat.S_IMODE((data / private).stat().st_mode) == 0o600
        assert c.coordinator.new_admin_context == data / "admin.yaml"
        assert await _who_am_i(c) == f"spiffe://{c.trust_domain}/user/admin"
        admin = c.state.users["admin"]
        assert [(binding.role, binding.namespace) for binding in admin.bindings] == [(Role.ADMIN, "*")]
        listening = json.loads((data / "listen.json").read_text())
        member = c.coordinator.engine.listening
        assert listening == {"api": c.api_address, "enroll": c.enroll_address, "metrics": "", "member": member}


async def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    ports = {}  # others would be announced
    with ExitStack() as stack:
        for listener in ("api", "enroll", "member"):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports[f"listen__{listener}"] = f"127.0.0.1:{probe.getsockname()[1]}"
    async with running_coordinator(tmp_path, **ports) as first:
        root = first.coordinator.identity.authority.root_sha256
        context = first.admin_context.read_bytes()
        token = await first.token()
        before = state_hash(first.state)
    async with running_coordinator(tmp_path, **ports) as second:
        assert second.coordinator.new_admin_context is None
        assert second.coordinator.identity.authority.root_sha256 == root
        assert second.admin_context.read_bytes() == context
        assert state_hash(second.state) == before
        assert await _who_am_i(second)
        assert second.coordinator.identity.signer.verify(
            token, audience=f"cloudless-enroll:{second.trust_domain}", now_ms=0
        )


@pytest.mark.parametrize(
    "left",
    [
        "nothing",
        "half an authority",
        "authority",
        "token key",
        "log",
        "admin in the log",
        "context",
        "all but the mark",
    ],
)
async def test_a_start_that_crashed_is_completed_by_the_next(tmp_path: Path, left: str) -> None:
    """What each step leaves behind, and the steps after it undone."""
    steps = ["nothing", "half an authority", "authority", "token key", "log", "admin in the log", "context"]
    reached = steps.index(left) if left in steps else len(steps)
    data = coordinator_config(tmp_path).data_dir
    if left != "nothing":
        async with running_coordinator(tmp_path):
            pass
        undo = {"context": "admin.yaml", "token key": "tokens.key", "authority": "ca"}
        (data / "bootstrap.done").unlink()
        for step, name in undo.items():
            if steps.index(step) > reached:
                _remove(data / name)
        if reached < steps.index("admin in the log"):
            _remove(data / "log")
            _remove(data / "member")
        if left == "half an authority":
            (data / ".ca.new").mkdir()
            (data / ".ca.new" / "root.key").write_text("cut sh")
    async with running_coordinator(tmp_path) as c:
        assert await _who_am_i(c) == f"spiffe://{c.trust_domain}/user/admin"
        assert (data / "bootstrap.done").exists()
        assert not (data / ".ca.new").exists()
        assert sum(event.type == "security.user_created" for event in c.state.events) == 1


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


async def test_the_admin_context_is_merged_into_an_existing_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    contexts.Contexts().merge(contexts.Context(name="other")).save(mine)
    async with running_coordinator(tmp_path, admin_context=mine) as c:
        assert [context.name for context in contexts.load(mine).contexts] == ["other", c.trust_domain]
        async with open_channel(c.api_address, contexts.load(mine).get().credentials()) as channel:
            assert await control_pb2_grpc.UserServiceStub(channel).WhoAmI(control_pb2.WhoAmIRequest())


async def test_a_loose_folder_is_made_private(tmp_path: Path) -> None:
    config = coordinator_config(tmp_path)
    config.data_dir.mkdir(mode=0o755)
    config.data_dir.chmod(0o755)
    async with running_coordinator(tmp_path):
        assert stat.S_IMODE(config.data_dir.stat().st_mode) == 0o700


async def test_a_lost_authority_is_never_replaced_silently(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path) as c:
        _remove(c.config.data_dir / "ca")
    with pytest.raises(Corrupt) as caught:
        async with running_coordinator(tmp_path):
            pass
    assert caught.value.reason == "CaMissing"
    assert "backup" in caught.value.remedy


async def test_another_trust_domain_is_refused(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path):
        pass
    with pytest.raises(InvalidArgument) as caught:
        async with running_coordinator(tmp_path, identity__trust_domain="other.example"):
            pass
    assert caught.value.reason == "WrongTrustDomain"


async def test_a_failed_start_leaves_nothing_running(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for setting in ("listen__api", "listen__enroll", "listen__member", "metrics__listen"):
            with pytest.raises(FailedPrecondition) as caught:
                async with running_coordinator(tmp_path, **{setting: address}):
                    pass
            assert caught.value.reason == "PortInUse", setting
            assert not coordinator_config(tmp_path).data_dir.exists(), "and no data folder behind it"
    async with running_coordinator(tmp_path) as c:  # the folder is free again
        assert await _who_am_i(c)


async def test_the_coordinators_own_certificate_is_renewed_live(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path, identity__node_certificate_ttl_ms=3_000) as c:
        certificate = c.coordinator.identity.certificate
        before = certificate.current
        async with asyncio.timeout(10):
            while certificate.current is before:
                await asyncio.sleep(0.05)
        assert certificate.current.expires_at_ms > before.expires_at_ms
        assert await _who_am_i(c)


class Process:
    """`cloudless-coordinator` as a real process."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.data = directory / "coordinator"
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> Process:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from cloudless.coordinator.main import main; main()",
            f"--data-dir={self.data}",
            "--listen-api=127.0.0.1:0",
            "--listen-enroll=127.0.0.1:0",
            "--listen-member=127.0.0.1:0",
            "--metrics-listen=127.0.0.1:0",
            *self._arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={key: value for key, value in os.environ.items() if not key.startswith("CLOUDLESS_")},
        )
        return self

    async def until_ready(self) -> dict[str, Any]:
        """The log line that says that it serves."""
        return await self.until("coordinator.ready")

    async def until(self, event: str) -> dict[str, Any]:
        """The next log line of this event."""
        assert self._process is not None
        assert self._process.stderr is not None
        async with asyncio.timeout(20):
            async for line in self._process.stderr:
                entry: dict[str, Any] = json.loads(line)
                if entry["event"] == event:
                    return entry
        raise AssertionError("it ended before it was ready")

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def end(self) -> tuple[int, str, list[dict[str, Any]]]:
        """Exit code, stdout, and the log."""
        assert self._process is not None
        async with asyncio.timeout(20):
            out, err = await self._process.communicate()
        assert self._process.returncode is not None
        lines = [json.loads(line) for line in err.decode().splitlines() if line.startswith("{")]
        return self._process.returncode, out.decode(), lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_where_the_context_is_serves_and_stops_in_good_order(tmp_path: Path, number: int) -> None:
    process = await Process(tmp_path).start()
    ready = await process.until_ready()
    listening = json.loads((process.data / "listen.json").read_text())
    assert {key: ready[key] for key in listening} == listening
    context = contexts.load(process.data / "admin.yaml").get()
    async with open_channel(listening["api"], context.credentials()) as channel:
        watch = control_pb2_grpc.EventServiceStub(channel).WatchEvents(control_pb2.WatchEventsRequest())
        await watch.initial_metadata()
        reader, writer = await asyncio.open_connection(*listening["metrics"].split(":"))
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        page = (await reader.read()).decode()
        writer.close()
        assert "cloudless_raft_applied_index" in page
        process.signal(number)
        with pytest.raises(grpc.aio.AioRpcError):
            await watch.read()
    code, out, log = await process.end()
    assert code == 0
    assert str(process.data / "admin.yaml") in out
    assert [line["event"] for line in log][-1] == "coordinator.stopped"


async def test_one_that_waits_for_others_stops_when_it_is_told(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        token = JoinToken(id="jc-1", coordinator_id="c2", max_uses=1, expires_at_ms=2**40)
        jwt = TokenSigner.create(tmp_path / "keys").sign(
            token,
            trust_domain="cloudless.local",
            root_sha256="00" * 32,
            endpoints=[f"127.0.0.1:{nobody.getsockname()[1]}"],
        )
        (tmp_path / "token").write_text(jwt)
        process = await Process(tmp_path, "--id=c2", f"--join-token-file={tmp_path / 'token'}").start()
        assert (await process.until("join.not_admitted_yet"))["reason"] == "CoordinatorUnreachable"
        process.signal(signal.SIGTERM)
        code, _, log = await process.end()
    assert (code, log[-1]["event"]) == (0, "coordinator.stopped")


async def test_a_second_process_on_the_folder_is_refused(tmp_path: Path) -> None:
    first = await Process(tmp_path).start()
    await first.until_ready()
    code, _, log = await (await Process(tmp_path).start()).end()
    assert code == program.EXIT_DIRECTORY_IN_USE
    assert log[-1]["reason"] == "DataDirectoryInUse"
    assert log[-1]["remedy"]
    assert (first.data / "listen.json").exists(), "and does the first one no harm"
    first.signal(signal.SIGTERM)
    assert (await first.end())[0] == 0


async def test_a_corrupt_log_is_named_with_its_remedy(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path) as c:
        for number in range(20):
            await c.put_workload(f"w{number}", replicas=0)
        segment = max((bootstrap.log_directory(c.config) / "wal").iterdir(), key=lambda path: path.stat().st_size)
    damaged = bytearray(segment.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    segment.write_bytes(damaged)
    code, _, log = await (await Process(tmp_path, "--identity-trust-domain=fabric.example").start()).end()
    assert code == program.EXIT_DAMAGED
    assert str(segment) in log[-1]["cause"]
    assert log[-1]["remedy"]


@pytest.mark.parametrize(
    "argument", ["--listen-api=nonsense", "--session-heartbeat-interval=soon", "--log-level=loud", "--store-engine=x"]
)
async def test_bad_settings_end_with_2_and_name_themselves(tmp_path: Path, argument: str) -> None:
    process = await Process(tmp_path, argument).start()
    code, out, log = await process.end()
    assert code == program.EXIT_SETTINGS
    said = out + json.dumps(log[-1:] or "")
    name = argument.split("=")[0].removeprefix("--")
    assert name.split("-")[-1] in said
    assert not process.data.exists(), "nothing was made"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidArgument("x"), program.EXIT_SETTINGS),
        (FailedPrecondition("x", reason="PortInUse"), program.EXIT_ADDRESS_IN_USE),
        (FailedPrecondition("x", reason="DataDirectoryInUse"), program.EXIT_DIRECTORY_IN_USE),
        (Corrupt("x"), program.EXIT_DAMAGED),
        (FailedPrecondition("x"), program.EXIT_FAILED),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(error: CloudlessError, code: int) -> None:
    assert program.exit_code(error) == code
