"""Frames by which workers learn how clients may log in."""

from __future__ import annotations

import json
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metako.model.ids import NodeId
from metako.model.rolelogin import RoleLogin
from metako.proxy import frames, loginframes
from metako.proxy.jsonline import FRAME_BYTES_MAX, FrameError
from metako.proxy.loginframes import Verifier, VerifierWanted, Welcome, fitting_hba

SECRET = bytes(range(32))
STORED = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy"
ROLES = st.none() | st.builds(RoleLogin, st.booleans(), st.none() | st.text(max_size=50))
LINES = st.none() | st.lists(st.text(max_size=50), max_size=5).map(tuple)


@given(st.binary(min_size=32, max_size=32), LINES, st.integers(1, 2**31 - 1), st.booleans())
def test_a_welcome_survives_the_journey(
    secret: bytes, hba: tuple[str, ...] | None, iterations: int, md5: bool
) -> None:
    welcome = Welcome(secret, secret, hba, iterations, md5)
    assert frames.decode_from_agent(frames.encode(welcome)) == welcome


@given(st.integers(0, 2**60), ROLES)
def test_answers_survive_the_journey(number: int, role: RoleLogin | None) -> None:
    verifier = Verifier(number, role)
    assert frames.decode_from_agent(frames.encode(verifier)) == verifier


@given(st.text(min_size=1, max_size=15), st.integers(0, 2**60))
def test_questions_survive_the_journey(user: str, number: int) -> None:
    wanted = VerifierWanted(user, number)
    assert frames.decode_from_worker(frames.encode(wanted)) == wanted


def test_what_a_worker_asks_it_says_in_its_hello() -> None:
    hello = frames.Hello(1, 1, NodeId("n1"), "h", 1, asks=True)
    line = frames.encode(hello)
    assert frames.decode_from_worker(line) == hello
    body = json.loads(line)
    del body["hello"]["asks"]  # a version that does not ask
    older = frames.decode_from_worker(json.dumps(body).encode())
    assert isinstance(older, frames.Hello)
    assert not older.asks


@pytest.mark.parametrize(
    "body",
    [
        {"welcome": []},
        {"welcome": {}},
        {"welcome": {"mock_secret": "AAAA", "iterations": 4096, "hba": []}},
        {"welcome": {"mock_secret": "?" * 44, "iterations": 4096, "hba": []}},
        {"welcome": {"mock_secret": "A" * 43 + "=", "iterations": 0, "hba": []}},
        {"welcome": {"mock_secret": "A" * 43 + "=", "iterations": 2**31, "hba": []}},
        {"welcome": {"mock_secret": "A" * 43 + "=", "iterations": 1, "hba": "host"}},
        {"welcome": {"mock_secret": "A" * 43 + "=", "iterations": 1, "hba": [1]}},
        {"welcome": {"mock_secret": "A" * 43 + "=", "iterations": 1, "hba": [""] * 2001}},
        {"verifier": {"id": -1, "found": None}},
        {"verifier": {"id": 1, "found": 1}},
        {"verifier": {"id": 1, "found": True, "stored": 5}},
        {"verifier": {"id": 1, "found": True, "stored": "x" * 1025}},
        {"verifier_wanted": {"id": 1, "user": ""}},
        {"verifier_wanted": {"id": 1, "user": "é" * 32}},
        {"verifier_wanted": {"id": "1", "user": "anna"}},
    ],
)
def test_bad_frames_raise_frame_error_only(body: object) -> None:
    line = json.dumps(body).encode()
    for decode in (frames.decode_from_agent, frames.decode_from_worker):
        with pytest.raises(FrameError):
            decode(line)


def test_nothing_secret_is_shown() -> None:
    shown = repr(Welcome(SECRET, SECRET, ("host",))) + repr(Verifier(1, RoleLogin(True, STORED)))
    assert "x01" not in shown
    assert "c3Rv" not in shown
    with pytest.raises(FrameError) as raised:
        frames.decode_from_agent(b'{"verifier": {"stored": "' + STORED.encode())
    told = "".join(traceback.format_exception(raised.value)) + repr(vars(raised.value))
    assert "c3Rv" not in told
    assert raised.value.__cause__ is None


@given(st.lists(st.text(max_size=200), max_size=400).map(tuple))
def test_lines_that_fit_make_a_frame_that_fits(lines: tuple[str, ...]) -> None:
    assert fitting_hba(lines) in (None, lines)
    welcome = Welcome(SECRET, SECRET, fitting_hba(lines), 2**31 - 1)
    assert len(frames.encode(welcome)) <= FRAME_BYTES_MAX


@pytest.mark.parametrize("line", ["x" * 20, "é" * 20, "\x01" * 20, "\U0001f600" * 20, '"' * 20])
def test_lines_beyond_the_limit_are_no_lines_at_all(line: str) -> None:
    fits = [count for count in range(0, 2001, 50) if fitting_hba((line,) * count) is not None]
    assert 0 < fits[-1] < 2000
    assert len(frames.encode(Welcome(SECRET, SECRET, (line,) * fits[-1]))) <= FRAME_BYTES_MAX
    assert fitting_hba(("",) * (loginframes.HBA_LINES_MAX + 1)) is None
