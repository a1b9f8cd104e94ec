from cloudless.api.v1 import session_pb2 as _session_pb2
from cloudless.api.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FetchIdentityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FetchIdentityResponse(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[IdentityFile]
    def __init__(self, files: _Optional[_Iterable[_Union[IdentityFile, _Mapping]]] = ...) -> None: ...

class IdentityFile(_message.Message):
    __slots__ = ("path", "content")
    PATH_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    path: str
    content: bytes
    def __init__(self, path: _Optional[str] = ..., content: _Optional[bytes] = ...) -> None: ...

class AddLearnerRequest(_message.Message):
    __slots__ = ("member_address",)
    MEMBER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    member_address: str
    def __init__(self, member_address: _Optional[str] = ...) -> None: ...

class AddLearnerResponse(_message.Message):
    __slots__ = ("cluster_id",)
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    def __init__(self, cluster_id: _Optional[str] = ...) -> None: ...

class ObserveRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NodeObservation(_message.Message):
    __slots__ = ("node_id", "usage", "heartbeat_age_ms", "clock_skew_ms", "boot_id", "instance_id", "session_age_ms", "address", "patience_ms")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_SKEW_MS_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_MS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    usage: _types_pb2.NodeUsage
    heartbeat_age_ms: int
    clock_skew_ms: int
    boot_id: str
    instance_id: str
    session_age_ms: int
    address: str
    patience_ms: int
    def __init__(self, node_id: _Optional[str] = ..., usage: _Optional[_Union[_types_pb2.NodeUsage, _Mapping]] = ..., heartbeat_age_ms: _Optional[int] = ..., clock_skew_ms: _Optional[int] = ..., boot_id: _Optional[str] = ..., instance_id: _Optional[str] = ..., session_age_ms: _Optional[int] = ..., address: _Optional[str] = ..., patience_ms: _Optional[int] = ...) -> None: ...

class ObserveResponse(_message.Message):
    __slots__ = ("nodes", "departures", "partial")
    NODES_FIELD_NUMBER: _ClassVar[int]
    DEPARTURES_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeObservation]
    departures: _containers.RepeatedCompositeFieldContainer[NodeDeparture]
    partial: bool
    def __init__(self, nodes: _Optional[_Iterable[_Union[NodeObservation, _Mapping]]] = ..., departures: _Optional[_Iterable[_Union[NodeDeparture, _Mapping]]] = ..., partial: bool = ...) -> None: ...

class NodeDeparture(_message.Message):
    __slots__ = ("node_id", "left")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    left: str
    def __init__(self, node_id: _Optional[str] = ..., left: _Optional[str] = ...) -> None: ...

class RelayChannelRequest(_message.Message):
    __slots__ = ("start", "frame")
    START_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    start: RelayStart
    frame: _session_pb2.ChannelResponse
    def __init__(self, start: _Optional[_Union[RelayStart, _Mapping]] = ..., frame: _Optional[_Union[_session_pb2.ChannelResponse, _Mapping]] = ...) -> None: ...

class RelayStart(_message.Message):
    __slots__ = ("node_id", "open")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    open: _session_pb2.OpenChannel
    def __init__(self, node_id: _Optional[str] = ..., open: _Optional[_Union[_session_pb2.OpenChannel, _Mapping]] = ...) -> None: ...

class RelayChannelResponse(_message.Message):
    __slots__ = ("opened", "frame")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    opened: bool
    frame: _session_pb2.ChannelRequest
    def __init__(self, opened: bool = ..., frame: _Optional[_Union[_session_pb2.ChannelRequest, _Mapping]] = ...) -> None: ...
