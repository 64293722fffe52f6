"""Properties of short documents: every split is made whole, and only from the same beginning."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from wire_strategies import instances

from metako.model.document import ClusterDocument
from metako.model.ids import Term, TimelineId
from metako.model.lsn import Lsn
from metako.model.timeline import TimelineEntry, trimmed
from metako.wire.codec import decode_untrusted, encode, encode_document
from metako.wire.limits import I63_MAX
from metako.wire.short import rebuild, shorten

pytestmark = pytest.mark.slow  # documents of up to ninety timelines

MANY = settings(derandomize=True, deadline=None, max_examples=60)

DOCUMENTS = instances(ClusterDocument)
ENTRIES = instances(TimelineEntry)
FIELDS = ("term", "tli", "parent_tli", "begin_lsn", "node", "reason", "confirmed")


@st.composite
def documents(draw, at_most=90):
    """Return a document whose timelines are as those of a cluster: any, with growing numbers."""
    entries = draw(st.lists(ENTRIES, min_size=1, max_size=12))
    gaps = draw(st.lists(st.integers(1, 3), min_size=len(entries), max_size=at_most))
    number, timelines = 0, []
    for index, gap in enumerate(gaps):
        number += gap
        entry = entries[index % len(entries)]
        timelines.append(replace(entry, tli=TimelineId(number), term=Term(index)))
    return replace(draw(DOCUMENTS), timelines=trimmed(timelines))


def travelled(short):
    return decode_untrusted(encode(short))


@MANY
@given(documents(), st.integers(1, 100))
def test_every_split_is_made_whole_as_it_was(document, kept):
    short = shorten(document, kept)
    if short is None:
        assert len(document.timelines) <= kept
        return
    assert len(short.document.timelines) == kept
    whole = rebuild(travelled(short), document)
    assert whole == document
    assert encode_document(whole) == encode_document(document)


@MANY
@given(documents(), st.integers(1, 20), st.data())
def test_any_other_document_yields_that_one_or_nothing(document, kept, data):
    """What was changed may lie in the part that is told, or be what is dropped or shortened."""
    short = shorten(document, kept)
    assume(short is not None)
    own = list(document.timelines)
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(own) - 1)) if own else 0
        match data.draw(st.sampled_from(["field", "missing", "more", "again"])):
            case "field" if own:
                name = data.draw(st.sampled_from(FIELDS))
                value = getattr(data.draw(ENTRIES), name)
                own[index] = replace(own[index], **{name: value})
            case "missing" if own:
                del own[index]
            case "more":
                own.insert(index, data.draw(ENTRIES))
            case "again" if own:
                own.insert(index, own[index])
    whole = rebuild(travelled(short), replace(document, timelines=tuple(own)))
    assert whole in (None, document)


@MANY
@given(documents(), st.integers(1, 20), st.data())
def test_a_beginning_that_differs_in_one_field_is_refused(document, kept, data):
    short = shorten(document, kept)
    assume(short is not None)
    index = data.draw(st.integers(0, short.left_out - 1))
    entry = document.timelines[index]
    changed = data.draw(
        st.sampled_from(
            [
                {"begin_lsn": Lsn(entry.begin_lsn ^ 1)},
                {"parent_tli": TimelineId(entry.parent_tli ^ 1)},
                {"term": Term(entry.term ^ 1)},
                {"confirmed": not entry.confirmed},
            ]
        )
    )
    own = list(document.timelines)
    own[index] = replace(entry, **changed)
    assert rebuild(travelled(short), replace(document, timelines=tuple(own))) is None


@MANY
@given(documents(), st.integers(1, 20), st.integers(1, I63_MAX))
def test_any_other_number_left_out_is_refused(document, kept, left_out):
    short = shorten(document, kept)
    assume(short is not None)
    assume(left_out != short.left_out)
    assert rebuild(replace(short, left_out=left_out), document) is None
