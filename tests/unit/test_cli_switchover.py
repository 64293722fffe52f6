"""`metako switchover`: every way that it can end, against an agent's socket with a script."""

import json
import time

import pytest
from agent_kit import assert_asks_without_heavy_modules, node_with_agent, scripted_agent
from typer.testing import CliRunner

from metako.cli import follow, switchover
from metako.cli.app import build_app
from metako.cli.course import UNSEEN_MAX_S, Course
from metako.cli.status_text import picture
from metako.model.moment import parse_moment_ms

ACCEPTED = (202, {"accepted": True, "order": "one", "to": "n2", "reason": "n2 takes over"})


def status(primary="n1", *, under_way=None, order="one", term=4, timeline=2, **changes):
    """Return a body of GET /status; `under_way` names the target of a switchover."""
    switchover_ = {"to": under_way, "order": order, "timeout_s": 30.0} if under_way else None
    return {
        "node": "n3",
        "term": term,
        "primary": primary,
        "blocked": None,
        "document": {"primary": "n1", "timeline": timeline, "switchover": switchover_},
        "members": [{"node": "n2", "lag_bytes": 96, "lag_ms": 12}],
    } | changes


BEFORE = status()
WAITING = status(under_way="n2")
STOPPED = status(None, under_way="n2")
ELECTING = status(None, term=5)
DONE = status("n2", term=5, timeline=3)


def agent(path, statuses, answer=ACCEPTED):
    return scripted_agent(path, statuses, answer)


@pytest.fixture
def node(short_directory, monkeypatch):
    return node_with_agent(short_directory, monkeypatch)


def run(node, *args):
    return CliRunner().invoke(build_app(), ["switchover", "-c", str(node.file), *args])


def test_success_tells_each_stage_and_exits_0(node):
    with agent(node.socket, [BEFORE, BEFORE, WAITING, WAITING, STOPPED, ELECTING, DONE]) as orders:
        result = run(node, "--to", "n2", "--timeout", "7.5")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "accepted, from n1 to n2: n2 takes over",
        "waiting for n2, lag 96 B, 12 ms",
        "no primary after 0.3 s: n1 takes no writes any more",
        "new primary n2 in term 5 on timeline 3 after 0.5 s",
    ]
    assert [order[:2] for order in orders] == [("POST", "/switchover")]
    assert json.loads(orders[0][2]) == {"to": "n2", "timeout_s": 7.5}


def test_json_is_one_object_at_the_end(node):
    with agent(node.socket, [BEFORE, WAITING, DONE]) as orders:
        result = run(node, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "ok": True,
        "from": "n1",
        "to": "n2",
        "primary": "n2",
        "term": 5,
        "timeline": 3,
        "duration_ms": 100,
        "reason": None,
    }
    assert json.loads(orders[0][2]) == {"to": None, "timeout_s": 30.0}


def test_a_refusal_shows_the_reason_and_exits_1(node):
    answer = (409, {"accepted": False, "order": "one", "to": None, "reason": "n2 is \x1b[2Jaway"})
    with agent(node.socket, [BEFORE], answer):
        result = run(node, "--to", "n2")
        as_json = run(node, "--to", "n2", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "metako: n2 is ?[2Jaway\n"
    assert as_json.exit_code == 1
    body = json.loads(as_json.stdout)
    assert (body["ok"], body["to"], body["primary"]) == (False, "n2", "n1")
    assert body["reason"] == "n2 is ?[2Jaway"


@pytest.mark.parametrize("code", [400, 403, 503, 504])
def test_an_order_that_no_leader_answered_exits_1_with_the_agents_words(node, code):
    with agent(node.socket, [BEFORE], (code, {"error": "so it is", "status": code})):
        result = run(node)
    assert (result.exit_code, result.stderr) == (1, "metako: so it is\n")


def test_another_primary_is_a_failover_and_exits_1(node):
    with agent(node.socket, [BEFORE, WAITING, STOPPED, ELECTING, status("n3", term=5)]):
        result = run(node)
    assert (result.exit_code, result.stderr) == (1, "metako: it became a failover to n3\n")


def test_given_up_while_the_old_primary_leads_exits_1(node):
    with agent(node.socket, [BEFORE, WAITING, BEFORE]):
        result = run(node)
        assert result.exit_code == 1
        assert "given up, n1 is still the primary: the cluster's log says why" in result.stderr
    blocked = status(blocked="commits wait for n2")
    with agent(node.socket, [BEFORE, WAITING, blocked]):
        result = run(node, "--json")
        assert result.exit_code == 1
        reason = json.loads(result.stdout)["reason"]
    assert reason == "given up, n1 is still the primary: commits wait for n2"


def test_an_order_that_another_one_replaced_was_given_up(node):
    other = status(under_way="n3", order="two")
    with agent(node.socket, [BEFORE, WAITING, other]):
        assert "given up" in run(node).stderr


def test_the_timeout_and_a_while_later_it_exits_1_and_says_that_it_goes_on(node, monkeypatch):
    monkeypatch.setattr(follow, "POLL_INTERVAL_S", 5.0)
    with agent(node.socket, [BEFORE, WAITING]):
        result = run(node, "--timeout", "1")
    assert result.exit_code == 1
    assert "not done after 31 s; it is still under way" in result.stderr
    assert "metako switchover --cancel" in result.stderr
    assert node.clock.now >= 131


def test_an_agent_that_is_away_for_a_moment_is_waited_for(node):
    broken = {"node": "n3"}  # no members: not what an agent says
    with agent(node.socket, [BEFORE, WAITING, broken, broken, DONE]):
        result = run(node)
    assert result.exit_code == 0
    assert result.stderr.count("still waiting") == 1


@pytest.mark.parametrize("args", [[], ["--json"]])
def test_an_interrupt_says_that_it_goes_on_and_exits_130(node, args):
    def interrupt(_seconds):
        raise KeyboardInterrupt

    node.time.sleep = interrupt
    with agent(node.socket, [BEFORE, WAITING]):
        result = run(node, *args)
    assert result.exit_code == 130
    told = json.loads(result.stdout)["reason"] if args else result.stderr
    assert "the switchover goes on" in told
    assert "metako switchover --cancel" in told


def test_an_interrupt_before_the_answer_does_not_claim_to_know(node, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(switchover.LocalAgent, "order_switchover", interrupt)
    with agent(node.socket, [BEFORE]):
        result = run(node)
    assert result.exit_code == 130
    assert "if there is a switchover" in result.stderr


def test_cancel_asks_with_delete_and_says_what_came_of_it(node):
    taken = (202, {"accepted": True, "order": "two", "to": "n2", "reason": "n1 stays"})
    with agent(node.socket, [BEFORE], taken) as orders:
        result = run(node, "--cancel")
        as_json = run(node, "--cancel", "--json")
    assert (result.exit_code, result.stdout) == (0, "cancelled: n1 stays\n")
    assert [order[:2] for order in orders] == [("DELETE", "/switchover")] * 2
    assert (as_json.exit_code, json.loads(as_json.stdout)["ok"]) == (0, True)
    refused = (409, {"accepted": False, "order": "two", "to": None, "reason": "none is under way"})
    with agent(node.socket, [BEFORE], refused):
        result = run(node, "--cancel")
        assert (result.exit_code, result.stderr) == (1, "metako: none is under way\n")
        assert run(node, "--cancel", "--json").exit_code == 1


def test_a_time_is_given_in_utc_and_nothing_is_followed(node):
    answer = (202, {"accepted": True, "order": "one", "to": "n2", "reason": "in 600 s"})
    with agent(node.socket, [BEFORE], answer) as orders:
        result = run(node, "--to", "n2", "--at", "+10m")
        as_json = run(node, "--at", "+10m", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    asked = [json.loads(order[2]) for order in orders]
    assert [order[:2] for order in orders] == [("POST", "/switchover")] * 2
    assert [body["to"] for body in asked] == ["n2", None]
    left_s = parse_moment_ms(asked[0]["at"]) / 1000 - time.time()
    assert 590 < left_s <= 600
    shown = asked[0]["at"][:19].replace("T", " ")
    assert result.stdout.startswith("accepted: switchover to n2 at ")
    assert f"{shown} UTC" in result.stdout
    assert "metako switchover --cancel" in result.stdout
    told = json.loads(as_json.stdout)
    assert told == {"ok": True, "to": None, "at": asked[1]["at"], "reason": "in 600 s"}
    assert node.clock.now == 100.0


def test_a_time_that_the_leader_refuses_exits_1(node):
    refused = (409, {"accepted": False, "order": "two", "to": None, "reason": "one is scheduled"})
    with agent(node.socket, [BEFORE], refused):
        result = run(node, "--at", "+10m")
        as_json = run(node, "--at", "+10m", "--json")
    assert (result.exit_code, result.stderr) == (1, "metako: one is scheduled\n")
    assert (as_json.exit_code, json.loads(as_json.stdout)["ok"]) == (1, False)


@pytest.mark.parametrize("at", ["soon", "25:00", "+0s", "2020-01-01T00:00Z", "2999-01-01T00:00Z"])
def test_a_time_that_cannot_be_meant_exits_2_and_orders_nothing(node, at):
    with agent(node.socket, [BEFORE]) as orders:
        result = run(node, "--at", at)
    assert (result.exit_code, orders) == (2, [])
    assert result.stderr.startswith(f"metako: --at {at}: ")


@pytest.mark.parametrize(
    "args",
    [
        ["--cancel", "--at", "+10m"],
        ["--cancel", "--to", "n2"],
        ["--timeout", "0"],
        ["--timeout", "3601"],
        ["--api", "x"],
    ],
)
def test_wrong_arguments_exit_2(node, args):
    assert run(node, *args).exit_code == 2


@pytest.mark.parametrize("args", [[], ["--cancel"]])
def test_without_an_agent_it_exits_11_and_says_what_to_do(node, args):
    result = run(node, *args)
    assert (result.exit_code, result.stdout) == (11, "")
    assert str(node.socket) in result.stderr
    assert "is the agent running?" in result.stderr


def test_an_agent_that_takes_no_orders_is_told_from_a_refusal(node):
    with agent(node.socket, [BEFORE], (404, {"error": "Not Found", "status": 404})):
        result = run(node)
    assert result.exit_code == 11
    assert "takes orders" in result.stderr


# ---------------------------------------------------------------- the judge


def course(target="n2", before=BEFORE):
    told = []
    return Course(before, order_id="one", target=target, tell=told.append), told


def test_nothing_is_judged_before_the_document_has_come():
    judge, told = course()
    assert judge.see(BEFORE, 0.1) is None
    assert judge.see(BEFORE, UNSEEN_MAX_S) is None
    outcome = judge.see(BEFORE, UNSEEN_MAX_S + 0.1)
    assert (outcome.ok, told) == (False, [])


def test_the_target_is_not_the_primary_until_its_own_document_says_so():
    judge, _ = course()
    assert judge.see(WAITING, 1) is None
    assert judge.see(status("n2", under_way="n2"), 2) is None
    assert judge.see(DONE, 3).ok


def test_a_target_that_only_the_document_names_is_taken_from_it():
    judge, _ = course(target=None)
    judge.see(WAITING, 1)
    assert judge.target == "n2"
    assert judge.see(status("n3"), 2).reason == "it became a failover to n3"


def test_a_cluster_without_a_primary_goes_by_its_document():
    judge, told = course(before=status(None))
    assert judge.source == "n1"
    assert judge.see(status("n1", under_way="n2"), 1) is None
    assert told == ["waiting for n2, lag 96 B, 12 ms"]


@pytest.mark.parametrize("body", [{}, {"document": 7, "primary": 4}, {"document": {}, "term": "x"}])
def test_a_status_of_another_version_is_survived(body):
    judge, _ = course(before=body)
    assert judge.see(body, 1) is None
    assert judge.outcome(1, reason="x").as_json()["term"] is None


def test_the_status_command_shows_what_is_under_way():
    facts = dict(picture(WAITING).facts)
    assert facts["switchover"] == "to n2 is under way"
    assert "switchover" not in dict(picture(BEFORE).facts)


# ---------------------------------------------------------------- the real program


@pytest.mark.slow
def test_it_loads_no_driver_and_no_cryptography(node):
    assert_asks_without_heavy_modules(node, "switchover")
