"""What the guard and its agent say to each other: packets on a Unix SOCK_SEQPACKET socket.

Input and output are JSON objects, one a packet, at most `PACKET_MAX` bytes. A request carries `id`
and `do`; its reply repeats the number as `re`. Everything the guard sends carries its whole status,
so a lost or skipped event loses no knowledge. Open descriptors travel beside two packets: the first
one on a connection (the guard's own pidfd, then the postmaster's if there is one) and the reply to
`start` (the postmaster's). A pidfd made by the parent cannot name a recycled process number.

Pure: no socket, no clock. Does not know when anything is sent.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

PROTOCOL = 1
PACKET_MAX = 64 * 1024
"""Bytes; a Unix socket carries this much in one piece with every kernel's default buffers."""

SOCKET_NAME = "guard.sock"
LOCK_NAME = "guard.lock"
LOG_NAME = "guard.log"

READY = "ready"  # first word on the pipe to the starter: the socket listens
BUSY = "busy"  # another guard owns the run directory


class PacketError(ValueError):
    """A packet was not understood. Nothing was done."""


@dataclass(frozen=True, slots=True)
class GuardStatus:
    """Everything the guard knows, as of one moment."""

    pid: int  # the guard
    data_dir: str
    postmaster_pid: int | None = None  # None as soon as its exit was seen
    children: int = 0  # processes of the server that have the guard as parent
    gone: bool = True  # no process that this guard ever started, or inherited from one, is left
    stopping: bool = False  # it is being ended, by the fence or because no agent came back
    armed_term: int = 0  # 0 when not armed
    deadline_boot_ns: int | None = None  # CLOCK_BOOTTIME; None when not armed
    floor_term: int = 0  # highest term ever armed; lower ones are refused
    fenced_term: int = 0  # highest term whose deadline passed; it can never be armed again
    last_pid: int | None = None  # the last postmaster, running or not; None before the first
    last_exit: int | None = None  # wait status of the last postmaster that ended
    last_fence_ms: float | None = None  # first SIGQUIT or SIGKILL → last process reaped
    last_stop_ms: float | None = None  # any stop: the first signal or the exit → last one reaped
    memory_locked: bool = False
    watchdog: str = "off"  # off | idle | armed | failed; see `keeper`
    watchdog_why: str = ""  # why it is not armed; "" unless it failed
    watchdog_timeout_s: int = 0  # 0 while it is not known
    watchdog_identity: str = ""  # what its driver calls itself
    adopted: bool = False  # set by the client: the guard was there before this agent


_STATUS_FIELDS = frozenset(field.name for field in fields(GuardStatus))


def status_to_json(status: GuardStatus) -> dict[str, Any]:
    """Return the status as a JSON object."""
    return asdict(status)


def status_from_json(value: object, *, adopted: bool) -> GuardStatus:
    """Return the status from a packet, ignoring fields of a newer guard.

    Raises:
        PacketError: a field that is needed is missing.
    """
    if not isinstance(value, dict):
        raise PacketError(f"no status: {value!r}")
    known = {name: value[name] for name in value if name in _STATUS_FIELDS}
    known["adopted"] = adopted
    try:
        return GuardStatus(**known)
    except TypeError as error:
        raise PacketError(str(error)) from None


def encode(packet: dict[str, Any]) -> bytes:
    """Return the packet's bytes.

    Raises:
        PacketError: it would be larger than PACKET_MAX.
    """
    data = json.dumps(packet, separators=(",", ":")).encode("utf-8", "surrogateescape")
    if len(data) > PACKET_MAX:
        raise PacketError(f"packet of {len(data)} bytes, at most {PACKET_MAX} are allowed")
    return data


def decode_untrusted(data: bytes) -> dict[str, Any]:
    """Return the packet in `data`.

    Raises:
        PacketError: it is not a JSON object of allowed size.
    """
    if len(data) > PACKET_MAX:
        raise PacketError("packet too large")
    try:
        packet = json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise PacketError(f"not JSON: {error}") from None
    if not isinstance(packet, dict):
        raise PacketError("not a JSON object")
    return packet


def integer(packet: dict[str, Any], key: str) -> int:
    """Return a required integer of the packet.

    Raises:
        PacketError: it is missing or of another type.
    """
    value = packet.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise PacketError(f"{key} must be an integer")
    return value


def text(packet: dict[str, Any], key: str) -> str:
    """Return a required string without NUL bytes.

    Raises:
        PacketError: it is missing or of another type.
    """
    return _text(packet.get(key), key)


def _text(value: object, key: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise PacketError(f"{key} must be text without NUL")
    return value


def texts(packet: dict[str, Any], key: str) -> list[str]:
    """Return a required list of strings.

    Raises:
        PacketError: it is missing or of another type.
    """
    value = packet.get(key)
    if not isinstance(value, list):
        raise PacketError(f"{key} must be a list")
    return [_text(item, key) for item in value]


def mapping(packet: dict[str, Any], key: str) -> dict[str, str]:
    """Return a required object of strings.

    Raises:
        PacketError: it is missing or of another type.
    """
    value = packet.get(key)
    if not isinstance(value, dict):
        raise PacketError(f"{key} must be an object")
    return {_text(name, key): _text(item, key) for name, item in value.items()}
