"""Bad manifests: each problem names its file, line, path and remedy, and nothing hides another."""

from __future__ import annotations

import textwrap

import pytest

from cloudless.manifest import Parsed, Source, parse

# Line numbers below count from the first line of this frame.
FRAME = """\
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {name: web}
spec:
  replicas: 2
  containers:
    - name: web
      image: nginx:1.27
"""


def problems(text: str, name: str = "web.yaml") -> list[str]:
    return [str(problem) for problem in read(text, name).problems]


def read(text: str | bytes, name: str = "web.yaml") -> Parsed:
    return parse([Source(name, text)])


def test_the_frame_is_well_formed() -> None:
    assert problems(FRAME) == []


# What is changed in the frame (a line and its replacement, or text to append) and the one problem it causes.
CASES: dict[str, tuple[str, str, int, str, str, str]] = {
    "unknown field, misspelt": (
        "      image: nginx:1.27", "      imagee: nginx:1.27", 8, "spec.containers[0].imagee",
        "unknown field 'imagee'", "did you mean 'image'?",
    ),
    "unknown field, nothing near": (
        "", "  zzz: 1\n", 9, "spec.zzz", "unknown field 'zzz'",
        "it has type, replicas, priority, containers, placement, restartPolicy, rollout, disruption, termination, "
        "securityContext, schedule, completion or volumes",
    ),
    "unknown field of Kubernetes": (
        "", "      livenessProbe: {tcpSocket: {port: 80}}\n", 9, "spec.containers[0].livenessProbe.tcpSocket",
        "unknown field 'tcpSocket'", "did you mean 'tcp'?",
    ),
    "field in the wrong place": (
        "", "  nodeSelector: {arch: arm64}\n", 9, "spec.nodeSelector", "unknown field 'nodeSelector'",
        "did you mean 'placement.nodeSelector'?",
    ),
    "unknown field of the document": (
        "", "sepc: {}\n", 9, "sepc", "unknown field 'sepc'", "did you mean 'spec'?",
    ),
    "unknown field of metadata": (
        "metadata: {name: web}", "metadata: {name: web, label: {a: b}}", 3, "metadata.label",
        "unknown field 'label'", "did you mean 'labels'?",
    ),
    "the same field twice in two spellings": (
        "", "      workingDir: /a\n      working_dir: /b\n", 10, "spec.containers[0].workingDir",
        "the same field as 'workingDir'", "remove one of the two",
    ),
    "number for text": (
        "      image: nginx:1.27", "      image: 1.27", 8, "spec.containers[0].image",
        "expected text, got the number 1.27", 'quote it: "1.27"',
    ),
    "boolean for text": (
        "", "      env: [{name: A, value: true}]\n", 9, "spec.containers[0].env[0].value",
        "expected text, got true", 'quote it: "true"',
    ),
    "number as a label": (
        "metadata: {name: web}", "metadata: {name: web, labels: {tier: 1}}", 3, "metadata.labels.tier",
        "expected text, got the number 1", 'quote it: "1"',
    ),
    "empty label": (
        "metadata: {name: web}", "metadata: {name: web, labels: {tier: }}", 3, "metadata.labels.tier",
        "expected text, got nothing", 'write "" for an empty text',
    ),
    "text for a number": (
        "  replicas: 2", "  replicas: two", 5, "spec.replicas",
        "expected a whole number, got the text 'two'", "write digits only",
    ),
    "quoted number": (
        "  replicas: 2", '  replicas: "2"', 5, "spec.replicas",
        "expected a whole number, got the text '2'", "remove the quotes: 2",
    ),
    "fraction": (
        "  replicas: 2", "  replicas: 2.5", 5, "spec.replicas",
        "expected a whole number, got the number 2.5", "write digits only",
    ),
    "enormous number": (
        "  replicas: 2", f"  replicas: {'9' * 5000}", 5, "spec.replicas",
        f"{'9' * 40} is out of range", "use a smaller number",
    ),
    "negative replicas": (
        "  replicas: 2", "  replicas: -1", 5, "spec.replicas",
        "-1 is out of range", "use a number from 0 to 10000",
    ),
    "too many replicas": (
        "  replicas: 2", "  replicas: 10001", 5, "spec.replicas",
        "10001 is out of range", "use a number from 0 to 10000",
    ),
    "priority out of range": (
        "", "  priority: 101\n", 9, "spec.priority", "101 is out of range", "use a number from 0 to 100",
    ),
    "list for a mapping": (
        "", "  placement: [zone]\n", 9, "spec.placement", "expected a mapping, got a list",
        "write key: value lines under it",
    ),
    "mapping for a list": (
        "", "      ports: {containerPort: 80}\n", 9, "spec.containers[0].ports", "expected a list, got a mapping",
        "write it as - item lines or [a, b]",
    ),
    "text for a list": (
        "", "      args: --fast\n", 9, "spec.containers[0].args", "expected a list, got the text '--fast'",
        "write it as - item lines or [a, b]",
    ),
    "empty item": (
        "", "      args: [a, ]\n      env: [~]\n", 10, "spec.containers[0].env[0]", "the item is empty",
        "write a value or remove it",
    ),
    "yes is not true": (
        "", "      securityContext: {runAsNonRoot: yes}\n", 9, "spec.containers[0].securityContext.runAsNonRoot",
        "expected true or false, got the text 'yes'", "write true or false",
    ),
    "bad CPU": (
        "", "      resources: {requests: {cpu: 250x}}\n", 9, "spec.containers[0].resources.requests.cpu",
        "'250x' is not a CPU quantity", "write a number of CPUs such as 250m, 0.5 or 2",
    ),
    "CPU too fine": (
        "", "      resources: {requests: {cpu: 0.0001}}\n", 9, "spec.containers[0].resources.requests.cpu",
        "'0.0001' is finer than one milli-CPU (1m)", "write a number of CPUs such as 250m, 0.5 or 2",
    ),
    "bad size": (
        "", "      resources: {limits: {memory: 128mb}}\n", 9, "spec.containers[0].resources.limits.memory",
        "'128mb' is not a size", "write a size such as 128Mi, 2Gi or 500M",
    ),
    "size without a unit": (
        "", "      resources: {limits: {memory: 128}}\n", 9, "spec.containers[0].resources.limits.memory",
        "128 bytes are too few to start in", "use at least 1Mi; a unit may be missing, as in 128Mi",
    ),
    "request above limit": (
        "", "      resources: {requests: {memory: 2Gi}, limits: {memory: 1Gi}}\n", 9,
        "spec.containers[0].resources.requests.memory", "the request 2Gi is above the limit 1Gi",
        "lower the request or raise the limit",
    ),
    "zero request": (
        "", "      resources: {requests: {cpu: 0}}\n", 9, "spec.containers[0].resources.requests.cpu",
        "0 cannot be asked for here", "leave it out for the default of 50m, or raise it",
    ),
    "bad duration": (
        "", "  termination: {gracePeriod: 10 s}\n", 9, "spec.termination.gracePeriod",
        "'10 s' is not a duration", "write a duration such as 30s, 1m30s or 250ms",
    ),
    "duration without a unit": (
        "", "  termination: {gracePeriod: 10}\n", 9, "spec.termination.gracePeriod",
        "'10' is not a duration", "add a unit: 10s",
    ),
    "zero grace period": (
        "", "  termination: {gracePeriod: 0s}\n", 9, "spec.termination.gracePeriod",
        "0 cannot be asked for here", "leave it out for the default of 10s, or raise it",
    ),
    "zero threshold": (
        "", "      readinessProbe: {tcp: {port: 80}, failureThreshold: 0}\n", 9,
        "spec.containers[0].readinessProbe.failureThreshold",
        "0 cannot be asked for here", "leave it out for the default of 3, or raise it",
    ),
    "duration longer than a year": (
        "", "  disruption: {offlineGrace: 9000h}\n", 9, "spec.disruption.offlineGrace",
        "the duration is longer than 366 days", "use a shorter duration",
    ),
    "lease that could not be renewed": (
        "", "  disruption: {leaseDuration: 9s}\n", 9, "spec.disruption.leaseDuration",
        "the lease is too short to be renewed in time", "use a duration from 10s to 2160h",
    ),
    "lease that would not end": (
        "", "  disruption: {leaseDuration: 2161h}\n", 9, "spec.disruption.leaseDuration",
        "the lease is longer than 90 days", "use a duration from 10s to 2160h",
    ),
    "deadline that no replica can meet": (
        "", "  rollout: {minReadySeconds: 9, progressDeadline: 5s}\n", 9, "spec.rollout.progressDeadline",
        "no replica can become available within the deadline, which is shorter than minReadySeconds",
        "raise progressDeadline or lower minReadySeconds",
    ),
    "unknown word": (
        "", "  restartPolicy: {policy: always}\n", 9, "spec.restartPolicy.policy",
        "'always' is not one of Always, OnFailure, Never", "did you mean 'Always'?",
    ),
    "unknown type": (
        "", "  type: deployment\n", 9, "spec.type",
        "'deployment' is not one of service, system, job, cron", "use service, system, job or cron",
    ),
    "name missing": (
        "metadata: {name: web}", "metadata: {}", 3, "metadata.name",
        "a name is required", "use at most 63 of a-z, 0-9 and -, with a letter or digit at both ends",
    ),
    "bad name": (
        "metadata: {name: web}", "metadata: {name: Web_1}", 3, "metadata.name",
        "'Web_1' is not a valid name", "use at most 63 of a-z, 0-9 and -, with a letter or digit at both ends",
    ),
    "bad label": (
        "metadata: {name: web}", "metadata: {name: web, labels: {app: a b}}", 3, "metadata.labels.app",
        "'a b' is not a label value",
        "use at most 63 letters, digits, -, _ and ., with a letter or digit at both ends",
    ),
    "image missing": (
        "      image: nginx:1.27", "      args: [x]", 7, "spec.containers[0].image",
        "an image is required", "name one, such as docker.io/library/nginx:1.27",
    ),
    "image and process": (
        "", "      process: [sleep, '1']\n", 9, "spec.containers[0].process",
        "a container has either an image or a process", "remove one of the two",
    ),
    "bad image": (
        "      image: nginx:1.27", "      image: Nginx:1.27", 8, "spec.containers[0].image",
        "'Nginx:1.27' is not an image reference",
        "write registry/name:tag or registry/name@sha256:digest, the name in lower case",
    ),
    "no containers": (
        "  replicas: 2\n  containers:\n    - name: web\n      image: nginx:1.27", "  containers: []", 5,
        "spec.containers", "a workload needs at least one container", "add one with a name and an image",
    ),
    "duplicate container name": (
        "", "    - {name: web, image: redis}\n", 9, "spec.containers[1].name",
        "the name 'web' is already used by spec.containers[0]", "rename one",
    ),
    "duplicate variable": (
        "", "      env: [{name: A, value: x}, {name: A, value: y}]\n", 9, "spec.containers[0].env[1].name",
        "'A' is already set by spec.containers[0].env[0]", "remove one of the two",
    ),
    "bad variable name": (
        "", "      env: [{name: 1A, value: x}]\n", 9, "spec.containers[0].env[0].name",
        "'1A' is not a variable's name", "use letters, digits, _, . and -, not starting with a digit",
    ),
    "port out of range": (
        "", "      ports: [{containerPort: 70000}]\n", 9, "spec.containers[0].ports[0].containerPort",
        "70000 is out of range", "use a number from 1 to 65535",
    ),
    "port taken in another container": (
        "", "      ports: [{containerPort: 80}]\n    - {name: b, image: redis, ports: [{containerPort: 80}]}\n", 10,
        "spec.containers[1].ports[0].containerPort",
        "port 80/TCP is already used by spec.containers[0].ports[0].containerPort", "use another port",
    ),
    "host port twice": (
        "", "      ports: [{containerPort: 1, hostPort: 90}, {containerPort: 2, hostPort: 90}]\n", 9,
        "spec.containers[0].ports[1].hostPort",
        "port 90/TCP is already used by spec.containers[0].ports[0].hostPort", "use another port",
    ),
    "port name twice": (
        "", "      ports:\n        - {name: a, containerPort: 1}\n        - {name: a, containerPort: 2}\n", 11,
        "spec.containers[0].ports[1].name", "the name 'a' is already used by spec.containers[0].ports[0]",
        "rename one",
    ),
    "probe without a kind": (
        "", "      readinessProbe: {period: 1s}\n", 9, "spec.containers[0].readinessProbe",
        "a probe needs a kind", "give exactly one of http, tcp, exec and grpc",
    ),
    "probe of two kinds": (
        "", "      readinessProbe: {tcp: {port: 80}, exec: {command: ['true']}}\n", 9,
        "spec.containers[0].readinessProbe", "a probe has one kind, not tcp and exec",
        "give exactly one of http, tcp, exec and grpc",
    ),
    "probe of an unnamed port": (
        "", "      readinessProbe: {http: {port: http}}\n", 9, "spec.containers[0].readinessProbe.http.port",
        "the container has no port named 'http'", "use a number or one of its named ports (none)",
    ),
    "probe path": (
        "", "      readinessProbe: {http: {port: 80, path: healthz}}\n", 9,
        "spec.containers[0].readinessProbe.http.path", "'healthz' is not a path", "start it with /",
    ),
    "unknown capability": (
        "", "      securityContext: {capabilities: {add: [NET_FLY]}}\n", 9,
        "spec.containers[0].securityContext.capabilities.add[0]", "'NET_FLY' is not a capability",
        "use a name of capabilities(7) without CAP_, such as NET_BIND_SERVICE",
    ),
    "capability with its prefix": (
        "", "      securityContext: {capabilities: {drop: [CAP_CHOWN]}}\n", 9,
        "spec.containers[0].securityContext.capabilities.drop[0]", "'CAP_CHOWN' is not spelled as expected",
        "write CHOWN",
    ),
    "all capabilities": (
        "", "      securityContext: {capabilities: {add: [ALL]}}\n", 9,
        "spec.containers[0].securityContext.capabilities.add[0]", "ALL cannot be added",
        "add the capabilities by name",
    ),
    "toleration operator": (
        "", "  placement: {tolerations: [{key: a, operator: Is}]}\n", 9, "spec.placement.tolerations[0].operator",
        "'Is' is not an operator", "use Equal or Exists",
    ),
    "toleration value": (
        "", "  placement: {tolerations: [{key: a, operator: Exists, value: b}]}\n", 9,
        "spec.placement.tolerations[0].value", "Exists takes no value", "remove the value or use Equal",
    ),
    "spread without a key": (
        "", "  placement: {spread: [{maxSkew: 1}]}\n", 9, "spec.placement.spread[0].topologyKey",
        "a topology key is required", "use node, zone, region or a node label's key",
    ),
    "too many available": (
        "", "  rollout: {minAvailable: 3}\n", 9, "spec.rollout.minAvailable",
        "3 replicas cannot stay available out of 2", "lower minAvailable or raise replicas",
    ),
    "a rollout that cannot move": (
        "", "  rollout: {maxSurge: 0, maxUnavailable: 0}\n", 9, "spec.rollout.maxSurge",
        "maxSurge and maxUnavailable cannot both be 0", "raise one of the two",
    ),
    "backoff upside down": (
        "", "  restartPolicy: {backoff: {initial: 1m, max: 1s}}\n", 9, "spec.restartPolicy.backoff.max",
        "the longest backoff is shorter than the first", "lower backoff.initial or raise backoff.max",
    ),
    # Known, but not honoured by this version.
    "volumes": (
        "", "  volumes: [{name: data, ephemeral: {sizeLimit: 1Gi}}]\n", 9, "spec.volumes",
        "the field 'volumes' is not supported by this version",
        "leave it out; containers write to their own file system",
    ),
    "volume mounts, in snake case": (
        "", "      volume_mounts: [{name: data, mountPath: /data}]\n", 9, "spec.containers[0].volume_mounts",
        "the field 'volumeMounts' is not supported by this version",
        "leave it out; containers write to their own file system",
    ),
    "valueFrom": (
        "", "      env: [{name: A, valueFrom: {secretKeyRef: {name: db}}}]\n", 9,
        "spec.containers[0].env[0].valueFrom", "the field 'valueFrom' is not supported by this version",
        "give a value",
    ),
    "a module": (
        "      image: nginx:1.27", "      module: a.wasm", 8, "spec.containers[0].module",
        "the field 'module' is not supported by this version", "give an image or a process",
    ),
    "host process namespace": (
        "", "  securityContext: {hostPID: true, hostIPC: false, sysctls: []}\n", 9, "spec.securityContext.hostPID",
        "the field 'hostPID' is not supported by this version", "leave it out",
    ),
    "host network": (
        "", "  securityContext: {hostNetwork: true}\n", 9, "spec.securityContext.hostNetwork",
        "the host's network is not supported by this version", "remove it; publish ports with hostPort",
    ),
    "privileged": (
        "", "  securityContext: {privileged: true}\n", 9, "spec.securityContext.privileged",
        "a privileged container is not supported by this version", "remove it; add single capabilities",
    ),
    "canary": (
        "", "  rollout: {strategy: Canary}\n", 9, "spec.rollout.canary.steps",
        "the strategy Canary needs at least one step",
        "give steps such as {weight: 10, pause: 5m}, or use RollingUpdate",
    ),
    "runtime class": (
        "", "  securityContext: {runtimeClassName: kata}\n", 9, "spec.securityContext.runtimeClassName",
        "the runtime class kata is not supported by this version", "leave it out",
    ),
    "seccomp profile from a file": (
        "", "  securityContext: {seccompProfile: {type: Localhost}}\n", 9, "spec.securityContext.seccompProfile.type",
        "the profile Localhost is not supported by this version", "use RuntimeDefault or Unconfined",
    ),
    "storage limit": (
        "", "      resources: {limits: {storage: 1Gi}}\n", 9, "spec.containers[0].resources.limits.storage",
        "a storage limit is not supported by this version", "remove it; requests.storage reserves",
    ),
    # The header.
    "kind of a later version": (
        "kind: Workload", "kind: Service", 2, "kind", "the kind Service is not supported by this version",
        "it reads kind Workload",
    ),
    "kind of Kubernetes": (
        "kind: Workload", "kind: Deployment", 2, "kind", "the kind Deployment is not supported by this version",
        "it reads kind Workload",
    ),
    "unknown kind": (
        "kind: Workload", "kind: Workloads", 2, "kind", "unknown kind 'Workloads'", "did you mean 'Workload'?",
    ),
    "kind missing": (
        "kind: Workload\n", "", 1, "kind", "the kind is missing", "write kind: Workload",
    ),
    "another version": (
        "apiVersion: cloudless.dev/v1", "apiVersion: v1", 1, "apiVersion", "unknown apiVersion 'v1'",
        "write cloudless.dev/v1",
    ),
    "version missing": (
        "apiVersion: cloudless.dev/v1\n", "", 1, "apiVersion", "the apiVersion is missing",
        "write apiVersion: cloudless.dev/v1",
    ),
    # The text itself.
    "the same key twice": (
        "", "  replicas: 3\n", 9, "", "the key 'replicas' is already set in line 5", "remove one of the two",
    ),
    "tabs": (
        "  replicas: 2", "\treplicas: 2", 5, "",
        "this is not YAML: found character that cannot start any token while scanning for the next token",
        "indent with spaces, not tabs, and quote text that starts with a special character",
    ),
    "a tag": (
        "  replicas: 2", "  replicas: !!python/name:os.system 2", 5, "",
        "the tag 'tag:yaml.org,2002:python/name:os.system' is not supported", "remove it",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "path", "message", "remedy"), CASES.values(), ids=CASES.keys())
def test_each_mistake_is_one_problem(old: str, new: str, line: int, path: str, message: str, remedy: str) -> None:
    assert old == "" or FRAME.count(old) == 1
    text = FRAME.replace(old, new) if old else FRAME + new
    where = f"web.yaml:{line}: {path}: " if path else f"web.yaml:{line}: "
    assert problems(text) == [f"{where}{message}; {remedy}"]


def test_every_problem_of_every_document_is_reported() -> None:
    good = FRAME
    bad = (
        FRAME.replace("replicas: 2", "replicas: -2").replace("image: nginx:1.27", "image: UPPER").replace("web}", "b}")
    )
    parsed = read(f"{good}---\n{bad}---\n{FRAME.replace('Workload', 'Secret')}")
    assert [(p.line, p.path) for p in parsed.problems] == [
        (14, "spec.replicas"),
        (17, "spec.containers[0].image"),
        (20, "kind"),
    ]


def test_columns_count_from_one() -> None:
    [problem] = read(FRAME.replace("{name: web}", "{name: web, labels: {a: 1}}")).problems
    assert (problem.line, problem.column) == (3, 32)


def test_a_workload_defined_twice_names_the_first_place() -> None:
    parsed = parse([Source("a.yaml", FRAME), Source("b.yaml", FRAME + "---\n" + FRAME.replace("web}", "api}"))])
    assert [str(problem) for problem in parsed.problems] == [
        "b.yaml:1: metadata.name: workload/web is already defined in a.yaml:1; rename one of the two"
    ]


def test_one_name_in_two_namespaces_is_fine() -> None:
    other = FRAME.replace("{name: web}", "{name: web, namespace: other}")
    parsed = read(FRAME + "---\n" + other)
    assert parsed.problems == ()
    assert [manifest.metadata.namespace for manifest in parsed.manifests] == ["default", "other"]


def test_the_namespace_of_the_caller_is_the_default() -> None:
    [manifest] = parse([Source("a", FRAME)], namespace="prod").manifests
    assert manifest.metadata.namespace == "prod"


@pytest.mark.parametrize("text", ["", "---\n", "# nothing\n", "---\n---\n", "null\n"])
def test_empty_documents_are_passed_over(text: str) -> None:
    assert read(text) == Parsed((), ())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a: 1\n\xff", "web.yaml:2: the file is not UTF-8 text; save it as UTF-8"),
        (b"a: \x01", "web.yaml:1: this is not YAML: control characters are not allowed; remove the character"),
        (b"- a", "web.yaml:1: expected a manifest, got a list; write apiVersion, kind, metadata and spec"),
        (b"[" * 100_000, "web.yaml:1: values are nested deeper than 64 levels; flatten them"),
        (b"a: &x [*x]", "web.yaml:1: the alias *x has no anchor before it; define it first"),
        (b"a" * (17 * 2**20), "web.yaml: the file is larger than 16 MiB; split it into several files"),
        (
            b"services: {web: {image: nginx}}",
            "web.yaml:1: services: a Compose file is not supported by this version; "
            "write each service as a manifest of kind Workload",
        ),
    ],
)
def test_text_that_is_no_manifest(data: bytes, expected: str) -> None:
    assert [str(problem) for problem in read(data).problems] == [expected]


def test_aliases_expand_under_a_budget() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for previous, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{previous}'] * 10)}]")
    [problem] = read("\n".join(lines)).problems
    assert problem.message == "the file expands to more than 500000 values"


def test_anchors_and_merge_keys_are_understood() -> None:
    text = textwrap.dedent("""\
        apiVersion: cloudless.dev/v1
        kind: Workload
        metadata: {name: web}
        spec:
          containers:
            - &base {name: a, image: nginx, env: [{name: A, value: x}]}
            - {<<: *base, name: b}
        """)
    parsed = read(text)
    assert parsed.problems == ()
    first, second = parsed.manifests[0].spec.containers
    assert (second.name, second.image, second.env) == ("b", first.image, first.env)


def test_text_stays_text() -> None:
    text = FRAME + "      args: [yes, no, on, 1:30, 2024-01-01, 0755, ~x, .5.1]\n"
    [manifest] = read(text).manifests
    assert manifest.spec.containers[0].args == ("yes", "no", "on", "1:30", "2024-01-01", "0755", "~x", ".5.1")


def test_json_with_tabs_escapes_and_surrogate_pairs() -> None:
    text = (
        '{\n\t"apiVersion": "cloudless.dev\\/v1", "kind": "Workload",\n\t"metadata": {"name": "web"},\n'
        '\t"spec": {"containers": [{"name": "web", "image": "nginx", "args": ["\\ud83d\\ude00", "\\\\ud83d"]}]}\n}'
    )
    parsed = read(text, "web.json")
    assert parsed.problems == ()
    assert parsed.manifests[0].spec.containers[0].args == ("\U0001f600", "\\ud83d")


def test_snake_case_is_understood() -> None:
    text = FRAME.replace("apiVersion", "api_version") + (
        "      working_dir: /srv\n"
        "      readiness_probe: {tcp: {port: 80}, initial_delay: 5s}\n"
        "  rollout: {min_ready_seconds: 5}\n"
    )
    parsed = read(text)
    assert parsed.problems == ()
    [manifest] = parsed.manifests
    assert manifest.spec.containers[0].working_dir == "/srv"
    assert manifest.spec.containers[0].readiness_probe.initial_delay_ms == 5000  # type: ignore[union-attr]
    assert manifest.spec.rollout.min_ready_ms == 5000


def test_what_is_left_out_has_the_manifest_s_defaults() -> None:
    [manifest] = read(FRAME.replace("  replicas: 2\n", "")).manifests
    assert (manifest.spec.replicas, manifest.spec.priority) == (1, 50)
    [manifest] = read(FRAME.replace("replicas: 2", "replicas: 0\n  priority: 0")).manifests
    assert (manifest.spec.replicas, manifest.spec.priority) == (0, 0)


def test_what_get_writes_beside_the_spec_is_passed_over() -> None:
    text = FRAME.replace("{name: web}", "{name: web, generation: 3, createdAt: '2026-01-01T00:00:00Z'}")
    assert problems(text + "status: {phase: Available}\n") == []


def test_characters_that_only_json_knows_as_plain_stay() -> None:
    odd = "a\u0085b\u2028c\x7f\ufeff"
    text = (
        '{"apiVersion": "cloudless.dev/v1", "kind": "Workload", "metadata": {"name": "web"}, "spec": {"containers": ['
    )
    parsed = read(text + '{"name": "web", "image": "nginx", "args": ["' + odd + '"]}]}}')
    assert parsed.problems == ()
    assert parsed.manifests[0].spec.containers[0].args == (odd,)
