"""The diary of one run of the rig: typed records, one JSON object a line.

Several processes append to such files, so every record is handed to the kernel in one write to a
file opened for appending: lines of different writers never mix. A writer that is killed can leave
its last line torn; reading tolerates that one line and says so. Every other line that does not
hold what its kind promises is an error, because a checker that skips what it does not understand
finds nothing.

Times are seconds of CLOCK_MONOTONIC since `Run.start_mono`; all processes of a run share one
machine, so they can be compared. Fields that a reader does not know are ignored, kinds are not.

This module knows the format only, and nothing of the program under test.
"""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import TypeVar, get_type_hints

from chaos.narrow import as_bool, as_float, as_int, as_mapping, as_str, as_tuple_of, or_none

LINE_BYTES_MAX = 1 << 20
LINES_MAX = 5_000_000
VALUES_MAX = 10_000_000  # rows in one file of final values
HISTORY_FILE = "history.jsonl"
CLIENT_FILES = "client-*.jsonl"
TORN_SHOWN_CHARS = 80

T = TypeVar("T")


class HistoryError(Exception):
    """A history cannot be read or written; nothing that was read of it may be judged."""


class Outcome(enum.StrEnum):
    OK = "ok"  # acknowledged, without a warning
    FAILED = "failed"  # certainly not executed
    UNKNOWN = "unknown"  # executed or not


class Kind(enum.StrEnum):
    APPEND = "append"
    READ = "read"
    TXN = "txn"


class Role(enum.StrEnum):
    PRIMARY = "primary"
    STANDBY = "standby"
    DOWN = "down"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Run:
    t: float
    id: str  # 4 hex digits
    scenario: str
    seed: int
    timing: object  # as the rig describes it
    nodes: tuple[str, ...]  # the first has the address 10.77.0.11
    wall: str  # UTC, ISO 8601
    start_mono: float  # CLOCK_MONOTONIC at t = 0
    witnesses: tuple[str, ...] = ()  # those of the nodes that have no data


@dataclass(frozen=True, slots=True)
class Operation:
    t: float  # = end
    client: str
    via: str  # `proxy:<node>` or `direct:<node>`
    kind: Kind
    keys: tuple[int, ...]  # parallel to `values`; the one key of a read
    values: tuple[str, ...]  # what was to be inserted; empty for a read
    begin: float
    end: float
    outcome: Outcome
    error: str = ""  # `SQLSTATE text`, or what the client's library said
    server: str = ""  # the address that the server gave as its own
    timeline: int = 0  # 0 when it was not told
    warning: str = ""
    seen: tuple[str, ...] = ()  # by a read: the newest values of its key, oldest first
    role: str = ""  # of the server that was read: `primary` or `standby`
    at_us: tuple[int, ...] = ()  # the rows' `at`, parallel to `values`; empty when not told
    since_us: int = 0  # a read lists every row whose `at` is later; 0: every row

    @property
    def writes(self) -> bool:
        return self.kind is not Kind.READ

    @property
    def by_proxy(self) -> bool:
        return self.via.startswith("proxy:")


@dataclass(frozen=True, slots=True)
class Fault:
    t: float
    id: int
    do: str
    text: str
    nodes: tuple[str, ...] = ()
    for_s: float | None = None  # None: until its `fault_end`


@dataclass(frozen=True, slots=True)
class FaultEnd:
    t: float
    id: int


@dataclass(frozen=True, slots=True)
class Skipped:
    t: float
    do: str
    text: str
    why: str


@dataclass(frozen=True, slots=True)
class NodeState:
    t: float
    n: str
    role: Role
    state: str = ""
    term: int = 0
    timeline: int = 0
    lsn: int = 0
    leader: str = ""


@dataclass(frozen=True, slots=True)
class AgentLog:
    t: float
    n: str
    name: str
    text: str = ""
    fields: Mapping[str, object] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Probe:
    t: float
    n: str
    asked: float
    answered: float
    in_recovery: bool | None  # None: no answer
    process: str = ""  # names one life of the server, as its start time; empty when not told


@dataclass(frozen=True, slots=True)
class Phase:
    t: float
    name: str  # `faults`, `peace` or `end`


@dataclass(frozen=True, slots=True)
class Final:
    t: float
    n: str
    rows: int
    hash: str
    timeline: int
    streaming: bool
    checksums: str  # `ok`, `failed: …` or `skipped: …`
    values_file: str = ""  # beside the history; empty when the rows could not be read


@dataclass(frozen=True, slots=True)
class Left:
    t: float
    processes: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recovered:
    t: float
    n: str
    after_s: float  # since the peace began


Record = (
    Run
    | Operation
    | Fault
    | FaultEnd
    | Skipped
    | NodeState
    | AgentLog
    | Probe
    | Phase
    | Final
    | Left
    | Recovered
)

_KINDS: Mapping[str, type[Record]] = {
    "run": Run,
    "op": Operation,
    "fault": Fault,
    "fault_end": FaultEnd,
    "skipped": Skipped,
    "node": NodeState,
    "log": AgentLog,
    "probe": Probe,
    "phase": Phase,
    "final": Final,
    "left": Left,
    "recovered": Recovered,
}
_NAMES: Mapping[type[Record], str] = {kind: name for name, kind in _KINDS.items()}


def encode(record: Record) -> str:
    """Return the record as one line, without the line feed."""
    found: dict[str, object] = {"t": record.t, "e": _NAMES[type(record)]}
    for item in fields(record):
        found[item.name] = getattr(record, item.name)
    if isinstance(record, Operation):
        found["key"] = record.keys[0] if record.keys else None
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def decode(line: str) -> Record:
    """Return the record of one line.

    Raises:
        HistoryError: it is not JSON, of no known kind, or a field is missing or of a wrong type.
    """
    try:
        found = json.loads(line)
    except ValueError as error:
        raise HistoryError(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise HistoryError("not an object")
    name = found.get("e")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise HistoryError(f"unknown kind {name!r}")
    if kind is Operation and "keys" not in found and "key" in found:
        found["keys"] = [found["key"]]
    values: dict[str, object] = {}
    for item, narrow in _NARROWERS[kind]:
        if item.name in found:
            try:
                values[item.name] = narrow(found[item.name])
            except (TypeError, ValueError) as error:
                raise HistoryError(f"{name}: field {item.name}: {error}") from None
        elif item.default is MISSING and item.default_factory is MISSING:
            raise HistoryError(f"{name}: field {item.name} is missing")
    return kind(**values)  # type: ignore[arg-type]  # narrowed one by one above


@dataclass(frozen=True, slots=True)
class History:
    records: tuple[Record, ...]  # in the order of their times
    torn: tuple[str, ...] = ()  # one text for each torn last line

    def of(self, kind: type[T]) -> list[T]:
        return [record for record in self.records if isinstance(record, kind)]


def read_history(path: Path) -> History:
    """Return what one file holds, in the order of its lines.

    Raises:
        HistoryError: the file cannot be read, or a line that is not its torn last one is malformed.
    """
    records: list[Record] = []
    torn: list[str] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""), 1):
                if number > LINES_MAX:
                    raise HistoryError(f"{path}: more than {LINES_MAX} lines")
                if len(line) > LINE_BYTES_MAX:
                    raise HistoryError(f"{path}:{number}: longer than {LINE_BYTES_MAX} bytes")
                if not line.endswith(b"\n"):  # the last: readline would have gone on
                    shown = line.decode(errors="replace")[:TORN_SHOWN_CHARS]
                    torn.append(f"{path.name}:{number}: {shown}")
                    break
                try:
                    records.append(decode(line.decode()))
                except (HistoryError, UnicodeDecodeError) as error:
                    raise HistoryError(f"{path}:{number}: {error}") from None
    except OSError as error:
        raise HistoryError(f"{path}: {error.strerror}") from error
    return History(tuple(records), tuple(torn))


def read_directory(directory: Path) -> History:
    """Return the history of a run with the operations of clients that wrote files of their own.

    The rig may copy the lines of `client-*.jsonl` into `history.jsonl` or leave them: an operation
    that is in both counts once, since a client has one under way at a time.
    """
    parts = [read_history(directory / HISTORY_FILE)]
    parts += [read_history(path) for path in sorted(directory.glob(CLIENT_FILES))]
    records = list(parts[0].records)
    known = {record for record in records if isinstance(record, Operation)}
    for part in parts[1:]:
        records += [r for r in part.records if not (isinstance(r, Operation) and r in known)]
    records.sort(key=lambda record: record.t)
    return History(tuple(records), tuple(text for part in parts for text in part.torn))


def read_values(path: Path) -> tuple[tuple[int, str], ...]:
    """Return the rows of one file of final values, `key value` a line.

    Raises:
        HistoryError: it cannot be read, or a line is not of that form.
    """
    found: list[tuple[int, str]] = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                key, separator, value = line.rstrip("\n").partition(" ")
                if not separator or not value or number > VALUES_MAX or not line.endswith("\n"):
                    raise HistoryError(f"{path}:{number}: not `key value`: {line[:80]!r}")
                found.append((int(key), value))
    except (OSError, ValueError) as error:
        raise HistoryError(f"{path}: {error}") from error
    return tuple(found)


def read_finals(directory: Path, history: History) -> dict[str, tuple[tuple[int, str], ...]]:
    """Return the final rows of every node that has a file of them."""
    return {
        final.n: read_values(directory / final.values_file)
        for final in history.of(Final)
        if final.values_file
    }


class Writer:
    """Append records to one file; several writers, also of other processes, may share it.

    Nothing is buffered here: a record that `write` has returned from survives this process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o644)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.close(self._file)
            raise HistoryError(f"{path}: its last line is torn; a line after it would be lost")

    def write(self, record: Record) -> None:
        """Append one record.

        Raises:
            HistoryError: it is too long, or the disk took only a part of it.
        """
        line = encode(record).encode() + b"\n"
        if len(line) > LINE_BYTES_MAX:
            raise HistoryError(f"{self._path}: a record of {len(line)} bytes")
        written = os.write(self._file, line)
        if written != len(line):
            raise HistoryError(f"{self._path}: {written} of {len(line)} bytes were written")

    def close(self) -> None:
        os.close(self._file)


_NARROW: Mapping[object, Callable[[object], object]] = {
    object: lambda found: found,
    int: as_int,
    float: as_float,
    str: as_str,
    bool: as_bool,
    float | None: or_none(as_float),
    bool | None: or_none(as_bool),
    tuple[str, ...]: as_tuple_of(as_str),
    tuple[int, ...]: as_tuple_of(as_int),
    Mapping[str, object]: as_mapping,
    Outcome: lambda found: Outcome(as_str(found)),
    Kind: lambda found: Kind(as_str(found)),
    Role: lambda found: Role(as_str(found)),
}


def _narrowers(kind: type[Record]) -> tuple[tuple[Field[object], Callable[[object], object]], ...]:
    hints = get_type_hints(kind)
    return tuple((item, _NARROW[hints[item.name]]) for item in fields(kind))


_NARROWERS = {kind: _narrowers(kind) for kind in _KINDS.values()}
