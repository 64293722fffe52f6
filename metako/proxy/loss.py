"""What a client is told when its server is lost.

In: the moment of the loss: what the server was in, and what it had not answered. Out: one of

- `Keep`: nothing was going on, and the session can be rebuilt: the client need not notice.
- `Retry`: what was going on only reads, and the client has seen nothing of its answer: the same
  requests may be sent to the new server, once the session was rebuilt there.
- `Tell`: an error that ends the connection.

Which error, is a promise. *57P01* (admin_shutdown) says: nothing of what was not answered has
happened, nor will. *08007* (transaction_resolution_unknown) says: it may have happened. So 08007 is
told whenever something durable may have been done without an answer: a COMMIT, a statement outside
of transactions that is not certainly a read, the commands of prepared transactions. A program that
repeats its work after 57P01 and looks first after 08007 does nothing twice.

That is also why the loss of an open transaction is not told as 40001 (serialization_failure),
though many programs repeat a transaction after that: they do so on the same connection, which does
not exist any more; and what they would repeat is the transaction, also where its COMMIT was under
way. 57P01 is what PostgreSQL says itself when it is shut down, and pools drop a connection for it.

A COMMIT can succeed and be in doubt nevertheless: when its wait for the synchronous standbys was
cancelled PostgreSQL sends a warning and then success. `wait_was_cancelled` recognises that warning.

Invariant: whatever is not known for certain counts as what would be worse.

Deliberately unknown here: why a server was lost, and who sends what is to be sent.

Source: PostgreSQL documentation, "PostgreSQL Error Codes"; src/backend/replication/syncrep.c
(SyncRepWaitForLSN).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metako.pgwire.messages import TransactionStatus
from metako.pgwire.startup import SqlState, error_response
from metako.pgwire.stream import Note
from metako.proxy.changes import Tie
from metako.proxy.inflight import Kind, Request, Requests, read_requests
from metako.proxy.prepared import Prepared

_IDLE = TransactionStatus.IDLE
_OPEN = TransactionStatus.IN_TRANSACTION

# Beside a COPY in the same request.
_HARMLESS = frozenset((Kind.READ, Kind.WRITE, Kind.BEGIN, Kind.SESSION))

# The warning has no SQLSTATE of its own, its text is translated, and a function may raise any
# warning; but the place in PostgreSQL's source is told with each, and cannot be chosen.
WAIT_ROUTINE = b"RSyncRepWaitForLSN"
_WAIT_SQLSTATES = ("01000", "57P01")  # cancelled by a user; by the end of the server or backend


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known of a session when its server is lost."""

    status: TransactionStatus  # of the last ReadyForQuery
    owed: int  # requests that were sent in full and not answered to their end
    unfinished: bool  # whether anything was sent behind them, such as a Parse without its Sync
    # What the client has sent since it was at rest last, answered or not; the begin of it, if it
    # was not kept in full.
    requests: bytes
    whole: bool  # whether that is all
    delivered: bool  # whether the client was given any part of the next answer
    copying_in: bool  # whether the server waits for data of a COPY, or for their end
    obstacle: Tie | None  # why the session cannot be moved
    statements: Mapping[bytes, Prepared]  # that the session has, by name


@dataclass(frozen=True, slots=True)
class Keep:
    """The client is told nothing."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The client is told nothing if these bytes are sent to the new server."""

    requests: bytes


@dataclass(frozen=True, slots=True)
class Tell:
    """The client is told why its connection ends."""

    sqlstate: SqlState
    detail: str
    hint: str

    def message(self, why: str) -> bytes:
        """Build the ErrorResponse. `why` is what happened, such as "the primary was lost"."""
        text = f"terminating connection: {why}"
        return error_response(self.sqlstate, text, detail=self.detail, hint=self.hint)


Outcome = Keep | Retry | Tell

ROLLED_BACK = Tell(
    SqlState.ADMIN_SHUTDOWN,
    "The transaction was rolled back.",
    "Connect again and repeat the transaction.",
)
NOT_DONE = Tell(
    SqlState.ADMIN_SHUTDOWN,
    "What was not answered yet has changed nothing.",
    "Connect again and repeat it.",
)
PASSED_ON = Tell(
    SqlState.ADMIN_SHUTDOWN,
    "The session was the server's alone.",
    "Connect again, and find out what was committed.",
)
UNKNOWN = Tell(
    SqlState.RESOLUTION_UNKNOWN,
    "It is not known whether what was not answered yet has been committed.",
    "Connect again, and find out whether its changes are there before repeating it.",
)


def outcome_of_loss(moment: Moment) -> Outcome:
    """Return what becomes of a client whose server is lost."""
    if not moment.owed and not moment.unfinished:
        if moment.status is not _IDLE:
            return ROLLED_BACK
        return outcome_at_rest(moment.obstacle)
    requests = read_requests(moment.requests, moment.statements)
    if moment.copying_in:
        return _loss_of_copy(requests, moment.status)
    answered = answered_of(moment, requests)
    if answered is None:
        return UNKNOWN
    unanswered = requests.found[answered:]
    if may_have_changed(unanswered, moment.status):
        return UNKNOWN
    if moment.status is not _IDLE:
        return ROLLED_BACK
    if moment.delivered or not _may_be_repeated(unanswered):
        return NOT_DONE
    if moment.obstacle is not None:
        return _immovable(moment.obstacle)
    return Retry(_behind(moment.requests, answered))


def outcome_at_rest(obstacle: Tie | None) -> Outcome:
    """Return what becomes of a client without its server, with which nothing is under way."""
    return Keep() if obstacle is None else _immovable(obstacle)


def answered_of(moment: Moment, requests: Requests) -> int | None:
    """Return how many of the requests were answered, the first ones; None if that is not known."""
    if not moment.whole:
        return None
    complete = sum(request.complete for request in requests.found)
    answered = 0 if requests.copies else complete - moment.owed
    return answered if answered >= 0 else None  # below 0 these are not all of the requests


def _loss_of_copy(requests: Requests, status: TransactionStatus) -> Outcome:
    """Return what becomes of a client in the middle of sending data.

    All requests before that of the COPY have been answered, and the end of the data has not been
    sent. Only what stands before the COPY in the same request can have been committed.
    """
    began = [request for request in requests.found if request.kinds]
    if not began or not _HARMLESS.issuperset(began[-1].kinds):
        return UNKNOWN
    return NOT_DONE if status is _IDLE else ROLLED_BACK


def _immovable(obstacle: Tie) -> Tell:
    return Tell(
        SqlState.ADMIN_SHUTDOWN,
        f"The session cannot be moved to another server: {obstacle}.",
        "Connect again. Nothing that was committed is lost.",
    )


def may_have_changed(requests: list[Request], status: TransactionStatus) -> bool:
    """Return whether any of it may be durable, though nobody was told.

    Within a request without an error; after one the server does less. But the next request is
    executed all the same, and a BEGIN that an error came before has begun nothing then.
    """
    possible = {status}
    for request in requests:
        left = set()
        for before in possible:
            changed, after = _execute(request, before)
            if changed:
                return True
            left.add(after)
            if Kind.BEGIN in request.kinds:
                left.add(before)
        possible = left
    return False


def _execute(request: Request, status: TransactionStatus) -> tuple[bool, TransactionStatus]:
    """Return whether a request may make anything durable, and the status after it."""
    # Outside of transactions what a request writes is committed at its end.
    writes = False
    for kind in request.kinds:
        match kind:
            case Kind.RESOLVE:
                return True, status
            case Kind.OPAQUE:
                if status is _IDLE:
                    return True, status
            case Kind.WRITE:
                writes = writes or status is _IDLE
            case Kind.COMMIT:
                if status is _OPEN or writes:
                    return True, status
                status = _IDLE
            case Kind.ROLLBACK:
                status, writes = _IDLE, False
            case Kind.ROLLBACK_TO:
                status = _IDLE if status is _IDLE else _OPEN
            case Kind.BEGIN:
                # It takes what was written before it into its transaction.
                status = _OPEN if status is _IDLE else status
                writes = False
            case Kind.READ | Kind.SESSION:
                pass
    return writes and request.complete, status


def _may_be_repeated(requests: list[Request]) -> bool:
    return all(
        request.complete
        and not request.prepares
        and all(kind in (Kind.READ, Kind.BEGIN) for kind in request.kinds)
        for request in requests
    )


def _behind(data: bytes, requests: int) -> bytes:
    """Return what is behind the first `requests` complete requests of `data`."""
    position = 0
    while requests:
        kind = data[position]
        position += 1 + int.from_bytes(data[position + 1 : position + 5], "big")
        requests -= kind in b"QSF"
    return data[position:]


# -- a commit that succeeded, and is in doubt --------------------------------------------------


def wait_was_cancelled(note: Note) -> bool:
    """Return whether a commit stopped waiting for its synchronous standbys.

    Its transaction is committed on this server, and perhaps nowhere else. In the simple protocol
    the warning comes before the CommandComplete of what committed, in the extended protocol it may
    come behind it, in answer to the Sync; always before the ReadyForQuery.
    """
    return (
        note.kind == b"N"
        and note.sqlstate in _WAIT_SQLSTATES
        and WAIT_ROUTINE in note.body.split(b"\0")
    )


def unreplicated_error(*, severity: str = "ERROR") -> bytes:
    """Build the error that the client is to get in place of a success that was not waited for.

    Of severity ERROR it ends no connection: the ReadyForQuery that follows is the server's own.
    """
    return error_response(
        SqlState.RESOLUTION_UNKNOWN,
        "the wait for synchronous replication was cancelled",
        severity=severity,
        detail="The transaction is committed on the present primary. If that is lost before its"
        " standbys have received the transaction, the transaction is lost with it.",
        hint="Find out whether its changes are there before repeating it.",
    )
