from cloudless.api.v1 import spec_pb2 as _spec_pb2
from cloudless.api.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ConnectRequest(_message.Message):
    __slots__ = ("hello", "heartbeat", "report", "device", "goodbye")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    heartbeat: Heartbeat
    report: ReplicaReport
    device: _types_pb2.DeviceInfo
    goodbye: Goodbye
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., report: _Optional[_Union[ReplicaReport, _Mapping]] = ..., device: _Optional[_Union[_types_pb2.DeviceInfo, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class ConnectResponse(_message.Message):
    __slots__ = ("welcome", "assignments", "heartbeat_ack", "open_channel", "report_ack", "coordinators", "signed_assignments", "lease_renewal")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_ACK_FIELD_NUMBER: _ClassVar[int]
    OPEN_CHANNEL_FIELD_NUMBER: _ClassVar[int]
    REPORT_ACK_FIELD_NUMBER: _ClassVar[int]
    COORDINATORS_FIELD_NUMBER: _ClassVar[int]
    SIGNED_ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    LEASE_RENEWAL_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    assignments: AssignmentSet
    heartbeat_ack: HeartbeatAck
    open_channel: OpenChannel
    report_ack: ReportAck
    coordinators: CoordinatorList
    signed_assignments: SignedAssignments
    lease_renewal: SignedLease
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., assignments: _Optional[_Union[AssignmentSet, _Mapping]] = ..., heartbeat_ack: _Optional[_Union[HeartbeatAck, _Mapping]] = ..., open_channel: _Optional[_Union[OpenChannel, _Mapping]] = ..., report_ack: _Optional[_Union[ReportAck, _Mapping]] = ..., coordinators: _Optional[_Union[CoordinatorList, _Mapping]] = ..., signed_assignments: _Optional[_Union[SignedAssignments, _Mapping]] = ..., lease_renewal: _Optional[_Union[SignedLease, _Mapping]] = ...) -> None: ...

class CoordinatorList(_message.Message):
    __slots__ = ("addresses",)
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("boot_id", "instance_id", "device", "wall_clock_ms", "assignments_revision", "only_with_leader", "signed_assignments", "journal_refused")
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    WALL_CLOCK_MS_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_REVISION_FIELD_NUMBER: _ClassVar[int]
    ONLY_WITH_LEADER_FIELD_NUMBER: _ClassVar[int]
    SIGNED_ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_REFUSED_FIELD_NUMBER: _ClassVar[int]
    boot_id: str
    instance_id: str
    device: _types_pb2.DeviceInfo
    wall_clock_ms: int
    assignments_revision: int
    only_with_leader: bool
    signed_assignments: bool
    journal_refused: str
    def __init__(self, boot_id: _Optional[str] = ..., instance_id: _Optional[str] = ..., device: _Optional[_Union[_types_pb2.DeviceInfo, _Mapping]] = ..., wall_clock_ms: _Optional[int] = ..., assignments_revision: _Optional[int] = ..., only_with_leader: bool = ..., signed_assignments: bool = ..., journal_refused: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("coordinator_id", "heartbeat_interval_ms", "wall_clock_ms", "coordinators", "leaderless")
    COORDINATOR_ID_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    WALL_CLOCK_MS_FIELD_NUMBER: _ClassVar[int]
    COORDINATORS_FIELD_NUMBER: _ClassVar[int]
    LEADERLESS_FIELD_NUMBER: _ClassVar[int]
    coordinator_id: str
    heartbeat_interval_ms: int
    wall_clock_ms: int
    coordinators: _containers.RepeatedScalarFieldContainer[str]
    leaderless: bool
    def __init__(self, coordinator_id: _Optional[str] = ..., heartbeat_interval_ms: _Optional[int] = ..., wall_clock_ms: _Optional[int] = ..., coordinators: _Optional[_Iterable[str]] = ..., leaderless: bool = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("sequence", "usage", "wall_clock_ms")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    WALL_CLOCK_MS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    usage: _types_pb2.NodeUsage
    wall_clock_ms: int
    def __init__(self, sequence: _Optional[int] = ..., usage: _Optional[_Union[_types_pb2.NodeUsage, _Mapping]] = ..., wall_clock_ms: _Optional[int] = ...) -> None: ...

class HeartbeatAck(_message.Message):
    __slots__ = ("sequence", "leaderless")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LEADERLESS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    leaderless: bool
    def __init__(self, sequence: _Optional[int] = ..., leaderless: bool = ...) -> None: ...

class ReplicaReport(_message.Message):
    __slots__ = ("sequence", "full", "replicas")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    full: bool
    replicas: _containers.RepeatedCompositeFieldContainer[ReplicaObservation]
    def __init__(self, sequence: _Optional[int] = ..., full: bool = ..., replicas: _Optional[_Iterable[_Union[ReplicaObservation, _Mapping]]] = ...) -> None: ...

class ReplicaObservation(_message.Message):
    __slots__ = ("replica_id", "status", "gone")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    status: _types_pb2.ReplicaStatus
    gone: bool
    def __init__(self, replica_id: _Optional[str] = ..., status: _Optional[_Union[_types_pb2.ReplicaStatus, _Mapping]] = ..., gone: bool = ...) -> None: ...

class ReportAck(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class AssignmentSet(_message.Message):
    __slots__ = ("revision", "assignments")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    assignments: _containers.RepeatedCompositeFieldContainer[Assignment]
    def __init__(self, revision: _Optional[int] = ..., assignments: _Optional[_Iterable[_Union[Assignment, _Mapping]]] = ...) -> None: ...

class SignedAssignments(_message.Message):
    __slots__ = ("assignments", "lease")
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    assignments: bytes
    lease: SignedLease
    def __init__(self, assignments: _Optional[bytes] = ..., lease: _Optional[_Union[SignedLease, _Mapping]] = ...) -> None: ...

class AssignmentList(_message.Message):
    __slots__ = ("assignments",)
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    assignments: _containers.RepeatedCompositeFieldContainer[Assignment]
    def __init__(self, assignments: _Optional[_Iterable[_Union[Assignment, _Mapping]]] = ...) -> None: ...

class AssignmentLease(_message.Message):
    __slots__ = ("trust_domain", "node_id", "revision", "assignments_sha256", "issued_at_ms", "expires_at_ms")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    node_id: str
    revision: int
    assignments_sha256: bytes
    issued_at_ms: int
    expires_at_ms: int
    def __init__(self, trust_domain: _Optional[str] = ..., node_id: _Optional[str] = ..., revision: _Optional[int] = ..., assignments_sha256: _Optional[bytes] = ..., issued_at_ms: _Optional[int] = ..., expires_at_ms: _Optional[int] = ...) -> None: ...

class SignedLease(_message.Message):
    __slots__ = ("lease", "signature", "certificates")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    lease: bytes
    signature: bytes
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, lease: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., certificates: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("replica_id", "workload", "namespace", "generation", "spec", "stopping", "stop_reason")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STOPPING_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    workload: str
    namespace: str
    generation: int
    spec: _spec_pb2.WorkloadSpec
    stopping: bool
    stop_reason: str
    def __init__(self, replica_id: _Optional[str] = ..., workload: _Optional[str] = ..., namespace: _Optional[str] = ..., generation: _Optional[int] = ..., spec: _Optional[_Union[_spec_pb2.WorkloadSpec, _Mapping]] = ..., stopping: bool = ..., stop_reason: _Optional[str] = ...) -> None: ...

class OpenChannel(_message.Message):
    __slots__ = ("channel_id", "logs", "exec", "import_image", "list_images")
    CHANNEL_ID_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    EXEC_FIELD_NUMBER: _ClassVar[int]
    IMPORT_IMAGE_FIELD_NUMBER: _ClassVar[int]
    LIST_IMAGES_FIELD_NUMBER: _ClassVar[int]
    channel_id: str
    logs: LogsOpen
    exec: ExecOpen
    import_image: ImportOpen
    list_images: ListImagesOpen
    def __init__(self, channel_id: _Optional[str] = ..., logs: _Optional[_Union[LogsOpen, _Mapping]] = ..., exec: _Optional[_Union[ExecOpen, _Mapping]] = ..., import_image: _Optional[_Union[ImportOpen, _Mapping]] = ..., list_images: _Optional[_Union[ListImagesOpen, _Mapping]] = ...) -> None: ...

class LogsOpen(_message.Message):
    __slots__ = ("replica_id", "container", "follow", "tail_lines", "since_ms", "timestamps")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    TAIL_LINES_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMPS_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    container: str
    follow: bool
    tail_lines: int
    since_ms: int
    timestamps: bool
    def __init__(self, replica_id: _Optional[str] = ..., container: _Optional[str] = ..., follow: bool = ..., tail_lines: _Optional[int] = ..., since_ms: _Optional[int] = ..., timestamps: bool = ...) -> None: ...

class ExecOpen(_message.Message):
    __slots__ = ("replica_id", "container", "command", "tty", "stdin", "size")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    TTY_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    container: str
    command: _containers.RepeatedScalarFieldContainer[str]
    tty: bool
    stdin: bool
    size: TerminalSize
    def __init__(self, replica_id: _Optional[str] = ..., container: _Optional[str] = ..., command: _Optional[_Iterable[str]] = ..., tty: bool = ..., stdin: bool = ..., size: _Optional[_Union[TerminalSize, _Mapping]] = ...) -> None: ...

class ImportOpen(_message.Message):
    __slots__ = ("reference",)
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    def __init__(self, reference: _Optional[str] = ...) -> None: ...

class ListImagesOpen(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TerminalSize(_message.Message):
    __slots__ = ("columns", "rows")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    columns: int
    rows: int
    def __init__(self, columns: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class ChannelRequest(_message.Message):
    __slots__ = ("channel_id", "stdout", "stderr", "log", "end", "ready", "image")
    CHANNEL_ID_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    channel_id: str
    stdout: bytes
    stderr: bytes
    log: LogChunk
    end: ChannelEnd
    ready: ChannelReady
    image: ImageInfo
    def __init__(self, channel_id: _Optional[str] = ..., stdout: _Optional[bytes] = ..., stderr: _Optional[bytes] = ..., log: _Optional[_Union[LogChunk, _Mapping]] = ..., end: _Optional[_Union[ChannelEnd, _Mapping]] = ..., ready: _Optional[_Union[ChannelReady, _Mapping]] = ..., image: _Optional[_Union[ImageInfo, _Mapping]] = ...) -> None: ...

class ChannelResponse(_message.Message):
    __slots__ = ("stdin", "stdin_closed", "resize", "data", "data_end", "signal")
    STDIN_FIELD_NUMBER: _ClassVar[int]
    STDIN_CLOSED_FIELD_NUMBER: _ClassVar[int]
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    DATA_END_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    stdin: bytes
    stdin_closed: bool
    resize: TerminalSize
    data: bytes
    data_end: bool
    signal: int
    def __init__(self, stdin: _Optional[bytes] = ..., stdin_closed: bool = ..., resize: _Optional[_Union[TerminalSize, _Mapping]] = ..., data: _Optional[bytes] = ..., data_end: bool = ..., signal: _Optional[int] = ...) -> None: ...

class ChannelReady(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LogChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class ImageInfo(_message.Message):
    __slots__ = ("reference", "digest", "size_bytes")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    reference: str
    digest: str
    size_bytes: int
    def __init__(self, reference: _Optional[str] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class ChannelEnd(_message.Message):
    __slots__ = ("exit_code", "error_code", "error_message", "error_reason", "error_remedy")
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_REMEDY_FIELD_NUMBER: _ClassVar[int]
    exit_code: int
    error_code: str
    error_message: str
    error_reason: str
    error_remedy: str
    def __init__(self, exit_code: _Optional[int] = ..., error_code: _Optional[str] = ..., error_message: _Optional[str] = ..., error_reason: _Optional[str] = ..., error_remedy: _Optional[str] = ...) -> None: ...

class RenewCertificateRequest(_message.Message):
    __slots__ = ("csr_der",)
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    csr_der: bytes
    def __init__(self, csr_der: _Optional[bytes] = ...) -> None: ...

class RenewCertificateResponse(_message.Message):
    __slots__ = ("certificate_chain_pem", "expires_at_ms")
    CERTIFICATE_CHAIN_PEM_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    certificate_chain_pem: str
    expires_at_ms: int
    def __init__(self, certificate_chain_pem: _Optional[str] = ..., expires_at_ms: _Optional[int] = ...) -> None: ...
