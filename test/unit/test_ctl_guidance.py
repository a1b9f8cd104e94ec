"""cloudlessctl towards people who come from elsewhere, guess, or wait: what it says, suggests and accepts."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from cloudless.api.v1 import types_pb2
from cloudless.clock import SystemClock
from cloudless.contexts import Context, Contexts
from cloudless.ctl import refusals
from cloudless.errors import FailedPrecondition, NotFound
from cloudless.identity import keys
from cloudless.identity.ca import CertificateAuthority
from cloudless.identity.csr import make_csr
from cloudless.identity.spiffe import USER, SpiffeId
from cloudless.testing.ctl import Ctl
from cloudless.testing.fake_control import FakeControl

WEB = """\
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  containers: [{name: web, image: nginx, ports: [{name: http, containerPort: 80}]}]
"""
DRAIN_FIRST = "drain it first (cloudlessctl node drain n1), or remove it with --force"


@pytest.fixture
def control() -> Iterator[FakeControl]:
    with FakeControl() as started:
        yield started


@pytest.fixture
def ctl(control: FakeControl, tmp_path: Path) -> Ctl:
    return Ctl(control, tmp_path)


@pytest.fixture
def fabric(control: FakeControl, ctl: Ctl) -> FakeControl:
    """Two nodes, and `web` with a replica on each."""
    control.add_node("n1", zone="a")
    control.add_node("n2", zone="b")
    assert ctl("apply", "-f", "-", stdin=WEB.encode()).code == 0
    control.calls.clear()
    return control


# waiting for a rollout


@pytest.fixture
def half_way(fabric: FakeControl) -> FakeControl:
    """`web` is being updated: a replica of each generation is ready, the second new one starts."""
    workload = fabric.workloads["default", "web"]
    workload.generation = 2
    fabric.replicas["web-00001"].generation = 2
    starting = types_pb2.Replica()
    starting.CopyFrom(fabric.replicas["web-00001"])
    starting.id, starting.status.phase = "web-00002", types_pb2.REPLICA_PHASE_STARTING
    fabric.put("replica", starting.id, starting)
    fabric.refresh("default", "web")
    assert (workload.status.updated, workload.status.ready) == (2, 2), "the counts alone look complete"
    return fabric


def test_a_rollout_is_not_complete_while_an_old_replica_stands_for_a_new_one(ctl: Ctl, half_way: FakeControl) -> None:
    shown = ctl("rollout", "status", "web", "--no-wait")
    assert shown.out == "workload/web generation 2 is in progress: 2 of 2 updated, 2 ready\n"
    late = ctl("rollout", "status", "web", "--timeout", "300ms")
    assert late.code == 6
    assert (
        "workload/web: 2 of 2 ready, 2 of generation 2\n"
        "  replica/web-00000: Ready: still of generation 1\n"
        "  replica/web-00002: Starting\n"
    ) in late.err
    assert ctl("wait", "workload/web", "--for", "available", "--timeout", "300ms").code == 6


def test_a_rollout_is_complete_once_the_old_replicas_are_gone(ctl: Ctl, half_way: FakeControl) -> None:
    outcome = []
    waiting = threading.Thread(target=lambda: outcome.append(ctl("rollout", "status", "web", "--timeout", "20s")))
    waiting.start()
    half_way.replicas["web-00002"].status.phase = types_pb2.REPLICA_PHASE_READY
    half_way.refresh("default", "web")
    half_way.put("replica", "web-00000", None)
    half_way.refresh("default", "web")
    waiting.join(20)
    assert [o.out for o in outcome] == ["workload/web generation 2 is complete: 2 of 2 updated, 2 ready\n"]


# broken connections


def context_of_another_fabric(directory: Path, address: str) -> None:
    authority = CertificateAuthority.create(directory / "mine", "test", SystemClock())
    key, me = keys.new_private_key(), SpiffeId("test", USER, "admin")
    context = Context(
        name="test",
        coordinators=(address,),
        trust_domain="test",
        user="admin",
        certificate=authority.sign_csr(make_csr(key, me), me, 3_600_000).chain_pem.decode(),
        key=keys.key_pem(key).decode(),
        bundle=authority.trust_bundle_pem.decode(),
    )
    Contexts().merge(context).save(directory / "config.yaml")


def test_a_broken_handshake_is_said_in_our_words_alone(tmp_path: Path) -> None:
    """A coordinator of another fabric answers; gRPC would write lines of its own about that."""
    theirs = CertificateAuthority.create(tmp_path / "theirs", "test", SystemClock())
    key, them = keys.new_private_key(), SpiffeId("test", "coordinator", "c1")
    issued = theirs.sign_csr(make_csr(key, them), them, 3_600_000, dns_names=("coordinator.test",))
    server = grpc.server(ThreadPoolExecutor(1))
    pair = (keys.key_pem(key), issued.chain_pem)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    context_of_another_fabric(tmp_path, f"127.0.0.1:{port}")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cloudless.ctl.main", "get", "nodes"],
            env={"CLOUDLESS_CONFIG": str(tmp_path / "config.yaml"), "PATH": "/bin"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    finally:
        server.stop(0).wait(5)
    assert done.returncode != 0
    said = done.stderr.splitlines()
    assert said[0] == "error: what answers at this address is not a coordinator of test", done.stderr
    assert [line.partition(":")[0] for line in said] == ["error", "hint"], done.stderr


# refusals


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"1 replica(s) are still on node n1 ({DRAIN_FIRST})", ("1 replica(s) are still on node n1", DRAIN_FIRST)),
        ("ended with Error (exit code 1)", ("ended with Error (exit code 1)", "")),
        ("each binding needs a namespace (or *)", ("each binding needs a namespace (or *)", "")),
        ("unbalanced) (a b c d", ("unbalanced) (a b c d", "")),
        ("f(one two three four)", ("f(one two three four)", "")),
        ("a b c d)", ("a b c d)", "")),
        ("", ("", "")),
    ],
)
def test_a_remedy_in_brackets_is_parted_from_its_cause(text: str, expected: tuple[str, str]) -> None:
    assert refusals.parts(text) == expected


def test_remedies_are_hints(ctl: Ctl, fabric: FakeControl) -> None:
    refusal = FailedPrecondition(f"1 replica(s) are still on node n1 ({DRAIN_FIRST})", reason="NodeNotEmpty")
    expected = f"1 replica(s) are still on node n1\nhint: {DRAIN_FIRST}\n"
    fabric.fail("RemoveNode", refusal)
    assert ctl("delete", "node", "n1").err == f"error: node/n1: {expected}"
    fabric.fail("ScaleWorkload", refusal)
    assert ctl("scale", "web", "--replicas", "1").err == f"error: {expected}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("workload", "greedy"), "workload 'greedy' was not found in namespace default"),
        (("node", "n9"), "node 'n9' was not found"),
        (("token", "jt-9"), "token 'jt-9' was not found"),
    ],
)
def test_delete_says_not_found_as_get_does(ctl: Ctl, fabric: FakeControl, words: tuple[str, str], message: str) -> None:
    fabric.fail("DeleteWorkload", NotFound("workload default/greedy does not exist", reason="WorkloadNotFound"))
    deleted, shown = ctl("delete", *words), ctl("get", *words)
    assert (deleted.code, shown.code) == (3, 3)
    assert deleted.err == f"error: {message}\n"
    assert shown.err.splitlines()[0] == f"error: {message}"
    assert ctl("delete", *words, "--ignore-not-found").code == 0
    if words[0] in ("workload", "node"):
        verb = "delete" if words[0] == "workload" else "remove"
        assert ctl(words[0], verb, words[1], "--ignore-not-found").code == 0


# names from elsewhere


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("pods", "replicas"), ("pod", "replica"), ("po", "replicas"), ("alloc", "replica"), ("task", "replica"),
        ("deployment", "workload"), ("deploy", "workload"), ("job", "workload"), ("service", "workload"),
        ("svc", "workload"), ("nods", "nodes"),
    ],
)  # fmt: skip
def test_types_of_other_systems_lead_to_ours(ctl: Ctl, word: str, meant: str) -> None:
    outcome = ctl("get", word)
    assert (outcome.code, outcome.err) == (2, f"error: there is no type {word!r}\nhint: did you mean {meant!r}?\n")


@pytest.mark.parametrize(
    "words",
    [
        ["describe", "replica", "replica/web-00000"], ["describe", "rep", "replicas/web-00000"],
        ["replica", "describe", "replica/web-00000"], ["describe", "replica", "web-00000", "replica/web-00000"],
    ],
)  # fmt: skip
def test_a_type_may_be_said_twice(ctl: Ctl, fabric: FakeControl, words: list[str]) -> None:
    assert ctl(*words).out.startswith("Name:            web-00000\n")


def test_a_name_of_another_type_is_refused(ctl: Ctl, fabric: FakeControl) -> None:
    outcome = ctl("describe", "replica", "node/n1")
    assert (outcome.code, outcome.err.splitlines()[0]) == (2, "error: 'node/n1' is no replica")


@pytest.mark.parametrize("command", [["logs", "web"], ["exec", "web", "--", "true"]])
def test_a_workload_s_name_in_place_of_a_replica_s(ctl: Ctl, fabric: FakeControl, command: list[str]) -> None:
    outcome = ctl(*command)
    assert outcome.code == 2
    assert outcome.err.splitlines()[1].startswith(f"hint: `cloudlessctl {command[0]} workload/web` means the workload")
    assert "workload/web-" not in ctl("logs", "web-").err, "no workload of that name"


def test_without_any_context_the_way_to_one_is_said(ctl: Ctl) -> None:
    ctl.config.unlink()
    for words in (["get", "nodes"], ["--context", "home", "get", "nodes"]):
        outcome = ctl(*words)
        assert outcome.code == 3
        assert "`cloudlessctl config import FILE`: admin.yaml of the coordinator's data directory" in outcome.err


def test_explain_takes_the_kind_in_front(ctl: Ctl) -> None:
    assert ctl("explain", "workload.spec.containers").out == ctl("explain", "spec.containers").out
    assert ctl("explain", "workload").out == ctl("explain").out
    assert ctl("explain", "Workload.spec.nope").code == 3


def test_a_bare_dry_run_asks_nobody(ctl: Ctl, control: FakeControl, tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(WEB)
    expected = "workload/web is well formed (client dry run)\n"
    assert ctl("apply", "--dry-run", "-f", str(file)).out == expected
    assert ctl("apply", "-f", str(file), "--dry-run").out == expected
    assert control.calls == []
