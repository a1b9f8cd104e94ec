from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MemberHello(_message.Message):
    __slots__ = ("protocol", "protocol_oldest", "member_id", "to", "cluster_id")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_OLDEST_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    protocol_oldest: int
    member_id: str
    to: str
    cluster_id: str
    def __init__(self, protocol: _Optional[int] = ..., protocol_oldest: _Optional[int] = ..., member_id: _Optional[str] = ..., to: _Optional[str] = ..., cluster_id: _Optional[str] = ...) -> None: ...

class MemberWelcome(_message.Message):
    __slots__ = ("protocol", "member_id", "cluster_id", "refused", "message")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    member_id: str
    cluster_id: str
    refused: str
    message: str
    def __init__(self, protocol: _Optional[int] = ..., member_id: _Optional[str] = ..., cluster_id: _Optional[str] = ..., refused: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class TermRun(_message.Message):
    __slots__ = ("term", "count")
    TERM_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    term: int
    count: int
    def __init__(self, term: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class RaftRequestVote(_message.Message):
    __slots__ = ("term", "last_index", "last_term", "pre", "transfer")
    TERM_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_TERM_FIELD_NUMBER: _ClassVar[int]
    PRE_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    term: int
    last_index: int
    last_term: int
    pre: bool
    transfer: bool
    def __init__(self, term: _Optional[int] = ..., last_index: _Optional[int] = ..., last_term: _Optional[int] = ..., pre: bool = ..., transfer: bool = ...) -> None: ...

class RaftVoteResponse(_message.Message):
    __slots__ = ("term", "granted", "pre")
    TERM_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    PRE_FIELD_NUMBER: _ClassVar[int]
    term: int
    granted: bool
    pre: bool
    def __init__(self, term: _Optional[int] = ..., granted: bool = ..., pre: bool = ...) -> None: ...

class RaftAppendEntries(_message.Message):
    __slots__ = ("term", "previous_index", "previous_term", "commit_index", "round", "runs", "entries")
    TERM_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_INDEX_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_TERM_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    term: int
    previous_index: int
    previous_term: int
    commit_index: int
    round: int
    runs: _containers.RepeatedCompositeFieldContainer[TermRun]
    entries: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, term: _Optional[int] = ..., previous_index: _Optional[int] = ..., previous_term: _Optional[int] = ..., commit_index: _Optional[int] = ..., round: _Optional[int] = ..., runs: _Optional[_Iterable[_Union[TermRun, _Mapping]]] = ..., entries: _Optional[_Iterable[bytes]] = ...) -> None: ...

class RaftAppendResponse(_message.Message):
    __slots__ = ("term", "success", "match_index", "round", "refused_index", "hint_index", "hint_term")
    TERM_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MATCH_INDEX_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    REFUSED_INDEX_FIELD_NUMBER: _ClassVar[int]
    HINT_INDEX_FIELD_NUMBER: _ClassVar[int]
    HINT_TERM_FIELD_NUMBER: _ClassVar[int]
    term: int
    success: bool
    match_index: int
    round: int
    refused_index: int
    hint_index: int
    hint_term: int
    def __init__(self, term: _Optional[int] = ..., success: bool = ..., match_index: _Optional[int] = ..., round: _Optional[int] = ..., refused_index: _Optional[int] = ..., hint_index: _Optional[int] = ..., hint_term: _Optional[int] = ...) -> None: ...

class RaftTimeoutNow(_message.Message):
    __slots__ = ("term",)
    TERM_FIELD_NUMBER: _ClassVar[int]
    term: int
    def __init__(self, term: _Optional[int] = ...) -> None: ...

class RaftSnapshotChunk(_message.Message):
    __slots__ = ("term", "index", "last_term", "offset", "total", "configuration", "data", "round")
    TERM_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_TERM_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    CONFIGURATION_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    term: int
    index: int
    last_term: int
    offset: int
    total: int
    configuration: bytes
    data: bytes
    round: int
    def __init__(self, term: _Optional[int] = ..., index: _Optional[int] = ..., last_term: _Optional[int] = ..., offset: _Optional[int] = ..., total: _Optional[int] = ..., configuration: _Optional[bytes] = ..., data: _Optional[bytes] = ..., round: _Optional[int] = ...) -> None: ...

class RaftSnapshotResponse(_message.Message):
    __slots__ = ("term", "index", "offset", "installed", "round")
    TERM_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    INSTALLED_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    term: int
    index: int
    offset: int
    installed: bool
    round: int
    def __init__(self, term: _Optional[int] = ..., index: _Optional[int] = ..., offset: _Optional[int] = ..., installed: bool = ..., round: _Optional[int] = ...) -> None: ...

class RaftReadRequest(_message.Message):
    __slots__ = ("term", "id")
    TERM_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    term: int
    id: int
    def __init__(self, term: _Optional[int] = ..., id: _Optional[int] = ...) -> None: ...

class RaftReadResponse(_message.Message):
    __slots__ = ("term", "id", "index")
    TERM_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    term: int
    id: int
    index: int
    def __init__(self, term: _Optional[int] = ..., id: _Optional[int] = ..., index: _Optional[int] = ...) -> None: ...

class RaftForward(_message.Message):
    __slots__ = ("id", "entries")
    ID_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    id: int
    entries: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, id: _Optional[int] = ..., entries: _Optional[_Iterable[bytes]] = ...) -> None: ...

class RaftForwardResult(_message.Message):
    __slots__ = ("index", "term", "code", "reason", "message", "remedy")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    index: int
    term: int
    code: str
    reason: str
    message: str
    remedy: str
    def __init__(self, index: _Optional[int] = ..., term: _Optional[int] = ..., code: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class RaftForwarded(_message.Message):
    __slots__ = ("id", "results")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    id: int
    results: _containers.RepeatedCompositeFieldContainer[RaftForwardResult]
    def __init__(self, id: _Optional[int] = ..., results: _Optional[_Iterable[_Union[RaftForwardResult, _Mapping]]] = ...) -> None: ...

class RaftChangeRequest(_message.Message):
    __slots__ = ("id", "kind", "member", "address")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    id: int
    kind: str
    member: str
    address: str
    def __init__(self, id: _Optional[int] = ..., kind: _Optional[str] = ..., member: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class RaftChangeResponse(_message.Message):
    __slots__ = ("id", "reason", "leader")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    id: int
    reason: str
    leader: str
    def __init__(self, id: _Optional[int] = ..., reason: _Optional[str] = ..., leader: _Optional[str] = ...) -> None: ...

class RaftMessage(_message.Message):
    __slots__ = ("request_vote", "vote_response", "append_entries", "append_response", "timeout_now", "snapshot_chunk", "snapshot_response", "read_request", "read_response", "forward", "forwarded", "change_request", "change_response")
    REQUEST_VOTE_FIELD_NUMBER: _ClassVar[int]
    VOTE_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    APPEND_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    APPEND_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_NOW_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_CHUNK_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    READ_REQUEST_FIELD_NUMBER: _ClassVar[int]
    READ_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    FORWARD_FIELD_NUMBER: _ClassVar[int]
    FORWARDED_FIELD_NUMBER: _ClassVar[int]
    CHANGE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    CHANGE_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    request_vote: RaftRequestVote
    vote_response: RaftVoteResponse
    append_entries: RaftAppendEntries
    append_response: RaftAppendResponse
    timeout_now: RaftTimeoutNow
    snapshot_chunk: RaftSnapshotChunk
    snapshot_response: RaftSnapshotResponse
    read_request: RaftReadRequest
    read_response: RaftReadResponse
    forward: RaftForward
    forwarded: RaftForwarded
    change_request: RaftChangeRequest
    change_response: RaftChangeResponse
    def __init__(self, request_vote: _Optional[_Union[RaftRequestVote, _Mapping]] = ..., vote_response: _Optional[_Union[RaftVoteResponse, _Mapping]] = ..., append_entries: _Optional[_Union[RaftAppendEntries, _Mapping]] = ..., append_response: _Optional[_Union[RaftAppendResponse, _Mapping]] = ..., timeout_now: _Optional[_Union[RaftTimeoutNow, _Mapping]] = ..., snapshot_chunk: _Optional[_Union[RaftSnapshotChunk, _Mapping]] = ..., snapshot_response: _Optional[_Union[RaftSnapshotResponse, _Mapping]] = ..., read_request: _Optional[_Union[RaftReadRequest, _Mapping]] = ..., read_response: _Optional[_Union[RaftReadResponse, _Mapping]] = ..., forward: _Optional[_Union[RaftForward, _Mapping]] = ..., forwarded: _Optional[_Union[RaftForwarded, _Mapping]] = ..., change_request: _Optional[_Union[RaftChangeRequest, _Mapping]] = ..., change_response: _Optional[_Union[RaftChangeResponse, _Mapping]] = ...) -> None: ...
