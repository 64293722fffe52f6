"""What may be done about a statement that takes too long.

In: the moment, as for a loss of its server. Out: how it may be cancelled, if at all.

A cancel that reaches a server while a commit waits for its synchronous standbys ends the wait, and
the server answers with a success that nobody may be told: the commit is on that server alone. So a
COMMIT is not cancelled, and what may commit by itself only while its answer is looked at before
the client gets it.

Invariant: whatever is not known for certain counts as what commits by itself.

Deliberately unknown here: time, and who cancels.
"""

from __future__ import annotations

import enum
import struct

from metako.pgwire.messages import TransactionStatus
from metako.pgwire.scan import READY_KIND
from metako.pgwire.stream import HEADER_BYTES, LENGTH_MIN
from metako.proxy.inflight import Kind, read_requests
from metako.proxy.loss import WAIT_ROUTINE, Moment, answered_of, may_have_changed

_READS = frozenset((Kind.READ,))
_COMMITS = frozenset((Kind.COMMIT, Kind.RESOLVE))
_header = struct.Struct("!BI").unpack_from


class Busy(enum.Enum):
    """What a server is busy with."""

    READ = enum.auto()  # only reads, outside of a transaction
    UNDONE = enum.auto()  # whatever it has done is undone by a cancel
    COMMITTING = enum.auto()  # may commit by itself
    COMMIT = enum.auto()  # is not to be cancelled


def busy_with(moment: Moment) -> Busy:
    """Return what the server is busy with, or will be before a cancel can reach it."""
    requests = read_requests(moment.requests, moment.statements)
    answered = answered_of(moment, requests)
    if answered is None:
        return Busy.COMMITTING
    unanswered = requests.found[answered:]
    kinds = {kind for request in unanswered for kind in request.kinds}
    if not kinds.isdisjoint(_COMMITS):
        return Busy.COMMIT
    # Of a text that cannot be read with certainty, a part may be a COMMIT.
    if Kind.OPAQUE in kinds or may_have_changed(unanswered, moment.status):
        return Busy.COMMITTING
    if moment.status is TransactionStatus.IDLE and kinds == _READS:
        return Busy.READ
    return Busy.UNDONE


class Verdict(enum.Enum):
    """What the beginning of an answer says that the client was not given yet."""

    UNTOLD = enum.auto()  # it is not complete
    PLAIN = enum.auto()  # complete, and the client may have it
    UNREPLICATED = enum.auto()  # a commit that did not wait for its standbys


def judge_answer(data: bytes, owed: int, *, begin: int = 0) -> Verdict:
    """Return what the answers to all that is owed say, of which `data` is all that has come.

    The words are looked for wherever they stand: a result that has them by chance costs its client
    the session, and no commit that is in doubt is taken for one that is not.

    Args:
        begin: where the first header is.
    """
    if WAIT_ROUTINE in data:
        return Verdict.UNREPLICATED
    position = begin
    while position + HEADER_BYTES <= len(data) and owed > 0:
        kind, length = _header(data, position)
        position += 1 + max(length, LENGTH_MIN)
        owed -= kind == READY_KIND
    return Verdict.PLAIN if owed <= 0 and position <= len(data) else Verdict.UNTOLD
