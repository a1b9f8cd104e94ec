"""cloudlessctl towards people who come from elsewhere, guess, or wait: what it says, suggests and accepts."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import grpc
import pytest

from cloudless.api.v1 import control_pb2, types_pb2
from cloudless.clock import SystemClock
from cloudless.contexts import Context, Contexts
from cloudless.ctl import watching
from cloudless.ctl.commands.events import watch_events as watch_events_of
from cloudless.ctl.main import run
from cloudless.ctl.resources import Query
from cloudless.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from cloudless.identity import keys
from cloudless.identity.ca import CertificateAuthority
from cloudless.identity.csr import make_csr
from cloudless.identity.spiffe import USER, SpiffeId
from cloudless.testing.ctl import Ctl, Outcome
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


def test_remedies_are_hints(ctl: Ctl, fabric: FakeControl) -> None:
    refusal = FailedPrecondition("1 replica(s) are still on node n1", reason="NodeNotEmpty", remedy=DRAIN_FIRST)
    expected = f"1 replica(s) are still on node n1\nhint: {DRAIN_FIRST}\n"
    fabric.fail("RemoveNode", refusal)
    assert ctl("delete", "node", "n1").err == f"error: node/n1: {expected}"
    fabric.fail("ScaleWorkload", refusal)
    assert ctl("scale", "web", "--replicas", "1").err == f"error: {expected}"
    fabric.refused["default", "web"] = refusal
    applied = ctl("apply", "-f", "-", stdin=WEB.encode())
    assert (applied.code, applied.err) == (FailedPrecondition.exit_code, f"error: workload/web: {expected}")
    told = json.loads(ctl("apply", "-f", "-", "-o", "json", stdin=WEB.encode()).out)["items"][0]
    assert (told["errorReason"], told["errorRemedy"]) == ("NodeNotEmpty", DRAIN_FIRST)


def test_brackets_at_the_end_of_a_cause_belong_to_it(ctl: Ctl, fabric: FakeControl) -> None:
    cause = "ended with Error (of one two three four words)"
    fabric.fail("ScaleWorkload", FailedPrecondition(cause))
    assert ctl("scale", "web", "--replicas", "1").err == f"error: {cause}\n"


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


# commands that are not there


@pytest.mark.parametrize(
    ("words", "cause", "hint"),
    [
        (["cluster", "info"], "`cloudlessctl cluster` has no command 'info'", "did you mean `cloudlessctl cluster st"),
        (["token", "rm", "x"], "`cloudlessctl token` has no command 'rm'", "did you mean `cloudlessctl token revoke`?"),
        (["node", "drian", "x"], "`cloudlessctl node` has no command 'drian'", "did you mean `cloudlessctl node dra"),
        (["token", "xyzzy"], "`cloudlessctl token` has no command 'xyzzy'", "it has create, list, revoke"),
        (["ps"], "there is no command 'ps'", "did you mean `cloudlessctl get replicas`?"),
        (["xyzzy"], "there is no command 'xyzzy'", "see `cloudlessctl --help`"),
        (["diff", "-f", "web.yaml"], "`diff` is not in this version", "`cloudlessctl plan -f FILE` says what would"),
        (["job", "plan", "web.nomad"], "there is no command 'job plan'", "did you mean `cloudlessctl plan -f FILE`?"),
        (["job", "promote", "x"], "there is no command 'job promote'", "did you mean `cloudlessctl rollout promote`?"),
        (["job", "-detach", "revert"], "there is no command 'job revert'", "did you mean `cloudlessctl rollout undo`?"),
        (["job", "periodic", "force"], "there is no command 'job periodic'", "did you mean `cloudlessctl run NAME`?"),
        (["create", "job", "--from=cronjob/x"], "there is no command 'create job'",
         "did you mean `cloudlessctl run NAME`?"),
        (["service", "rollback", "web"], "there is no command 'service rollback'",
         "did you mean `cloudlessctl rollout undo`?"),
        (["deployment", "promote", "1"], "there is no command 'deployment promote'",
         "did you mean `cloudlessctl rollout promote`?"),
        (["set", "image", "web"], "there is no command 'set image'", "did you mean `cloudlessctl apply -f FILE`?"),
        (["rollback", "web"], "there is no command 'rollback'", "did you mean `cloudlessctl rollout undo`?"),
        (["undo", "web"], "there is no command 'undo'", "did you mean `cloudlessctl rollout undo`?"),
        (["promote", "web"], "there is no command 'promote'", "did you mean `cloudlessctl rollout promote`?"),
        (["rollout", "rollback", "web"], "`cloudlessctl rollout` has no command 'rollback'",
         "did you mean `cloudlessctl rollout undo`?"),
        (["rollout", "unpause", "web"], "`cloudlessctl rollout` has no command 'unpause'",
         "did you mean `cloudlessctl rollout resume`?"),
        (["trigger", "backup"], "there is no command 'trigger'", "did you mean `cloudlessctl run`?"),
        (["label", "node", "n1", "a=b"], "`label` is not in this version", "`cloudlessctl node label` for nodes"),
    ],
)  # fmt: skip
def test_an_unknown_command_leads_to_the_nearest(ctl: Ctl, words: list[str], cause: str, hint: str) -> None:
    outcome = ctl(*words)
    said = outcome.err.splitlines()
    assert (outcome.code, said[0]) == (2, f"error: {cause}")
    assert said[1].startswith(f"hint: {hint}")


@pytest.mark.parametrize(
    "command",
    ["diff", "edit", "label", "cp", "port-forward", "top"],
)
def test_what_is_not_in_this_version_is_said_so(ctl: Ctl, command: str) -> None:
    outcome = ctl(*command.split(), "web")
    assert (outcome.code, outcome.err.splitlines()[0]) == (2, f"error: `{command}` is not in this version")


def test_suggested_commands_exist() -> None:
    from cloudless.ctl import unknown
    from cloudless.ctl.cli import TOP, root

    def commands(group: click.Group) -> set[str]:
        found = set()
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            found.add(name)
            if isinstance(command, click.Group):
                found |= {inner for below in commands(command) for inner in (below, f"{name} {below}")}
        return found

    known = commands(root) | {"get replicas"}
    assert {word for words in unknown._MEANT.values() for word in words} <= known
    for meant in (meant for words in unknown._ELSEWHERE.values() for meant in words.values()):
        first, _, rest = meant.partition(" ")
        assert first in known
        if isinstance(root.get_command(click.Context(root), first), click.Group):
            assert f"{first} {rest.split()[0]}" in known, meant
    assert not set(unknown._ELSEWHERE) & set(TOP)
    assert not set(unknown._LATER[""]) & set(TOP)


def test_a_completion_after_an_unknown_command_completes_to_nothing(ctl: Ctl) -> None:
    from click.shell_completion import ShellComplete

    from cloudless.ctl.cli import root

    shell = ShellComplete(root, {"obj": ctl.app()}, "cloudlessctl", "_CLOUDLESSCTL_COMPLETE")
    assert shell.get_completions(["clutser"], "") is not None
    assert [item.value for item in shell.get_completions(["config"], "use")] == ["use-context"]


def test_previous_logs_are_refused_clearly(ctl: Ctl, fabric: FakeControl) -> None:
    outcome = ctl("logs", "-p", "web-00000")
    assert (outcome.code, outcome.err.splitlines()[0]) == (2, "error: --previous is not supported by this version")


def test_lists_of_commands_are_not_cut(ctl: Ctl) -> None:
    from cloudless.ctl.cli import TOP, Group, root

    for name in TOP:
        command = root.get_command(click.Context(root), name)
        if isinstance(command, Group):
            listed = ctl(name, "--help").out.partition("Commands:")[2]
            assert "..." not in listed
            assert "…" not in listed
    shown = ctl("config", "--help").out
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("  use")] == ["use-context"]
    assert ctl("config", "use", "test").out == "now using context 'test'\n"


# what tables and descriptions tell


@pytest.fixture
def unreachable(fabric: FakeControl) -> FakeControl:
    """n2 does not answer; its replica was last heard to be ready."""
    fabric.nodes["n2"].node.state = types_pb2.NODE_STATE_UNREACHABLE
    return fabric


def test_a_replica_on_a_node_that_is_away_is_not_shown_as_ready(ctl: Ctl, unreachable: FakeControl) -> None:
    rows = {line.split()[0]: line for line in ctl("get", "replicas").out.splitlines()[1:]}
    assert "Ready " in rows["web-00000"]
    assert "Unknown (node unreachable)" in rows["web-00001"]
    assert "Ready" not in rows["web-00001"]
    described = ctl("describe", "replica", "web-00001").out
    assert "Status:          Unknown (node unreachable); last heard: Ready\n" in described
    assert "Unknown (node unreachable)" in ctl("describe", "workload", "web").out
    assert "Unknown (node unreachable)" in ctl("describe", "node", "n2").out
    assert "Unknown" not in ctl("describe", "node", "n1").out
    assert ctl("get", "replica", "web-00001", "-o", "jsonpath={.status.phase}").out == "Ready\n", "data is as it is"


def test_who_may_not_see_nodes_still_sees_replicas(ctl: Ctl, unreachable: FakeControl) -> None:
    unreachable.fail("ListNodes", PermissionDenied("your role holds in one namespace"))
    outcome = ctl("get", "replicas")
    assert (outcome.code, outcome.err) == (0, "")
    assert "Unknown" not in outcome.out


def test_nodes_are_asked_for_only_where_a_table_needs_them(ctl: Ctl, fabric: FakeControl) -> None:
    def asked(*words: str) -> bool:
        fabric.calls.clear()
        assert ctl(*words).code == 0
        return "ListNodes" in [method for method, _, _ in fabric.calls]

    assert asked("get", "replicas")
    assert not asked("get", "replicas", "-o", "json")
    assert not asked("get", "workloads")
    for replica in fabric.replicas.values():
        replica.status.phase = types_pb2.REPLICA_PHASE_SUCCEEDED
    assert not asked("get", "replicas")


def test_tables_are_apart(ctl: Ctl, fabric: FakeControl) -> None:
    for words in (["get", "nodes,workloads"], ["get", "node/n1", "workload/web"]):
        first, blank, second = ctl(*words).out.partition("\n\n")
        assert (first[:4], blank, second[:4]) == ("NAME", "\n\n", "NAME")
    assert ctl("get", "wl,rep", "-n", "shop").out == "", "where there is no table, there is nothing to part"
    assert "\n\n" not in ctl("get", "nodes,workloads", "-o", "name").out


def test_a_workload_s_events_include_what_became_of_its_replicas(ctl: Ctl, fabric: FakeControl) -> None:
    fabric.emit("scheduling.decision", "replica/web-00000", "n1 scored best of 2")
    fabric.emit("replica.failed", "replica/web-gone1", "failed on n1: OOMKilled", severity=types_pb2.SEVERITY_ERROR)
    fabric.emit("replica.ready", "replica/web-00000", "is ready on n1")
    fabric.emit("scheduling.decision", "replica/web-api-00000", "of another workload")
    events = ctl("describe", "workload", "web").out.partition("Events:\n")[2].splitlines()
    assert [line.split(maxsplit=3)[1:] for line in events] == [
        ["TYPE", "OF", "DESCRIPTION"],
        ["workload.created", "web", "created"],
        ["scheduling.decision", "web-00000", "n1 scored best of 2"],
        ["replica.failed", "web-gone1", "failed on n1: OOMKilled"],
    ]


def test_quantities_are_written_alike(ctl: Ctl, fabric: FakeControl) -> None:
    fabric.auto_ready = False
    ctl("scale", "web", "--replicas", "2")
    rejection = fabric.replicas["web-00000"].placement.rejections[0]
    rejection.reason = "insufficient memory: asks 640Gi, free at most 24684092Ki"
    assert "asks 640Gi, free at most 23.5Gi (3 nodes" in ctl("describe", "workload", "web").out
    rejection.reason = "insufficient cpu: asks 64, free at most 1900m, reserved 250m"
    assert "asks 64, free at most 1.9, reserved 250m (3 nodes" in ctl("describe", "workload", "web").out
    view = fabric.nodes["n1"]
    view.usage.cpu_millis, view.reserved.cpu_millis = 1242, 250
    assert "  cpu      4          250m       1.24\n" in ctl("describe", "node", "n1").out


def test_a_node_s_description_says_whose_figures_they_are(ctl: Ctl, fabric: FakeControl) -> None:
    device = fabric.nodes["n1"].node.device
    device.iops_class = "premium"
    device.runtimes.add(name="process", version="0.1.0", available=True, detail="without process.network, process.user")
    device.runtimes.add(name="kata", available=False, detail="no /dev/kvm")
    out = ctl("describe", "node", "n1").out
    assert "Disk:            measured IOPS class premium\n" in out
    assert "DEVICE IN USE\n" in out
    assert "  process      yes         0.1.0     lacks process.network, process.user\n" in out
    assert "  kata         no          -         no /dev/kvm\n" in out


# events as they happen


def watch_events(ctl: Ctl, control: FakeControl, *words: str, last: str) -> list[str]:
    """The lines of `events -w` until one with `last` in it was written."""
    seen, ended = threading.Event(), []

    class Recorder(io.StringIO):
        def write(self, text: str) -> int:
            written = super().write(text)
            if last in text:
                seen.set()
            return written

    before, sys.stdout = sys.stdout, (recorder := Recorder())
    try:
        thread = threading.Thread(target=lambda: ended.append(run(list(words), ctl.app())))
        thread.start()
        while "WatchEvents" not in [method for method, _, _ in control.calls]:
            assert thread.is_alive()
            with control.lock:
                control.lock.wait(0.02)
        control.emit("node.ready", "node/n7", "connected")
        control.emit("node.lost", "node/n7", last)
        assert seen.wait(10)
    finally:
        control.fail("WatchEvents", PermissionDenied("enough"))
        control.end_watches()
        thread.join(10)
        sys.stdout = before
    return recorder.getvalue().splitlines()


def test_watched_events_go_on_in_the_same_columns(ctl: Ctl, fabric: FakeControl) -> None:
    for number in range(15):
        fabric.emit("workload.scaled", "workload/default/web", f"scaled to {number}")
    header, *rows = watch_events(ctl, fabric, "events", "-w", last="the very last")
    assert header.split() == ctl("events").out.splitlines()[0].split()
    assert [row.split()[2] for row in rows] == ["workload.scaled"] * 10 + ["node.ready", "node.lost"]
    assert len({row.index(row.split(maxsplit=4)[4]) for row in rows}) == 1, "aligned"
    fabric.calls.clear()
    rows = watch_events(ctl, fabric, "events", "-w", "--no-headers", "--limit", "2", last="the end")
    assert [row.split()[2] for row in rows] == ["node.ready", "node.lost", "node.ready", "node.lost"]


# exec and drain


@pytest.mark.parametrize(
    ("reason", "code"), [("CommandNotFound", 127), ("CommandNotExecutable", 126), ("BadContainer", 2)]
)
def test_a_program_that_cannot_run_ends_exec_as_it_ends_a_shell(
    ctl: Ctl, fabric: FakeControl, reason: str, code: int
) -> None:
    refusal = InvalidArgument("cannot execute nosuch", reason=reason, remedy="name an executable below /usr")
    fabric.fail("Exec", refusal)
    outcome = ctl("exec", "web-00000", "--", "nosuch")
    assert outcome.code == code
    assert outcome.err == "error: cannot execute nosuch\nhint: name an executable below /usr\n"


def test_drain_says_what_found_no_other_node(ctl: Ctl, fabric: FakeControl) -> None:
    """As the coordinator does it: one replica moves to n2, for the other there is no room."""
    moved, waits = types_pb2.Replica(), types_pb2.Replica()
    for made, name in ((moved, "web-00008"), (waits, "web-00009")):
        made.CopyFrom(fabric.replicas["web-00000"])
        made.id, made.node_id = name, "n1"
        fabric.put("replica", name, made)
    outcome: list[Outcome] = []
    draining = threading.Thread(target=lambda: outcome.append(ctl("drain", "n1", "--timeout", "20s")))
    draining.start()
    while "WatchReplicas" not in [method for method, _, _ in fabric.calls]:
        assert draining.is_alive()
        with fabric.lock:
            fabric.lock.wait(0.02)
    pending = types_pb2.Replica(id="web-0000a", workload="web", namespace="default")
    pending.status.phase = types_pb2.REPLICA_PHASE_PENDING
    with fabric.lock:
        fabric.put("replica", pending.id, pending)
        for gone in ("web-00000", "web-00008", "web-00009"):
            fabric.put("replica", gone, None)
    draining.join(20)
    assert [(o.code, o.out) for o in outcome] == [(0, "node/n1 draining\nnode/n1 drained, replicas moved: 2\n")]
    assert outcome[0].err == (
        "warning: stopped, with no room elsewhere: default/web (1); they start when a node has room\n"
    )


def test_a_watch_of_events_goes_on_within_an_entry_that_was_cut_in_half(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def follow(client: object, service: str, method: str, request: Any, **more: object) -> Iterator[Any]:
        for sequence in (0, 1):
            event = types_pb2.Event(index=60, sequence=sequence, type="node.ready", resource="node/n7")
            yield control_pb2.WatchEventsResponse(event=event)
            asked.append(request(60))
        asked.append(request(59))

    monkeypatch.setattr(watching, "follow", follow)
    query = Query(namespace="", all_namespaces=True)
    watch_events_of(ctl.app(), query, 50, shown=(), format="name")
    assert [(r.from_index, r.HasField("from_sequence"), r.from_sequence) for r in asked] == [
        (60, True, 0),
        (60, True, 1),
        (59, False, 0),
    ]
