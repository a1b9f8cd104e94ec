"""What each field of the manifest means: one sentence, by dataclass and attribute.

Shown by `cloudlessctl explain`. A test holds that every field has its sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cloudless.core import spec

DOCS: Final[Mapping[Any, Mapping[str, str]]] = {
    spec.Metadata: {
        "name": "Name within the namespace: at most 63 of a-z, 0-9 and -.",
        "namespace": "Namespace that the workload lives in.",
        "labels": "Labels to select workloads by.",
        "annotations": "Notes for people and programs; the fabric reads cloudless.dev/change-cause and "
        "cloudless.dev/rebalance.",
    },
    spec.WorkloadSpec: {
        "type": "service keeps a number of replicas running, system one on each matching node; job and cron end.",
        "replicas": "How many replicas a service has, 0 to 10000.",
        "priority": "Importance, 0 to 100; preemption needs a difference of at least 10.",
        "containers": "What a replica runs: one or more containers that share its network.",
        "placement": "Where replicas may and should run.",
        "restart_policy": "What happens when a container ends.",
        "rollout": "How replicas are replaced when the spec changes.",
        "disruption": "What happens while a node is away.",
        "termination": "How a replica is stopped.",
        "security_context": "What containers may do; a container's own context overrides it.",
        "schedule": "When a workload of type cron runs.",
        "completion": "What a run of type job or cron is.",
    },
    spec.Container: {
        "name": "Name within the replica.",
        "image": "Image to run, as registry/name:tag or registry/name@sha256:digest; or give a process.",
        "process": "Program and arguments to run on the device itself, without a container; or give an image.",
        "command": "Replaces the image's entrypoint.",
        "args": "Replaces the image's arguments.",
        "working_dir": "Directory to start in; the image's own by default.",
        "env": "Environment variables.",
        "ports": "Ports that it listens on.",
        "resources": "What it reserves, and what it may use at most.",
        "startup_probe": "Until it succeeds, the other probes wait; when it fails, the container restarts.",
        "liveness_probe": "When it fails, the container restarts.",
        "readiness_probe": "While it fails, the replica is not ready.",
        "security_context": "What this container may do, over the workload's context.",
    },
    spec.EnvVar: {"name": "Name of the variable.", "value": "Its value."},
    spec.ContainerPort: {
        "name": "Name that probes may use: at most 15 of a-z, 0-9 and -.",
        "container_port": "Number, 1 to 65535.",
        "protocol": "TCP or UDP.",
        "host_port": "Port of the node that leads here; 0 for none.",
    },
    spec.Resources: {
        "requests": "What the replica reserves on its node; a limit without a request reserves the limit.",
        "limits": "What the container may use at most.",
    },
    spec.ResourceAmounts: {
        "cpu_millis": "CPU time.",
        "memory_bytes": "Memory; above its limit a container is killed. The limit is twice the request by default.",
        "storage_bytes": "Disk space; only reserved, in this version.",
        "egress_bps": "Outgoing traffic; only reserved, in this version.",
        "pids": "Processes and threads.",
    },
    spec.Probe: {
        "http": "Asks for a page; 200 to 399 is a success.",
        "tcp": "Opens a connection.",
        "exec": "Runs a command in the container; exit code 0 is a success.",
        "grpc": "Asks the gRPC health service.",
        "initial_delay_ms": "Time from the start to the first probe.",
        "period_ms": "Time between probes.",
        "timeout_ms": "A probe that takes longer has failed.",
        "success_threshold": "Successes in a row that make it good.",
        "failure_threshold": "Failures in a row that make it bad.",
    },
    spec.HttpProbe: {
        "path": "Path to ask for, starting with /.",
        "port": "Number or name of the port.",
        "scheme": "HTTP or HTTPS.",
        "headers": "Headers to send.",
    },
    spec.TcpProbe: {"port": "Number or name of the port."},
    spec.ExecProbe: {"command": "Program and arguments."},
    spec.GrpcProbe: {"port": "Number or name of the port.", "service": "Service to ask about; empty for the server."},
    spec.Placement: {
        "regions": "Preferred regions, best first.",
        "zones": "Preferred zones, best first.",
        "required": "Whether other regions and zones are ruled out.",
        "node_selector": "Labels that a node must have.",
        "tolerations": "Taints that do not keep replicas away.",
        "affinity": "Workloads to be near to.",
        "anti_affinity": "Workloads to stay away from.",
        "spread": "Labels to spread replicas over.",
    },
    spec.Toleration: {
        "key": "The taint's key; empty, with Exists, for every taint.",
        "operator": "Equal compares the value; Exists takes any.",
        "value": "The taint's value.",
        "effect": "The taint's effect; every effect when left out.",
    },
    spec.Affinity: {
        "workload": "Workload to be near to; the workload itself when neither it nor labels are given.",
        "match_labels": "Labels of the workloads to be near to.",
        "topology_key": "What must be the same: node, zone, region or a node label.",
        "required": "Whether other places are ruled out instead of ranked lower.",
        "weight": "How much it counts where it is not required, 1 to 100; 100 outweighs all else.",
    },
    spec.AntiAffinity: {
        "workload": "Workload to stay away from; the workload itself when neither it nor labels are given.",
        "match_labels": "Labels of the workloads to stay away from.",
        "weight": "How much it counts where it is not required, 1 to 100; 100 outweighs all else.",
        "topology_key": "What must differ: node, zone, region or a node label.",
        "required": "Whether it rules nodes out instead of ranking them lower.",
    },
    spec.SpreadConstraint: {
        "topology_key": "What to spread over: node, zone, region or a node label.",
        "max_skew": "How far the fullest and the emptiest may differ, in replicas.",
        "required": "Whether a node that would exceed it is no candidate, instead of a worse one.",
    },
    spec.RestartPolicy: {
        "policy": "Always, OnFailure (exit code not 0) or Never.",
        "max_retries": "Restarts after which a replica has failed; 0 for no limit.",
        "backoff": "Time between restarts.",
    },
    spec.Backoff: {
        "initial_ms": "Time before the first restart; it doubles with each one.",
        "max_ms": "Longest time between restarts.",
        "reset_ms": "Time of running well after which the backoff starts anew.",
    },
    spec.Rollout: {
        "strategy": "RollingUpdate replaces replicas a few at a time; Recreate stops all of them first; Canary goes by "
        "steps; BlueGreen starts a whole new set beside the old one and waits for `rollout promote`.",
        "max_surge": "Replicas above the wanted number meanwhile.",
        "max_unavailable": "Replicas below the wanted number meanwhile.",
        "min_available": "Ready replicas that a rollout or drain never goes below.",
        "min_ready_ms": "Time for which a new replica must be ready before it counts.",
        "progress_deadline_ms": "Time without a further available replica after which a rollout has failed; pauses do "
        "not count.",
        "auto_rollback": "Whether a failed rollout goes back to the last version that was complete.",
        "canary": "Steps of the strategy Canary; after the last one all replicas are replaced.",
    },
    spec.Canary: {"steps": "How many replicas are new, and for how long, before the next step."},
    spec.CanaryStep: {
        "weight": "Percent of the replicas that are new, rounded up; weights rise from step to step.",
        "pause_ms": "Time before the next step once they are available, or manual: until `rollout promote`.",
    },
    spec.Disruption: {
        "offline_grace_ms": "Time for which a node may be away before its replicas are replaced.",
        "on_reconnect": "Which copy stays when a node returns whose replica was replaced.",
        "lease_duration_ms": "Time for which a node without a coordinator keeps its replicas running, and starts them "
        "again after a reboot; they stop when it is over.",
    },
    spec.Termination: {
        "grace_period_ms": "Time between the request to stop (SIGTERM) and being killed.",
        "pre_stop": "What happens before the request to stop, while no new traffic comes; part of the grace period.",
    },
    spec.PreStop: {
        "exec": "Runs a command in each container that runs.",
        "http": "Asks the container with this port for a page.",
        "sleep_ms": "Waits for so long; shorter than the grace period.",
    },
    spec.Schedule: {
        "cron": "Minute, hour, day of month, month, day of week, as in */5 * * * *; or @hourly, @daily, @weekly.",
        "time_zone": "Time zone of the IANA database; UTC when left out.",
        "concurrency": "While one runs, the next starts beside it (Allow), is left out (Forbid) or ends it (Replace).",
        "missed": "What becomes of runs that were due while nothing could start them: Skip, RunOnce or RunAll.",
        "history": "Finished runs that are kept.",
        "suspend": "Whether it is on hold.",
    },
    spec.Completion: {
        "parallelism": "Replicas at the same time.",
        "completions": "Replicas that must succeed.",
        "ttl_after_finished_ms": "Time after its end after which it is deleted; never when left out.",
        "active_deadline_ms": "Time after which a run has failed; none when left out.",
    },
    spec.SecurityContext: {
        "run_as_non_root": "Refuse to run as user 0.",
        "run_as_user": "User id to run as; the image's own when left out.",
        "run_as_group": "Group id to run as.",
        "read_only_root_filesystem": "Mount the container's root read-only.",
        "capabilities": "Linux capabilities; a short safe list by default.",
        "privileged": "Must be false in this version.",
        "host_network": "Must be false in this version.",
        "seccomp_profile": "System calls that are allowed.",
        "app_armor_profile": "AppArmor profile, on devices that have it.",
        "runtime_class_name": "runc for images, process for processes; follows from the container when left out.",
    },
    spec.Capabilities: {
        "drop": "Capabilities to take away, or ALL.",
        "add": "Capabilities to give, such as NET_BIND_SERVICE.",
    },
    spec.SecurityProfile: {"type": "RuntimeDefault or Unconfined."},
}
