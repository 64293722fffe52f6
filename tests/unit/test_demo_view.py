"""The demo's reading of GET /status."""

from metako.api.view import status_view
from metako.demo.view import active_primary, is_active_primary, read_view, streaming_standbys
from metako.model.document import ClusterDocument, Durability, Phase, SyncMember, SyncSet
from metako.model.ids import Address, DataId, NodeId, Term, TimelineId
from metako.model.lsn import Lsn
from metako.model.member import Member, MemberMeta, MemberState, ServerRole, ServerState
from metako.model.postgres import DataState, PostgresObserved, ProcessState
from metako.model.status import NodeStatus
from metako.model.timeline import TimelineEntry

N1, N2 = NodeId("n1"), NodeId("n2")


def member(node: NodeId, role: ServerRole, state: ServerState) -> Member:
    meta = MemberMeta(role=role, state=state, timeline=TimelineId(2), lsn=Lsn(0x3000060))
    return Member(node, 1, 0, MemberState.ALIVE, Address("127.0.0.1", 1), meta)


def status(*, lease_ms: int = 900, phase: Phase = Phase.ACTIVE) -> NodeStatus:
    return NodeStatus(
        node=N1,
        cluster_name="demo",
        boot_epoch=1,
        election_role="leader",
        term=Term(3),
        promised_term=Term(3),
        leader=N1,
        primary=N1,
        hold_remaining_ms=0,
        lease_remaining_ms=lease_ms,
        blocked="",
        document=ClusterDocument(
            cluster_id="c",
            cluster_name="demo",
            system_id=7,
            term=Term(3),
            version=4,
            primary=N1,
            primary_data_id=DataId("d1"),
            phase=phase,
            voters=(N1, N2),
            learners=(),
            witnesses=(),
            sync=SyncSet((SyncMember(N2, DataId("d2")),), 1),
            durability=Durability.QUORUM,
            timelines=(TimelineEntry(Term(3), TimelineId(2), TimelineId(1), Lsn(1), N1, "", True),),
            hold_ms=2000,
        ),
        members=(
            member(N1, ServerRole.PRIMARY, ServerState.RUNNING),
            member(N2, ServerRole.STANDBY, ServerState.STREAMING),
        ),
        postgres=PostgresObserved(
            data=DataState.PRESENT, process=ProcessState.RUNNING, in_recovery=False
        ),
    )


def test_leader_with_lease_and_active_document_is_the_primary():
    view = read_view(status_view(status()))
    assert is_active_primary(view)
    assert active_primary({"n1": view}) is view
    assert view.sync == ("n2",)
    assert (view.sync_k, view.timeline, view.term, view.document) == (1, 2, 3, "3.4")
    assert streaming_standbys(view) == ["n2"]


def test_leader_without_lease_is_not_the_primary():
    assert not is_active_primary(read_view(status_view(status(lease_ms=0))))


def test_leader_that_still_promotes_is_not_the_primary():
    assert not is_active_primary(read_view(status_view(status(phase=Phase.PROMOTING))))


def test_member_that_gossip_suspects_is_not_counted_as_streaming():
    raw = status_view(status())
    raw["members"][1]["state"] = "suspect"
    assert streaming_standbys(read_view(raw)) == []


def test_answer_of_another_shape_is_an_empty_view():
    for raw in ({}, [], None, {"document": None, "members": None, "postgres": 3}):
        view = read_view(raw)
        assert view.members == ()
        assert not is_active_primary(view)
