"""Thousands of agents in one process: real TLS, HTTP/2 and session messages, and next to no cost of their own.

For measuring coordinators. An agent has a connection of its own, says hello, sends a heartbeat each interval, obeys at
once (what is assigned to it is ready, what it shall stop is gone) and counts what it hears. It asks for signed
assignments, as agents do, so that the coordinator's signing is part of what is measured; it checks no signature.
Where it is refused or cut off, it says so; it does not come back.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Final, cast

from cloudless.api.v1 import session_pb2, types_pb2
from cloudless.identity.credentials import Credentials
from cloudless.identity.spiffe import server_name
from cloudless.identity.tls import MutualTls

CONNECT: Final = "/cloudless.api.v1.SessionService/Connect"
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK: Final = 1
_END_HEADERS: Final = 4
_WINDOW: Final = 2**31 - 1
_STREAM: Final = 1
_TCP_INFO_BYTES: Final = 120  # where `tcpi_bytes_acked` and those behind it stand in Linux's struct tcp_info
_HEADERS_BYTES: Final = 14 + 20 + 32


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(value: bytes, *, name_index: int) -> bytes:
    return bytes([0x40 | name_index, len(value)]) + value


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class LoadAgent(asyncio.Protocol):
    """Made by `connect`. `connected` becomes true with the Welcome; `lost` says why the session ended."""

    def __init__(self, name: str, authority: str, device: types_pb2.DeviceInfo, on_word: Callable[[], None]) -> None:
        self.name = name
        self.connected = False
        self.lost = ""
        self.assigned: frozenset[str] = frozenset()
        self.heartbeats = 0
        self.acknowledged = 0
        self.signed_sets = 0
        self.renewals = 0
        self.slowest_ack_s = 0.0
        self._authority = authority
        self._device = device
        self._on_word = on_word
        self._interval_s = 1.0
        self._sent_at: dict[int, float] = {}
        self._reports = 0
        self._buffer = bytearray()
        self._message = bytearray()
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def connect(
        cls,
        name: str,
        address: str,
        credentials: Credentials,
        device: types_pb2.DeviceInfo,
        *,
        on_word: Callable[[], None] = lambda: None,
    ) -> LoadAgent:
        """`on_word` is called when the agent is connected or lost, and when its assignments change or are renewed."""
        host, _, port = address.rpartition(":")
        context = MutualTls.of(credentials).dialling
        context.set_alpn_protocols(["h2"])
        authority = server_name(credentials.trust_domain)
        _, made = await asyncio.get_running_loop().create_connection(
            lambda: cls(name, authority, device, on_word), host, int(port), ssl=context, server_hostname=authority
        )
        return made

    def wire_bytes(self) -> int:
        """Bytes on the wire of this connection so far, both ways, with the headers of IPv4, TCP and Ethernet."""
        found = self._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        acknowledged, received, segments_out, segments_in = struct.unpack_from("=QQII", found, _TCP_INFO_BYTES)
        return int(acknowledged + received + (segments_out + segments_in) * _HEADERS_BYTES)

    def close(self) -> None:
        """Without a goodbye, as a device that loses its power."""
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "h2"
        settings = struct.pack(">HIHI", 4, _WINDOW, 2, 0)  # INITIAL_WINDOW_SIZE, ENABLE_PUSH
        headers = (
            b"\x83\x87"  # POST, https
            + _literal(CONNECT.encode(), name_index=4)
            + _literal(self._authority.encode(), name_index=1)
            + _literal(b"application/grpc", name_index=31)
            + b"\x40\x02te\x08trailers"
        )
        hello = session_pb2.Hello(
            boot_id=f"boot-{self.name}", instance_id="1", wall_clock_ms=_wall_clock_ms(), signed_assignments=True
        )
        hello.device.CopyFrom(self._device)
        self._transport.write(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW - 65_535))
            + _frame(_HEADERS, _END_HEADERS, _STREAM, headers)
            + self._data(session_pb2.ConnectRequest(hello=hello))
        )

    def connection_lost(self, exc: BaseException | None) -> None:
        self._end(f"the connection ended: {exc or 'closed'}")

    def _end(self, why: str) -> None:
        if not self.lost:
            self.lost, self.connected = why, False
            if self._timer is not None:
                self._timer.cancel()
            self._on_word()

    @staticmethod
    def _data(message: session_pb2.ConnectRequest) -> bytes:
        payload = message.SerializeToString()
        return _frame(_DATA, 0, _STREAM, b"\0" + struct.pack(">I", len(payload)) + payload)

    # -- frames -------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        while end - at >= 9:
            length = buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]
            if end - at < 9 + length:
                break
            kind, flags, start = buffer[at + 3], buffer[at + 4], at + 9
            at = start + length
            self._on_frame(kind, flags, bytes(buffer[start:at]))
        del buffer[:at]

    def _on_frame(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _DATA:
            self._message += payload
            self._on_data()
        elif kind == _HEADERS and self.connected and flags & _ACK:  # END_STREAM: trailers
            self._end("the coordinator ended the session")
        elif kind == _HEADERS and flags & _ACK:
            self._end("the coordinator refused the session")
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _SETTINGS and not flags & _ACK:
            self._transport.write(_frame(_SETTINGS, _ACK, 0))
        elif kind in (_RST_STREAM, _GOAWAY):
            self._end("the coordinator reset the session")
            self._transport.abort()

    def _on_data(self) -> None:
        while len(self._message) >= 5:
            length = int.from_bytes(self._message[1:5], "big")
            if len(self._message) < 5 + length:
                return
            answer = session_pb2.ConnectResponse.FromString(bytes(self._message[5 : 5 + length]))
            del self._message[: 5 + length]
            self._on_answer(answer)

    # -- the session --------------------------------------------------------------------------------------

    def _on_answer(self, answer: session_pb2.ConnectResponse) -> None:
        match answer.WhichOneof("message"):
            case "welcome":
                self.connected = True
                self._interval_s = answer.welcome.heartbeat_interval_ms / 1000 or 1.0
                self._report(session_pb2.ReplicaReport(full=True))
                # Spread over the interval, as agents that started whenever they did.
                delay_s = random.Random(self.name).random() * self._interval_s
                self._timer = asyncio.get_running_loop().call_later(delay_s, self._beat)
                self._on_word()
            case "heartbeat_ack":
                sent_at = self._sent_at.pop(answer.heartbeat_ack.sequence, None)
                self.acknowledged += 1
                if sent_at is not None:
                    self.slowest_ack_s = max(self.slowest_ack_s, time.perf_counter() - sent_at)
            case "assignments":  # of a coordinator of an earlier version
                self._obey(answer.assignments.assignments)
            case "signed_assignments":
                self.signed_sets += 1
                listed = session_pb2.AssignmentList.FromString(answer.signed_assignments.assignments)
                self._obey(listed.assignments)
            case "lease_renewal":
                self.renewals += 1
                self._on_word()

    def _obey(self, wanted: Sequence[session_pb2.Assignment]) -> None:
        report = session_pb2.ReplicaReport()
        for assignment in wanted:
            status = types_pb2.ReplicaStatus(phase=types_pb2.REPLICA_PHASE_READY, runtime="fake")
            if assignment.stopping:
                report.replicas.add(replica_id=assignment.replica_id, gone=True)
            elif assignment.replica_id not in self.assigned:
                report.replicas.add(replica_id=assignment.replica_id, status=status)
        self.assigned = frozenset(a.replica_id for a in wanted if not a.stopping)
        if report.replicas:
            self._report(report)
        self._on_word()

    def _report(self, report: session_pb2.ReplicaReport) -> None:
        self._reports += 1
        report.sequence = self._reports
        self._transport.write(self._data(session_pb2.ConnectRequest(report=report)))

    def _beat(self) -> None:
        self.heartbeats += 1
        beat = session_pb2.Heartbeat(sequence=self.heartbeats, wall_clock_ms=_wall_clock_ms())
        # Something else in each, as devices that do something have it.
        busy = (zlib.crc32(self.name.encode()) + 37 * self.heartbeats) % 200
        beat.usage.cpu_millis, beat.usage.memory_bytes, beat.usage.rtt_us = 100 + busy, 2**28 + (busy << 16), 900 + busy
        beat.usage.battery_percent, beat.usage.power_source = -1, "mains"
        self._sent_at[self.heartbeats] = time.perf_counter()
        self._transport.write(self._data(session_pb2.ConnectRequest(heartbeat=beat)))
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._beat)
