"""Metrics are valid Prometheus text; the status line tells who leads and what is wrong."""

import re
from dataclasses import replace

import pytest

from metako.model.document import (
    ClusterDocument,
    Durability,
    PairMode,
    Phase,
    Restart,
    Scheduled,
    SyncMember,
    SyncSet,
)
from metako.model.events import EventName, Severity, event
from metako.model.ids import Address, DataId, NodeId, Term
from metako.model.lsn import Lsn
from metako.model.member import Member, MemberMeta, MemberState, ServerRole, ServerState
from metako.model.postgres import PostgresObserved
from metako.model.status import NodeStatus
from metako.observability.metrics import EventCounter, Sample, render_metrics
from metako.observability.status_line import health, status_line

LINE = re.compile(
    r'[a-z_]+\{node="[^"\\]*"(,[a-z]+="([^"\\\n]|\\\\|\\"|\\n)*")*\} '
    r"(-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?|NaN|[+-]Inf)"
)


def member(name, role, state, lsn, *, swim=MemberState.ALIVE, lag_ms=-1):
    meta = MemberMeta(role=role, state=state, lsn=Lsn(lsn), lag_ms=lag_ms)
    return Member(NodeId(name), 1, 0, swim, Address("h", 1), meta)


N1 = member("n1", ServerRole.PRIMARY, ServerState.RUNNING, 5000)
N2 = member("n2", ServerRole.STANDBY, ServerState.STREAMING, 4000, lag_ms=7)
N3 = member("n3", ServerRole.STANDBY, ServerState.STREAMING, 6000)


@pytest.fixture
def status():
    listed = tuple(SyncMember(NodeId(n), DataId(f"d{n}")) for n in ("n3", "n2"))
    document = ClusterDocument(
        cluster_id="c",
        cluster_name="main",
        system_id=1,
        term=Term(4),
        version=2,
        primary=NodeId("n1"),
        primary_data_id=DataId("d"),
        phase=Phase.ACTIVE,
        voters=(NodeId("n1"), NodeId("n2"), NodeId("n3")),
        learners=(),
        witnesses=(),
        sync=SyncSet(listed, 1),
        durability=Durability.QUORUM,
        timelines=(),
        hold_ms=2000,
    )
    return NodeStatus(
        node=NodeId("n1"),
        cluster_name="main",
        boot_epoch=1,
        election_role="leader",
        term=Term(4),
        promised_term=Term(4),
        leader=NodeId("n1"),
        primary=NodeId("n1"),
        hold_remaining_ms=0,
        lease_remaining_ms=1640,
        blocked="",
        document=document,
        members=(N1, N2, N3),
        postgres=PostgresObserved(lsn=Lsn(5000)),
    )


def test_status_line_of_a_healthy_cluster(status):
    assert status_line(status, {"total": 9, "failed": 0}) == (
        "primary=n1 nodes=[n1:primary/running n2:standby/streaming,lag=1000B/7ms "
        "n3:standby/streaming,lag=0B] term=4 lease=1.6s S={n2,n3} k=1 "
        "queries=[total=9 failed=0] health=ok"
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "ok"),
        ({"primary": None}, "down (no primary)"),
        ({"primary": None, "blocked": "no quorum"}, "down (no quorum)"),
        ({"blocked": "commits blocked"}, "degraded (commits blocked)"),
        ({"members": (N1, replace(N2, state=MemberState.DEAD))}, "degraded (n2 not alive)"),
        ({"members": (N1, replace(N2, state=MemberState.LEFT))}, "ok"),
        ({"members": (N1, replace(N2, state=MemberState.EXPECTED))}, "degraded (n2 not alive)"),
    ],
)
def test_health_names_the_reason(status, change, expected):
    assert health(replace(status, **change)) == expected


@pytest.mark.parametrize(
    ("pair", "alone", "shown"),
    [
        (PairMode.MANUAL, True, ['metako_pair_decider{node="n1"} 1']),
        (PairMode.TAKEOVER, False, ['metako_pair_decider{node="n1"} 0']),
        (None, False, []),
    ],
)
def test_a_node_of_a_pair_says_whether_it_can_lead_alone(status, pair, alone, shown):
    document = replace(status.document, voters=(NodeId("n1"), NodeId("n2")), pair=pair)
    mine = replace(status, document=document, can_lead_alone=alone)
    page = render_metrics(node="n1", version="1", status=mine)
    assert [line for line in page.splitlines() if line.startswith("metako_pair_dec")] == shown


def test_status_line_names_who_joins_and_who_leaves(status):
    ids = [NodeId(n) for n in ("n2", "n3", "n4", "n5")]
    document = replace(status.document, joining=(ids[2], ids[3]), leaving=(ids[0],))
    assert " k=1 joining=n4,n5 leaving=n2 health=ok" in status_line(
        replace(status, document=document)
    )


def test_nobody_misses_who_is_no_member(status):
    stranger = replace(N2, node=NodeId("n9"), state=MemberState.DEAD)
    with_it = replace(status, members=(*status.members, stranger))
    assert health(with_it) == "ok"
    assert health(replace(with_it, document=None)) == "degraded (n9 not alive)"


def test_status_line_before_anything_is_known(status):
    unheard = replace(N2, meta=None)
    early = replace(
        status,
        primary=None,
        document=None,
        lease_remaining_ms=0,
        hold_remaining_ms=900,
        members=(unheard,),
    )
    assert status_line(early) == (
        "primary=none nodes=[n2:unknown] term=4 hold=0.9s health=down (no primary)"
    )


def test_events_are_counted_by_name_with_their_latest_duration():
    counter = EventCounter()
    counter.count(event(EventName.PROMOTED, "x", duration_ms=70))
    counter.count(event(EventName.PROMOTED, "x", duration_ms=31.5, tli=3))
    counter.count(event(EventName.FENCED, "x", severity=Severity.ERROR))
    assert counter.total(EventName.PROMOTED) == 2
    assert counter.duration_ms(EventName.PROMOTED) == 31.5
    assert counter.duration_ms(EventName.FENCED) is None
    page = render_metrics(node="n1", version="1", events=counter)
    assert 'metako_events_total{node="n1",event="promoted"} 2\n' in page
    assert 'metako_events_total{node="n1",event="rejoin"} 0\n' in page
    assert 'metako_events_by_severity_total{node="n1",severity="ERROR"} 1\n' in page
    duration = 'metako_event_duration_seconds{node="n1",event="promoted",duration="duration"}'
    assert f"{duration} 0.0315\n" in page


def test_page_is_valid_prometheus_text(status):
    counter = EventCounter()
    counter.count(event(EventName.STEP_FINISHED, "x", duration_ms=0.00001))
    odd = Sample("metako_odd", float("inf"), "Odd\nhelp.", labels=(("why", 'a"b\\c\nd'),))
    page = render_metrics(node="n1", version="1", events=counter, status=status, more=[odd])
    seen = set()
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in seen
            assert kind in ("gauge", "counter")
            assert (kind == "counter") == name.endswith("_total")
            seen.add(name)
        elif not line.startswith("# HELP "):
            assert LINE.fullmatch(line), line
            assert line.split("{")[0] in seen
    assert page.endswith("\n")


def test_status_is_told_in_numbers(status):
    n3, n4, n5 = (NodeId(n) for n in ("n3", "n4", "n5"))
    document = replace(
        status.document,
        learners=(n4, n5),
        witnesses=(n3,),
        joining=(n5,),
        paused=True,
        scheduled=Scheduled("o", None, 30_000, 1_900_000_000_500),
        restarts=(Restart(n4, "o", 60_000), Restart(n5, "o", 60_000)),
    )
    status = replace(status, document=document)
    page = render_metrics(node="n1", version="0.1", status=status)
    for line in (
        'metako_info{node="n1",version="0.1"} 1',
        'metako_term{node="n1"} 4',
        'metako_primary{node="n1"} 1',
        'metako_blocked{node="n1"} 0',
        'metako_lease_remaining_seconds{node="n1"} 1.64',
        'metako_sync_standbys{node="n1"} 2',
        'metako_voters{node="n1"} 3',
        'metako_learners{node="n1"} 2',
        'metako_witnesses{node="n1"} 1',
        'metako_members_joining{node="n1"} 1',
        'metako_members_leaving{node="n1"} 0',
        'metako_paused{node="n1"} 1',
        'metako_switchover_scheduled_seconds{node="n1"} 1900000000.5',
        'metako_restarts_left{node="n1"} 2',
        'metako_member_alive{node="n1",member="n2"} 1',
        'metako_replay_lag_seconds{node="n1",member="n2"} 0.007',
        'metako_replay_lag_seconds{node="n1",member="n3"} NaN',
    ):
        assert line in page.splitlines()


def test_what_nobody_has_ordered_is_zero(status):
    page = render_metrics(node="n1", version="0.1", status=status).splitlines()
    for name in ("paused", "switchover_scheduled_seconds", "restarts_left"):
        assert f'metako_{name}{{node="n1"}} 0' in page
