"""cloudlessctl's commands against a coordinator in memory: what they print, send, and end with."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cloudless.api.v1 import types_pb2
from cloudless.errors import Internal, PermissionDenied, Unavailable
from cloudless.manifest import Source, parse
from cloudless.testing.ctl import Ctl, context_of
from cloudless.testing.fake_control import NOW_MS, FakeControl

ROOT = Path(__file__).parents[2]
WEB = """\
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  containers: [{name: web, image: nginx, ports: [{name: http, containerPort: 80}]}]
"""


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
    control.add_node("n1", zone="a", labels={"disk": "ssd"})
    control.add_node("n2", zone="b")
    assert ctl("apply", "-f", "-", stdin=WEB.encode()).code == 0
    control.calls.clear()
    return control


def lines(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


# get


def test_get_nodes(ctl: Ctl, fabric: FakeControl) -> None:
    fabric.nodes["n2"].node.cordoned = True
    assert ctl("get", "nodes").out == lines("""
        NAME   STATUS           CLASS    ZONE   CPU   MEMORY   REPLICAS   AGE
        n1     Ready            server   a      0/4   0/8Gi    0          1h
        n2     Ready,Cordoned   server   b      0/4   0/8Gi    0          1h
    """)


def test_get_replicas_and_workloads(ctl: Ctl, fabric: FakeControl) -> None:
    assert ctl("get", "rep").out == lines("""
        NAME        WORKLOAD   STATUS   NODE   RESTARTS   AGE
        web-00000   web        Ready    n1     0          30s
        web-00001   web        Ready    n2     0          30s
    """)
    assert ctl("get", "wl").out == lines("""
        NAME   READY   STATUS      UPDATED   AGE
        web    2/2     Available   2         1m
    """)
    wide = ctl("get", "wl", "-o", "wide", "-A", "--no-headers").out
    assert wide.split() == ["default", "web", "2/2", "Available", "2", "1m", "service", "nginx", "1", "50", "-"]


@pytest.mark.parametrize(
    "words", [["workload", "web"], ["workload/web"], ["wl/web"], ["workloads", "web"], ["WL", "web"]]
)
def test_a_thing_has_many_spellings(ctl: Ctl, fabric: FakeControl, words: list[str]) -> None:
    assert ctl("get", *words, "-o", "name").out == "workload/web\n"


def test_a_unique_prefix_is_enough_for_ids(ctl: Ctl, fabric: FakeControl) -> None:
    assert ctl("get", "replica", "web-00001", "-o", "name").out == "replica/web-00001\n"
    ambiguous = ctl("get", "replica", "web-")
    assert (ambiguous.code, ambiguous.out) == (2, "")
    assert ambiguous.err.startswith("error: 'web-' is a prefix of 2 replicas")


def test_json_is_a_list_of_items_and_keeps_every_field(ctl: Ctl, fabric: FakeControl) -> None:
    (node,) = json.loads(ctl("get", "nodes", "n1", "-o", "json").out)["items"]
    assert node["node"]["state"] == "Ready"
    assert node["node"]["device"]["deviceClass"] == "server"
    assert node["node"]["labels"] == {"disk": "ssd"}
    assert node["heartbeatAgeMs"] == 120
    replicas = json.loads(ctl("get", "replicas", "-o", "json").out)["items"]
    assert [r["nodeId"] for r in replicas] == ["n1", "n2"]
    assert replicas[0]["status"]["phase"] == "Ready"
    assert replicas[0]["status"]["containers"][0]["restartCount"] == 0
    assert replicas[0]["stopping"] is False


def test_yaml_of_a_workload_is_a_manifest_that_changes_nothing(ctl: Ctl, fabric: FakeControl, tmp_path: Path) -> None:
    shown = ctl("get", "workload/web", "-o", "yaml").out
    assert yaml.safe_load(shown)["status"]["phase"] == "Available"
    assert parse([Source("web", shown)]).problems == ()
    file = tmp_path / "web.yaml"
    file.write_text(shown)
    assert ctl("apply", "-f", str(file)).out == "workload/web unchanged\n"


def test_jsonpath_sorting_and_selecting(ctl: Ctl, fabric: FakeControl) -> None:
    assert ctl("get", "nodes", "-o", "jsonpath={.items[*].node.id}").out == "n1 n2\n"
    template = 'jsonpath={range .items[*]}{.id}{"\\t"}{.nodeId}{"\\n"}{end}'
    assert ctl("get", "replicas", "-o", template).out.splitlines() == ["web-00000\tn1", "web-00001\tn2", ""]
    assert ctl("get", "wl", "web", "-o", "jsonpath={.spec.replicas}").out == "2\n"
    assert ctl("get", "nodes", "-l", "disk=ssd", "-o", "name").out == "node/n1\n"
    fabric.nodes["n1"].node.zone = "z"
    assert ctl("get", "nodes", "--sort-by", "{.node.zone}", "-o", "name").out == "node/n2\nnode/n1\n"


def test_lists_are_read_page_by_page(ctl: Ctl, fabric: FakeControl) -> None:
    for number in range(7):
        fabric.add_node(f"m{number}")
    fabric.page_size_max = 3
    assert len(ctl("get", "nodes", "-o", "name").out.splitlines()) == 9


def test_nothing_is_said_so_on_stderr(ctl: Ctl, control: FakeControl) -> None:
    outcome = ctl("get", "wl", "-n", "shop")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "no workloads in namespace shop\n")


def test_namespaces_come_from_flag_environment_and_context(ctl: Ctl, control: FakeControl) -> None:
    def asked() -> str:
        ctl("get", "wl")
        return str(control.calls[-1][1].options.namespace)

    assert asked() == "default"
    ctl.environment["CLOUDLESS_NAMESPACE"] = "shop"
    assert asked() == "shop"
    ctl("get", "wl", "-n", "flag")
    assert control.calls[-1][1].options.namespace == "flag"
    ctl("-n", "early", "get", "wl")
    assert control.calls[-1][1].options.namespace == "early"


def test_text_from_elsewhere_cannot_steer_the_terminal(ctl: Ctl, fabric: FakeControl) -> None:
    fabric.nodes["n1"].node.zone = "a\x1b[31m\nb"
    assert "\x1b" not in ctl("get", "nodes").out


# describe


def test_describe_a_replica_says_why_it_is_there(ctl: Ctl, fabric: FakeControl) -> None:
    fabric.emit("replica.ready", "replica/web-00000", "ready")
    out = ctl("describe", "replica", "web-00000").out
    assert (
        lines("""
        Placement:
          decision:        n1 scored best of 2
          decided:         2027-01-15T07:59:30Z, 2 nodes considered
          scores (each term is value x weight; a penalty is subtracted):
            NODE   TOTAL   LOCALITY    RELIABILITY
            n1     0.700   1.00x0.30   0.90x0.25     chosen
            n2     0.600   1.00x0.30   0.90x0.25
        Events:
          AGE   TYPE            DESCRIPTION
          5s    replica.ready   ready
    """)
        in out
    )
    assert "    state:         running since 2027-01-15T07:59:40Z (20s)" in out
    assert "    image:         nginx" in out


def test_describe_a_workload_says_why_a_replica_is_nowhere(ctl: Ctl, fabric: FakeControl) -> None:
    fabric.auto_ready = False
    ctl("scale", "web", "--replicas", "3")
    out = ctl("describe", "workload/web").out
    assert (
        lines("""
        Why web-00000 is nowhere (and 2 more like it):
          decision:        no node fits: insufficient cpu on 3 nodes
          ruled out:
            cpu: insufficient cpu: asks 500, free 3.5 (3 nodes: n1, n2, n3)
    """)
        in out
    )


def test_describe_shows_restarts_and_how_the_last_run_ended(ctl: Ctl, fabric: FakeControl) -> None:
    container = fabric.replicas["web-00000"].status.containers[0]
    container.restart_count, container.last_reason, container.last_exit_code = 3, "OOMKilled", 137
    container.state, container.reason, container.exit_code = "exited", "CrashLoopBackOff", 137
    out = ctl("describe", "rep", "web-00000").out
    assert "    state:         exited (CrashLoopBackOff), exit code 137" in out
    assert "    last ended:    OOMKilled, exit code 137" in out
    assert "Restarts:        3" in out


def test_describe_a_node(ctl: Ctl, fabric: FakeControl) -> None:
    out = ctl("describe", "node", "n1").out
    assert (
        lines("""
        Resources:
                   CAPACITY   RESERVED   DEVICE IN USE
          cpu      4          0          500m
          memory   8Gi        0          1Gi
        Runtimes:
          NAME         AVAILABLE   VERSION   DETAIL
          containerd   yes         1.6.20    -
        Features:
          NAME       AVAILABLE   DETAIL
          seccomp    yes         -
          apparmor   no          not in this kernel
        Replicas:
          NAMESPACE   NAME        WORKLOAD   STATUS   RESERVED
          default     web-00000   web        Ready    none
    """)
        in out
    )


# apply


def test_apply_says_what_changed(ctl: Ctl, control: FakeControl, tmp_path: Path) -> None:
    control.add_node("n1")
    file = tmp_path / "web.yaml"
    file.write_text(WEB)
    assert ctl("apply", "-f", str(file)).out == "workload/web created\n"
    assert ctl("apply", "-f", str(file)).out == "workload/web unchanged\n"
    file.write_text(WEB.replace("nginx", "nginx:2"))
    assert ctl("apply", "-f", str(file), "--dry-run=server").out == "workload/web configured (server dry run)\n"
    assert ctl("apply", "-f", str(file)).out == "workload/web configured\n"


def test_a_folder_of_many_is_applied_in_batches_and_summed_up(ctl: Ctl, control: FakeControl, tmp_path: Path) -> None:
    for number in range(600):
        (tmp_path / f"w{number:03}.yaml").write_text(
            WEB.replace("web,", f"w{number:03},").replace("replicas: 2", "replicas: 0")
        )
    (tmp_path / "notes.txt").write_text("not a manifest")
    (tmp_path / "config.yaml").unlink()
    ctl = Ctl(control, tmp_path / "elsewhere")
    assert ctl("apply", "-f", str(tmp_path)).out == "600 created\n"
    assert ctl("apply", "-f", str(tmp_path)).out == "600 unchanged\n"
    sizes = [len(request.workloads) for method, request, _ in control.calls if method == "ApplyWorkloads"]
    assert sizes == [500, 100, 500, 100]


def test_folders_of_folders_need_a_flag(ctl: Ctl, control: FakeControl, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "web.yml").write_text(WEB)
    refused = ctl("apply", "-f", str(tmp_path / "a"))
    assert (refused.code, control.workloads) == (2, {})
    assert "-R" in refused.err
    assert ctl("apply", "-R", "-f", str(tmp_path / "a")).code == 0


def test_one_bad_document_and_nothing_is_applied(ctl: Ctl, control: FakeControl, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "web.yaml"
    good.write_text(WEB.replace("web,", "good,"))
    bad.write_text(WEB + "---\n" + WEB.replace("web,", "api,").replace("image: nginx", "imagee: nginx"))
    outcome = ctl("apply", "-f", str(good), "-f", str(bad))
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        f"{bad}:13: spec.containers[0].imagee: unknown field 'imagee'; did you mean 'image'?\n"
        "error: 1 problem in the manifests; nothing was applied\n"
    )
    assert control.calls == []


def test_apply_waits_until_every_replica_is_ready(ctl: Ctl, control: FakeControl) -> None:
    control.add_node("n1")
    outcome = ctl("apply", "-f", "-", "--wait", "--timeout", "10s", stdin=WEB.encode())
    assert outcome.out == "workload/web created\nworkload/web is available (2 of 2 ready)\n"


def test_waiting_ends_with_the_reason_why_nothing_fits(ctl: Ctl, control: FakeControl) -> None:
    control.auto_ready = False
    outcome = ctl("apply", "-f", "-", "--wait", "--timeout", "300ms", stdin=WEB.encode())
    assert outcome.code == 4
    assert "replica/web-00000: Pending (Unplaceable): no node fits: insufficient cpu on 3 nodes" in outcome.err
    assert "hint: `cloudlessctl describe workload web` tells more" in outcome.err


def test_waiting_for_what_starts_slowly_times_out_with_6(ctl: Ctl, fabric: FakeControl) -> None:
    replica = fabric.replicas["web-00001"]
    replica.status.phase, replica.status.message = types_pb2.REPLICA_PHASE_STARTING, "probe refused"
    fabric.refresh("default", "web")
    outcome = ctl("wait", "workload/web", "--for", "available", "--timeout", "300ms")
    assert outcome.code == 6
    assert "workload/web: 1 of 2 ready, 2 of generation 1\n  replica/web-00001: Starting: probe refused" in outcome.err


def test_client_dry_run_asks_nobody(ctl: Ctl, control: FakeControl) -> None:
    assert (
        ctl("apply", "-f", "-", "--dry-run=client", stdin=WEB.encode()).out
        == "workload/web is well formed (client dry run)\n"
    )
    assert control.calls == []


def test_a_manifest_for_another_namespace_than_the_flag_is_refused(ctl: Ctl, control: FakeControl) -> None:
    text = WEB.replace("{name: web, labels", "{name: web, namespace: shop, labels")
    outcome = ctl("apply", "-f", "-", "-n", "prod", stdin=text.encode())
    assert outcome.code == 2
    assert "the manifest is for namespace 'shop', -n says 'prod'" in outcome.err


@pytest.mark.parametrize("file", sorted((ROOT / "config" / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_the_examples_are_well_formed(ctl: Ctl, file: Path) -> None:
    assert ctl("apply", "-f", str(file), "--dry-run=server").code == 0


# delete, scale, rollout


def test_delete_by_name_manifest_and_selector(ctl: Ctl, fabric: FakeControl, tmp_path: Path) -> None:
    assert ctl("delete", "workload", "web", "--wait").out == "workload/web deleted\n"
    missing = ctl("delete", "wl/web")
    assert (missing.code, missing.err) == (
        3,
        "error: workload 'web' was not found in namespace default\n",
    )
    assert ctl("delete", "wl/web", "--ignore-not-found").code == 0
    file = tmp_path / "web.yaml"
    file.write_text(WEB)
    ctl("apply", "-f", str(file))
    assert ctl("delete", "-f", str(file)).out == "workload/web deleted\n"
    ctl("apply", "-f", str(file))
    assert ctl("delete", "workloads", "-l", "app=other").err == "no workloads in namespace default\n"
    assert ctl("delete", "workloads", "-l", "app=web").out == "workload/web deleted\n"
    assert fabric.workloads == {}


def test_replicas_are_not_deleted(ctl: Ctl, fabric: FakeControl) -> None:
    outcome = ctl("delete", "replica", "web-00000")
    assert outcome.code == 2
    assert "scale or delete its workload" in outcome.err


@pytest.mark.parametrize("words", [["web"], ["workload/web"], ["workload", "web"], ["wl", "web"]])
def test_scale(ctl: Ctl, fabric: FakeControl, words: list[str]) -> None:
    assert ctl("scale", *words, "--replicas", "3", "--wait").out == (
        "workload/web scaled to 3\nworkload/web is available (3 of 3 ready)\n"
    )
    assert ctl("scale", *words, "--replicas", "-1").code == 2


def test_rollout_restart_and_status(ctl: Ctl, fabric: FakeControl) -> None:
    assert ctl("rollout", "restart", "workload/web").out == "workload/web restarted\n"
    assert ctl("rollout", "status", "web").out == ("workload/web generation 2 is complete: 2 of 2 updated, 2 ready\n")


# logs and exec


def test_logs_of_one_replica(ctl: Ctl, fabric: FakeControl) -> None:
    fabric.logs["web-00000"] = b"one\ntwo\nthree\n"
    assert ctl("logs", "web-00000").out == "one\ntwo\nthree\n"
    assert ctl("logs", "replica/web-00000", "--tail", "1").out == "three\n"
    ctl("logs", "web-00000", "-c", "web", "--since", "5m", "--timestamps")
    request = fabric.calls[-1][1]
    assert (request.container, request.since_ms, request.timestamps) == ("web", 300_000, True)


@pytest.mark.parametrize("flags", [[], ["-f"]])
def test_logs_of_a_workload_name_the_replicas_and_what_is_missing(
    ctl: Ctl, fabric: FakeControl, flags: list[str]
) -> None:
    fabric.logs["web-00000"] = b"one\ntwo\nhalf"
    outcome = ctl("logs", "workload/web", *flags)
    assert outcome.out == "[web-00000] one\n[web-00000] two\n[web-00000] half\n"
    assert outcome.err == (
        "error: logs of web-00001 on node n2: node of web-00001 is not connected\n"
        "hint: 1 of 2 replicas were read; what is shown is not complete\n"
    )
    assert outcome.code == 5


def test_logs_of_a_selection(ctl: Ctl, fabric: FakeControl) -> None:
    fabric.logs |= {"web-00000": b"a\n", "web-00001": b"b\n"}
    assert ctl("logs", "-l", "app=web").out == "[web-00000] a\n[web-00001] b\n"
    assert ctl("logs", "-l", "app=web", "--no-prefix").out == "a\nb\n"
    assert ctl("logs", "-l", "app=nope").code == 3


def test_exec_gives_output_and_the_remote_exit_code(ctl: Ctl, fabric: FakeControl) -> None:
    outcome = ctl("exec", "web-00000", "--", "echo", "-n", "hello")
    assert (outcome.code, outcome.out, outcome.err) == (0, "echo -n hello\n", "done\n")
    assert ctl("exec", "workload/web", "-c", "web", "--", "exit", "7").code == 7
    start = fabric.executed[-1].start
    assert (start.container, start.replica_id, list(start.command)) == ("web", "web-00000", ["exit", "7"])


def test_exec_needs_a_running_replica(ctl: Ctl, fabric: FakeControl) -> None:
    fabric.auto_ready = False
    ctl("scale", "web", "--replicas", "2")
    outcome = ctl("exec", "workload/web", "--", "true")
    assert outcome.code == 1
    assert outcome.err == (
        "error: workload/web: none of its 2 replicas runs\nhint: `cloudlessctl describe workload/web` tells why\n"
    )


# nodes


def test_cordon_drain_label_taint(ctl: Ctl, fabric: FakeControl) -> None:
    assert ctl("cordon", "n1").out == "node/n1 cordoned\n"
    assert ctl("node", "uncordon", "node/n1").out == "node/n1 uncordoned\n"
    assert ctl("node", "label", "n1", "gpu=yes", "disk-").out == "node/n1 labelled\n"
    assert dict(fabric.nodes["n1"].node.labels) == {"gpu": "yes"}
    assert ctl("node", "taint", "n1", "battery=low:NoSchedule").out == "node/n1 tainted\n"
    assert fabric.nodes["n1"].node.taints[0].key == "battery"
    assert ctl("node", "taint", "n1", "battery-").code == 0
    assert not fabric.nodes["n1"].node.taints
    assert ctl("node", "taint", "n1", "battery:Sometimes").code == 2
    assert ctl("node", "remove", "n2").out == "node/n2 removed\n"


def test_drain_waits_until_the_node_is_empty(ctl: Ctl, fabric: FakeControl) -> None:
    late = ctl("drain", "n1", "--timeout", "300ms")
    assert late.code == 6
    assert "error: 1 replica still runs on n1: default/web-00000" in late.err
    fabric.put("replica", "web-00000", None)
    assert ctl("drain", "n1").out == "node/n1 draining\nnode/n1 drained\n"
    assert fabric.nodes["n1"].node.draining


def test_wait_for_a_node(ctl: Ctl, fabric: FakeControl) -> None:
    assert ctl("wait", "node", "n1", "--for", "ready").out == "node/n1 is ready\n"
    fabric.add_node("n3", state=types_pb2.NODE_STATE_UNREACHABLE)
    outcome = ctl("wait", "node/n3", "--for", "ready", "--timeout", "200ms")
    assert (outcome.code, outcome.err.splitlines()[0]) == (6, "error: node/n3 is not ready: Unreachable")


# tokens, people, images, events, cluster


def test_tokens(ctl: Ctl, control: FakeControl) -> None:
    made = ctl("token", "create", "--node", "n*", "--zone", "a", "--label", "disk=ssd", "--ttl", "1h", "--uses", "2")
    assert made.out == "jwt-of-jt-0000\n"
    assert made.err == "# token jt-0000: admits n*, 2 times, until 2027-01-15T09:00:00Z\n"
    assert json.loads(ctl("token", "create", "-o", "json").out)["jwt"] == "jwt-of-jt-0001"
    control.tokens["jt-0001"].uses = 1
    assert ctl("token", "revoke", "jt-0000").out == "token/jt-0000 revoked\n"
    assert ctl("token", "list").out == lines("""
        ID        STATUS    NODES   USES   EXPIRES   REGION   ZONE   AGE
        jt-0000   revoked   n*      0/2    1h        -        a      0s
        jt-0001   used up   *       1/1    1d        -        -      0s
    """)


def test_people(ctl: Ctl, control: FakeControl, tmp_path: Path) -> None:
    out = tmp_path / "alice.yaml"
    made = ctl("user", "put", "alice", "--role", "operator@shop", "--role", "viewer", "--out", str(out))
    assert made.out == "user/alice has operator@shop,viewer\n"
    assert out.stat().st_mode & 0o777 == 0o600
    assert ctl("config", "import", str(out)).out == "context 'alice@test' imported\n"
    assert ctl("user", "put", "alice", "--role", "viewer", "--out", str(out)).code == 2, "it would lose a key"
    assert ctl("user", "put", "bob", "--role", "king").code == 2
    assert ctl("user", "revoke", "alice").out == "user/alice revoked\n"
    assert ctl("get", "users").out == lines("""
        NAME    ROLES                  STATUS    AGE
        alice   operator@shop,viewer   revoked   0s
    """)
    assert ctl("user", "whoami").out.splitlines()[1] == "roles: admin"


def test_images_go_to_every_ready_node(ctl: Ctl, fabric: FakeControl, tmp_path: Path) -> None:
    fabric.add_node("n3", state=types_pb2.NODE_STATE_LOST)
    archive = tmp_path / "web.tar"
    archive.write_bytes(bytes(1_300_000))
    imported = ctl("image", "import", str(archive))
    assert imported.out == ("node/n1: imported cloudless.local/web:demo\nnode/n2: imported cloudless.local/web:demo\n")
    assert fabric.images["n1"][0].size_bytes == 1_300_000
    assert ctl("image", "list", "--node", "n1").out == lines("""
        NODE   IMAGE                      DIGEST                SIZE
        n1     cloudless.local/web:demo   sha256:abababababab   1.2Mi
    """)
    fabric.fail("ImportImage", Unavailable("node n2 is not connected"))
    partial = ctl("image", "import", str(archive), "--node", "n2")
    assert (partial.code, partial.out) == (5, "")
    assert ctl("image", "import", str(tmp_path / "missing.tar")).code == 2


def test_events(ctl: Ctl, fabric: FakeControl) -> None:
    fabric.emit("node.ready", "node/n1", "connected", namespace="")
    assert ctl("events").out == lines("""
        AGE   SEVERITY   TYPE               RESOURCE               DESCRIPTION
        5s    info       workload.created   workload/default/web   created
    """)
    assert ctl("events", "--for", "node/n1", "-o", "jsonpath={.items[*].type}").out == "node.ready\n"
    assert ctl("events", "-A", "--type", "node.", "-o", "jsonpath={.items[*].resource}").out == "node/n1\n"
    assert ctl("get", "events", "-o", "json").code == 0


def test_cluster_and_version(ctl: Ctl, control: FakeControl) -> None:
    assert ctl("version").out == "cloudlessctl 0.1.0\ncoordinator  0.1.0\n"
    assert ctl("version", "--client", "-o", "json").out == '{\n  "client": "0.1.0"\n}\n'
    assert "Score weights:   locality 0.30" in ctl("cluster", "status").out


# contexts


def test_contexts(ctl: Ctl, control: FakeControl, tmp_path: Path) -> None:
    from cloudless.contexts import Contexts

    other = tmp_path / "other.yaml"
    Contexts().merge(context_of(control, "second")).save(other)
    assert ctl("config", "import", str(other), "--name", "two").out == "context 'two' imported\n"
    assert ctl("config", "current-context").out == "test\n"
    assert ctl("config", "use-context", "two").code == 0
    assert ctl("config", "current-context").out == "two\n"
    assert ctl("--context", "test", "config", "current-context").out == "test\n"
    ctl.environment["CLOUDLESS_CONTEXT"] = "test"
    assert ctl("config", "current-context").out == "test\n"
    assert ctl("config", "set-namespace", "shop").code == 0
    table = ctl("config", "get-contexts").out.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["*", "test"], ["two", "test"]]
    view = ctl("config", "view").out
    assert "REDACTED" in view
    assert "BEGIN" not in view
    assert ctl("config", "delete-context", "two").code == 0
    assert ctl("config", "use", "two").code == 3


def test_without_a_context_it_says_what_to_do(ctl: Ctl) -> None:
    ctl.config.unlink()
    outcome = ctl("get", "nodes")
    assert (outcome.code, outcome.err.splitlines()[0]) == (3, "error: there is no context yet")
    assert "`cloudlessctl config import FILE`: admin.yaml of the coordinator's data directory" in outcome.err


# errors and exit codes


def test_a_refusal_is_4_with_the_server_s_words(ctl: Ctl, fabric: FakeControl) -> None:
    fabric.fail("ListNodes", PermissionDenied("user/bob needs role viewer", remedy="ask an administrator"))
    outcome = ctl("get", "nodes")
    assert (outcome.code, outcome.err) == (4, "error: user/bob needs role viewer\nhint: ask an administrator\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gett", "nodes"], "error: there is no command 'gett'\nhint: did you mean `cloudlessctl get`?"),
        (["get", "nods"], "error: there is no type 'nods'"),
        (["get", "nodes", "-o", "xml"], "error: -o: unknown format 'xml'"),
        (["get", "nodes", "-o", "jsonpath={.items["], "error: cannot read the jsonpath template"),
        (["get", "wl", "-l", "=x"], "error: cannot read the label selector"),
        (["describe", "node/"], "error: 'node/' is not of the form TYPE/NAME"),
        (["logs"], "error: name a replica or workload/NAME"),
        (["scale", "web"], "error: Missing option '--replicas'."),
        (["apply"], "error: no manifest is named"),
        (["apply", "-f", "/nonexistent.yaml"], "error: /nonexistent.yaml does not exist"),
        (["get", "nodes", "--request-timeout", "soon"], "error: --request-timeout: 'soon' is not a duration"),
        (["delete", "workload"], "error: 'workload': a name is missing"),
    ],
)
def test_usage_errors_are_2(ctl: Ctl, control: FakeControl, arguments: list[str], message: str) -> None:
    outcome = ctl(*arguments)
    assert outcome.code == 2
    assert outcome.err.startswith(message)
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) <= 2


def test_a_crash_shows_no_traceback(
    ctl: Ctl, fabric: FakeControl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("impossible")

    monkeypatch.setattr("cloudless.ctl.table.show", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outcome = ctl("get", "nodes")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[0] == "error: this is a fault of cloudlessctl: RuntimeError: impossible"
    assert "Traceback" not in outcome.err
    assert "Traceback" not in ctl("get", "nodes", "--debug").err
    (written,) = tmp_path.glob("cloudlessctl-crash-*.txt")
    assert "RuntimeError: impossible" in written.read_text()


def test_an_internal_error_of_the_coordinator_is_1(ctl: Ctl, fabric: FakeControl) -> None:
    fabric.fail("ListNodes", Internal("internal error; the log has it under request id r1"))
    assert ctl("get", "nodes").code == 1


# explain, completion, help, reference


def test_explain(ctl: Ctl) -> None:
    out = ctl("explain", "spec.containers.livenessProbe.period").out
    assert out == lines("""
        spec.containers.livenessProbe.period  <duration, as in 30s or 1m30s>  default: 10s
            Time between probes.
    """)
    assert "volumes  (not supported by this version)" in ctl("explain", "spec").out
    assert ctl("explain", "spec.containers[0].resources.limits.memory").out.splitlines()[0].endswith("default: 128Mi")
    wrong = ctl("explain", "spec.contaners")
    assert (wrong.code, wrong.err) == (3, "error: spec has no field 'contaners'\nhint: did you mean 'containers'?\n")
    assert len(ctl("explain", "--recursive").out.splitlines()) > 200


def test_every_field_of_the_manifest_is_documented() -> None:
    from cloudless.ctl.commands.explain import paths, resolve
    from cloudless.manifest.docs import DOCS

    for path in paths():
        cls, field = resolve(path)
        assert field is None or DOCS[cls][field.attribute], path


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(ctl: Ctl, shell: str) -> None:
    assert "_CLOUDLESSCTL_COMPLETE" in ctl("completion", shell).out


def test_completion_knows_live_names(ctl: Ctl, fabric: FakeControl) -> None:
    from click.shell_completion import ShellComplete

    from cloudless.ctl.cli import root

    def complete(*words: str) -> list[str]:
        shell = ShellComplete(root, {"obj": ctl.app()}, "cloudlessctl", "_CLOUDLESSCTL_COMPLETE")
        return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]

    assert complete("get", "nodes", "n") == ["n1", "n2"]
    assert complete("describe", "workload/") == ["workload/web"]
    assert complete("logs", "web-00001") == ["web-00001"]
    assert complete("cordon", "") == ["n1", "n2"]
    assert complete("uncor") == ["uncordon"]
    assert complete("config", "use-context", "") == ["test"]
    assert complete("explain", "spec.termination.g") == ["spec.termination.gracePeriod"]
    fabric.fail("ListNodes", PermissionDenied("no"))
    assert complete("get", "nodes", "n") == []


def test_every_command_has_help_and_is_in_the_reference(ctl: Ctl) -> None:
    from cloudless.ctl import reference
    from cloudless.ctl.cli import TOP

    text = "\n".join(reference.lines())
    for name, (_, summary) in TOP.items():
        shown = ctl(name, "--help")
        assert shown.code == 0
        assert f"## cloudlessctl {name}\n" in text
        assert summary.endswith(".")
    assert "--request-timeout" in text


def test_no_words_at_all_shows_the_help(ctl: Ctl) -> None:
    outcome = ctl()
    assert outcome.code == 2
    assert "Commands:" in outcome.err


def test_the_words_of_enums_are_those_of_the_domain() -> None:
    from cloudless.api.v1 import spec_pb2
    from cloudless.core import model, spec
    from cloudless.ctl.output import word

    for module, proto in ((spec, spec_pb2), (model, types_pb2)):
        for name, enum in proto.DESCRIPTOR.enum_types_by_name.items():
            domain = getattr(module, name)
            by_name = {member.name: member.value for member in domain}
            prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
            for value in enum.values[1:]:
                assert word(enum, value.number) == by_name[value.name.removeprefix(prefix)]


def test_the_fake_s_clock_is_what_the_tables_show() -> None:
    from cloudless.ctl.times import age, instant, span

    assert instant(NOW_MS) == "2027-01-15T08:00:00Z"
    assert [span(ms) for ms in (0, 999, 5_000, 200_000, 3_600_000, 5_400_000, 12 * 3_600_000 + 60_000, 90_000_000)] == [
        "0s", "0s", "5s", "3m20s", "1h", "1h30m", "12h", "1d1h",
    ]  # fmt: skip
    assert age(0, NOW_MS) == "-"


def test_explain_shows_what_holds_where_nothing_is_said(ctl: Ctl) -> None:
    for path, field, default in (
        ("spec.rollout", "progressDeadline", "10m"),
        ("spec.disruption", "leaseDuration", "24h"),
        ("spec.disruption", "offlineGrace", "30s"),
    ):
        shown = ctl("explain", path).out.splitlines()
        (line,) = [line for line in shown if line.startswith(field)]
        assert line.endswith(f"default: {default}")
