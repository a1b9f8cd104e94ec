"""WorkloadService as gRPC registers it: workloads, replicas and their streams."""

from __future__ import annotations

from cloudless.api.v1 import control_pb2_grpc
from cloudless.coordinator.rpc.services.backend import Backend
from cloudless.coordinator.rpc.services.interactive import Interactive
from cloudless.coordinator.rpc.services.rollouts import Rollouts
from cloudless.coordinator.rpc.services.workloads import Workloads


class WorkloadService(Workloads, Rollouts, Interactive, control_pb2_grpc.WorkloadServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
