"""What may be cancelled, and what the answer to a cancelled request says."""

from __future__ import annotations

import pytest
from scan_kit import message

from metako.pgwire.messages import TransactionStatus, query
from metako.proxy.loss import Moment
from metako.proxy.overdue import Busy, Verdict, busy_with, judge_answer

IDLE, OPEN = TransactionStatus.IDLE, TransactionStatus.IN_TRANSACTION
READY = message("Z", b"I")
UNWAITED = message("N", b"SWARNING\0C01000\0RSyncRepWaitForLSN\0\0")


def moment(*texts: bytes, status: TransactionStatus = IDLE, owed: int | None = None) -> Moment:
    return Moment(
        status=status,
        owed=len(texts) if owed is None else owed,
        unfinished=False,
        requests=b"".join(map(query, texts)),
        whole=True,
        delivered=False,
        copying_in=False,
        obstacle=None,
        statements={},
    )


@pytest.mark.parametrize(
    ("found", "busy"),
    [
        (moment(b"select 1"), Busy.READ),
        (moment(b"select 1; select 2"), Busy.READ),
        (moment(b"select 1", status=OPEN), Busy.UNDONE),
        (moment(b"insert into t values (1)", status=OPEN), Busy.UNDONE),
        (moment(b"begin"), Busy.UNDONE),
        (moment(b"insert into t values (1)"), Busy.COMMITTING),
        (moment(b"select f()"), Busy.COMMITTING),
        (moment(b"call f()"), Busy.COMMITTING),
        (moment(b"call f()", status=OPEN), Busy.COMMITTING),
        (moment(b"commit", status=OPEN), Busy.COMMIT),
        (moment(b"begin; select 1; commit"), Busy.COMMIT),
        (moment(b"commit prepared 'a'"), Busy.COMMIT),
        # Behind what is slow, and sent already: a cancel may hit it.
        (moment(b"insert into t values (1)", b"commit", status=OPEN), Busy.COMMIT),
        # In front of it, and answered already.
        (moment(b"commit", b"select 1", owed=1), Busy.READ),
        (moment(b"select 1", owed=2), Busy.COMMITTING),
    ],
)
def test_what_is_not_certain_counts_as_what_commits(found: Moment, busy: Busy) -> None:
    assert busy_with(found) is busy


@pytest.mark.parametrize(
    ("data", "owed", "begin", "verdict"),
    [
        (b"", 1, 0, Verdict.UNTOLD),
        (READY, 1, 0, Verdict.PLAIN),
        (READY[:-1], 1, 0, Verdict.UNTOLD),
        (READY, 2, 0, Verdict.UNTOLD),
        (READY + message("E", b"\0") + READY, 2, 0, Verdict.PLAIN),
        (b"rest of a row" + READY, 1, 13, Verdict.PLAIN),
        (message("D", READY), 1, 0, Verdict.UNTOLD),
        (UNWAITED, 1, 0, Verdict.UNREPLICATED),
        (READY + UNWAITED, 1, 0, Verdict.UNREPLICATED),
        (b"Z\0\0\0\0" * 3, 5, 0, Verdict.UNTOLD),
    ],
)
def test_an_answer_is_plain_only_when_it_is_complete(data, owed, begin, verdict) -> None:
    assert judge_answer(data, owed, begin=begin) is verdict
