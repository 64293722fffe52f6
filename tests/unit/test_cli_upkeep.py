"""`metako status` of a cluster that is paused, restarted, or switched over later."""

from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from metako.cli.app import build_app
from metako.cli.status_text import lines, picture

NOW = datetime(2026, 11, 30, 22, 48, tzinfo=UTC)


def status(**document):
    shown = {"primary": "n1", "ref": "4.2", "phase": "active", "paused": False, "restarts": []}
    return {
        "node": "n3",
        "cluster": "main",
        "primary": "n1",
        "document": shown | document,
        "members": [],
    }


def facts(**document):
    return dict(picture(status(**document), NOW).facts)


def test_usually_there_is_nothing_to_tell():
    assert not {"paused", "scheduled", "restarts"} & facts().keys()
    assert not {"paused", "scheduled", "restarts"} & dict(picture({"node": "n3"}).facts).keys()


def test_a_pause_is_shown_with_what_it_means():
    assert facts(paused=True)["paused"] == "nobody takes over from n1 until `metako resume`"


def test_a_scheduled_switchover_is_shown_with_the_time_that_is_left():
    scheduled = {"to": "n2", "order": "o", "timeout_s": 30, "at": "2026-11-30T23:59:59Z"}
    assert facts(scheduled=scheduled)["scheduled"] == (
        "switchover to n2 at 23:59:59 (in 1 h 11 min)"
    )
    scheduled |= {"to": None, "at": "2026-12-01T02:00:00Z"}
    assert facts(scheduled=scheduled)["scheduled"] == (
        "switchover to whoever is fit then at 2026-12-01 02:00:00 (in 3 h 12 min)"
    )


def test_restarts_are_shown_in_the_order_of_their_turns():
    restarts = [{"node": node, "order": "o", "timeout_s": 60} for node in ("n3", "n1")]
    assert facts(restarts=restarts)["restarts"] == "under way: n3, then n1"


@pytest.mark.parametrize(
    "document",
    [
        {"paused": "yes", "scheduled": 7, "restarts": {"node": "n1"}},
        {"scheduled": {}, "restarts": [7, None]},
        {"scheduled": {"to": 7, "at": "x\x1b[2J"}, "restarts": [{"node": "n\x1b[2J"}]},
        {"scheduled": {"to": "n\x07", "at": "2026-12-01T02:00"}},
    ],
)
def test_a_document_of_another_version_is_survived(document):
    shown = "\n".join(lines(picture(status(**document), NOW)))
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_why_nobody_leads_is_said_once():
    words = "no primary: the cluster is paused, and nobody takes over from n1"
    assert picture(status() | {"primary": None, "blocked": words}).trouble == words
    other = picture(status() | {"primary": None, "blocked": "n2 starts"}).trouble
    assert other == "no primary: n2 starts"


def test_the_commands_stand_beside_their_like():
    shown = CliRunner().invoke(build_app(), ["--help"]).stdout
    order = ["switchover", "failover", "pause", "resume", "restart", "logs"]
    places = [shown.index(f"\n  {name} ") for name in order]
    assert places == sorted(places)
