"""`metako failover`: what it says that it costs, that it asks, and every way that it can end."""

import json

import pytest
from agent_kit import assert_asks_without_heavy_modules, node_with_agent, scripted_agent
from typer.testing import CliRunner

from metako.api.orders import failover_order
from metako.cli.app import build_app
from metako.cli.failover_cost import Cost, cost_of
from metako.model.lsn import Lsn
from metako.model.orders import OrderKind

TAKEN = (202, {"accepted": True, "order": "o", "to": "n3", "reason": "stands for election"})
REFUSED = (409, {"accepted": False, "order": "o", "to": None, "reason": "n1 leads: use that"})


def status(primary=None, *, lsn="0/5000100", own="0/5000000", sync=(), blocked=None):
    return {
        "node": "n3",
        "primary": primary,
        "blocked": blocked,
        "document": {"primary": "n1", "sync": {"k": len(sync), "nodes": list(sync)}},
        "members": [{"node": "n1", "lsn": lsn}, {"node": "n3", "lsn": own}],
    }


@pytest.fixture
def node(short_directory, monkeypatch):
    return node_with_agent(short_directory, monkeypatch)


def run(node, statuses, answer, *args, stdin=None):
    with scripted_agent(node.socket, statuses, answer) as orders:
        result = CliRunner().invoke(
            build_app(), ["failover", "-c", str(node.file), *args], input=stdin
        )
    return result, orders


def test_the_cost_is_told_first_and_the_end_last(node):
    result, orders = run(node, [status(), status(), status("n3")], TAKEN, "--accept-loss")
    assert result.exit_code == 0, result.output
    first, *_, last = result.output.splitlines()
    assert "256 bytes of WAL" in first
    assert "and all that n1 wrote later" in first
    assert last.startswith("n3 is the primary after ")
    assert orders == [("POST", "/failover", '{"accept_loss": true, "lost": []}')]


def test_nothing_is_ordered_before_somebody_has_accepted(node):
    for args in ((), ("--json",)):
        result, orders = run(node, [status()], TAKEN, *args)
        assert result.exit_code == 2
        assert "--accept-loss" in result.stderr
        assert "256 bytes" in result.stderr
        assert orders == []


@pytest.mark.parametrize(("typed", "code"), [("n3\n", 0), ("yes\n", 2), ("\n", 2)])
def test_the_name_of_the_node_is_the_answer_to_the_question(node, monkeypatch, typed, code):
    monkeypatch.setattr("builtins.input", lambda _prompt: typed.strip())
    monkeypatch.setattr(
        "metako.cli.failover.sys",
        type("S", (), {"stdin": type("I", (), {"isatty": staticmethod(lambda: True)})}),
    )
    result, orders = run(node, [status(), status("n3")], TAKEN)
    assert result.exit_code == code, result.output
    assert len(orders) == (1 if code == 0 else 0)


def test_json_is_one_object(node):
    result, _ = run(node, [status(), status("n3")], TAKEN, "--accept-loss", "--json")
    told = json.loads(result.output)
    assert (told["ok"], told["node"], told["primary"], told["lost_bytes"]) == (
        True,
        "n3",
        "n3",
        256,
    )
    assert told["duration_ms"] >= 0
    assert told["reason"] is None


def test_a_refusal_is_the_agents_word(node):
    result, _ = run(node, [status()], REFUSED, "--accept-loss")
    assert result.exit_code == 1
    assert "n1 leads: use that" in result.stderr


def test_what_is_missing_is_told_when_time_is_up(node):
    blocked = status(blocked="no primary: missing votes: 1 of 2")
    result, _ = run(node, [status(), blocked], TAKEN, "--accept-loss", "--timeout", "5")
    assert result.exit_code == 1
    assert "n3 is not the primary after 5 s: no primary: missing votes: 1 of 2" in result.stderr


def test_without_an_agent_it_exits_11(node):
    result = CliRunner().invoke(build_app(), ["failover", "-c", str(node.file), "--accept-loss"])
    assert result.exit_code == 11


def test_the_cost_where_less_is_known():
    assert cost_of(status(lsn=None)).lost_bytes is None
    assert "nobody here knows how much" in cost_of(status(lsn="x")).words()
    assert cost_of(status(lsn="0/1")).lost_bytes == 0
    assert "commits have waited for n2, which may" in cost_of(status(sync=("n2", "n3"))).words()
    assert "the primary before has written" in cost_of({"node": "n3"}).words()
    assert Cost("n3", "n1", Lsn(10), Lsn(4), ()).lost_bytes == 6


def test_the_body_has_to_say_that_the_loss_is_accepted():
    assert failover_order(b'{"accept_loss": true}').kind is OrderKind.FAILOVER
    order = failover_order(b'{"accept_loss": true, "lost": ["n1", "n2"]}')
    assert order.lost == ("n1", "n2")
    for lost in (b'"n1"', b"[1]", b'["a b"]', b"{}"):
        with pytest.raises(ValueError, match="lost"):
            failover_order(b'{"accept_loss": true, "lost": ' + lost + b"}")
    for body in (b"{}", b'{"accept_loss": 1}', b'{"accept_loss": false}', b"", b"[]", b'{"to": 1}'):
        with pytest.raises(ValueError, match=r"accept_loss|JSON"):
            failover_order(body)


def test_members_that_are_lost_are_named_and_what_that_means(node):
    result, orders = run(
        *(node, [status(), status("n3")], TAKEN),
        *("--accept-loss", "--lost", "n1", "--lost", "n2"),
    )
    assert result.exit_code == 0, result.output
    assert "Members no longer: n1, n2." in result.output.splitlines()[0]
    assert orders == [("POST", "/failover", '{"accept_loss": true, "lost": ["n1", "n2"]}')]


def pair(mode="manual", *, primary="n1", heard=False, alone=False, silent_ms=12_300):
    """Return the status of n3, the other one of which is n1."""
    shown = status(sync=("n3",))
    shown["document"] |= {"primary": primary, "voters": ["n1", "n3"], "pair_mode": mode}
    shown["members"][0]["state"] = "alive" if heard else "dead"
    return shown | {"primary_silent_ms": silent_ms, "can_lead_alone": alone}


@pytest.mark.parametrize("mode", ["manual", "takeover"])
def test_the_other_one_of_a_pair_stays_a_member_and_may_have_gone_on_alone(mode):
    words = cost_of(pair(mode), ["n1"]).words()
    assert "by what was last heard of it, 12 s ago, that is 256 bytes of WAL" in words
    assert "n1 may have gone on alone after that, without n3" in words
    assert "n1 stays a member" in words
    assert "The host of n1 must be off now" in words
    assert "Members no longer" not in words
    assert cost_of(pair(mode), ["n1"]).hint() == ""


def test_a_primary_that_waits_for_its_standby_is_told_that_it_may_have_taken_over():
    words = cost_of(pair("takeover", primary="n3", silent_ms=None), ["n1"]).words()
    assert words.startswith("n3 led last, and loses what another node has written since, if any")
    assert "n1 may have taken over after that" in words
    assert "n1 stays a member" in words
    assert "n1 may have" not in cost_of(pair(primary="n3"), ["n1"]).words()


def test_nothing_was_done_without_who_can_lead_alone():
    cost = cost_of(pair("takeover", alone=True))
    assert "n1 may have" not in cost.words()
    assert cost.hint() == "n3 needs no vote of n1, and leads by itself before long"


def test_without_lost_the_vote_of_a_silent_other_one_is_asked_for_before_the_order(node):
    result, orders = run(node, [pair()], TAKEN)
    assert result.exit_code == 2
    assert "n1 is not heard, and its vote is needed" in result.stderr
    assert "If the host of n1 is off, give --lost n1" in result.stderr
    assert orders == []
    result, _ = run(node, [pair(), pair() | {"primary": "n3"}], TAKEN, "--accept-loss")
    assert result.output.splitlines()[1].startswith("n1 is not heard")


def test_a_pair_whose_other_one_is_heard_has_a_vote_to_ask_for():
    cost = cost_of(pair(heard=True))
    assert cost.hint() == ""
    assert "n1 may have" not in cost.words()


def test_the_question_is_whether_what_must_be_off_is_off():
    assert cost_of(pair(), ["n1"]).gone() == "The host of n1 is off"
    assert cost_of(pair()).gone() == ""
    assert cost_of(status(), ["n2"]).gone() == "Off for good: n1, n2"


@pytest.mark.parametrize("lost", [(), ("n1",)])
def test_the_question_of_a_pair_is_answered_with_the_name(node, monkeypatch, lost):
    asked = []
    monkeypatch.setattr("builtins.input", lambda _prompt: asked.append(1) or "n3")
    monkeypatch.setattr(
        "metako.cli.failover.sys",
        type("S", (), {"stdin": type("I", (), {"isatty": staticmethod(lambda: True)})}),
    )
    options = [part for name in lost for part in ("--lost", name)]
    result, orders = run(node, [pair(), pair() | {"primary": "n3"}], TAKEN, *options)
    assert (result.exit_code, len(orders), len(asked)) == (0, 1, 1), result.output
    question = "The host of n1 is off. Is that so, and is that" if lost else "Is that"
    assert f"\n{question} loss accepted?" in result.output


@pytest.mark.slow
def test_it_loads_no_driver_and_no_cryptography(node):
    assert_asks_without_heavy_modules(node, "failover", "--accept-loss")
