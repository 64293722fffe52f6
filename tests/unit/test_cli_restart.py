"""`metako restart`: what it says first, that it asks, and every way that it can end."""

import json

import pytest
from agent_kit import assert_asks_without_heavy_modules, node_with_agent, scripted_agent
from typer.testing import CliRunner

from metako.cli.app import build_app
from metako.cli.restart_course import GRACE_S, UNSEEN_MAX_S, RestartCourse, turns_of

TAKEN = (202, {"accepted": True, "order": "one", "reason": "restarts n2, then n3, then n1"})
REFUSED = (409, {"accepted": False, "order": "one", "reason": "n3 cannot be restarted: it is \x07"})
ALL = ("n2", "n3", "n1")


def status(
    left=(), *, order="one", primary="n1", active=True, term=4, committed=True, nodes=ALL, **rows
):
    """Return a body of GET /status; `rows` are `n2="stopped"`, with the order if it is done."""
    members = []
    for node in nodes:
        state = rows.get(node, "streaming" if node != primary else "running")
        done = state.startswith("!")
        members.append(
            {
                "node": node,
                "state": "alive",
                "server_state": state.lstrip("!"),
                "restarted": order if done else None,
            }
        )
    return {
        "node": "n3",
        "primary": primary if active else None,
        "term": term,
        "document": {
            "primary": primary,
            "term": term,
            "committed": committed,
            "voters": [*sorted(nodes), "w1"],
            "learners": [],
            "witnesses": ["w1"],
            "restarts": [{"node": n, "order": order, "timeout_s": 60} for n in left],
        },
        "members": members,
    }


BEFORE = status()
COURSE = [
    status(ALL),
    status(ALL, n2="!stopped"),
    status(ALL, n2="!streaming"),
    status(ALL[1:], n2="!streaming", n3="!starting"),
    status(ALL[2:], n2="!streaming", n3="!streaming"),
    status(ALL[2:], active=False, n1="stopping"),
    status(primary="n2", active=False, term=5, n1="stopped"),
    status(primary="n2", term=5, n1="starting"),
    status(primary="n2", term=5),
]


@pytest.fixture
def node(short_directory, monkeypatch):
    return node_with_agent(short_directory, monkeypatch)


def run(node, statuses, answer, *args):
    with scripted_agent(node.socket, statuses, answer) as orders:
        result = CliRunner().invoke(build_app(), ["restart", "-c", str(node.file), *args])
    return result, orders


def test_all_servers_one_by_one_and_a_line_for_each(node):
    result, orders = run(node, [BEFORE, BEFORE, *COURSE], TAKEN, "--yes", "--timeout", "7.5")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "accepted: restarts n2, then n3, then n1",
        "n2 restarted after 0.4 s",
        "n3 restarted after 0.1 s",
        "n1 restarted after 0.4 s",
        "3 restarted, n2 is the primary",
    ]
    assert [order[:2] for order in orders] == [("POST", "/restart")]
    assert json.loads(orders[0][2]) == {"nodes": None, "timeout_s": 7.5}


def test_json_is_one_object_at_the_end(node):
    result, orders = run(
        node, [BEFORE, status(["n2"], n2="!stopped"), status()], TAKEN, "n2", "--yes", "--json"
    )
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "ok": True,
        "restarted": ["n2"],
        "left": [],
        "primary": "n1",
        "duration_ms": 100,
        "reason": None,
    }
    assert json.loads(orders[0][2]) == {"nodes": ["n2"], "timeout_s": 60.0}


# ---------------------------------------------------------------- what is asked first


@pytest.mark.parametrize("args", [[], ["--json"]])
def test_nothing_is_ordered_before_somebody_has_confirmed(node, args):
    result, orders = run(node, [BEFORE], TAKEN, *args)
    assert (result.exit_code, orders) == (2, [])
    assert "PostgreSQL is restarted on n2, then n3, then n1" in result.stderr
    assert "n1 is the primary, and hands over to another node first" in result.stderr
    assert "--yes" in result.stderr


@pytest.mark.parametrize(("typed", "code"), [("yes", 0), (" yes ", 0), ("n1", 2), ("", 2)])
def test_yes_is_the_answer_to_the_question(node, monkeypatch, typed, code):
    monkeypatch.setattr("builtins.input", lambda _prompt: typed)
    stdin = type("I", (), {"isatty": staticmethod(lambda: True)})
    monkeypatch.setattr("metako.cli.restart.sys", type("S", (), {"stdin": stdin}))
    result, orders = run(node, [BEFORE, status(["n2"], n2="!stopped"), status()], TAKEN, "n2")
    assert (result.exit_code, len(orders)) == (code, 1 if code == 0 else 0)
    assert "PostgreSQL is restarted on n2. Sessions" in result.stdout


def test_no_answer_at_all_is_no_confirmation(node, monkeypatch):
    def nobody(_prompt):
        raise EOFError

    monkeypatch.setattr("builtins.input", nobody)
    stdin = type("I", (), {"isatty": staticmethod(lambda: True)})
    monkeypatch.setattr("metako.cli.restart.sys", type("S", (), {"stdin": stdin}))
    result, orders = run(node, [BEFORE], TAKEN)
    assert (result.exit_code, orders) == (2, [])


def test_of_a_single_server_it_says_that_nobody_takes_writes_meanwhile(node):
    result, _ = run(node, [status(nodes=("n1",))], TAKEN)
    assert "nobody takes writes until it is back" in result.stderr


def test_turns_are_as_the_leader_takes_them():
    assert turns_of(BEFORE, []) == ALL
    assert turns_of(BEFORE, ["n1", "n3", "n3"]) == ("n3", "n1")
    assert turns_of({}, []) == ()
    assert turns_of({}, ["n2"]) == ("n2",)


# ---------------------------------------------------------------- bad ends


def test_a_refusal_shows_the_reason_and_exits_1(node):
    result, _ = run(node, [BEFORE], REFUSED, "--yes")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "metako: n3 cannot be restarted: it is ?\n"
    told = json.loads(run(node, [BEFORE], REFUSED, "--yes", "--json")[0].stdout)
    assert (told["ok"], told["left"]) == (False, list(ALL))


def test_an_end_before_its_time_names_those_that_are_left(node):
    statuses = [BEFORE, *COURSE[:4], status(n2="!streaming", n3="!starting")]
    result, _ = run(node, statuses, TAKEN, "--yes")
    assert result.exit_code == 1
    assert "n2 restarted after" in result.stdout
    assert "before its time, not restarted: n3, n1; `metako logs`" in result.stderr
    told = json.loads(run(node, statuses, TAKEN, "--yes", "--json")[0].stdout)
    assert (told["restarted"], told["left"]) == (["n2"], ["n3", "n1"])


def test_a_primary_that_hands_over_and_does_not_come_back_is_told(node):
    away = status(primary="n2", term=5, n1="stopped")
    result, _ = run(node, [BEFORE, *COURSE[:6], away], TAKEN, "--yes", "--timeout", "5")
    assert result.exit_code == 1
    assert "n1 handed over, and does not stream after 5 s" in result.stderr


def test_when_all_time_is_up_it_says_that_it_goes_on(node, monkeypatch):
    monkeypatch.setattr("metako.cli.follow.POLL_INTERVAL_S", 5.0)
    result, _ = run(node, [BEFORE, status(ALL)], TAKEN, "--yes", "--timeout", "10")
    assert result.exit_code == 1
    assert "not done after 70 s: `metako status` shows who is left" in result.stderr


@pytest.mark.parametrize("args", [[], ["--json"]])
def test_an_interrupt_says_that_it_goes_on_and_exits_130(node, args):
    def interrupt(_seconds):
        raise KeyboardInterrupt

    node.time.sleep = interrupt
    result, _ = run(node, [BEFORE, status(ALL)], TAKEN, "--yes", *args)
    assert result.exit_code == 130
    told = json.loads(result.stdout)["reason"] if args else result.stderr
    assert "the restart goes on: `metako status` shows who is left" in told


def test_an_interrupt_before_the_answer_does_not_claim_to_know(node, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("metako.api.client.LocalAgent.restart", interrupt)
    result, _ = run(node, [BEFORE], TAKEN, "--yes")
    assert (result.exit_code, "if it was taken" in result.stderr) == (130, True)


def test_cancel_asks_with_delete_and_says_what_came_of_it(node):
    taken = (202, {"accepted": True, "order": "two", "reason": "cancelled; one is finished"})
    result, orders = run(node, [BEFORE], taken, "--cancel")
    assert (result.exit_code, result.stdout) == (0, "cancelled; one is finished\n")
    assert [order[:2] for order in orders] == [("DELETE", "/restart")]
    refused = (409, {"accepted": False, "order": "two", "reason": "no restart is under way"})
    result, _ = run(node, [BEFORE], refused, "--cancel")
    assert (result.exit_code, result.stderr) == (1, "metako: no restart is under way\n")


@pytest.mark.parametrize(
    "args",
    [["--cancel", "n2"], ["--timeout", "0"], ["--timeout", "3601"], ["n 2"], ["--yes", "a/b"]],
)
def test_wrong_arguments_exit_2(node, args):
    assert run(node, [BEFORE], TAKEN, *args)[0].exit_code == 2


@pytest.mark.parametrize("args", [[], ["--yes"], ["--cancel"]])
def test_without_an_agent_it_exits_11(node, args):
    result = CliRunner().invoke(build_app(), ["restart", "-c", str(node.file), *args])
    assert (result.exit_code, result.stdout) == (11, "")


# ---------------------------------------------------------------- the judge


def course(nodes=ALL, before=BEFORE, timeout_s=60):
    told = []
    judge = RestartCourse(before, nodes, order_id="one", timeout_s=timeout_s, tell=told.append)
    return judge, told


def test_nothing_is_judged_before_the_document_has_come():
    judge, told = course()
    assert judge.see(BEFORE, 0.1) is None
    assert judge.see(BEFORE, UNSEEN_MAX_S) is None
    assert judge.see(BEFORE, UNSEEN_MAX_S + 0.1) is None  # gossip may be late
    ended = judge.see(BEFORE, UNSEEN_MAX_S + 0.2 + GRACE_S)
    assert (ended.ok, ended.left, told) == (False, ALL, [])
    assert "no document shows it" in ended.reason


def test_the_last_standby_counts_only_if_it_said_so_and_streams():
    judge, told = course(("n2",))
    judge.see(status(["n2"]), 0.1)
    assert judge.see(status(n2="running"), 0.5) is None
    assert judge.see(status(), 0.6) is None  # it streams, but has not said that it was stopped
    assert judge.see(status(), 0.7 + GRACE_S).left == ("n2",)
    judge, told = course(("n2",))
    judge.see(status(["n2"], n2="!stopped"), 0.1)
    assert judge.see(status(n2="running"), 0.5) is None
    assert judge.see(status(), 0.6).ok  # gossip was late
    assert told == ["n2 restarted after 0.6 s"]


def test_another_order_of_the_same_node_is_not_this_one():
    judge, _ = course(("n2",))
    judge.see(status(["n2"]), 0.1)
    other = status(["n2"], order="two", n2="!streaming")
    assert judge.see(other, 0.5) is None
    assert not judge.see(other, 0.6 + GRACE_S).ok


def test_a_version_that_no_majority_has_ends_nothing():
    judge, _ = course(("n2",))
    judge.see(status(["n2"], n2="!stopped"), 0.1)
    assert judge.see(status(committed=False), 5) is None
    assert judge.see(status(["n2"]), 6) is None
    assert judge.see(status(), 7).ok


def test_a_switchover_that_was_given_up_leaves_the_primary():
    judge, told = course(("n1",))
    judge.see(status(["n1"]), 0.1)
    assert judge.see(status(), 3) is None
    ended = judge.see(status(), 3.1 + GRACE_S)
    assert (ended.ok, ended.left, told) == (False, ("n1",), [])


def test_of_a_cluster_of_one_a_later_term_is_the_end():
    judge, told = course(("n1",), status(nodes=("n1",)))
    judge.see(status(["n1"], nodes=("n1",)), 0.1)
    assert judge.see(status(nodes=("n1",), active=False, n1="stopped"), 0.5) is None
    assert judge.see(status(nodes=("n1",), active=False, term=5, n1="starting"), 1) is None
    assert judge.see(status(nodes=("n1",), term=5), 1.5).ok
    assert told == ["n1 restarted after 1.5 s"]


def test_a_failover_in_between_goes_on_with_the_others():
    judge, told = course()
    judge.see(status(ALL, n2="!stopped"), 0.1)
    judge.see(status(["n2", "n3"], primary="n3", term=5, n1="stopped", n2="!starting"), 3)
    judge.see(status(["n3"], primary="n3", term=5, n1="starting", n2="!streaming"), 4)
    assert judge.see(status(primary="n2", term=6, n1="streaming", n3="stopped"), 6) is None
    ended = judge.see(status(primary="n2", term=6), 7)
    assert (ended.ok, ended.restarted, ended.primary) == (True, ("n2", "n1", "n3"), "n2")
    assert told[0] == "n2 restarted after 4.0 s"


def test_one_that_was_removed_meanwhile_is_no_failure():
    judge, told = course(("n2", "n3"))
    judge.see(status(["n2", "n3"], n2="!stopped"), 0.1)
    judge.see(status(["n3"], nodes=("n1", "n3"), n3="!stopped"), 1)
    assert judge.see(status(nodes=("n1", "n3")), 2).ok
    assert told == ["n2 is no member any more", "n3 restarted after 1.0 s"]


@pytest.mark.parametrize("body", [{}, {"document": 7}, {"document": {"term": "x"}, "members": 3}])
def test_a_status_of_another_version_is_survived(body):
    judge, _ = course(before=body)
    assert judge.see(body, UNSEEN_MAX_S + 1) is None
    assert judge.outcome(1, reason="x").primary is None


@pytest.mark.slow
def test_it_loads_no_driver_and_no_cryptography(node):
    assert_asks_without_heavy_modules(node, "restart", "--yes")
