"""The codec: limits, defaults, and what exactly is refused."""

import dataclasses
import enum
import subprocess
import sys

import msgpack
import pytest

from metako.model.document import (
    NO_DOCUMENT,
    ClusterDocument,
    DocumentRef,
    Durability,
    Phase,
    SyncMember,
    SyncSet,
)
from metako.model.durable import HardState
from metako.model.ids import Address, DataId, NodeId, Term, TimelineId
from metako.model.lsn import Lsn
from metako.model.member import MemberMeta, MemberState, ServerRole, ServerState
from metako.model.timeline import TIMELINES_IN_FULL_MAX, TIMELINES_MAX, TimelineEntry
from metako.wire import limits, messages, schema
from metako.wire.codec import (
    decode_document,
    decode_hard_state,
    decode_untrusted,
    encode,
    encode_document,
    encode_hard_state,
)
from metako.wire.errors import EncodingError, WireError, WireVersionError
from metako.wire.fields import record_codec
from metako.wire.messages import (
    DocumentCopy,
    DocumentOffer,
    Gossip,
    Heartbeat,
    MemberUpdate,
    Nack,
    Ping,
    PushPull,
)

HEARTBEAT = Heartbeat(Term(5), 3, 77, 2000, DocumentRef(Term(5), 9), True, False)


def document(timelines=2, reason="failover", **changes):
    entries = tuple(
        TimelineEntry(Term(i), TimelineId(i), TimelineId(i - 1), Lsn(i << 24), NodeId("n1"), reason)
        for i in range(1, timelines + 1)
    )
    return dataclasses.replace(
        ClusterDocument(
            cluster_id="c0ffee",
            cluster_name="main",
            system_id=2**63 + 5,
            term=Term(7),
            version=3,
            primary=NodeId("n1"),
            primary_data_id=DataId("d1"),
            phase=Phase.ACTIVE,
            voters=(NodeId("n1"), NodeId("n2"), NodeId("n3")),
            learners=(),
            witnesses=(NodeId("n3"),),
            sync=SyncSet((SyncMember(NodeId("n2"), DataId("d2")),), 1),
            durability=Durability.QUORUM,
            timelines=entries,
            hold_ms=2000,
        ),
        **changes,
    )


def full_update(name):
    """Return a rumour as large as a healthy node's gets."""
    host = "db-17.internal.example.com"
    meta = MemberMeta(
        role=ServerRole.STANDBY,
        state=ServerState.STREAMING,
        timeline=TimelineId(12),
        lsn=Lsn(1 << 44),
        replay_lsn=Lsn((1 << 44) - 9),
        lag_ms=12,
        data_id=DataId("0123456789abcdef0123456789abcdef"),
        system_id=7412345678901234567,
        document_ref=DocumentRef(Term(9), 41),
        postgres_address=Address(host, 5432),
        api_address=Address(host, 8008),
        proxy_address=Address(host, 6432),
        server_version=150006,
        agent_version="0.1.0",
        proxy_sessions=250,
    )
    return MemberUpdate(NodeId(name), 7, 3, MemberState.ALIVE, Address(host, 7946), meta)


def tampered(message, **changes):
    return msgpack.packb({**msgpack.unpackb(encode(message)), **changes})


def test_schema_covers_every_message_with_a_kind_of_its_own():
    members = set(messages.Message.__args__)
    assert set(schema.KINDS.values()) == members
    assert len(schema.KINDS) == len(members)


def test_top_level_keys_leave_version_and_kind_free():
    top = [*schema.KINDS.values(), ClusterDocument, HardState]
    assert not [cls for cls in top if {f.key for f in schema.fields_of(cls)} & {"v", "k"}]


def test_format_of_a_heartbeat_does_not_change():
    assert msgpack.unpackb(encode(HEARTBEAT)) == {
        "v": 1,
        "k": "heartbeat",
        "t": 5,
        "b": 3,
        "r": 77,
        "h": 2000,
        "f": {"t": 5, "n": 9},
        "a": True,
        "o": False,
    }


def test_fields_that_equal_their_default_are_not_sent():
    assert msgpack.unpackb(encode(Ping(4))) == {"v": 1, "k": "ping", "s": 4}


def test_a_missing_key_takes_its_default():
    assert decode_untrusted(msgpack.packb({"v": 1, "k": "ping", "s": 4})) == Ping(4, ())


def test_a_missing_key_without_default_is_refused():
    with pytest.raises(WireError):
        decode_untrusted(msgpack.packb({"v": 1, "k": "ping"}))


@pytest.mark.parametrize("version", [0, 2, "1", 1.0, True, None])
def test_another_version_is_told_apart(version):
    with pytest.raises(WireVersionError):
        decode_untrusted(tampered(HEARTBEAT, v=version))


@pytest.mark.parametrize("kind", ["hard-state", "document", "", 7, None, [], {}])
def test_an_unknown_kind_is_refused(kind):
    with pytest.raises(WireError):
        decode_untrusted(tampered(HEARTBEAT, k=kind))


@pytest.mark.parametrize(
    "changes",
    [
        {"t": -1},
        {"t": True},
        {"t": 1.5},
        {"t": "5"},
        {"t": None},
        {"t": limits.I63_MAX + 1},
        {"h": limits.HOLD_MAX_MS + 1},
        {"a": 1},
        {"f": [5, 9]},
        {"f": {"t": 5}},
        {"f": None},
    ],
)
def test_a_wrong_type_or_range_is_refused(changes):
    with pytest.raises(WireError):
        decode_untrusted(tampered(HEARTBEAT, **changes))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x80",
        msgpack.packb([1]),
        msgpack.packb(HEARTBEAT.term),
        encode(HEARTBEAT) + b"\x00",
        encode(HEARTBEAT)[:-1],
        b"\x81" * 100_000,
        b"\x91" * 100_000,
        b"\x81\xa1a" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x81\xd6\xff\x00\x00\x00\x00\x01",  # a time stamp as a key
        b"\x81\xa1a\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff",  # a time stamp out of range
        b"\x81\xa1v\xa1\xff",  # not UTF-8
        b"\x00" * (limits.STREAM_MAX_BYTES + 1),
    ],
    ids=lambda data: f"{data[:4].hex()}-{len(data)}",
)
def test_malformed_bytes_are_refused(data):
    for decode in (decode_untrusted, decode_document, decode_hard_state):
        with pytest.raises(WireError):
            decode(data)


def test_an_enumeration_takes_only_its_own_values():
    good = Gossip((MemberUpdate(NodeId("n1"), 1, 1, MemberState.ALIVE),))
    raw = msgpack.unpackb(encode(good))
    raw["u"][0]["s"] = "zombie"
    with pytest.raises(WireError):
        decode_untrusted(msgpack.packb(raw))


@pytest.mark.parametrize(
    "sync",
    [
        {"m": [], "q": 1},
        {"m": [{"n": "n2", "d": "d2"}], "q": 2},
        {"m": [{"n": "n2", "d": "d2"}], "q": 0},
        {"m": [{"n": "n2", "d": "d2"}, {"n": "n2", "d": "d3"}], "q": 1},
    ],
)
def test_a_sync_set_that_breaks_its_invariant_is_refused(sync):
    raw = {**msgpack.unpackb(encode_document(document())), "s": sync}
    with pytest.raises(WireError):
        decode_document(msgpack.packb(raw))


@pytest.mark.parametrize(
    "message",
    [
        Nack(-1),
        Nack(True),
        Nack("1"),
        Nack(2**64),
        Ping(1, [MemberUpdate(NodeId("n1"), 1, 1, MemberState.ALIVE)]),
        Gossip((MemberUpdate(NodeId(""), 1, 1, MemberState.ALIVE),)),
        Gossip((MemberUpdate(NodeId("n" * 64), 1, 1, MemberState.ALIVE),)),
        Gossip((MemberUpdate(NodeId("ä" * 32), 1, 1, MemberState.ALIVE),)),
        Gossip((MemberUpdate(NodeId("\ud800"), 1, 1, MemberState.ALIVE),)),
        Gossip((MemberUpdate(NodeId("n1"), 1, 1, "alive"),)),
        Gossip((MemberUpdate(NodeId("n1"), 1, 1, MemberState.ALIVE, Address("h", 65536)),)),
        Gossip(tuple(MemberUpdate(NodeId("n1"), i, 1, MemberState.ALIVE) for i in range(5000))),
        "not a message",
        None,
    ],
    ids=lambda message: str(message)[:50],
)
def test_what_a_peer_could_not_read_is_not_encoded(message):
    with pytest.raises(EncodingError):
        encode(message)


def test_a_string_enum_is_no_state_of_another_kind():
    class Other(enum.StrEnum):
        ALIVE = "alive"

    with pytest.raises(EncodingError):
        encode(Gossip((MemberUpdate(NodeId("n1"), 1, 1, Other.ALIVE),)))


def test_a_document_over_its_limit_is_not_encoded():
    large = document(timelines=200, reason="x" * 100)
    for attempt in (
        lambda: encode_document(large),
        lambda: encode(DocumentCopy(large)),
        lambda: encode(DocumentOffer(Term(7), large)),
        lambda: encode_hard_state(HardState(NodeId("n1"), 1, document=large)),
    ):
        with pytest.raises(EncodingError, match="document"):
            attempt()


def test_a_peers_document_over_its_limit_is_refused_because_it_could_not_be_stored():
    raw = msgpack.unpackb(encode(DocumentCopy(document(timelines=2))))
    raw["d"]["tl"] = raw["d"]["tl"][:1] * 1000
    with pytest.raises(WireError, match="document"):
        decode_untrusted(msgpack.packb(raw))


def test_a_document_is_encoded_once_for_all_that_it_is_nested_in():
    whole, told = document(timelines=5), document(timelines=2)
    for each in (whole, told, whole):
        encode_hard_state(HardState(NodeId("n1"), 1, document=each))
    encode_document = record_codec(ClusterDocument).encode
    kept = {id(each): encode_document(each) for each in (whole, told)}
    encode(DocumentOffer(Term(7), whole))
    encode(DocumentCopy(told))
    assert all(record_codec(ClusterDocument).encode(d) is kept[id(d)] for d in (whole, told))


def test_the_largest_document_fits_a_record():
    sized = document(timelines=1)
    entry = sized.timelines[0]
    while True:
        longer = dataclasses.replace(sized, timelines=(*sized.timelines, entry))
        try:
            encode_document(longer)
        except EncodingError:
            break
        sized = longer
    state = HardState(
        NodeId("n" * 63),
        limits.I63_MAX,
        Term(limits.I63_MAX),
        NodeId("m" * 63),
        Term(limits.I63_MAX),
        Term(limits.I63_MAX),
        limits.HOLD_MAX_MS,
        sized,
    )
    assert len(encode_document(sized)) > limits.DOCUMENT_MAX_BYTES - 100
    assert decode_hard_state(encode_hard_state(state)) == state


def test_sixty_four_full_timelines_fit_a_document():
    entries = document(timelines=64, reason="failover: the primary's host is gone")
    assert decode_document(encode_document(entries)) == entries


def test_as_many_timelines_as_there_can_be_fit_a_document_of_nine_nodes():
    recent = document(
        timelines=TIMELINES_IN_FULL_MAX, reason="failover: the primary's host is gone"
    )
    old = tuple(
        TimelineEntry(
            Term(10**6 + i), TimelineId(10**6 + i), TimelineId(10**6 + i - 1), Lsn(1 << 50)
        )
        for i in range(TIMELINES_MAX - TIMELINES_IN_FULL_MAX)
    )
    names = tuple(NodeId(f"node-{i}.example") for i in range(9))
    members = tuple(SyncMember(name, DataId("ab" * 16)) for name in names)
    large = dataclasses.replace(
        recent,
        timelines=(*old, *recent.timelines),
        voters=names,
        sync=SyncSet(members, 3),
    )
    assert len(encode_document(large)) < limits.DOCUMENT_MAX_BYTES
    assert decode_document(encode_document(large)) == large


def test_three_full_rumours_fit_a_probe():
    probe = Ping(2**40, tuple(full_update(f"node-{i}") for i in range(3)))
    assert len(encode(probe)) <= limits.PAYLOAD_MAX


def test_a_roster_of_a_thousand_fits_a_stream():
    roster = PushPull(True, tuple(full_update(f"node-{i}") for i in range(1000)))
    assert decode_untrusted(encode(roster)) == roster


def test_a_blank_nodes_record_comes_back():
    state = HardState(NodeId("n1"), 1)
    assert decode_hard_state(encode_hard_state(state)) == state
    assert state.document_ref == NO_DOCUMENT


@pytest.mark.parametrize(
    "value",
    [
        [0] * (limits.ITEMS_MAX + 1),
        {str(i): 0 for i in range(limits.MAP_ITEMS_MAX + 1)},
        "x" * (limits.TEXT_WIRE_MAX_BYTES + 1),
        b"x" * (limits.TEXT_WIRE_MAX_BYTES + 1),
    ],
    ids=["list", "map", "text", "bytes"],
)
def test_limits_hold_under_unknown_keys_too(value):
    with pytest.raises(WireError):
        decode_untrusted(tampered(HEARTBEAT, later=value))


@pytest.mark.slow
def test_a_sync_set_is_checked_even_when_asserts_are_compiled_away():
    raw = {**msgpack.unpackb(encode_document(document())), "s": {"m": [], "q": 1}}
    program = (
        "import sys; from metako.wire.codec import decode_document\n"
        "try: decode_document(bytes.fromhex(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    result = subprocess.run(
        [sys.executable, "-O", "-c", program, msgpack.packb(raw).hex()],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert result.stdout.strip() == "WireError"
