"""`metako members add` and `remove`: every way that they can end, and what lists show of it."""

import json

import pytest
from agent_kit import assert_asks_without_heavy_modules, node_with_agent, scripted_agent
from typer.testing import CliRunner

from metako.cli import members
from metako.cli.app import build_app
from metako.cli.member_course import OLD_MAX_S, UNSEEN_MAX_S, MemberCourse, Wanted
from metako.cli.status_text import doing, lines, member_rows, picture, votes_of

NODES = ("n1", "n2", "n3", "n4")


def answer(accepted=True, words="it is taken in"):
    body = {"accepted": accepted, "order": "one", "node": "n4", "reason": f"n4: {words}"}
    return (202 if accepted else 409, body)


def status(version, *, learners=(), voters=("n1", "n2", "n3"), joining=(), leaving=(), **of_n4):
    """Return a body of GET /status, where gossip knows n4; `of_n4` changes its row."""
    in_ = (*voters, *learners)
    rows = [
        {
            "node": node,
            "self": node == "n3",
            "state": "alive",
            "role": "standby",
            "voter": node in voters,
            "membership": ("voter" if node in voters else "learner") if node in in_ else None,
            "joining": node in joining,
            "leaving": node in leaving,
            "record": "ok" if node in in_ else None,
            "sync": False,
            "server_state": "streaming",
        }
        for node in NODES
    ]
    rows[3].update({"server_state": "absent", **of_n4})
    return {
        "node": "n3",
        "leader": "n1",
        "primary": "n1",
        "blocked": None,
        "document": {
            "ref": f"4.{version}",
            "voters": list(voters),
            "learners": list(learners),
            "witnesses": [],
            "joining": list(joining),
            "leaving": list(leaving),
        },
        "members": rows,
    }


def joining(version=3, state="absent", **changes):
    return status(version, learners=["n4"], joining=["n4"], server_state=state, **changes)


OUTSIDE = status(2)
COPYING = joining()
STARTING = joining(state="starting")
STREAMING = joining(state="streaming", lag_bytes=96)
VOTER = status(4, voters=NODES, server_state="streaming")
LEARNER = status(4, learners=["n4"])
LEAVING = status(5, voters=NODES, leaving=["n4"], sync=True)
LOST = status(2, voters=NODES, record="lost")


@pytest.fixture
def node(short_directory, monkeypatch):
    return node_with_agent(short_directory, monkeypatch)


def run(node, *args):
    command, *rest = args
    return CliRunner().invoke(build_app(), ["members", command, "n4", "-c", str(node.file), *rest])


def agent(node, statuses, said=None):
    return scripted_agent(node.socket, statuses, said or answer())


# ---------------------------------------------------------------- add


def test_a_node_is_followed_from_its_copy_to_its_vote(node):
    course = [OUTSIDE, OUTSIDE, COPYING, COPYING, STARTING, STREAMING, VOTER]
    with agent(node, course) as orders:
        result = run(node, "add")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "accepted: n4: it is taken in",
        "n4 is a learner that gets a vote once it has caught up",
        "n4: copies data",
        "n4: PostgreSQL starts",
        "n4: streams, lag 96 B",
        "n4 is a voter; 4 voters, of which 3 are needed",
    ]
    assert [order[:2] for order in orders] == [("POST", "/members")]
    assert json.loads(orders[0][2]) == {"node": "n4", "learner": False}


def test_a_learner_is_followed_until_it_is_taken_in(node):
    with agent(node, [OUTSIDE, OUTSIDE, LEARNER]) as orders:
        result = run(node, "add", "--learner")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1:] == ["n4 is a learner; 3 voters, of which 2 are needed"]
    assert json.loads(orders[0][2]) == {"node": "n4", "learner": True}


def test_json_is_one_object_at_the_end(node):
    with agent(node, [OUTSIDE, COPYING, VOTER]):
        result = run(node, "add", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "ok": True,
        "node": "n4",
        "membership": "voter",
        "reason": None,
        "duration_ms": 100,
    }


def test_without_waiting_only_the_answer_is_told(node):
    with agent(node, [OUTSIDE]):
        result = run(node, "add", "--no-wait")
        as_json = run(node, "add", "--no-wait", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == ("accepted: n4: it is taken in; `metako members` shows how it goes\n")
    body = json.loads(as_json.stdout)
    assert (as_json.exit_code, body["ok"], body["membership"]) == (0, True, None)
    assert body["reason"] == "n4: it is taken in"


def test_what_is_so_already_is_believed_after_a_moment(node):
    with agent(node, [VOTER], answer(words="it is a voter already")):
        result = run(node, "add")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "accepted: n4: it is a voter already",
        "n4 is a voter; 4 voters, of which 3 are needed",
    ]
    assert OLD_MAX_S <= node.clock.now - 100 < OLD_MAX_S + 0.2


def test_a_refusal_shows_the_reason_and_exits_1(node):
    said = answer(False, "no agent of \x1b[2Jthat name is heard")
    with agent(node, [OUTSIDE], said):
        result = run(node, "add")
        as_json = run(node, "add", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "metako: n4: no agent of ?[2Jthat name is heard\n"
    body = json.loads(as_json.stdout)
    assert (as_json.exit_code, body["ok"], body["membership"]) == (1, False, None)
    assert body["reason"] == "n4: no agent of ?[2Jthat name is heard"


@pytest.mark.parametrize("command", ["add", "remove"])
@pytest.mark.parametrize("code", [400, 403, 503, 504])
def test_an_order_that_no_leader_answered_exits_1_with_the_agents_words(node, command, code):
    with agent(node, [VOTER], (code, {"error": "so it is", "status": code})):
        result = run(node, command)
    assert (result.exit_code, result.stderr) == (1, "metako: so it is\n")


def test_time_that_is_up_exits_1_and_says_that_it_goes_on(node):
    with agent(node, [OUTSIDE, STREAMING]):
        result = run(node, "add", "--timeout", "5")
        as_json = run(node, "add", "--timeout", "5", "--json")
    assert result.exit_code == 1
    assert result.stderr == (
        "metako: not done after 5 s: n4 is a learner that gets a vote once it has caught up, "
        "streams, lag 96 B; the change goes on, and `metako members` shows it\n"
    )
    body = json.loads(as_json.stdout)
    assert (as_json.exit_code, body["ok"], body["membership"]) == (1, False, "learner")
    assert body["duration_ms"] == pytest.approx(5000, abs=150)


def test_time_that_is_up_before_anything_was_seen_does_not_claim_to_know(node):
    with agent(node, [OUTSIDE]):
        result = run(node, "add", "--timeout", "1")
    assert result.exit_code == 1
    assert "not done after 1 s: no document shows it yet" in result.stderr


def test_the_wait_is_counted_from_the_answer(node, monkeypatch):
    give = members.LocalAgent.add_member

    def slowly(self, name, *, learner):
        node.clock.now += 9
        return give(self, name, learner=learner)

    monkeypatch.setattr(members.LocalAgent, "add_member", slowly)
    with agent(node, [OUTSIDE, COPYING, VOTER]):
        result = run(node, "add", "--timeout", "1", "--json")
    assert (result.exit_code, json.loads(result.stdout)["duration_ms"]) == (0, 9100)


def test_a_node_that_is_gone_from_the_document_again_was_given_up(node):
    with agent(node, [OUTSIDE, COPYING, status(9)]):
        result = run(node, "add")
    assert result.exit_code == 1
    assert "given up, n4 is no member: somebody ordered otherwise" in result.stderr
    assert "metako logs" in result.stderr


def test_an_agent_that_is_away_for_a_moment_is_waited_for(node):
    broken = {"node": "n3"}  # no members: not what an agent says
    with agent(node, [OUTSIDE, COPYING, broken, broken, VOTER]):
        result = run(node, "add")
    assert result.exit_code == 0
    assert result.stderr.count("still waiting") == 1


@pytest.mark.parametrize("args", [["add"], ["add", "--json"], ["remove"], ["remove", "--json"]])
def test_an_interrupt_says_that_it_goes_on_and_exits_130(node, args):
    def interrupt(_seconds):
        raise KeyboardInterrupt

    node.time.sleep = interrupt
    with agent(node, [OUTSIDE, COPYING]):
        result = run(node, *args)
    assert result.exit_code == 130
    told = json.loads(result.stdout)["reason"] if "--json" in args else result.stderr
    assert "interrupted, the change goes on: `metako members` shows" in told


@pytest.mark.parametrize(
    ("command", "method"), [("add", "add_member"), ("remove", "remove_member")]
)
def test_an_interrupt_before_the_answer_does_not_claim_to_know(node, monkeypatch, command, method):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(members.LocalAgent, method, interrupt)
    with agent(node, [OUTSIDE]):
        result = run(node, command)
    assert result.exit_code == 130
    assert "interrupted, before an answer came, it may go on" in result.stderr


# ---------------------------------------------------------------- remove


def test_a_removed_node_is_followed_until_the_document_has_it_no_more(node):
    with agent(node, [VOTER, VOTER, LEAVING, LEAVING, status(6)], answer(words="as you say")) as o:
        result = run(node, "remove")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "accepted: n4: as you say",
        "n4 is being removed",
        "n4 stays until no commit waits for it",
        "n4 is no member any more; 3 voters, of which 2 are needed",
    ]
    assert o == [("DELETE", "/members/n4", "")]


def test_a_node_that_is_not_removed_after_all_was_given_up(node):
    with agent(node, [VOTER, LEAVING, status(7, voters=NODES)]):
        result = run(node, "remove", "--json")
    assert result.exit_code == 1
    body = json.loads(result.stdout)
    assert (body["ok"], body["membership"]) == (False, "voter")
    assert "given up, n4 is a voter: somebody ordered otherwise" in body["reason"]


def test_a_removal_that_takes_longer_exits_1_and_goes_on(node):
    with agent(node, [VOTER, LEAVING]):
        result = run(node, "remove", "--timeout", "2")
    assert result.exit_code == 1
    assert "n4 is a voter that is being removed; the change goes on" in result.stderr


def test_who_is_no_member_is_refused_and_exits_1(node):
    with agent(node, [OUTSIDE], answer(False, "it is no member of the cluster")):
        result = run(node, "remove")
    assert (result.exit_code, result.stderr) == (1, "metako: n4: it is no member of the cluster\n")


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "args",
    [
        ["add"],
        ["remove"],
        ["add", "n 4"],
        ["add", "n4", "n5"],
        ["remove", "a/b"],
        ["add", "n4", "--timeout", "0"],
        ["add", "n4", "--timeout", "604801"],
        ["add", "n4", "--api", "x"],
        ["remove", "n4", "--learner"],
        ["--json", "add", "n4"],
        ["--timeout", "9", "remove", "n4"],
        ["n4"],
    ],
)
def test_wrong_arguments_exit_2(node, args):
    result = CliRunner().invoke(build_app(), ["-c", str(node.file), "members", *args])
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize(
    "words",
    [
        ["-c", "{}", "members", "add", "n4"],
        ["members", "-c", "{}", "add", "n4"],
        ["members", "add", "-c", "{}", "n4"],
        ["-c", "/nonexistent", "members", "-c", "/nonexistent", "add", "n4", "-c", "{}"],
    ],
)
def test_the_file_may_stand_before_any_of_the_words(node, words):
    with agent(node, [OUTSIDE, VOTER]) as orders:
        result = CliRunner().invoke(build_app(), [w.format(node.file) for w in words])
    assert (result.exit_code, len(orders)) == (0, 1)


@pytest.mark.parametrize("command", ["add", "remove"])
def test_without_an_agent_it_exits_11_and_says_what_to_do(node, command):
    result = run(node, command)
    assert (result.exit_code, result.stdout) == (11, "")
    assert "is the agent running?" in result.stderr


@pytest.mark.parametrize("code", [404, 405])
def test_an_agent_that_takes_no_such_orders_is_told_from_a_refusal(node, code):
    with agent(node, [OUTSIDE], (code, {"error": "Not Found", "status": code})):
        result = run(node, "add")
    assert result.exit_code == 11
    assert "of this version, which takes orders?" in result.stderr


def test_whoever_may_not_connect_exits_12(node, monkeypatch):
    def refuse(_path):
        raise PermissionError(13, "Permission denied")  # root, who runs tests, is never refused

    monkeypatch.setattr("metako.unixsocket.connect", refuse)
    result = run(node, "add")
    assert result.exit_code == 12
    assert "run this as the user that runs the agent" in result.stderr


def test_help_names_the_commands_and_their_options():
    def shown(*args):
        return CliRunner().invoke(build_app(), [*args, "--help"]).stdout

    order = [shown().find(f"\n  {name} ") for name in ("status", "members", "switchover")]
    assert 0 < order[0] < order[1] < order[2]
    for word in ("--api", "--json", "\n  add ", "\n  remove "):
        assert word in shown("members")
    for word in ("--learner", "--timeout SECONDS", "--no-wait", "--json", "caught up"):
        assert word in shown("members", "add")
    for word in ("--timeout SECONDS", "--no-wait", "--json", "its\n  data stay"):
        assert word in shown("members", "remove")


# ---------------------------------------------------------------- the judge


def judge(wanted=Wanted.VOTER, before=OUTSIDE):
    told = []
    return MemberCourse(before, "n4", wanted, told.append), told


def test_nothing_is_judged_before_the_document_has_come():
    course, told = judge()
    assert course.see(OUTSIDE, 0.1) is None
    assert course.see(OUTSIDE, UNSEEN_MAX_S) is None
    change = course.see(OUTSIDE, UNSEEN_MAX_S + 0.1)
    assert change.reason.startswith("given up, no document shows it: n4 is still no member;")
    assert (change.ok, told) == (False, [])


def test_an_old_document_that_says_what_is_wanted_is_not_the_end():
    course, _ = judge(before=VOTER)  # it was removed since, and this agent has not heard of it
    assert course.see(VOTER, 0.5) is None
    assert course.see(status(8), 0.6) is None
    assert course.see(joining(9), 0.7) is None
    assert course.see(status(10, voters=NODES), 0.8).ok


def test_a_voter_whose_record_was_lost_is_none_until_it_is_taken_in_again():
    course, told = judge(before=LOST)
    assert course.see(LOST, OLD_MAX_S + 1) is None
    assert course.see(joining(record="lost"), 3) is None  # gossip is older than the document
    assert course.see(STREAMING, 4) is None
    assert course.see(VOTER, 5).ok
    assert told[0].startswith("n4 is a learner that gets a vote")
    course, _ = judge(before=LOST)
    change = course.see(LOST, UNSEEN_MAX_S + 1)
    assert "n4 is still a voter with a lost record" in change.reason


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (status(9), "no member"),
        (LEARNER, "a learner"),
        (status(9, learners=["n4"], leaving=["n4"]), "a learner that is being removed"),
    ],
)
def test_what_ends_the_way_to_a_vote_is_given_up_with_what_it_is(now, words):
    course, _ = judge()
    course.see(COPYING, 1)
    assert course.see(now, 2).reason.startswith(f"given up, n4 is {words}: ")


def test_a_learner_is_wanted_without_a_vote_on_the_way():
    course, _ = judge(Wanted.LEARNER, before=VOTER)
    assert course.see(VOTER, 2) is None
    assert course.see(status(5, learners=["n4"]), 3).ok
    course, _ = judge(Wanted.LEARNER, before=COPYING)
    assert course.see(COPYING, 2) is None
    assert course.see(LEARNER, 3).ok


def test_a_witness_is_a_voter():
    course, _ = judge()
    now = status(4, voters=NODES)
    now["document"]["witnesses"] = ["n4"]
    assert (course.see(now, 1).ok, course.done()[:15]) == (True, "n4 is a witness")


def test_nobody_is_gone_without_a_document():
    course, _ = judge(Wanted.GONE, before=VOTER)
    assert course.see(VOTER | {"document": None}, 1) is None
    assert course.see(OUTSIDE, 2).ok


def test_a_state_is_told_when_it_changes_and_its_lag_only_then():
    course, told = judge()
    for state, lag in [("streaming", 9), ("streaming", 8), ("running", 8), ("streaming", 7)]:
        course.see(joining(state=state, lag_bytes=lag), 1)
    assert told[1:] == ["n4: streams, lag 9 B", "n4: does not stream yet", "n4: streams, lag 7 B"]


@pytest.mark.parametrize(
    "body", [{}, {"document": 7, "members": 4}, {"document": {"voters": "n4"}}]
)
@pytest.mark.parametrize("wanted", list(Wanted))
def test_a_status_of_another_version_is_survived(body, wanted):
    course, _ = judge(wanted, before=body)
    assert course.see(body, 0.5) is None
    assert course.outcome(1, reason="x").as_json()["membership"] is None


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({}, ""),
        ({"server_state": "cloning"}, "copies data"),
        ({"server_state": "rewinding"}, "rewinds its data"),
        ({"server_state": "\x1b"}, ""),
        ({"server_state": "absent", "role": "witness"}, ""),
        ({"server_state": "streaming", "state": "dead"}, "not heard (dead)"),
        ({"server_state": "streaming"}, "streams, lag -"),
    ],
)
def test_what_keeps_a_server_busy(row, text):
    assert doing(row) == text


@pytest.mark.parametrize(
    ("count", "words"), [(1, "1 voter, of which 1 are"), (5, "5 voters, of which 3 are")]
)
def test_votes_are_counted(count, words):
    assert votes_of({"document": {"voters": ["n"] * count}}) == f"{words} needed"


PAIRS = [
    (
        "manual",
        "n1",
        "manual: n1 goes on alone, and its loss waits for it or for `metako failover`",
    ),
    ("takeover", "n2", "takeover: n2 takes over alone, and n1 stops without it"),
    (
        "takeover",
        "n1",
        "takeover: n1 goes on alone, and its loss waits for it or for `metako failover`: no "
        "standby is synchronous",
    ),
]


@pytest.mark.parametrize(("mode", "decider", "rule"), PAIRS)
def test_of_a_pair_it_is_told_who_goes_on_alone(mode, decider, rule):
    document = {"voters": ["n1", "n2"], "primary": "n1", "committed": True}
    document |= {"pair_mode": mode, "decider": decider}
    rows = [{"node": n, "membership": "voter", "voter": True} for n in ("n1", "n2")]
    data = {"node": "n1", "leader": "n1", "document": document, "members": rows}
    assert votes_of(data) == f"2 voters, pair_mode {rule}"
    assert ("pair_mode", rule) in picture(data).facts
    wanted = {"n1": "voter, leads", "n2": "voter"}
    wanted[decider] += ", decides"
    assert cells(data, 3) == list(wanted.values())
    document["committed"] = False
    assert cells(data, 3) == ["voter, leads", "voter"]
    able = "primary" if mode == "manual" else "synchronous standby"
    assert votes_of(data).endswith(f"{mode}: the {able} can lead without the other one")
    document |= {"pair_mode": None, "decider": None}
    assert votes_of(data) == "2 voters, of which 2 are needed"
    assert "pair_mode" not in dict(picture(data).facts)


# ---------------------------------------------------------------- lists


def cells(data, column):
    return [row[column] for row in member_rows(data)]


def elections(data):
    return [row[7] for row in picture(data).rows]


def test_lists_say_what_everybody_is_by_the_document():
    data = status(3, learners=["n4"], joining=["n4"], leaving=["n2"])
    data["members"][2]["membership"] = "witness"
    assert cells(data, 3) == ["voter, leads", "leaving", "witness", "learner, joins"]
    assert elections(data)[1::2] == ["leaving", "learner, joins"]
    assert cells(OUTSIDE, 3)[3] == "-"
    assert elections(OUTSIDE)[3] == "not a member"
    assert cells(LOST, 3)[3] == elections(LOST)[3] == "lost record"
    assert set(cells(OUTSIDE | {"document": None}, 3)) >= {"-"}


def test_the_node_that_is_asked_is_shown_as_an_outsider_too():
    data = status(3, role="standby")
    data["members"][2] |= {"record": "lost"}
    data["blocked"] = "this node lost its durable record"
    assert elections(data)[2] == "lost record"
    assert picture(data).trouble == "this node lost its durable record"
    data["members"][2] |= {"record": None, "membership": None}
    assert elections(data)[2] == "not a member"
    assert picture(data).trouble == data["blocked"]


def test_an_agent_that_says_nothing_of_membership_is_shown_as_before():
    data = status(3, voters=("n1", "n2"), learners=["n3"])
    for row in data["members"]:
        for key in ("membership", "joining", "leaving", "record"):
            del row[key]
    assert cells(data, 3) == ["voter, leads", "voter", "learner", "learner"]
    assert elections(data)[3] == "learner"


def test_the_status_tells_who_joins_and_who_leaves():
    facts = dict(picture(STREAMING).facts)
    assert facts["joining"] == "n4 (learner, streams, lag 96 B)"
    assert "leaving" not in facts
    assert dict(picture(COPYING | {"members": []}).facts)["joining"] == "n4 (learner, catching up)"
    facts = dict(picture(LEAVING).facts)
    assert facts["leaving"] == "n4 (a commit may wait for it)"
    assert not {"joining", "leaving"} & dict(picture(VOTER).facts).keys()


def test_text_from_other_nodes_cannot_reach_the_terminal_raw():
    hostile = "n\x1b[2J4\n"
    data = COPYING
    data = data | {
        "document": data["document"] | {"joining": [hostile], "leaving": [hostile, 7]},
        "members": [{"node": hostile, "self": True, "state": hostile, "record": "lost"}],
        "blocked": hostile,
    }
    data["members"].append({"node": [hostile], "membership": {}, "server_state": 7, "state": []})
    shown = [*lines(picture(data)), *(cell for row in member_rows(data) for cell in row)]
    assert all(line.isprintable() for line in shown)


def test_what_is_not_on_a_majority_yet_is_waited_for():
    """The vote may yet come to nothing: until then it is neither done nor given up."""
    course = MemberCourse(OUTSIDE, "n4", Wanted.VOTER, lambda _: None)
    assert course.see(STREAMING, 1.0) is None
    uncertain = {**VOTER, "document": {**VOTER["document"], "committed": False}}
    assert course.see(uncertain, 2.0) is None
    certain = {**VOTER, "document": {**VOTER["document"], "committed": True}}
    assert course.see(certain, 3.0).ok


# ---------------------------------------------------------------- the real program


@pytest.mark.slow
def test_it_loads_no_driver_and_no_cryptography(node):
    assert_asks_without_heavy_modules(node, "members", "add", "n4")
