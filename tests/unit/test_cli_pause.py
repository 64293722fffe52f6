"""`metako pause` and `resume`: every way that they can end, against an agent with a script."""

import json

import pytest
from agent_kit import assert_asks_without_heavy_modules, node_with_agent, scripted_agent
from typer.testing import CliRunner

from metako.cli import pause
from metako.cli.app import build_app

PAUSED = (202, {"accepted": True, "order": "one", "reason": "paused: nobody takes over"})
RESUMED = (202, {"accepted": True, "order": "one", "reason": "resumed"})


def status(*, paused, ref="4.2", primary="n1", committed=True, blocked=None):
    return {
        "node": "n3",
        "primary": primary,
        "blocked": blocked,
        "document": {"primary": "n1", "ref": ref, "paused": paused, "committed": committed},
        "members": [],
    }


GOING = status(paused=False)
STILL = status(paused=True, ref="4.3")


@pytest.fixture
def node(short_directory, monkeypatch):
    return node_with_agent(short_directory, monkeypatch)


def run(node, command, statuses, answer, *args):
    with scripted_agent(node.socket, statuses, answer) as orders:
        result = CliRunner().invoke(build_app(), [command, "-c", str(node.file), *args])
    return result, orders


def test_a_pause_is_done_when_a_majority_has_it_and_says_what_it_means(node):
    flight = status(paused=True, ref="4.3", committed=False)
    result, orders = run(node, "pause", [GOING, GOING, flight, STILL], PAUSED)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "accepted: paused: nobody takes over",
        "paused: nobody takes over from n1 until `metako resume`",
    ]
    assert orders == [("POST", "/pause", "")]
    assert node.clock.now == pytest.approx(100.2)


def test_a_resume_says_who_leads(node):
    result, orders = run(node, "resume", [STILL, STILL, status(paused=False, ref="4.4")], RESUMED)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == (
        "resumed: n1 is the primary, and another node takes over if need be"
    )
    assert orders == [("DELETE", "/pause", "")]


def test_a_resume_without_a_leader_is_followed_until_somebody_leads(node):
    lost = status(paused=True, ref="4.3", primary=None)
    elected = status(paused=False, ref="5.1", primary=None)
    done = status(paused=False, ref="5.2", primary="n2")
    result, _ = run(node, "resume", [lost, lost, elected, elected, done], RESUMED)
    assert result.exit_code == 0
    assert "n2 is the primary" in result.stdout
    assert node.clock.now == pytest.approx(100.3)


def test_json_is_one_object_at_the_end(node):
    result, _ = run(node, "pause", [GOING, STILL], PAUSED, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "ok": True,
        "paused": True,
        "primary": "n1",
        "duration_ms": 0,
        "reason": None,
    }


@pytest.mark.parametrize(
    ("command", "shown", "answer"), [("pause", STILL, PAUSED), ("resume", GOING, RESUMED)]
)
def test_what_is_so_already_is_believed_after_a_while(node, command, shown, answer):
    # The document of this node may be old: the leader's answer alone does not show it.
    result, _ = run(node, command, [shown], answer)
    assert result.exit_code == 0
    assert node.clock.now >= 100 + pause.OLD_MAX_S


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_a_refusal_shows_the_reason_and_exits_1(node, command):
    refused = (409, {"accepted": False, "order": "one", "reason": "ask \x1b[2Janother one"})
    result, _ = run(node, command, [GOING], refused)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "metako: ask ?[2Janother one\n"
    told, _ = run(node, command, [GOING], refused, "--json")
    assert (told.exit_code, json.loads(told.stdout)["ok"]) == (1, False)


@pytest.mark.parametrize(
    ("command", "shown", "why"),
    [
        ("pause", GOING, "no document says so; see `metako status`"),
        ("pause", status(paused=True, ref="4.3", committed=False), "no majority is known to"),
        (
            "resume",
            status(paused=True, blocked="missing votes"),
            "no document says so: missing votes",
        ),
        (
            "resume",
            status(paused=False, ref="5.1", primary=None, blocked="n2 starts"),
            "the pause has ended, and nobody is the primary: n2 starts",
        ),
    ],
)
def test_when_time_is_up_it_says_how_far_it_is_and_exits_1(node, command, shown, why):
    before = status(paused=command == "resume")
    result, _ = run(node, command, [before, shown], PAUSED, "--timeout", "5")
    assert result.exit_code == 1
    assert f"not done after 5 s: {why}" in result.stderr


@pytest.mark.parametrize("args", [[], ["--json"]])
def test_an_interrupt_does_not_claim_to_know(node, args):
    def interrupt(_seconds):
        raise KeyboardInterrupt

    node.time.sleep = interrupt
    result, _ = run(node, "pause", [GOING], PAUSED, *args)
    assert result.exit_code == 130
    assert "may have been taken" in (json.loads(result.stdout)["reason"] if args else result.stderr)


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_without_an_agent_it_exits_11_and_wrong_arguments_exit_2(node, command):
    for args, code in (([], 11), (["--timeout", "0"], 2), (["n1"], 2)):
        result = CliRunner().invoke(build_app(), [command, "-c", str(node.file), *args])
        assert result.exit_code == code


@pytest.mark.parametrize("document", [None, 7, {}, {"paused": "yes"}])
def test_a_status_of_another_version_is_survived(document):
    body = {"node": "n3", "members": [], "document": document}
    judge = pause.PauseCourse(body, pauses=True)
    assert judge.see(body, 5) is None
    assert judge.ended(5, reason="x").paused is None
    assert judge.why_not_done()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["pause", "resume"])
def test_it_loads_no_driver_and_no_cryptography(node, command):
    assert_asks_without_heavy_modules(node, command)
