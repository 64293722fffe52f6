"""What is sent to a new server, and which answers let a session move there."""

from __future__ import annotations

import pytest
from follow_kit import PARSED, SYNC, done, error, parse, query, ready
from scan_kit import message
from session_kit import Session

from metako.pgwire.startup import error_response
from metako.proxy.rebuild import Progress, Rebuild


def session() -> Session:
    """Return one with two settings, a statement of the protocol and one of SQL."""
    found = Session()
    found.run("set a = 1; set b = 2", "SET", "SET")
    found.send(parse("select 1", "s"), SYNC)
    found.answer(PARSED, ready())
    found.run("prepare p as select 2", "PREPARE")
    return found


def receive(building: Rebuild, *answers: bytes) -> Progress:
    for data in answers:
        progress = building.receive(data[:1], data[5:])
    return progress


GOOD = (done("SET"), ready(), done("SET"), ready(), PARSED, ready(), done("PREPARE"), ready())


def test_everything_is_sent_at_once_in_requests_of_its_own() -> None:
    building = Rebuild(session().tracked, {})
    assert building.data == b"".join(
        (
            query("set a = 1"),
            query("set b = 2"),
            parse("select 1", "s") + SYNC,
            query("prepare p as select 2"),
        )
    )
    assert receive(building, *GOOD[:-1]) is Progress.UNDER_WAY
    assert receive(building, GOOD[-1]) is Progress.DONE


def test_there_may_be_nothing_to_rebuild() -> None:
    building = Rebuild(Session().tracked, {"TimeZone": "UTC"})
    assert building.data == b""
    assert building.conclude() is Progress.DONE
    assert building.news == message("S", b"TimeZone\0UTC\0")


@pytest.mark.parametrize(
    ("begin", "answer", "failure"),
    [
        (0, error("42704"), "setting a"),
        (4, error("42601"), "prepared statement s"),
        (6, error("42P05"), "prepared statement p"),
        (2, ready("T"), "a transaction was left open"),
        (0, error_response("57P01", "shut down"), "shut down"),
        (0, message("R", bytes(4)), "unexpected answer"),
        (0, message("Z", b"?"), "unknown transaction status"),
    ],
)
def test_any_other_answer_forbids_the_move(begin, answer, failure) -> None:
    tracked = session().tracked
    building = Rebuild(tracked, {})
    progress = receive(building, *GOOD[:begin], answer)
    if progress is Progress.UNDER_WAY:
        progress = receive(building, ready())
    assert progress is Progress.FAILED
    assert failure in building.failure
    assert len(tracked.statements) == 2


@pytest.mark.parametrize("sqlstate", ["42P01", "42703", "42883", "42704", "3F000"])
def test_a_statement_that_names_what_is_gone_is_left_out(sqlstate) -> None:
    tracked = session().tracked
    building = Rebuild(tracked, {})
    assert receive(building, *GOOD[:4], error(sqlstate), ready(), *GOOD[6:]) is Progress.DONE
    assert building.left_out == [b"s"]
    assert list(tracked.statements) == [b"p"]


def test_a_client_is_told_of_changed_values_once() -> None:
    tracked = session().tracked
    building = Rebuild(tracked, {"server_version": "15.1"})
    receive(building, message("S", b"a\x001\0"), *GOOD)
    assert building.news == message("S", b"server_version\x0015.1\0") + message("S", b"a\x001\0")
    again = Rebuild(tracked, {"server_version": "15.1", "a": "1"})
    receive(again, *GOOD)
    assert again.news == b""
