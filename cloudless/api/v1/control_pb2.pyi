from cloudless.api.v1 import session_pb2 as _session_pb2
from cloudless.api.v1 import spec_pb2 as _spec_pb2
from cloudless.api.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JoinCoordinatorRequest(_message.Message):
    __slots__ = ("token", "coordinator_id", "csr_der", "version", "log_schema")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_ID_FIELD_NUMBER: _ClassVar[int]
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LOG_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    token: str
    coordinator_id: str
    csr_der: bytes
    version: str
    log_schema: int
    def __init__(self, token: _Optional[str] = ..., coordinator_id: _Optional[str] = ..., csr_der: _Optional[bytes] = ..., version: _Optional[str] = ..., log_schema: _Optional[int] = ...) -> None: ...

class JoinCoordinatorResponse(_message.Message):
    __slots__ = ("certificate_chain_pem", "trust_bundle_pem", "expires_at_ms", "trust_domain", "coordinators", "store_engine")
    CERTIFICATE_CHAIN_PEM_FIELD_NUMBER: _ClassVar[int]
    TRUST_BUNDLE_PEM_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    COORDINATORS_FIELD_NUMBER: _ClassVar[int]
    STORE_ENGINE_FIELD_NUMBER: _ClassVar[int]
    certificate_chain_pem: str
    trust_bundle_pem: str
    expires_at_ms: int
    trust_domain: str
    coordinators: _containers.RepeatedScalarFieldContainer[str]
    store_engine: str
    def __init__(self, certificate_chain_pem: _Optional[str] = ..., trust_bundle_pem: _Optional[str] = ..., expires_at_ms: _Optional[int] = ..., trust_domain: _Optional[str] = ..., coordinators: _Optional[_Iterable[str]] = ..., store_engine: _Optional[str] = ...) -> None: ...

class EnrollRequest(_message.Message):
    __slots__ = ("token", "node_name", "csr_der")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    token: str
    node_name: str
    csr_der: bytes
    def __init__(self, token: _Optional[str] = ..., node_name: _Optional[str] = ..., csr_der: _Optional[bytes] = ...) -> None: ...

class EnrollResponse(_message.Message):
    __slots__ = ("certificate_chain_pem", "trust_bundle_pem", "expires_at_ms", "node_id", "trust_domain", "coordinators")
    CERTIFICATE_CHAIN_PEM_FIELD_NUMBER: _ClassVar[int]
    TRUST_BUNDLE_PEM_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    COORDINATORS_FIELD_NUMBER: _ClassVar[int]
    certificate_chain_pem: str
    trust_bundle_pem: str
    expires_at_ms: int
    node_id: str
    trust_domain: str
    coordinators: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, certificate_chain_pem: _Optional[str] = ..., trust_bundle_pem: _Optional[str] = ..., expires_at_ms: _Optional[int] = ..., node_id: _Optional[str] = ..., trust_domain: _Optional[str] = ..., coordinators: _Optional[_Iterable[str]] = ...) -> None: ...

class ListOptions(_message.Message):
    __slots__ = ("label_selector", "namespace", "all_namespaces", "page_size", "page_token")
    LABEL_SELECTOR_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ALL_NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    label_selector: str
    namespace: str
    all_namespaces: bool
    page_size: int
    page_token: str
    def __init__(self, label_selector: _Optional[str] = ..., namespace: _Optional[str] = ..., all_namespaces: bool = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class CreateTokenRequest(_message.Message):
    __slots__ = ("node_pattern", "region", "zone", "labels", "ttl_ms", "max_uses")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NODE_PATTERN_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_USES_FIELD_NUMBER: _ClassVar[int]
    node_pattern: str
    region: str
    zone: str
    labels: _containers.ScalarMap[str, str]
    ttl_ms: int
    max_uses: int
    def __init__(self, node_pattern: _Optional[str] = ..., region: _Optional[str] = ..., zone: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., ttl_ms: _Optional[int] = ..., max_uses: _Optional[int] = ...) -> None: ...

class CreateTokenResponse(_message.Message):
    __slots__ = ("token", "jwt")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    JWT_FIELD_NUMBER: _ClassVar[int]
    token: _types_pb2.JoinToken
    jwt: str
    def __init__(self, token: _Optional[_Union[_types_pb2.JoinToken, _Mapping]] = ..., jwt: _Optional[str] = ...) -> None: ...

class ListTokensRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTokensResponse(_message.Message):
    __slots__ = ("tokens", "next_page_token")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[_types_pb2.JoinToken]
    next_page_token: str
    def __init__(self, tokens: _Optional[_Iterable[_Union[_types_pb2.JoinToken, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RevokeTokenRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RevokeTokenResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NodeView(_message.Message):
    __slots__ = ("node", "usage", "heartbeat_age_ms", "reserved", "replicas", "clock_skew_ms")
    NODE_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    RESERVED_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_SKEW_MS_FIELD_NUMBER: _ClassVar[int]
    node: _types_pb2.Node
    usage: _types_pb2.NodeUsage
    heartbeat_age_ms: int
    reserved: _spec_pb2.ResourceAmounts
    replicas: int
    clock_skew_ms: int
    def __init__(self, node: _Optional[_Union[_types_pb2.Node, _Mapping]] = ..., usage: _Optional[_Union[_types_pb2.NodeUsage, _Mapping]] = ..., heartbeat_age_ms: _Optional[int] = ..., reserved: _Optional[_Union[_spec_pb2.ResourceAmounts, _Mapping]] = ..., replicas: _Optional[int] = ..., clock_skew_ms: _Optional[int] = ...) -> None: ...

class GetNodeRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetNodeResponse(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: NodeView
    def __init__(self, node: _Optional[_Union[NodeView, _Mapping]] = ...) -> None: ...

class ListNodesRequest(_message.Message):
    __slots__ = ("options",)
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    options: ListOptions
    def __init__(self, options: _Optional[_Union[ListOptions, _Mapping]] = ...) -> None: ...

class ListNodesResponse(_message.Message):
    __slots__ = ("nodes", "next_page_token", "revision")
    NODES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeView]
    next_page_token: str
    revision: int
    def __init__(self, nodes: _Optional[_Iterable[_Union[NodeView, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class WatchNodesRequest(_message.Message):
    __slots__ = ("options", "from_revision")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    FROM_REVISION_FIELD_NUMBER: _ClassVar[int]
    options: ListOptions
    from_revision: int
    def __init__(self, options: _Optional[_Union[ListOptions, _Mapping]] = ..., from_revision: _Optional[int] = ...) -> None: ...

class WatchNodesResponse(_message.Message):
    __slots__ = ("node", "deleted_id", "revision", "synced")
    NODE_FIELD_NUMBER: _ClassVar[int]
    DELETED_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    node: NodeView
    deleted_id: str
    revision: int
    synced: bool
    def __init__(self, node: _Optional[_Union[NodeView, _Mapping]] = ..., deleted_id: _Optional[str] = ..., revision: _Optional[int] = ..., synced: bool = ...) -> None: ...

class UpdateNodeRequest(_message.Message):
    __slots__ = ("id", "cordoned", "draining", "set_labels", "remove_labels", "set_taints", "remove_taints")
    class SetLabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    CORDONED_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    SET_LABELS_FIELD_NUMBER: _ClassVar[int]
    REMOVE_LABELS_FIELD_NUMBER: _ClassVar[int]
    SET_TAINTS_FIELD_NUMBER: _ClassVar[int]
    REMOVE_TAINTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    cordoned: bool
    draining: bool
    set_labels: _containers.ScalarMap[str, str]
    remove_labels: _containers.RepeatedScalarFieldContainer[str]
    set_taints: _containers.RepeatedCompositeFieldContainer[_types_pb2.Taint]
    remove_taints: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., cordoned: bool = ..., draining: bool = ..., set_labels: _Optional[_Mapping[str, str]] = ..., remove_labels: _Optional[_Iterable[str]] = ..., set_taints: _Optional[_Iterable[_Union[_types_pb2.Taint, _Mapping]]] = ..., remove_taints: _Optional[_Iterable[str]] = ...) -> None: ...

class UpdateNodeResponse(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: NodeView
    def __init__(self, node: _Optional[_Union[NodeView, _Mapping]] = ...) -> None: ...

class RemoveNodeRequest(_message.Message):
    __slots__ = ("id", "force")
    ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    id: str
    force: bool
    def __init__(self, id: _Optional[str] = ..., force: bool = ...) -> None: ...

class RemoveNodeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CreateWorkloadRequest(_message.Message):
    __slots__ = ("metadata", "spec")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    metadata: _spec_pb2.Metadata
    spec: _spec_pb2.WorkloadSpec
    def __init__(self, metadata: _Optional[_Union[_spec_pb2.Metadata, _Mapping]] = ..., spec: _Optional[_Union[_spec_pb2.WorkloadSpec, _Mapping]] = ...) -> None: ...

class CreateWorkloadResponse(_message.Message):
    __slots__ = ("workload",)
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    workload: _types_pb2.Workload
    def __init__(self, workload: _Optional[_Union[_types_pb2.Workload, _Mapping]] = ...) -> None: ...

class UpdateWorkloadRequest(_message.Message):
    __slots__ = ("metadata", "spec", "expected_revision")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    metadata: _spec_pb2.Metadata
    spec: _spec_pb2.WorkloadSpec
    expected_revision: int
    def __init__(self, metadata: _Optional[_Union[_spec_pb2.Metadata, _Mapping]] = ..., spec: _Optional[_Union[_spec_pb2.WorkloadSpec, _Mapping]] = ..., expected_revision: _Optional[int] = ...) -> None: ...

class UpdateWorkloadResponse(_message.Message):
    __slots__ = ("workload",)
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    workload: _types_pb2.Workload
    def __init__(self, workload: _Optional[_Union[_types_pb2.Workload, _Mapping]] = ...) -> None: ...

class WorkloadManifest(_message.Message):
    __slots__ = ("metadata", "spec")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    metadata: _spec_pb2.Metadata
    spec: _spec_pb2.WorkloadSpec
    def __init__(self, metadata: _Optional[_Union[_spec_pb2.Metadata, _Mapping]] = ..., spec: _Optional[_Union[_spec_pb2.WorkloadSpec, _Mapping]] = ...) -> None: ...

class ApplyWorkloadsRequest(_message.Message):
    __slots__ = ("workloads", "dry_run")
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    workloads: _containers.RepeatedCompositeFieldContainer[WorkloadManifest]
    dry_run: bool
    def __init__(self, workloads: _Optional[_Iterable[_Union[WorkloadManifest, _Mapping]]] = ..., dry_run: bool = ...) -> None: ...

class ApplyOutcome(_message.Message):
    __slots__ = ("namespace", "name", "changed", "error_code", "error_message", "revision", "error_reason", "error_remedy")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ERROR_REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_REMEDY_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    changed: str
    error_code: str
    error_message: str
    revision: int
    error_reason: str
    error_remedy: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., changed: _Optional[str] = ..., error_code: _Optional[str] = ..., error_message: _Optional[str] = ..., revision: _Optional[int] = ..., error_reason: _Optional[str] = ..., error_remedy: _Optional[str] = ...) -> None: ...

class ApplyWorkloadsResponse(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[ApplyOutcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[ApplyOutcome, _Mapping]]] = ...) -> None: ...

class DeleteWorkloadRequest(_message.Message):
    __slots__ = ("namespace", "name")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class DeleteWorkloadResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetWorkloadRequest(_message.Message):
    __slots__ = ("namespace", "name")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class GetWorkloadResponse(_message.Message):
    __slots__ = ("workload",)
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    workload: _types_pb2.Workload
    def __init__(self, workload: _Optional[_Union[_types_pb2.Workload, _Mapping]] = ...) -> None: ...

class ListWorkloadsRequest(_message.Message):
    __slots__ = ("options",)
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    options: ListOptions
    def __init__(self, options: _Optional[_Union[ListOptions, _Mapping]] = ...) -> None: ...

class ListWorkloadsResponse(_message.Message):
    __slots__ = ("workloads", "next_page_token", "revision")
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    workloads: _containers.RepeatedCompositeFieldContainer[_types_pb2.Workload]
    next_page_token: str
    revision: int
    def __init__(self, workloads: _Optional[_Iterable[_Union[_types_pb2.Workload, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class WatchWorkloadsRequest(_message.Message):
    __slots__ = ("options", "from_revision", "name")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    FROM_REVISION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    options: ListOptions
    from_revision: int
    name: str
    def __init__(self, options: _Optional[_Union[ListOptions, _Mapping]] = ..., from_revision: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...

class WatchWorkloadsResponse(_message.Message):
    __slots__ = ("workload", "deleted_namespace", "deleted_name", "revision", "synced")
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    DELETED_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    DELETED_NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    workload: _types_pb2.Workload
    deleted_namespace: str
    deleted_name: str
    revision: int
    synced: bool
    def __init__(self, workload: _Optional[_Union[_types_pb2.Workload, _Mapping]] = ..., deleted_namespace: _Optional[str] = ..., deleted_name: _Optional[str] = ..., revision: _Optional[int] = ..., synced: bool = ...) -> None: ...

class ScaleWorkloadRequest(_message.Message):
    __slots__ = ("namespace", "name", "replicas")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    replicas: int
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., replicas: _Optional[int] = ...) -> None: ...

class ScaleWorkloadResponse(_message.Message):
    __slots__ = ("workload",)
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    workload: _types_pb2.Workload
    def __init__(self, workload: _Optional[_Union[_types_pb2.Workload, _Mapping]] = ...) -> None: ...

class RestartWorkloadRequest(_message.Message):
    __slots__ = ("namespace", "name")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class RestartWorkloadResponse(_message.Message):
    __slots__ = ("workload",)
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    workload: _types_pb2.Workload
    def __init__(self, workload: _Optional[_Union[_types_pb2.Workload, _Mapping]] = ...) -> None: ...

class GetReplicaRequest(_message.Message):
    __slots__ = ("namespace", "id")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    id: str
    def __init__(self, namespace: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class GetReplicaResponse(_message.Message):
    __slots__ = ("replica",)
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    replica: _types_pb2.Replica
    def __init__(self, replica: _Optional[_Union[_types_pb2.Replica, _Mapping]] = ...) -> None: ...

class ListReplicasRequest(_message.Message):
    __slots__ = ("options", "workload", "node_id")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    options: ListOptions
    workload: str
    node_id: str
    def __init__(self, options: _Optional[_Union[ListOptions, _Mapping]] = ..., workload: _Optional[str] = ..., node_id: _Optional[str] = ...) -> None: ...

class ListReplicasResponse(_message.Message):
    __slots__ = ("replicas", "next_page_token", "revision")
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    replicas: _containers.RepeatedCompositeFieldContainer[_types_pb2.Replica]
    next_page_token: str
    revision: int
    def __init__(self, replicas: _Optional[_Iterable[_Union[_types_pb2.Replica, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class WatchReplicasRequest(_message.Message):
    __slots__ = ("options", "workload", "node_id", "from_revision")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_REVISION_FIELD_NUMBER: _ClassVar[int]
    options: ListOptions
    workload: str
    node_id: str
    from_revision: int
    def __init__(self, options: _Optional[_Union[ListOptions, _Mapping]] = ..., workload: _Optional[str] = ..., node_id: _Optional[str] = ..., from_revision: _Optional[int] = ...) -> None: ...

class WatchReplicasResponse(_message.Message):
    __slots__ = ("replica", "deleted_id", "revision", "synced")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    DELETED_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    replica: _types_pb2.Replica
    deleted_id: str
    revision: int
    synced: bool
    def __init__(self, replica: _Optional[_Union[_types_pb2.Replica, _Mapping]] = ..., deleted_id: _Optional[str] = ..., revision: _Optional[int] = ..., synced: bool = ...) -> None: ...

class LogsRequest(_message.Message):
    __slots__ = ("namespace", "replica_id", "container", "follow", "tail_lines", "since_ms", "timestamps")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    TAIL_LINES_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMPS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    replica_id: str
    container: str
    follow: bool
    tail_lines: int
    since_ms: int
    timestamps: bool
    def __init__(self, namespace: _Optional[str] = ..., replica_id: _Optional[str] = ..., container: _Optional[str] = ..., follow: bool = ..., tail_lines: _Optional[int] = ..., since_ms: _Optional[int] = ..., timestamps: bool = ...) -> None: ...

class LogsResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class ExecRequest(_message.Message):
    __slots__ = ("start", "stdin", "stdin_closed", "resize", "signal")
    START_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    STDIN_CLOSED_FIELD_NUMBER: _ClassVar[int]
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    start: ExecStart
    stdin: bytes
    stdin_closed: bool
    resize: _session_pb2.TerminalSize
    signal: int
    def __init__(self, start: _Optional[_Union[ExecStart, _Mapping]] = ..., stdin: _Optional[bytes] = ..., stdin_closed: bool = ..., resize: _Optional[_Union[_session_pb2.TerminalSize, _Mapping]] = ..., signal: _Optional[int] = ...) -> None: ...

class ExecStart(_message.Message):
    __slots__ = ("namespace", "replica_id", "container", "command", "tty", "stdin", "size")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    TTY_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    replica_id: str
    container: str
    command: _containers.RepeatedScalarFieldContainer[str]
    tty: bool
    stdin: bool
    size: _session_pb2.TerminalSize
    def __init__(self, namespace: _Optional[str] = ..., replica_id: _Optional[str] = ..., container: _Optional[str] = ..., command: _Optional[_Iterable[str]] = ..., tty: bool = ..., stdin: bool = ..., size: _Optional[_Union[_session_pb2.TerminalSize, _Mapping]] = ...) -> None: ...

class ExecResponse(_message.Message):
    __slots__ = ("stdout", "stderr", "exit_code", "started")
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    stdout: bytes
    stderr: bytes
    exit_code: int
    started: bool
    def __init__(self, stdout: _Optional[bytes] = ..., stderr: _Optional[bytes] = ..., exit_code: _Optional[int] = ..., started: bool = ...) -> None: ...

class ImportImageRequest(_message.Message):
    __slots__ = ("start", "data", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: ImportStart
    data: bytes
    end: bool
    def __init__(self, start: _Optional[_Union[ImportStart, _Mapping]] = ..., data: _Optional[bytes] = ..., end: bool = ...) -> None: ...

class ImportStart(_message.Message):
    __slots__ = ("node_id", "reference")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    reference: str
    def __init__(self, node_id: _Optional[str] = ..., reference: _Optional[str] = ...) -> None: ...

class ImportImageResponse(_message.Message):
    __slots__ = ("received_bytes", "images")
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    received_bytes: int
    images: _containers.RepeatedCompositeFieldContainer[_session_pb2.ImageInfo]
    def __init__(self, received_bytes: _Optional[int] = ..., images: _Optional[_Iterable[_Union[_session_pb2.ImageInfo, _Mapping]]] = ...) -> None: ...

class ListImagesRequest(_message.Message):
    __slots__ = ("node_id",)
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    def __init__(self, node_id: _Optional[str] = ...) -> None: ...

class ListImagesResponse(_message.Message):
    __slots__ = ("images",)
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[_session_pb2.ImageInfo]
    def __init__(self, images: _Optional[_Iterable[_Union[_session_pb2.ImageInfo, _Mapping]]] = ...) -> None: ...

class PutUserRequest(_message.Message):
    __slots__ = ("name", "bindings", "csr_der", "ttl_ms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BINDINGS_FIELD_NUMBER: _ClassVar[int]
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    name: str
    bindings: _containers.RepeatedCompositeFieldContainer[_types_pb2.RoleBinding]
    csr_der: bytes
    ttl_ms: int
    def __init__(self, name: _Optional[str] = ..., bindings: _Optional[_Iterable[_Union[_types_pb2.RoleBinding, _Mapping]]] = ..., csr_der: _Optional[bytes] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class PutUserResponse(_message.Message):
    __slots__ = ("user", "certificate_chain_pem", "trust_bundle_pem", "expires_at_ms")
    USER_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_CHAIN_PEM_FIELD_NUMBER: _ClassVar[int]
    TRUST_BUNDLE_PEM_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    user: _types_pb2.User
    certificate_chain_pem: str
    trust_bundle_pem: str
    expires_at_ms: int
    def __init__(self, user: _Optional[_Union[_types_pb2.User, _Mapping]] = ..., certificate_chain_pem: _Optional[str] = ..., trust_bundle_pem: _Optional[str] = ..., expires_at_ms: _Optional[int] = ...) -> None: ...

class ListUsersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListUsersResponse(_message.Message):
    __slots__ = ("users",)
    USERS_FIELD_NUMBER: _ClassVar[int]
    users: _containers.RepeatedCompositeFieldContainer[_types_pb2.User]
    def __init__(self, users: _Optional[_Iterable[_Union[_types_pb2.User, _Mapping]]] = ...) -> None: ...

class RevokeUserRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RevokeUserResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WhoAmIRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WhoAmIResponse(_message.Message):
    __slots__ = ("id", "bindings", "certificate_expires_at_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    BINDINGS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    id: str
    bindings: _containers.RepeatedCompositeFieldContainer[_types_pb2.RoleBinding]
    certificate_expires_at_ms: int
    def __init__(self, id: _Optional[str] = ..., bindings: _Optional[_Iterable[_Union[_types_pb2.RoleBinding, _Mapping]]] = ..., certificate_expires_at_ms: _Optional[int] = ...) -> None: ...

class RenewUserCertificateRequest(_message.Message):
    __slots__ = ("csr_der",)
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    csr_der: bytes
    def __init__(self, csr_der: _Optional[bytes] = ...) -> None: ...

class RenewUserCertificateResponse(_message.Message):
    __slots__ = ("certificate_chain_pem", "expires_at_ms")
    CERTIFICATE_CHAIN_PEM_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    certificate_chain_pem: str
    expires_at_ms: int
    def __init__(self, certificate_chain_pem: _Optional[str] = ..., expires_at_ms: _Optional[int] = ...) -> None: ...

class ListEventsRequest(_message.Message):
    __slots__ = ("namespace", "all_namespaces", "type_prefix", "resource", "limit")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ALL_NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    TYPE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    all_namespaces: bool
    type_prefix: str
    resource: str
    limit: int
    def __init__(self, namespace: _Optional[str] = ..., all_namespaces: bool = ..., type_prefix: _Optional[str] = ..., resource: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListEventsResponse(_message.Message):
    __slots__ = ("events", "revision")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_types_pb2.Event]
    revision: int
    def __init__(self, events: _Optional[_Iterable[_Union[_types_pb2.Event, _Mapping]]] = ..., revision: _Optional[int] = ...) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ("namespace", "all_namespaces", "type_prefix", "resource", "from_index", "from_sequence")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ALL_NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    TYPE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    FROM_INDEX_FIELD_NUMBER: _ClassVar[int]
    FROM_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    all_namespaces: bool
    type_prefix: str
    resource: str
    from_index: int
    from_sequence: int
    def __init__(self, namespace: _Optional[str] = ..., all_namespaces: bool = ..., type_prefix: _Optional[str] = ..., resource: _Optional[str] = ..., from_index: _Optional[int] = ..., from_sequence: _Optional[int] = ...) -> None: ...

class WatchEventsResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: _types_pb2.Event
    def __init__(self, event: _Optional[_Union[_types_pb2.Event, _Mapping]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CoordinatorView(_message.Message):
    __slots__ = ("coordinator", "role", "match_index", "contact_age_ms", "asked")
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    MATCH_INDEX_FIELD_NUMBER: _ClassVar[int]
    CONTACT_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    coordinator: _types_pb2.Coordinator
    role: str
    match_index: int
    contact_age_ms: int
    asked: bool
    def __init__(self, coordinator: _Optional[_Union[_types_pb2.Coordinator, _Mapping]] = ..., role: _Optional[str] = ..., match_index: _Optional[int] = ..., contact_age_ms: _Optional[int] = ..., asked: bool = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("version", "coordinator_id", "trust_domain", "commit_index", "applied_index", "term", "state_hash", "nodes_ready", "nodes_total", "workloads", "replicas_ready", "replicas_desired", "score_weights", "store_engine", "wall_clock_ms", "role", "leader_id", "coordinators", "first_index", "last_index")
    class ScoreWeightsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_ID_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    STATE_HASH_FIELD_NUMBER: _ClassVar[int]
    NODES_READY_FIELD_NUMBER: _ClassVar[int]
    NODES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_READY_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_DESIRED_FIELD_NUMBER: _ClassVar[int]
    SCORE_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    STORE_ENGINE_FIELD_NUMBER: _ClassVar[int]
    WALL_CLOCK_MS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    COORDINATORS_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    version: str
    coordinator_id: str
    trust_domain: str
    commit_index: int
    applied_index: int
    term: int
    state_hash: str
    nodes_ready: int
    nodes_total: int
    workloads: int
    replicas_ready: int
    replicas_desired: int
    score_weights: _containers.ScalarMap[str, float]
    store_engine: str
    wall_clock_ms: int
    role: str
    leader_id: str
    coordinators: _containers.RepeatedCompositeFieldContainer[CoordinatorView]
    first_index: int
    last_index: int
    def __init__(self, version: _Optional[str] = ..., coordinator_id: _Optional[str] = ..., trust_domain: _Optional[str] = ..., commit_index: _Optional[int] = ..., applied_index: _Optional[int] = ..., term: _Optional[int] = ..., state_hash: _Optional[str] = ..., nodes_ready: _Optional[int] = ..., nodes_total: _Optional[int] = ..., workloads: _Optional[int] = ..., replicas_ready: _Optional[int] = ..., replicas_desired: _Optional[int] = ..., score_weights: _Optional[_Mapping[str, float]] = ..., store_engine: _Optional[str] = ..., wall_clock_ms: _Optional[int] = ..., role: _Optional[str] = ..., leader_id: _Optional[str] = ..., coordinators: _Optional[_Iterable[_Union[CoordinatorView, _Mapping]]] = ..., first_index: _Optional[int] = ..., last_index: _Optional[int] = ...) -> None: ...

class ListCoordinatorsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListCoordinatorsResponse(_message.Message):
    __slots__ = ("coordinators", "api_addresses")
    COORDINATORS_FIELD_NUMBER: _ClassVar[int]
    API_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    coordinators: _containers.RepeatedCompositeFieldContainer[_types_pb2.Coordinator]
    api_addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, coordinators: _Optional[_Iterable[_Union[_types_pb2.Coordinator, _Mapping]]] = ..., api_addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class AddCoordinatorRequest(_message.Message):
    __slots__ = ("id", "ttl_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    id: str
    ttl_ms: int
    def __init__(self, id: _Optional[str] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class AddCoordinatorResponse(_message.Message):
    __slots__ = ("token", "jwt")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    JWT_FIELD_NUMBER: _ClassVar[int]
    token: _types_pb2.JoinToken
    jwt: str
    def __init__(self, token: _Optional[_Union[_types_pb2.JoinToken, _Mapping]] = ..., jwt: _Optional[str] = ...) -> None: ...

class RemoveCoordinatorRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RemoveCoordinatorResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PromoteCoordinatorRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class PromoteCoordinatorResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TransferLeadershipRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class TransferLeadershipResponse(_message.Message):
    __slots__ = ("leader_id",)
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    leader_id: str
    def __init__(self, leader_id: _Optional[str] = ...) -> None: ...

class BackupRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BackupResponse(_message.Message):
    __slots__ = ("data", "total_bytes")
    DATA_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    total_bytes: int
    def __init__(self, data: _Optional[bytes] = ..., total_bytes: _Optional[int] = ...) -> None: ...

class ControlRolloutRequest(_message.Message):
    __slots__ = ("namespace", "name", "action", "to_generation")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    TO_GENERATION_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    action: _types_pb2.RolloutAction
    to_generation: int
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., action: _Optional[_Union[_types_pb2.RolloutAction, str]] = ..., to_generation: _Optional[int] = ...) -> None: ...

class ControlRolloutResponse(_message.Message):
    __slots__ = ("workload",)
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    workload: _types_pb2.Workload
    def __init__(self, workload: _Optional[_Union[_types_pb2.Workload, _Mapping]] = ...) -> None: ...

class ListRevisionsRequest(_message.Message):
    __slots__ = ("namespace", "name")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class ListRevisionsResponse(_message.Message):
    __slots__ = ("revisions",)
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    revisions: _containers.RepeatedCompositeFieldContainer[_types_pb2.WorkloadRevision]
    def __init__(self, revisions: _Optional[_Iterable[_Union[_types_pb2.WorkloadRevision, _Mapping]]] = ...) -> None: ...

class StartRunRequest(_message.Message):
    __slots__ = ("namespace", "name")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class StartRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: _types_pb2.JobRun
    def __init__(self, run: _Optional[_Union[_types_pb2.JobRun, _Mapping]] = ...) -> None: ...

class ExplainPlacementRequest(_message.Message):
    __slots__ = ("namespace", "name", "replica_id")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    replica_id: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., replica_id: _Optional[str] = ...) -> None: ...

class Remedy(_message.Message):
    __slots__ = ("change", "node_id", "path")
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    change: str
    node_id: str
    path: str
    def __init__(self, change: _Optional[str] = ..., node_id: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class ExplainPlacementResponse(_message.Message):
    __slots__ = ("decision", "recorded", "remedies", "weights")
    class WeightsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    DECISION_FIELD_NUMBER: _ClassVar[int]
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    REMEDIES_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    decision: _types_pb2.PlacementDecision
    recorded: _types_pb2.PlacementDecision
    remedies: _containers.RepeatedCompositeFieldContainer[Remedy]
    weights: _containers.ScalarMap[str, float]
    def __init__(self, decision: _Optional[_Union[_types_pb2.PlacementDecision, _Mapping]] = ..., recorded: _Optional[_Union[_types_pb2.PlacementDecision, _Mapping]] = ..., remedies: _Optional[_Iterable[_Union[Remedy, _Mapping]]] = ..., weights: _Optional[_Mapping[str, float]] = ...) -> None: ...

class PlanWorkloadsRequest(_message.Message):
    __slots__ = ("workloads",)
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    workloads: _containers.RepeatedCompositeFieldContainer[WorkloadManifest]
    def __init__(self, workloads: _Optional[_Iterable[_Union[WorkloadManifest, _Mapping]]] = ...) -> None: ...

class SimulateRequest(_message.Message):
    __slots__ = ("drop_nodes", "drop_zones", "at_ms")
    DROP_NODES_FIELD_NUMBER: _ClassVar[int]
    DROP_ZONES_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    drop_nodes: _containers.RepeatedScalarFieldContainer[str]
    drop_zones: _containers.RepeatedScalarFieldContainer[str]
    at_ms: int
    def __init__(self, drop_nodes: _Optional[_Iterable[str]] = ..., drop_zones: _Optional[_Iterable[str]] = ..., at_ms: _Optional[int] = ...) -> None: ...

class PlannedChange(_message.Message):
    __slots__ = ("namespace", "workload", "replica_id", "change", "from_node", "to_node", "reason")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    FROM_NODE_FIELD_NUMBER: _ClassVar[int]
    TO_NODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    workload: str
    replica_id: str
    change: str
    from_node: str
    to_node: str
    reason: str
    def __init__(self, namespace: _Optional[str] = ..., workload: _Optional[str] = ..., replica_id: _Optional[str] = ..., change: _Optional[str] = ..., from_node: _Optional[str] = ..., to_node: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class WorkloadOutlook(_message.Message):
    __slots__ = ("namespace", "name", "desired", "placed_before", "placed_after", "min_available", "message")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESIRED_FIELD_NUMBER: _ClassVar[int]
    PLACED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    PLACED_AFTER_FIELD_NUMBER: _ClassVar[int]
    MIN_AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    desired: int
    placed_before: int
    placed_after: int
    min_available: int
    message: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., desired: _Optional[int] = ..., placed_before: _Optional[int] = ..., placed_after: _Optional[int] = ..., min_available: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class PlanWorkloadsResponse(_message.Message):
    __slots__ = ("changes", "workloads")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[PlannedChange]
    workloads: _containers.RepeatedCompositeFieldContainer[WorkloadOutlook]
    def __init__(self, changes: _Optional[_Iterable[_Union[PlannedChange, _Mapping]]] = ..., workloads: _Optional[_Iterable[_Union[WorkloadOutlook, _Mapping]]] = ...) -> None: ...

class SimulateResponse(_message.Message):
    __slots__ = ("changes", "workloads", "nodes_away")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    NODES_AWAY_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[PlannedChange]
    workloads: _containers.RepeatedCompositeFieldContainer[WorkloadOutlook]
    nodes_away: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, changes: _Optional[_Iterable[_Union[PlannedChange, _Mapping]]] = ..., workloads: _Optional[_Iterable[_Union[WorkloadOutlook, _Mapping]]] = ..., nodes_away: _Optional[_Iterable[str]] = ...) -> None: ...
