"""A scanner agrees with one that is slow and plain, wherever the stream is cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from scan_kit import FREQUENT, Conversation, SlowClient, SlowServer, message

BODY = st.one_of(st.binary(max_size=12), st.binary(min_size=250, max_size=270))
SIZES = st.sampled_from([1020, 2040, 8190, 65_530]).flatmap(
    lambda near: st.integers(near, near + 10).map(lambda size: b"x" * size)
)
TAGS = st.sampled_from([*FREQUENT, "BEGIN", "SET", "DO", "SE", "SELE", ""]).map(str.encode)
UP = st.one_of(
    st.tuples(st.sampled_from("QSBDEHPCdpF"), BODY),
    st.tuples(st.sampled_from("QPC"), SIZES),
    st.tuples(st.just("P"), BODY.map(lambda body: b"\0" + body)),
)
DOWN = st.one_of(
    st.tuples(st.sampled_from("123nsItTDdcENSARKHWv"), BODY),
    st.tuples(st.sampled_from("ENSA"), SIZES),
    st.tuples(st.just("C"), TAGS.map(lambda tag: tag + b" 1\0")),
    st.tuples(st.just("Z"), st.sampled_from([b"I", b"T", b"E"])),
)


def streams(messages):
    repeats = st.sampled_from([1, 1, 1, 2, 40, 400])  # of a row: many are passed over at once
    return st.lists(st.tuples(messages, repeats), max_size=8).flatmap(
        lambda found: st.tuples(
            st.just(
                b"".join(
                    message(kind, body) * (repeat if kind in "DdT" and len(body) <= 12 else 1)
                    for (kind, body), repeat in found
                )
            ),
            st.integers(0, 20),
        ).map(lambda pair: pair[0][: len(pair[0]) - pair[1]] if pair[1] < 15 else pair[0])
    )


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    borders = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    return [stream[a:b] for a, b in itertools.pairwise(borders)]


PLACES = st.lists(st.integers(0, 1_000_000), max_size=30)


@given(streams(UP), PLACES)
def test_client_is_understood_wherever_it_is_cut(stream, places) -> None:
    conversation = Conversation()
    for part in cut(stream, places):
        assert conversation.feed(">", part) == len(part)
    up, slow = conversation.up, SlowClient.of(stream)
    whole = [note for note in up.notes if note.whole]
    assert up.at_boundary is not slow.inside
    if not slow.inside:
        assert (up.owed, up.extended_open) == (1 + slow.owed, slow.extended_open)
        assert up.notes == slow.notes
    else:
        # Of the last message the header may be known already, and what is kept of its body.
        assert up.owed - 1 - slow.owed in (0, 1)
        assert up.notes[: len(slow.notes)] == slow.notes
        assert len(whole) <= len(slow.notes) + 1


@given(streams(DOWN), PLACES)
def test_server_is_understood_wherever_it_is_cut(stream, places) -> None:
    conversation = Conversation()
    for part in cut(stream, places):
        assert conversation.feed("<", part) == len(part)
    down, slow = conversation.down, SlowServer.of(stream)
    assert down.at_boundary is not slow.inside
    assert conversation.up.owed == 1 - slow.ready
    assert down.status == slow.status
    assert down.notes[: len(slow.notes)] == slow.notes
    if not slow.inside:
        assert down.copy == slow.copy
        assert len(down.notes) == len(slow.notes)


@given(streams(UP), streams(DOWN), PLACES, PLACES)
def test_cutting_elsewhere_changes_nothing(up, down, places, others) -> None:
    states = []
    for chosen in (places, others):
        conversation = Conversation()
        for direction, stream in ((">", up), ("<", down), (">", up)):
            if direction == ">" and not conversation.up.at_boundary:
                continue
            for part in cut(stream, chosen):
                conversation.feed(direction, part)
        states.append(conversation.state())
    assert states[0] == states[1]


@given(st.lists(st.lists(DOWN, min_size=2, max_size=4), min_size=2, max_size=4), st.data())
def test_a_layout_is_taken_only_for_its_like(replies, data) -> None:
    pieces = [b"".join(message(kind, body) for kind, body in reply) for reply in replies]
    learning = Conversation()
    layouts = learning.up._layouts, learning.down._layouts
    order = data.draw(st.lists(st.sampled_from(pieces), max_size=20))
    for piece in order:
        expected, found = Conversation(), Conversation(layouts)
        expected.feed("<", piece)
        found.feed("<", piece)
        assert found.state() == expected.state()


@given(st.binary(max_size=40), PLACES)
def test_garbage_of_a_client_is_refused_or_counted_but_never_misread(stream, places) -> None:
    def outcome(parts):
        conversation, passed = Conversation(), 0
        for part in parts:
            try:
                taken = conversation.feed(">", part)
            except Exception as error:  # noqa: BLE001 - the kind of it is what is compared
                return type(error).__name__
            passed += taken
            if taken != len(part):
                return f"terminate at {passed}"
        return conversation.state()

    found = outcome(cut(stream, places))
    assert found == outcome([stream])
    assert "Error" not in found or found == "PgWireError"
