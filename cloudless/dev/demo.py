"""`make demo`: a working fabric on this machine, from nothing. `make demo-down`: no trace of it.

Everything is under `.demo/` of the checkout: one coordinator (three with `make demo COORDINATORS=3`), three agents with
identities, zones, containerd namespaces, bridges and cgroups of their own, and a private containerd. Where containers
are impossible (no root, no containerd), the same fabric runs plain sandboxed processes, and says so.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloudless.dev import containerd
from cloudless.dev.fabric import AgentPlan, LocalFabric
from cloudless.dev.image import build_web_image
from cloudless.errors import CloudlessError, DeadlineExceeded

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / ".demo"
IMAGE = "cloudless.local/web:demo"
WORKLOAD = "web"
REPLICAS = 3
_AGENTS = tuple(
    AgentPlan(
        name=name, index=index, region="home", zone=zone, settings={"device-class": device, "owner-share": "0.25"}
    )
    for index, (name, zone, device) in enumerate(
        (("desk", "study", "desktop"), ("laptop", "kitchen", "laptop"), ("vps", "cellar", "vps")), start=1
    )
)
_PAGE = b"""<!doctype html>
<html><head><title>Cloudless</title></head>
<body><h1>It runs.</h1><p>This page comes from a replica on your own fabric.</p></body></html>
"""


class Progress:
    """Steps with their time: a line that is rewritten on a terminal, one line a step elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._started = time.monotonic()

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        if self._terminal:
            print(f"  .. {what}", end="\r", flush=True)
        began = time.monotonic()
        yield
        print(f"  ok {what:<58} {time.monotonic() - began:5.1f} s", flush=True)

    def total_s(self) -> float:
        return time.monotonic() - self._started


def fabric() -> LocalFabric:
    daemon = containerd.PrivateContainerd(DIRECTORY / "containerd")
    usable = not containerd.missing()
    snapshotter = "overlayfs"
    if usable:
        DIRECTORY.mkdir(exist_ok=True)
        snapshotter = "overlayfs" if containerd.overlay_possible(DIRECTORY) else "native"
    return LocalFabric(
        DIRECTORY,
        tag="cldemo",
        containerd_address=daemon.address if usable else "",
        containerd_snapshotter=snapshotter,
    )


def up(coordinators: int) -> int:
    progress = Progress()
    reason = containerd.missing()
    local = fabric()
    control = "a coordinator" if coordinators == 1 else f"{coordinators} coordinators"
    print(f"Cloudless demo: {control} and {len(_AGENTS)} agents under {DIRECTORY.name}/")
    if local.alive("coordinator"):
        print("  -- it runs already: what is missing is started again, nothing else changes")
    if reason:
        print(f"  -- no containers here ({reason}): the process runtime is used instead")
    else:
        with progress.step("private containerd"):
            containerd.PrivateContainerd(DIRECTORY / "containerd").start()
    with progress.step("coordinator: certificate authority, log, admin context"):
        local.start_coordinator()
    if coordinators > 1:
        with progress.step(f"{coordinators - 1} more, which join with tokens until all vote"):
            local.start_coordinators(coordinators)
    with progress.step("agents: join tokens, certificates, sessions"):
        for plan in _AGENTS:
            local.start_agent(plan)
        wanted = {plan.name for plan in _AGENTS}
        local.wait_for(lambda: wanted <= set(local.ready_nodes()), what="three ready nodes", timeout_s=30)
    manifest = ROOT / "config" / "examples" / "web.yaml"
    if reason:
        manifest = ROOT / "config" / "examples" / "web-process.yaml"
    else:
        with progress.step("web image: built from local files, imported on each node"):
            archive = DIRECTORY / "web.tar"
            build_web_image(archive, IMAGE, www={"index.html": _PAGE})
            local.ctl("image", "import", str(archive))
    with progress.step(f"cloudlessctl apply -f {manifest.relative_to(ROOT)} --wait"):
        local.ctl("apply", "-f", str(manifest), "--wait", "--timeout", "60s")
    with progress.step("a page from each replica"):
        pages = _pages(local)
    print()
    for name, node, url, page in pages:
        print(f"  {name} on {node}: {url} says: {page}")
    print()
    for arguments in (("get", "nodes"), ("get", "replicas", "-o", "wide")):
        print(f"$ cloudlessctl {' '.join(arguments)}")
        print(local.ctl(*arguments).stdout)
    print(f"Ready after {progress.total_s():.0f} s. Try next:\n")
    print(f"  export CLOUDLESS_CONFIG={local.context_file} PATH={Path(sys.executable).parent}:$PATH")
    first = pages[0][0]
    for line in (
        f"cloudlessctl describe replica {first}      # why it is where it is",
        f"cloudlessctl logs -f workload/{WORKLOAD}",
        f"cloudlessctl exec -it {first} -- sh",
        f"cloudlessctl scale workload/{WORKLOAD} --replicas 5",
        "cloudlessctl drain desk                  # watch: cloudlessctl events -w",
        "make demo-down",
    ):
        print(f"  {line}")
    return 0


def _pages(local: LocalFabric) -> list[tuple[str, str, str, str]]:
    """(replica, node, url, title of its page) of every ready replica; raises when one does not answer."""
    pages = []
    for replica in sorted(local.get("replicas"), key=lambda r: str(r["id"])):
        if replica["workload"] != WORKLOAD or replica["status"]["phase"] != "Ready":
            continue
        status = replica["status"]
        url = f"http://{status['address']}:{status['ports'][0]['containerPort']}/"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read().decode(errors="replace")
        pages.append((replica["id"], replica["nodeId"], url, _words(text)))
    if len(pages) != REPLICAS:
        raise DeadlineExceeded(f"{len(pages)} of {REPLICAS} replicas answered")
    return pages


def _words(page: str) -> str:
    """What a page says, without its markup."""
    body = re.sub(r"<title>.*?</title>|<[^>]*>", " ", page, flags=re.DOTALL)
    return " ".join(body.split())[:72]


def down() -> int:
    if not DIRECTORY.exists():
        print("Nothing to remove.")
        return 0
    progress = Progress()
    local = fabric()
    with progress.step("agents"):
        local.stop_together([f"agent-{plan.name}" for plan in _AGENTS])
    with progress.step("containers, networks, cgroups"):
        for plan in _AGENTS:
            local.purge_agent(plan)
    with progress.step("coordinators"):
        local.stop_together([local.coordinator_process(name) for name in reversed(local.coordinators())])
    if not containerd.missing():
        with progress.step("private containerd"):
            containerd.PrivateContainerd(DIRECTORY / "containerd").stop(remove=True)
    shutil.rmtree(DIRECTORY)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser("demo", description=__doc__)
    parser.add_argument("verb", choices=("up", "down"))
    parser.add_argument("--coordinators", type=int, choices=(1, 3, 5), default=1, help="how many, of `up`")
    options = parser.parse_args()
    try:
        return up(options.coordinators) if options.verb == "up" else down()
    except (CloudlessError, containerd.ContainerdFailed, OSError, json.JSONDecodeError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        print(f"hint: the logs are under {DIRECTORY}/logs; `make demo-down` cleans up", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
