"""`termination` of a manifest: what is filled in, what is refused, and what is written back."""

from __future__ import annotations

import pytest

from cloudless.core import defaults
from cloudless.core.spec import ExecProbe, HttpProbe, Metadata, PreStop, Termination, WorkloadSpec
from cloudless.manifest.parse import Source, parse

FRAME = """\
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {name: web}
spec:
  type: service
  containers:
    - {name: main, image: nginx, ports: [{name: http, containerPort: 80}]}
  termination: {gracePeriod: 30s, preStop: HOOK}
"""


@pytest.mark.parametrize(
    ("written", "hook"),
    [
        ("{exec: {command: [/bin/drain, --all]}}", PreStop(exec=ExecProbe(("/bin/drain", "--all")))),
        ("{http: {port: http, path: /drain}}", PreStop(http=HttpProbe("/drain", "http", "HTTP"))),
        ("{http: {port: 80}}", PreStop(http=HttpProbe("/", "80", "HTTP"))),
        ("{sleep: 5s}", PreStop(sleep_ms=5_000)),
    ],
)
def test_a_hook_is_read_and_filled_in(written: str, hook: PreStop) -> None:
    parsed = parse([Source("web.yaml", FRAME.replace("HOOK", written))])
    assert parsed.problems == ()
    [found] = parsed.manifests
    _, spec = defaults.apply(found.metadata, found.spec)
    assert spec.termination == Termination(30_000, hook)
    assert defaults.apply(found.metadata, spec)[1] == spec


def test_a_workload_without_a_hook_has_none() -> None:
    assert defaults.apply(Metadata(), WorkloadSpec())[1].termination == Termination(10_000)
