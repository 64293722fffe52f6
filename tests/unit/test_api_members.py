"""The paths that change who is a member, and what the status says of everybody's membership."""

from dataclasses import replace

import pytest
from resuming_kit import DOCUMENT
from test_api_orders import STATUS, Sink, request

from metako.api.orders import member_order
from metako.api.view import membership, record_verdict, status_view
from metako.model.document import DocumentRef, MemberRecord, PairMode
from metako.model.errors import OrderNotGivenError, OrderUnansweredError
from metako.model.ids import Address, NodeId, RecordId, Term
from metako.model.member import Member, MemberMeta, MemberState
from metako.model.orders import Order, OrderKind

N1, N2, N3, N4 = (NodeId(f"n{i}") for i in range(1, 5))
TAKEN = (True, "n4: it is taken in", N4)
REFUSED = (False, "n4: no agent of that name is heard", None)
ADD = {"method": "POST", "path": "/members", "json": {"node": "n4"}}
REMOVE = {"method": "DELETE", "path": "/members/n4"}


@pytest.mark.parametrize(
    ("asked", "command"), [(ADD, "metako members add"), (REMOVE, "metako members remove")]
)
async def test_an_app_for_everybody_changes_no_members_and_says_where_to(asked, command):
    response = await request(None, **asked)
    assert response.status_code == 403
    assert f"run `{command}` there" in response.json()["error"]


async def test_only_an_app_that_takes_orders_lists_the_paths():
    shut, open_ = [(await request(s, "GET", "/")).json()["paths"] for s in (None, Sink())]
    own = {"/members", "/members/{node}", "/proxy/restart"}
    assert set(open_) - set(shut) == own | {"/switchover", "/failover", "/pause", "/restart"}


@pytest.mark.parametrize(("path", "allowed"), [("/members", {"POST"}), ("/members/n4", {"DELETE"})])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "PATCH"])
@pytest.mark.parametrize("shut", [True, False])
async def test_other_methods_give_no_order(method, path, allowed, shut):
    sink = Sink(TAKEN)
    response = await request(None if shut else sink, method, path)
    assert (response.status_code, sink.orders) == (405, [])
    assert set(response.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    ("body", "voter"),
    [
        ({"node": "n4"}, True),
        ({"node": "n4", "learner": False}, True),
        ({"node": "n4", "learner": True}, False),
    ],
)
async def test_a_member_to_be_added_is_a_voter_unless_it_is_to_be_a_learner(body, voter):
    sink = Sink(TAKEN)
    response = await request(sink, "POST", "/members", json=body)
    (order,) = sink.orders
    assert order == Order(order.order_id, OrderKind.ADD_MEMBER, N4, voter=voter)
    assert response.status_code == 202
    assert response.json() == {
        "accepted": True,
        "order": order.order_id,
        "node": "n4",
        "reason": "n4: it is taken in",
    }
    assert len(bytes.fromhex(order.order_id)) == 8


async def test_a_member_to_be_removed_is_named_by_the_path_whatever_the_body_says():
    sink = Sink(TAKEN)
    response = await request(sink, **REMOVE, content=b"not json")
    (order,) = sink.orders
    assert order == Order(order.order_id, OrderKind.REMOVE_MEMBER, N4)
    assert (response.status_code, response.json()["node"]) == (202, "n4")


@pytest.mark.parametrize("asked", [ADD, REMOVE])
async def test_a_refusal_answers_409_with_the_reason_and_the_node(asked):
    sink = Sink(REFUSED)
    response = await request(sink, **asked)
    assert response.status_code == 409
    assert response.json() == {
        "accepted": False,
        "order": sink.orders[0].order_id,
        "node": "n4",
        "reason": "n4: no agent of that name is heard",
    }


@pytest.mark.parametrize("asked", [ADD, REMOVE])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OrderNotGivenError("this node is stopping"), 503),
        (OrderUnansweredError("no answer within 10 s"), 504),
    ],
)
async def test_without_an_answer_the_code_says_whether_the_order_was_given(asked, error, code):
    response = await request(Sink(error), **asked)
    assert response.json() == {"error": str(error), "status": code}
    assert response.status_code == code


BAD = [
    (b"", 'such as {"node": "n4", "learner": false}'),
    (b"[" * 4000, "JSON object"),
    (b'["n4"]', "JSON object"),
    (b"{}", "node must be"),
    (b'{"to": "n4"}', "unknown key 'to': only node and learner are known"),
    (b'{"node": null}', "node must be"),
    (b'{"node": 4}', "node must be"),
    (b'{"node": ""}', "node must be"),
    (b'{"node": "n 4"}', "node must be"),
    (b'{"node": "n4\\n"}', "node must be"),
    (b'{"node": "%s"}' % (b"n" * 64), "node must be"),
    (b'{"node": "n4", "learner": 1}', "learner must be"),
    (b'{"node": "n4", "learner": null}', "learner must be"),
    (b'{"node": "n4", "learner": "false"}', "learner must be"),
]


@pytest.mark.parametrize(("body", "text"), BAD, ids=lambda value: repr(value)[:30])
async def test_a_bad_body_is_told_and_nothing_is_passed_on(body, text):
    sink = Sink(TAKEN)
    response = await request(sink, "POST", "/members", content=body)
    assert (response.status_code, sink.orders) == (400, [])
    assert text in response.json()["error"]


@pytest.mark.parametrize("name", ["", "n%204", "n4/x", "n4%2Fx", "%1b", "n" * 64, "-n"])
async def test_a_path_that_names_no_node_is_told_and_nothing_is_passed_on(name):
    sink = Sink(TAKEN)
    response = await request(sink, "DELETE", f"/members/{name}")
    assert (response.status_code, sink.orders) == (400, [])
    assert "must be the name of a node" in response.json()["error"]


@pytest.mark.parametrize("name", ["n", "n" * 63, "n.4_a-b"])
async def test_bounds_of_a_name_are_inside(name):
    sink = Sink(TAKEN)
    assert (await request(sink, "DELETE", f"/members/{name}")).status_code == 202
    assert member_order(b'{"node": "%s"}' % name.encode()).target == sink.orders[0].target == name


# ---------------------------------------------------------------- the status


def record(node, identity):
    return MemberRecord(node, RecordId(identity), DocumentRef(Term(4), 2))


def member(node, identity="r", **changes):
    meta = MemberMeta(record_id=RecordId(identity), **changes)
    return Member(node, 1, 0, MemberState.ALIVE, Address("h", 1), meta)


CHANGING = replace(
    DOCUMENT,
    primary=N1,
    voters=(N1, N2),
    learners=(N3,),
    witnesses=(N2,),
    records=(record(N1, "r"), record(N2, "r"), record(N3, "r")),
    joining=(N3,),
    leaving=(N2,),
)


def test_the_status_says_what_everybody_is_by_the_document():
    members = (member(N1), member(N2, "other", witness=True), member(N3), member(N4))
    view = status_view(replace(STATUS, document=CHANGING, members=members))
    assert (view["document"]["joining"], view["document"]["leaving"]) == (["n3"], ["n2"])
    keys = ("membership", "joining", "leaving", "record")
    assert [tuple(row[key] for key in keys) for row in view["members"]] == [
        ("voter", False, False, "ok"),
        ("witness", False, True, "lost"),
        ("learner", True, False, "ok"),
        (None, False, False, None),
    ]


@pytest.mark.parametrize(("pair", "decider"), [(None, None), (PairMode.MANUAL, "n1")])
def test_the_status_says_by_which_rule_a_pair_goes_and_who_decides(pair, decider):
    document = replace(STATUS.document, primary=N1, voters=(N1, N2), witnesses=(), pair=pair)
    changes = {"primary_silent_ms": 1200, "can_lead_alone": pair is not None}
    view = status_view(replace(STATUS, document=document, **changes))
    assert (view["document"]["pair_mode"], view["document"]["decider"]) == (pair, decider)
    assert (view["primary_silent_ms"], view["can_lead_alone"]) == (1200, pair is not None)


def test_a_witness_without_a_vote_yet_is_a_learner():
    document = replace(CHANGING, witnesses=(N2, N3))
    assert [membership(document, node) for node in (N1, N2, N3, N4)] == [
        "voter",
        "witness",
        "learner",
        None,
    ]


def test_without_a_document_or_gossip_nothing_is_claimed():
    view = status_view(replace(STATUS, document=None, members=(member(N1),)))
    assert [view["members"][0][key] for key in ("membership", "record")] == [None, None]
    assert record_verdict(CHANGING, replace(member(N1), meta=None)) is None


def test_a_cluster_from_before_records_had_identities_has_lost_none():
    old = replace(CHANGING, records=())
    assert record_verdict(old, member(N1, "")) == "ok"
    assert record_verdict(old, member(N1, "new")) == "lost"


def test_the_record_of_a_first_learner_is_not_lost_before_it_is_taken_in():
    early = replace(CHANGING, records=CHANGING.records[:2])
    assert record_verdict(early, member(N3, "new")) is None
    assert record_verdict(early, member(N1, "new")) == "lost"
