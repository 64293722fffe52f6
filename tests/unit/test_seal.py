"""The seal: who may open what, how often, and how an envelope is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metako.model.ids import NodeId
from metako.wire import limits
from metako.wire.errors import EncodingError, SealError, SealReason
from metako.wire.seal import (
    KEYS_MAX,
    REPLAY_WINDOW,
    SALTS_MAX,
    Opener,
    Sealer,
    check_keys,
)

KEY, OTHER, THIRD = b"k" * 32, b"o" * 32, b"t" * 32
N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
MANY = settings(derandomize=True, deadline=None, max_examples=300)


def sealer(node=N1, *, cluster="main", epoch=1, salt=b"s" * 16, keys=(KEY,)):
    return Sealer(cluster, node, epoch, salt, keys)


def opener(node=N2, *, cluster="main", keys=(KEY,), **options):
    return Opener(cluster, node, keys, **options)


def reason(receiver, data):
    with pytest.raises(SealError) as caught:
        receiver.open_untrusted(data)
    return caught.value.reason


def test_what_was_only_examined_can_be_opened_and_makes_nobody_deaf():
    receiver = opener()
    old, new = sealer(epoch=1), sealer(epoch=2)
    data = new.seal(N2, b"hello")
    assert receiver.examine_untrusted(data).payload == b"hello"
    assert receiver.open_untrusted(old.seal(N2, b"still here")).payload == b"still here"
    assert receiver.open_untrusted(data).payload == b"hello"
    with pytest.raises(SealError):
        receiver.examine_untrusted(old.seal(N2, b"too late"))


@pytest.mark.parametrize("keys", [(KEY,), ()], ids=["sealed", "plain"])
def test_an_envelope_yields_sender_epoch_and_payload(keys):
    data = sealer(epoch=2**64 - 1, keys=keys).seal(N2, b"hello")
    opened = opener(keys=keys).open_untrusted(data)
    assert (opened.sender, opened.boot_epoch, opened.payload) == (N1, 2**64 - 1, b"hello")


def test_a_sealed_payload_is_not_readable():
    assert b"a secret" not in sealer().seal(N2, b"a secret")


def test_the_same_payload_never_gives_the_same_envelope():
    source = sealer()
    envelopes = [source.seal(N2, b"x") for _ in range(100)]
    assert len({data[-17:] for data in envelopes}) == 100


def test_each_salt_epoch_and_name_gives_another_key_stream():
    sources = [
        sealer(),
        sealer(salt=b"t" * 16),
        sealer(epoch=2),
        sealer(NodeId("n9")),
        sealer(cluster="other"),
        sealer(keys=(OTHER,)),
    ]
    # Sequence 1 in all of them: only the derived key can make a difference.
    assert len({source.seal(N2, bytes(32))[-48:-16] for source in sources}) == len(sources)


def test_every_reason_is_told_apart():
    assert reason(opener(), b"") is SealReason.FORMAT
    assert reason(opener(), b"x" * 100) is SealReason.FORMAT
    good = sealer().seal(N2, b"x")
    assert reason(opener(), good[:2] + b"\x02" + good[3:]) is SealReason.VERSION
    assert reason(opener(cluster="other"), good) is SealReason.CLUSTER
    assert reason(opener(N3), good) is SealReason.RECIPIENT
    assert reason(opener(keys=(OTHER,)), good) is SealReason.KEY
    receiver = opener()
    receiver.open_untrusted(good)
    assert reason(receiver, good) is SealReason.REPLAY
    receiver.open_untrusted(sealer(epoch=2).seal(N2, b"x"))
    assert reason(receiver, sealer(epoch=1, salt=b"z" * 16).seal(N2, b"x")) is SealReason.EPOCH


@pytest.mark.parametrize(("sent", "accepted"), [((), (KEY,)), ((KEY,), ())])
def test_keyed_and_keyless_nodes_refuse_each_other(sent, accepted):
    assert reason(opener(keys=accepted), sealer(keys=sent).seal(N2, b"x")) is SealReason.KEY


@pytest.mark.parametrize("keys", [(KEY,), ()], ids=["sealed", "plain"])
def test_every_tampered_byte_is_noticed_and_leaves_no_trace(keys):
    good = sealer(keys=keys).seal(N2, b"payload")
    receiver = opener(keys=keys)
    for position in range(len(good)):
        for flip in (0x01, 0x80, 0xFF):
            bad = bytearray(good)
            bad[position] ^= flip
            with pytest.raises(SealError):
                receiver.open_untrusted(bytes(bad))
    assert receiver.open_untrusted(good).payload == b"payload"


@pytest.mark.parametrize("keys", [(KEY,), ()], ids=["sealed", "plain"])
def test_a_shortened_or_lengthened_envelope_is_refused(keys):
    good = sealer(keys=keys).seal(N2, b"payload")
    receiver = opener(keys=keys)
    for bad in [good[:size] for size in range(len(good))] + [good + b"\x00", good + good]:
        with pytest.raises(SealError):
            receiver.open_untrusted(bad)


@MANY
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_raise_only_seal_errors(data, prefixed):
    head = b"mk\x01\x01\x04\x02\x02mainn1n2" if prefixed else b""
    with pytest.raises(SealError):
        opener().open_untrusted(head + data)


@MANY
@given(st.data())
def test_any_order_within_the_window_is_opened_once(data):
    source, receiver = sealer(), opener()
    envelopes = [source.seal(N2, bytes([i])) for i in range(20)]
    order = data.draw(st.lists(st.integers(0, 19), max_size=60))
    opened = []
    for index in order:
        try:
            opened.append(receiver.open_untrusted(envelopes[index]).payload[0])
        except SealError as error:
            assert error.reason is SealReason.REPLAY  # noqa: PT017 - others must be opened
    assert opened == list(dict.fromkeys(order))


@MANY
@given(st.lists(st.integers(1, 3 * REPLAY_WINDOW), min_size=1, max_size=12))
def test_replay_state_agrees_with_a_set_of_everything_seen(sequences):
    source, receiver = sealer(), opener()
    seen, newest = set(), 0
    for sequence in sequences:
        source._sequence = sequence - 1
        data = source.seal(N2, b"")
        expected = sequence not in seen and sequence > newest - REPLAY_WINDOW
        try:
            receiver.open_untrusted(data)
            was_opened = True
        except SealError:
            was_opened = False
        assert was_opened == expected
        if expected:
            seen.add(sequence)
            newest = max(newest, sequence)


def test_an_envelope_behind_the_window_is_refused_and_one_at_its_edge_is_not():
    source, receiver = sealer(), opener()
    first, second = source.seal(N2, b"1"), source.seal(N2, b"2")
    for _ in range(REPLAY_WINDOW - 1):
        last = source.seal(N2, b"")
    receiver.open_untrusted(last)
    assert reason(receiver, first) is SealReason.REPLAY
    assert receiver.open_untrusted(second).payload == b"2"


def test_the_bits_of_the_window_do_not_grow_without_bound():
    source, receiver = sealer(), opener()
    for step in (1, 5, REPLAY_WINDOW - 1, REPLAY_WINDOW, REPLAY_WINDOW + 1, 2**40, 1):
        source._sequence += step
        receiver.open_untrusted(source.seal(N2, b""))
    (session,) = receiver._senders[b"n1"].sessions.values()
    assert session.seen.bit_length() <= REPLAY_WINDOW


def test_a_forged_higher_epoch_does_not_lock_the_real_sender_out():
    receiver = opener()
    assert reason(receiver, sealer(epoch=99, keys=(OTHER,)).seal(N2, b"x")) is SealReason.KEY
    assert receiver.open_untrusted(sealer(epoch=1).seal(N2, b"x")).boot_epoch == 1


def test_a_forged_sequence_does_not_move_the_window():
    source, receiver = sealer(), opener()
    forger = sealer(keys=(OTHER,))
    forger._sequence = 2**50
    assert reason(receiver, forger.seal(N2, b"x")) is SealReason.KEY
    assert receiver.open_untrusted(source.seal(N2, b"x")).payload == b"x"


def test_a_new_boot_epoch_ends_the_old_one_for_good():
    receiver, old = opener(), sealer(epoch=4)
    receiver.open_untrusted(old.seal(N2, b"x"))
    receiver.open_untrusted(sealer(epoch=5, salt=b"5" * 16).seal(N2, b"x"))
    assert reason(receiver, old.seal(N2, b"x")) is SealReason.EPOCH


def test_two_holders_of_one_name_and_epoch_are_both_heard():
    receiver = opener()
    one, two = sealer(salt=b"1" * 16), sealer(salt=b"2" * 16)
    payloads = [receiver.open_untrusted(s.seal(N2, b"x")).payload for s in (one, two, one, two)]
    assert payloads == [b"x"] * 4


def test_salts_of_one_epoch_are_limited_and_none_is_forgotten():
    receiver = opener()
    first = sealer(salt=bytes(16)).seal(N2, b"x")
    receiver.open_untrusted(first)
    for i in range(1, SALTS_MAX):
        receiver.open_untrusted(sealer(salt=bytes([i]) * 16).seal(N2, b"x"))
    assert reason(receiver, sealer(salt=b"z" * 16).seal(N2, b"x")) is SealReason.REPLAY
    assert reason(receiver, first) is SealReason.REPLAY


def test_senders_remembered_are_limited_and_the_longest_silent_goes_first():
    receiver = opener(senders_max=2)
    receiver.open_untrusted(sealer(NodeId("a"), epoch=2).seal(N2, b""))
    receiver.open_untrusted(sealer(NodeId("b"), epoch=2).seal(N2, b""))
    receiver.open_untrusted(sealer(NodeId("a"), epoch=2, salt=b"a" * 16).seal(N2, b""))
    receiver.open_untrusted(sealer(NodeId("c"), epoch=2).seal(N2, b""))
    old = {name: sealer(NodeId(name), epoch=1).seal(N2, b"") for name in "ab"}
    assert reason(receiver, old["a"]) is SealReason.EPOCH
    assert receiver.open_untrusted(old["b"]).boot_epoch == 1


def test_rotation_through_a_ring_loses_no_message():
    source, receiver = sealer(keys=(KEY,)), opener(keys=(KEY,))
    received = []

    def deliver():
        received.append(receiver.open_untrusted(source.seal(N2, b"x")).payload)

    deliver()
    receiver.replace_keys((KEY, OTHER))
    deliver()
    source.replace_keys((OTHER, KEY))
    deliver()
    receiver.replace_keys((OTHER,))
    deliver()
    assert len(received) == 4


def test_a_key_taken_out_of_the_ring_opens_nothing_more():
    source, receiver = sealer(keys=(KEY,)), opener(keys=(KEY, OTHER))
    receiver.open_untrusted(source.seal(N2, b"x"))
    receiver.replace_keys((OTHER,))
    assert reason(receiver, source.seal(N2, b"x")) is SealReason.KEY


def test_rotation_opens_no_door_to_replay():
    source, receiver = sealer(), opener()
    data = source.seal(N2, b"x")
    receiver.open_untrusted(data)
    receiver.replace_keys((OTHER, KEY))
    assert reason(receiver, data) is SealReason.REPLAY


@pytest.mark.parametrize(
    "keys",
    [(b"short",), (KEY, KEY), tuple(bytes([i]) * 32 for i in range(KEYS_MAX + 1))],
    ids=["short", "twice", "many"],
)
def test_a_wrong_key_ring_is_refused(keys):
    with pytest.raises(ValueError, match="key"):
        check_keys(keys)


@pytest.mark.parametrize("name", ["", "x" * 64, "ä" * 32])
def test_a_name_that_does_not_fit_is_refused(name):
    with pytest.raises(ValueError, match="bytes"):
        sealer(NodeId(name))
    with pytest.raises(EncodingError):
        sealer().seal(NodeId(name), b"x")


def test_the_largest_payload_fits_a_datagram_with_the_longest_names():
    name = NodeId("n" * limits.NAME_MAX_BYTES)
    source = Sealer("c" * limits.NAME_MAX_BYTES, name, 1, b"s" * 16, (KEY,))
    assert len(source.seal(name, bytes(limits.PAYLOAD_MAX))) == limits.DATAGRAM_MAX_BYTES


def test_a_payload_too_large_for_a_stream_is_not_sealed():
    with pytest.raises(EncodingError):
        sealer().seal(N2, bytes(limits.STREAM_MAX_BYTES))
