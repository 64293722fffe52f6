"""The fuzzer of the wire protocol: repeatable, and not blind."""

from __future__ import annotations

import json
import sys

import pytest

import fuzz_pgwire
from fuzzing import logins, parsers, workers
from metako.pgwire import authentication as auth
from metako.pgwire import login_client, login_server, scram, verifier
from metako.pgwire.login_server import LoginServer, ScramLogin
from metako.pgwire.reader import MessageReader
from metako.pgwire.startup import SqlState
from metako.proxy import credentials, hba


def test_the_same_seed_plays_the_same_case() -> None:
    once = [fuzz_pgwire.play(seed) for seed in range(200)]
    assert once == [fuzz_pgwire.play(seed) for seed in range(200)]
    assert len(set(once)) > 20


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fuzz_pgwire.py", *arguments])
    return fuzz_pgwire.main()


def test_the_report_counts_the_cases(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--cases", "100", "--seed", "7", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["cases"] == sum(report["results"].values()) == 100
    assert report["failed_seed"] is None


def test_a_foreign_exception_ends_the_run_and_is_repeated_by_its_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def parse(body: bytes) -> object:
        return {b"I": 1}[body]  # KeyError for anything else

    broken = parsers.Parser("ready", parse, lambda _: b"I")
    monkeypatch.setattr(parsers, "PARSERS", (broken,))
    assert run(monkeypatch, "--cases", "1000", "--json") == 1
    captured = capsys.readouterr()
    seed = json.loads(captured.out)["failed_seed"]
    assert f"--seed {seed} --cases 1" in captured.err
    assert "KeyError" in captured.err
    assert run(monkeypatch, "--cases", "1", "--seed", str(seed)) == 1


def test_a_parser_that_forgets_something_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful = parsers.Parser(
        "query", lambda body: body.split(b"\0")[0], lambda _: b"select 1\0", parsers.m.query
    )
    monkeypatch.setattr(parsers, "PARSERS", (forgetful,))
    assert fuzz_pgwire.run(1000, 0, ["parser"])[1] is not None


def test_a_server_that_admits_strangers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gullible(LoginServer):
        def _refuse_password(self):
            return self._accept(b"", None)

    monkeypatch.setattr(logins, "LoginServer", Gullible)
    assert fuzz_pgwire.run(1000, 0, ["stranger"])[1] is not None


def test_a_reader_that_loses_a_byte_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaky(MessageReader):
        def take_rest(self) -> bytes:
            return super().take_rest()[:-1]

    monkeypatch.setattr(parsers, "MessageReader", Leaky)
    assert fuzz_pgwire.run(1000, 0, ["reader"])[1] is not None


def test_a_text_that_is_wrongly_called_a_mere_query_is_found(monkeypatch) -> None:
    monkeypatch.setattr(workers, "is_mere_query", lambda text: text[:6] == b"select")
    assert fuzz_pgwire.run(5000, 0, ["sql"])[1] is not None


def test_a_frame_that_raises_what_nobody_expects_is_found(monkeypatch) -> None:
    monkeypatch.setattr(workers.frames, "integer", int)
    assert fuzz_pgwire.run(5000, 0, ["frame"])[1] is not None


def test_a_console_that_answers_a_piece_too_early_is_found(monkeypatch) -> None:
    class Hasty(workers.Console):
        def receive_untrusted(self, data: bytes) -> bytes:
            self._reader.take_rest()
            return super().receive_untrusted(data)

    monkeypatch.setattr(workers, "Console", Hasty)
    assert fuzz_pgwire.run(5000, 0, ["console"])[1] is not None


# -- who may log in -----------------------------------------------------------------------------


def _return(value):
    return lambda *_, **__: value


def _believe_at_once(self, request):
    """Take AuthenticationOk for the end of a login, whatever is still to be proved."""
    if isinstance(request, auth.AuthenticationOk):
        self._state = login_client._State.SETTING_UP
        return login_client.ConnectStep(b"")
    return AUTHENTICATE(self, request)


def _refuse_in_other_words(self):
    mock = isinstance(self._credential, ScramLogin) and self._credential.verifier.mock
    words = "there is no such role" if mock else "the password is wrong"
    return self._refuse(SqlState.INVALID_PASSWORD, words)


AUTHENTICATE = login_client.LoginClient._authenticate
USER_MATCHES = hba._user_matches
PLANTED = {
    "members-are-strangers": (
        *("rules", hba, "_user_matches"),
        lambda token, user: USER_MATCHES(token, user) if token.text[:1] != "+" else hba._Match.NO,
    ),
    "tls-does-not-matter": ("rules", hba, "_kind_matches", _return(hba._Match.YES)),
    "quotes-do-not-matter": (
        *("rules", hba._Token, "is_word"),
        lambda token, *words: token.text in words,
    ),
    "no-mapped-address": ("rules", hba, "_client_address", hba._address),
    "long-names-are-judged": ("rules", hba, "NAME_BYTES_MAX", 10_000),
    "certificates-do-not-matter": ("admission", credentials, "_judge_certificate", _return(None)),
    "doubt-does-not-matter": ("admission", credentials.Credentials, "forget", _return(None)),
    "old-answers-are-fresh": ("admission", credentials, "FRESH_S", 20.0),
    "mocks-are-roles": ("login", verifier.ScramVerifier, "mock", property(_return(False))),
    "every-binding-fits": ("login", scram.ScramServer, "_check_binding", _return(None)),
    "offers-may-be-cut-out": ("login", scram.ScramServer, "_check_unbound", _return(None)),
    "servers-need-no-proof": ("login", scram.ScramClient, "verify_untrusted", _return(None)),
    "ok-is-enough": ("login", login_client.LoginClient, "_authenticate", _believe_at_once),
    "numbers-that-come-again": (
        *("login", logins, "LoginInputs"),
        lambda nonce, salt, binding: login_server.LoginInputs(bytes(18), bytes(4), binding),
    ),
    "long-messages": ("login", login_server, "MESSAGE_BYTES_MAX", 1 << 20),
    "extensions-of-any-form": ("proof", scram, "_check_extension", _return(None)),
    "no-extension": ("proof", scram, "_check_extension", scram._check_nonce),
    "bindings-of-others": ("proof", scram.ScramServer, "_check_binding", _return(None)),
    "other-words": (
        "stand-in",
        login_server.LoginServer,
        "_refuse_password",
        _refuse_in_other_words,
    ),
    "short-salts": ("stand-in", verifier, "SALT_BYTES", 12),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_wrong_with_logins_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    kind, where, what, wrong = PLANTED[name]
    monkeypatch.setattr(where, what, wrong)
    assert fuzz_pgwire.run(3000, 0, [kind])[1] is not None


def test_a_failure_is_repeated_with_the_kinds_that_it_was_drawn_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hba, "_kind_matches", _return(hba._Match.YES))
    assert run(monkeypatch, "--only", "rules", "sql", "--json") == 1
    captured = capsys.readouterr()
    seed = json.loads(captured.out)["failed_seed"]
    assert f"--seed {seed} --cases 1 --only rules sql" in captured.err
    again = ("--cases", "1", "--seed", str(seed), "--only", "rules", "sql")
    assert run(monkeypatch, *again) == 1
