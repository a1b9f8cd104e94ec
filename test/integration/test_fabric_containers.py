"""The main path through real processes and a real containerd: enrol, place, run, look inside, survive, remove."""

import json
import os
import threading
import time
import urllib.request

import pytest

from cloudless.dev.fabric import AgentPlan
from cloudless.dev.image import build_image, build_web_image
from cloudless.testing.fabric import require_containerd, running_fabric

pytestmark = [pytest.mark.containerd, pytest.mark.xdist_group("containerd-fabric"), pytest.mark.timeout(300)]

WEB = "cloudless.local/web:demo"
BOX = "cloudless.local/box:test"
AGENTS = tuple(AgentPlan(name=f"n{i}", index=i, zone=f"z{i}", settings={"owner-share": "0.3"}) for i in (1, 2, 3))


@pytest.fixture(scope="module")
def fabric(tmp_path_factory):
    require_containerd()
    with running_fabric(tmp_path_factory.mktemp("fabric"), tag="cltest", agents=AGENTS) as local:
        web, box = local.directory / "web.tar", local.directory / "box.tar"
        build_web_image(web, WEB, www={"index.html": b"hello from a replica\n"})
        build_image(box, BOX, cmd=["/bin/sh"])
        local.ctl("image", "import", str(web))
        local.ctl("image", "import", str(box))
        yield local


@pytest.fixture
def apply(fabric, tmp_path):
    """Applies a manifest and removes its workload afterwards, waiting until nothing is left."""
    names = []

    def run(name, *, wait=True, image=BOX, replicas=1, command=None, extra="", container=""):
        command_text = f"command: {json.dumps(command)}" if command else ""
        text = f"""
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  replicas: {replicas}
  containers:
    - name: main
      image: {image}
      {command_text}
      {container or "resources: {requests: {cpu: 20m, memory: 16Mi}, limits: {memory: 64Mi}}"}
  termination: {{gracePeriod: 1s}}
  {extra}
"""
        file = tmp_path / f"{name}.yaml"
        file.write_text(text)
        names.append(name)
        fabric.ctl("apply", "-f", str(file), *(["--wait", "--timeout", "60s"] if wait else []))
        return name

    yield run
    for name in names:
        fabric.ctl("delete", "workload", name, "--wait", check=False)


def replicas_of(fabric, name):
    return [r for r in fabric.get("replicas") if r["workload"] == name]


def one_replica(fabric, name):
    (replica,) = replicas_of(fabric, name)
    return replica


def test_three_replicas_on_three_nodes_serve_pages_and_explain_themselves(fabric, apply):
    apply(
        "web",
        image=WEB,
        replicas=3,
        container="""ports: [{name: http, containerPort: 8080}]
      readinessProbe: {http: {path: /, port: http}, period: 1s}
      livenessProbe: {http: {path: /, port: http}}
      resources: {requests: {cpu: 20m, memory: 16Mi}, limits: {memory: 64Mi}}""",
        extra="placement: {spread: [{topologyKey: zone, maxSkew: 1}]}",
    )
    replicas = replicas_of(fabric, "web")
    assert sorted(r["nodeId"] for r in replicas) == ["n1", "n2", "n3"]
    for replica in replicas:
        assert replica["status"]["phase"] == "Ready"
        with urllib.request.urlopen(f"http://{replica['status']['address']}:8080/", timeout=5) as page:
            assert "hello from a replica" in page.read().decode()
    described = fabric.ctl("describe", "replica", replicas[0]["id"]).stdout
    for word in ("locality", "reliability", "utilization", replicas[0]["nodeId"]):
        assert word.lower() in described.lower(), described


def test_a_workload_that_fits_nowhere_says_why(fabric, apply):
    apply(
        "huge",
        wait=False,
        container='resources: {requests: {cpu: "500", memory: 16Mi}, limits: {cpu: "500", memory: 16Mi}}',
    )
    fabric.wait_for(lambda: replicas_of(fabric, "huge"), what="a pending replica", timeout_s=10)
    described = fabric.ctl("describe", "workload", "huge").stdout
    assert "Pending" in described
    assert "cpu" in described
    assert "3 nodes" in described or "n1" in described, described


def test_a_rolling_update_behind_a_host_port_on_the_only_node(fabric, apply, unused_tcp_port):
    def version(number):
        page = f"mkdir -p /tmp/www && echo v{number} >/tmp/www/index.html"
        apply(
            "front",
            command=["sh", "-c", f"{page} && exec httpd -f -p 8080 -h /tmp/www"],
            container=f"""ports: [{{name: http, containerPort: 8080, hostPort: {unused_tcp_port}}}]
      readinessProbe: {{http: {{path: /index.html, port: http}}, period: 200ms}}
      resources: {{requests: {{cpu: 20m, memory: 16Mi}}, limits: {{memory: 64Mi}}}}""",
            extra="""placement: {nodeSelector: {node: n1}}
  rollout: {strategy: RollingUpdate, maxSurge: 1, maxUnavailable: 0, minAvailable: 1}""",
        )

    answers, stop = [], threading.Event()

    def ask():
        while not stop.wait(0.02):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{unused_tcp_port}/index.html", timeout=3) as page:
                    answers.append(page.read().decode().strip())
            except OSError as error:
                answers.append(repr(error))

    version(1)
    client = threading.Thread(target=ask)
    client.start()
    try:
        version(2)
        fabric.wait_for(lambda: len(replicas_of(fabric, "front")) == 1, what="the end of the old one", timeout_s=10)
        fabric.wait_for(lambda: answers[-1:] == ["v2"], what="the new page", timeout_s=10)
    finally:
        stop.set()
        client.join()
    assert set(answers) == {"v1", "v2"}, sorted(set(answers))
    assert one_replica(fabric, "front")["nodeId"] == "n1"


def test_logs_tail_and_exec_with_stdin_and_exit_code(fabric, apply):
    apply(
        "talker",
        command=["/bin/sh", "-c", "for i in 1 2 3 4 5; do echo line $i; done; sleep 0.3; echo oops >&2; sleep 1000"],
    )
    replica = one_replica(fabric, "talker")["id"]
    fabric.wait_for(lambda: "oops" in fabric.ctl("logs", replica).stdout, what="its last line", timeout_s=10)
    assert fabric.ctl("logs", replica).stdout.splitlines()[:5] == [f"line {i}" for i in range(1, 6)]
    assert fabric.ctl("logs", replica, "--tail", "2").stdout.splitlines() == ["line 5", "oops"]
    assert fabric.ctl("exec", replica, "--", "sh", "-c", "exit 7", check=False).returncode == 7
    echoed = fabric.ctl("exec", "-i", replica, "--", "cat", stdin="through four hops\n")
    assert echoed.stdout == "through four hops\n"
    denied = fabric.ctl(
        "exec", replica, "--", "sh", "-c", "unshare -U true; echo $?; grep NoNewPrivs /proc/self/status"
    )
    assert denied.stdout.splitlines()[0] != "0"
    assert "NoNewPrivs:\t1" in denied.stdout


def test_a_killed_agent_adopts_what_runs(fabric, apply):
    script = "i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.05; done"
    apply("ticker", command=["/bin/sh", "-c", script], extra="placement: {nodeSelector: {node: n2}}")
    before = one_replica(fabric, "ticker")
    pid = fabric.ctl("exec", before["id"], "--", "sh", "-c", "cat /proc/1/stat | cut -d' ' -f22").stdout
    fabric.kill("agent-n2")
    fabric.wait_for(
        lambda: fabric.get("nodes", "n2")[0]["node"]["state"] != "Ready", what="n2 to be unreachable", timeout_s=15
    )
    fabric.start_agent(AGENTS[1])
    fabric.wait_for(lambda: "n2" in fabric.ready_nodes(), what="n2 to return", timeout_s=20)
    fabric.wait_for(
        lambda: one_replica(fabric, "ticker")["status"]["phase"] == "Ready", what="the replica", timeout_s=20
    )
    after = one_replica(fabric, "ticker")
    assert after["id"] == before["id"]
    assert int(after["status"].get("restartCount", 0)) == 0
    assert fabric.ctl("exec", after["id"], "--", "sh", "-c", "cat /proc/1/stat | cut -d' ' -f22").stdout == pid
    fabric.wait_for(
        lambda: len(fabric.ctl("logs", after["id"]).stdout.splitlines()) > 50, what="fifty lines", timeout_s=20
    )
    lines = fabric.ctl("logs", after["id"]).stdout.splitlines()
    assert lines == [f"tick {i}" for i in range(1, len(lines) + 1)], "the log has a gap"
    assert len(lines) > 50


def test_a_restarted_coordinator_finds_everything_running(fabric, apply):
    apply("steady", command=["/bin/sh", "-c", "sleep 1000"], replicas=2)
    before = {r["id"]: r["status"]["containers"][0]["startedAtMs"] for r in replicas_of(fabric, "steady")}
    fabric.kill("coordinator")
    fabric.start_coordinator()
    fabric.wait_for(lambda: len(fabric.ready_nodes()) == 3, what="three ready nodes", timeout_s=20)
    fabric.wait_for(
        lambda: [r["status"]["phase"] for r in replicas_of(fabric, "steady")] == ["Ready"] * 2,
        what="the same replicas",
        timeout_s=20,
    )
    assert {r["id"]: r["status"]["containers"][0]["startedAtMs"] for r in replicas_of(fabric, "steady")} == before


def test_memory_exceeded_is_reported_as_oomkilled(fabric, apply):
    apply(
        "hungry",
        wait=False,
        command=["/bin/sh", "-c", "sleep 0.3; exec tail -c 200m /dev/zero"],
        container="resources: {requests: {cpu: 20m, memory: 16Mi}, limits: {memory: 24Mi}}",
    )
    fabric.ctl("get", "replicas")

    def killed():
        (replica,) = replicas_of(fabric, "hungry") or [{}]
        containers = replica.get("status", {}).get("containers", [{}])
        reasons = {containers[0].get("reason"), containers[0].get("lastReason")}
        return "OOMKilled" in reasons and int(containers[0].get("restartCount", 0)) >= 1

    fabric.wait_for(killed, what="OOMKilled with a restart", timeout_s=30)
    assert "OOMKilled" in fabric.ctl("describe", "replica", one_replica(fabric, "hungry")["id"]).stdout


def test_drain_moves_the_work_and_uncordon_opens_the_node(fabric, apply):
    apply(
        "mover", command=["/bin/sh", "-c", "sleep 1000"], extra="placement: {spread: [{topologyKey: node, maxSkew: 1}]}"
    )
    node = one_replica(fabric, "mover")["nodeId"]
    fabric.ctl("drain", node, "--timeout", "60s")
    try:
        fabric.wait_for(
            lambda: [r["nodeId"] for r in replicas_of(fabric, "mover") if not r.get("stopping")] not in ([], [node]),
            what="the replica elsewhere",
            timeout_s=30,
        )
        assert all(r["nodeId"] != node for r in replicas_of(fabric, "mover") if r["status"]["phase"] == "Ready")
    finally:
        fabric.ctl("uncordon", node)


def test_scale_update_and_delete_leave_nothing(fabric, apply):
    apply("app", command=["/bin/sh", "-c", "sleep 1000"], replicas=2)
    fabric.ctl("scale", "workload/app", "--replicas", "4")
    fabric.wait_for(
        lambda: sum(r["status"]["phase"] == "Ready" for r in replicas_of(fabric, "app")) == 4,
        what="four replicas",
        timeout_s=30,
    )
    old = {r["id"] for r in replicas_of(fabric, "app")}
    apply("app", command=["/bin/sh", "-c", "sleep 2000"], replicas=2)
    fabric.wait_for(
        lambda: {r["id"] for r in replicas_of(fabric, "app")}.isdisjoint(old) and len(replicas_of(fabric, "app")) == 2,
        what="the new generation alone",
        timeout_s=60,
    )
    fabric.ctl("delete", "workload", "app", "--wait")
    assert replicas_of(fabric, "app") == []


def test_a_thousand_workloads_then_nothing_changes(fabric, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(1000):
        (folder / f"w{i:04}.yaml").write_text(
            f"apiVersion: cloudless.dev/v1\nkind: Workload\nmetadata: {{name: w{i:04}, namespace: many}}\n"
            "spec:\n  replicas: 1\n  placement: {nodeSelector: {disk: none-has-this}}\n"
            f"  containers: [{{name: main, image: {BOX}}}]\n"
        )
    started = time.monotonic()
    first = fabric.ctl("apply", "-f", str(folder))
    took = time.monotonic() - started
    assert "1000 created" in first.stdout + first.stderr
    second = fabric.ctl("apply", "-f", str(folder))
    assert "1000 unchanged" in second.stdout + second.stderr
    assert "created" not in second.stdout.replace("0 created", "")
    print(f"1,000 workloads in {took:.1f} s")
    fabric.ctl("delete", "-f", str(folder))
    fabric.wait_for(lambda: not fabric.get("workloads", "-n", "many"), what="all gone", timeout_s=60)


def test_nothing_is_left_on_the_machine(fabric, apply):
    """After deletion no container's cgroup, network namespace or log of it remains."""
    apply("brief", command=["/bin/sh", "-c", "sleep 1000"])
    replica = one_replica(fabric, "brief")["id"]
    fabric.ctl("delete", "workload", "brief", "--wait")
    found = []
    for root in ("/sys/fs/cgroup", "/run", str(fabric.directory / "agents")):
        for path, folders, files in os.walk(root):
            found += [os.path.join(path, name) for name in (*folders, *files) if replica in name]
    assert found == []
