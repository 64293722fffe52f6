"""Documents without their oldest timelines: what is rebuilt, what is refused, when all is sent."""

from dataclasses import fields, replace
from itertools import pairwise

import msgpack
import pytest
from resuming_kit import DOCUMENT, A, B, C, D

from metako.election.sharing import Sharing
from metako.model.document import NO_DOCUMENT
from metako.model.ids import NodeId, Term, TimelineId
from metako.model.lsn import Lsn
from metako.model.timeline import TIMELINES_IN_FULL_MAX, TIMELINES_MAX, TimelineEntry, Took, trimmed
from metako.wire.codec import decode_untrusted, encode, encode_document
from metako.wire.limits import DOCUMENT_MAX_BYTES
from metako.wire.messages import DocumentCopy, DocumentOffer, DocumentWanted, ShortDocument
from metako.wire.short import rebuild, shorten

KEPT = 4


def reserved(number, *, parent=None):
    begin = Lsn(number << 24)
    above = TimelineId(number - 1 if parent is None else parent)
    node, why = NodeId("n1"), "election"
    return TimelineEntry(Term(number), TimelineId(number), above, begin, node, why, when_ms=number)


def confirmed(entries):
    last = entries[-1]
    begin, took = Lsn(last.begin_lsn + 40), Took(*range(1, 7))
    return (*entries[:-1], replace(last, begin_lsn=begin, confirmed=True, took=took))


def versions(failovers, in_vain=()):
    """Return every document of a cluster that fails over so often: promoting, then active."""
    entries, made, parent = (), [], 0
    for number in range(1, failovers + 1):
        entries = trimmed((*entries, reserved(number, parent=parent)))
        made.append(entries)
        if number not in in_vain:
            parent = number
            entries = confirmed(entries)
            made.append(entries)
    return [
        replace(DOCUMENT, timelines=timelines, version=version)
        for version, timelines in enumerate(made, 1)
    ]


def travelled(short):
    return decode_untrusted(encode(short))


def test_the_format_of_a_short_document_does_not_change():
    """Digest included: two versions that compute it otherwise would never agree."""
    raw = msgpack.unpackb(encode(replace(shorten(versions(6)[-1], 2), term=Term(7))))
    told = raw.pop("d")
    assert raw == {
        "v": 1,
        "k": "doc-short",
        "c": 4,
        "x": "4ff9fee6e87e04d77c6f2a30aa48c442",
        "t": 7,
    }
    assert [entry["i"] for entry in told["tl"]] == [5, 6]
    assert msgpack.unpackb(encode(DocumentWanted(DOCUMENT.ref))) == {
        "v": 1,
        "k": "doc-wanted",
        "f": {"t": 4, "n": 9},
    }


LONG = versions(TIMELINES_MAX + 40, in_vain={9, 70, 200, 201, 255, 280})


@pytest.mark.slow  # some six hundred documents
def test_whoever_has_the_version_before_rebuilds_each_one_byte_by_byte():
    """Also as entries are shortened beyond 64 and dropped beyond 256, in vain ones first."""
    assert len(LONG[-1].timelines) == TIMELINES_MAX
    assert LONG[-1].timelines[TIMELINES_MAX - TIMELINES_IN_FULL_MAX - 1].node is None
    checked = 0
    for before, after in pairwise(LONG):
        short = shorten(after, KEPT)
        if short is None:
            continue
        assert short.left_out + len(short.document.timelines) == len(after.timelines)
        whole = rebuild(travelled(short), before)
        assert whole == after
        assert encode_document(whole) == encode_document(after)
        checked += 1
    assert checked > 2 * TIMELINES_MAX


def test_whoever_has_the_version_itself_or_a_later_one_rebuilds_it():
    for newer in (LONG[100], LONG[101], LONG[102], LONG[104]):
        assert rebuild(shorten(LONG[100], KEPT), newer) == LONG[100]


@pytest.mark.parametrize("missed", [1, 2, 3, 4, 5, 8])
def test_it_takes_fewer_missed_failovers_than_timelines_that_are_told(missed):
    """An active version has its newest timeline as it stays, one that promotes has not."""
    active = versions(40)[1::2]
    found = rebuild(shorten(active[-1], KEPT), active[-1 - missed])
    assert found == (active[-1] if missed <= KEPT else None)


OTHER = {
    "term": Term(77),
    "tli": TimelineId(77),
    "parent_tli": TimelineId(77),
    "begin_lsn": Lsn(77),
    "node": NodeId("n7"),
    "reason": "another",
    "confirmed": False,
    "when_ms": 77,
    "took": None,
}


@pytest.mark.parametrize("name", [field.name for field in fields(TimelineEntry)])
def test_no_field_of_what_is_left_out_may_differ(name):
    """Else one version of a document would have two contents."""
    own = versions(12)[-1]
    third = replace(own.timelines[2], **{name: OTHER[name]})
    differs = replace(own, timelines=(*own.timelines[:2], third, *own.timelines[3:]))
    assert differs != own
    assert rebuild(shorten(own, KEPT), own) == own
    assert rebuild(shorten(own, KEPT), differs) is None


def test_a_timeline_that_was_reserved_in_vain_here_alone_is_left_aside():
    """Its leader reached nobody else, and the next one has not counted it."""
    *_, base = versions(10)
    alone = replace(base, timelines=(*base.timelines, reserved(11)))
    entries = base.timelines
    for number in range(12, 12 + KEPT):
        entries = confirmed((*entries, reserved(number, parent=entries[-1].tli)))
    newest = replace(base, term=Term(9), timelines=entries)
    assert rebuild(shorten(newest, KEPT), alone) == newest


@pytest.mark.parametrize(
    "change",
    [
        {"term": Term(77)},
        {"tli": TimelineId(3)},
        {"parent_tli": TimelineId(99)},
        {"begin_lsn": Lsn(5)},
        {"node": NodeId("n2")},
        {"node": None},
        {"reason": "switchover"},
        {"confirmed": False},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.parametrize("index", [0, 2, 5])
def test_a_difference_in_any_field_of_any_timeline_left_out_is_refused(index, change):
    document = replace(versions(10)[-1], timelines=tuple(reserved(n * 2) for n in range(1, 11)))
    document = replace(document, timelines=tuple(confirmed((e,))[0] for e in document.timelines))
    short = shorten(document, KEPT)
    assert rebuild(short, document) == document
    entries = list(document.timelines)
    entries[index] = replace(entries[index], **change)
    assert entries[index] != document.timelines[index]
    assert rebuild(short, replace(document, timelines=tuple(entries))) is None


@pytest.mark.parametrize("index", [0, 3, 5])
def test_a_timeline_that_is_missing_or_one_more_is_refused(index):
    document = versions(10)[-1]
    short = shorten(document, KEPT)
    fewer = [e for i, e in enumerate(document.timelines) if i != index]
    assert rebuild(short, replace(document, timelines=tuple(fewer))) is None
    assert rebuild(replace(short, left_out=short.left_out + 1), document) is None
    assert rebuild(replace(short, left_out=short.left_out - 1), document) is None


def test_nothing_is_rebuilt_without_a_document_of_the_same_cluster():
    document = versions(10)[-1]
    short = shorten(document, KEPT)
    assert rebuild(short, None) is None
    assert rebuild(short, replace(document, cluster_id="another")) is None
    assert rebuild(short, replace(document, timelines=())) is None
    assert rebuild(replace(short, document=replace(document, timelines=())), document) is None


def test_what_could_not_be_made_durable_is_not_rebuilt():
    """Two halves that are each within the limit; a node that took the whole would have to stop."""
    entries = [replace(reserved(n), reason="x" * 250, confirmed=True) for n in range(1, 65)]
    own = replace(DOCUMENT, timelines=tuple(entries[:32]))
    told = replace(DOCUMENT, timelines=tuple(entries[32:]))
    for half in (own, told):
        assert DOCUMENT_MAX_BYTES // 2 < len(encode_document(half)) <= DOCUMENT_MAX_BYTES
    short = shorten(replace(DOCUMENT, timelines=tuple(entries)), 32)
    assert rebuild(travelled(short), own) is None
    fits = shorten(replace(DOCUMENT, timelines=tuple(entries[:40])), 8)
    assert rebuild(travelled(fits), own) == replace(DOCUMENT, timelines=tuple(entries[:40]))


def test_a_document_with_few_timelines_is_sent_whole():
    sharing, document = Sharing(KEPT), versions(KEPT)[-1]
    assert len(document.timelines) == KEPT
    assert sharing.offer(B, document, Term(4)) == DocumentOffer(Term(4), document)
    assert sharing.copy(B, document, DOCUMENT.ref) == DocumentCopy(document)


def test_what_is_repeated_is_whole():
    """Whoever is of the former version knows no short document, and has no other way to say so."""
    sharing, document = Sharing(KEPT), versions(10)[-1]
    for node in (B, C):
        assert isinstance(sharing.offer(node, document, Term(4)), ShortDocument)
        assert sharing.offer(node, document, Term(4)) == DocumentOffer(Term(4), document)
        assert sharing.copy(node, document, DOCUMENT.ref) == DocumentCopy(document)
    assert isinstance(sharing.copy(D, document, DOCUMENT.ref), ShortDocument)
    assert sharing.offer(D, document, Term(4)) == DocumentOffer(Term(4), document)


def test_each_version_is_short_at_first_and_an_older_one_never_again():
    sharing, (before, after) = Sharing(KEPT), versions(10)[-2:]
    assert isinstance(sharing.offer(A, before, Term(4)), ShortDocument)
    told = sharing.offer(A, after, Term(4))
    assert isinstance(told, ShortDocument)
    assert (told.term, rebuild(told, before)) == (Term(4), after)
    assert sharing.offer(B, before, Term(4)) == DocumentOffer(Term(4), before)


def test_who_holds_no_document_gets_all_of_it_at_once():
    sharing, document = Sharing(KEPT), versions(10)[-1]
    assert sharing.copy(B, document, NO_DOCUMENT) == DocumentCopy(document)
