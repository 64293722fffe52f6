"""`metako history`: entries as lines, with the parts of an election, and as JSON."""

import json

import pytest
from typer.testing import CliRunner

from metako.cli import history
from metako.cli.app import build_app
from metako.model.status import HISTORY_MAX

ELECTION = {
    "at": "2026-11-30T05:12:33.123+00:00",
    "kind": "election",
    "text": "n2 became the primary after 2.4 s: n1 fell silent",
    "term": 5,
    "timeline": 6,
    "lsn": "0/5000000",
    "silence_ms": 2010,
    "delay_ms": 61,
    "votes_ms": 160,
    "document_ms": 9,
    "promotion_ms": 120,
    "commit_ms": 60,
}
OLD = {"at": None, "kind": "election", "text": "n1\x1b[31m became it", "term": 1, "timeline": 2}
CHANGE = {"at": "2026-11-30T05:12:40+00:00", "kind": "pause", "text": "resumed", "term": 5}


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    asked = []

    def fetch(url, timeout_s, limit):
        asked.append((url, limit))
        return [OLD, ELECTION, CHANGE]

    monkeypatch.setattr(history, "fetch_history", fetch)

    def invoke(*args):
        result = CliRunner().invoke(build_app(), ["history", "--api", "h:1", *args])
        return result, asked

    return invoke


def test_each_change_is_a_line_and_an_election_has_its_parts(run):
    result, asked = run("-n", "7")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    blank = " " * 19
    assert lines[0] == f"{'-' * 19}  term 1  election    n1?[31m became it"
    assert lines[1] == f"{blank}  timeline 2 from None"
    assert lines[2].endswith(
        "term 5  election    n2 became the primary after 2.4 s: n1 fell silent"
    )
    assert lines[3] == (
        f"{blank}  silence 2.01 s, delay 61 ms, votes 160 ms, document 9 ms, promotion 120 ms, "
        "commit 60 ms, timeline 6 from 0/5000000"
    )
    assert lines[4].endswith("term 5  pause       resumed")
    assert asked == [("h:1", 7)]


def test_elections_alone_are_the_newest_of_all(run):
    result, asked = run("--elections", "-n", "1", "--json")
    assert json.loads(result.stdout) == [ELECTION]
    assert asked[0][1] == HISTORY_MAX


def test_a_number_that_is_none_is_refused(run):
    result, asked = run("-n", "0")
    assert (result.exit_code, asked) == (2, [])
