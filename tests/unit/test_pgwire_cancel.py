"""Cancel keys that say where a session is, and requests that are passed on."""

from __future__ import annotations

import pytest

from metako.pgwire import cancel as cancel_module
from metako.pgwire.cancel import (
    HOPS_MAX,
    NODE_MAX,
    SESSION_MAX,
    WORKER_MAX,
    CancelKeys,
    CancelPlace,
    OwnCancel,
    is_key_of,
)
from metako.pgwire.messages import BackendKey
from metako.pgwire.startup import CancelRequest, cancel_packet, parse_first_packet_untrusted

KEYS = CancelKeys(b"the secret of all proxies")
STRANGERS = CancelKeys(b"the secret of another cluster")
PLACE = CancelPlace(node=3, worker=1, session=4711)
TAG = b"tag 8 by"


def request_of(key: BackendKey) -> CancelRequest:
    return parsed(cancel_packet(key.process_id, key.secret_key))


def parsed(packet: bytes | None) -> CancelRequest:
    assert packet is not None
    found = parse_first_packet_untrusted(packet)
    assert isinstance(found, CancelRequest)
    return found


@pytest.mark.parametrize("long_keys", [False, True])
@pytest.mark.parametrize(
    "place",
    [CancelPlace(1, 0, 0), PLACE, CancelPlace(NODE_MAX, WORKER_MAX, SESSION_MAX)],
)
def test_a_key_tells_its_place_again(place: CancelPlace, long_keys: bool) -> None:
    key = KEYS.issue(place, long_keys=long_keys, tag=TAG)
    assert len(key.secret_key) == (32 if long_keys else 4)
    assert 0 < key.process_id < 2**31
    assert KEYS.read_untrusted(request_of(key)) == OwnCancel(place, key, 0)


def test_keys_are_the_same_at_every_node_and_after_every_restart() -> None:
    # Printed by an earlier run: a change would strand the clients of an upgraded cluster.
    short = KEYS.issue(PLACE, long_keys=False, tag=TAG)
    long = KEYS.issue(PLACE, long_keys=True, tag=TAG)
    assert (short.process_id, short.secret_key.hex()) == (0x03041267, "c02d10e5")
    assert (long.process_id, long.secret_key.hex()) == (
        0x03041267,
        "7461672038206279c902e8426c9381c0c10861a5a0304ed2462f69e230c674ba",
    )


def test_passed_on_requests_are_the_same_in_every_version() -> None:
    # Printed by an earlier run: nodes of both versions pass requests on during an upgrade.
    key = KEYS.issue(PLACE, long_keys=False, tag=TAG)
    packet = KEYS.forward_packet(OwnCancel(PLACE, key, 0))
    assert packet is not None
    assert packet.hex() == (
        "0000003204d2162e030412670101c02d10e5ff571cd171b05059f7cc52a396ebaab6d7cc3c27018e"
        "31c2ea8a4458dbb1f98b"
    )


@pytest.mark.parametrize("long_keys", [False, True])
def test_a_changed_key_is_not_ours(long_keys: bool) -> None:
    key = KEYS.issue(PLACE, long_keys=long_keys, tag=TAG)
    for bit in range(8 * len(key.secret_key)):
        changed = bytearray(key.secret_key)
        changed[bit // 8] ^= 1 << bit % 8
        assert KEYS.read_untrusted(request_of(BackendKey(key.process_id, bytes(changed)))) is None
    for bit in range(32):
        moved = BackendKey(key.process_id ^ 1 << bit, key.secret_key)
        assert KEYS.read_untrusted(request_of(moved)) is None


@pytest.mark.parametrize("long_keys", [False, True])
def test_a_key_of_another_cluster_is_not_ours(long_keys: bool) -> None:
    key = STRANGERS.issue(PLACE, long_keys=long_keys, tag=TAG)
    assert KEYS.read_untrusted(request_of(key)) is None


@pytest.mark.parametrize("length", [4, 5, 31, 32, 33, 37, 38, 39, 65, 66, 67, 256])
def test_a_key_of_any_other_server_is_not_ours(length: int) -> None:
    assert KEYS.read_untrusted(request_of(BackendKey(1234, b"k" * length))) is None


def test_a_short_key_is_no_part_of_a_long_one() -> None:
    long = KEYS.issue(PLACE, long_keys=True, tag=TAG)
    for part in (long.secret_key[:4], long.secret_key[-4:], long.secret_key[8:12]):
        assert KEYS.read_untrusted(request_of(BackendKey(long.process_id, part))) is None


def test_a_long_key_of_an_earlier_session_at_the_same_place_is_another() -> None:
    earlier = KEYS.issue(PLACE, long_keys=True, tag=b"earlier.")
    present = KEYS.issue(PLACE, long_keys=True, tag=b"present.")
    late = KEYS.read_untrusted(request_of(earlier))
    assert late is not None  # ours it is, but not of the session that is there now
    assert not is_key_of(late, present)
    assert is_key_of(late, earlier)


@pytest.mark.parametrize("long_keys", [False, True])
def test_a_request_is_passed_on_with_a_count_until_it_went_far_enough(long_keys: bool) -> None:
    key = KEYS.issue(PLACE, long_keys=long_keys, tag=TAG)
    cancel = KEYS.read_untrusted(request_of(key))
    for hops in range(1, HOPS_MAX + 1):
        assert cancel is not None
        cancel = KEYS.read_untrusted(parsed(KEYS.forward_packet(cancel)))
        assert cancel == OwnCancel(PLACE, key, hops)
    assert cancel is not None
    assert KEYS.forward_packet(cancel) is None


def test_a_request_that_went_too_far_is_not_ours_however_well_signed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = KEYS.issue(PLACE, long_keys=False, tag=TAG)
    with monkeypatch.context() as patched:
        patched.setattr(cancel_module, "HOPS_MAX", 9)
        packet = KEYS.forward_packet(OwnCancel(PLACE, key, HOPS_MAX))
        assert KEYS.read_untrusted(parsed(packet)) is not None
    assert KEYS.read_untrusted(parsed(packet)) is None


def test_a_passed_on_request_that_was_changed_is_not_ours() -> None:
    key = KEYS.issue(PLACE, long_keys=False, tag=TAG)
    packet = KEYS.forward_packet(OwnCancel(PLACE, key, 1))
    assert packet is not None
    for bit in range(8 * 8, 8 * len(packet)):  # behind length and code: everything that counts
        changed = bytearray(packet)
        changed[bit // 8] ^= 1 << bit % 8
        assert KEYS.read_untrusted(parsed(bytes(changed))) is None


def test_a_request_is_not_passed_on_for_a_key_that_nobody_issued() -> None:
    forged = OwnCancel(PLACE, BackendKey(0x03041267, b"1234"), 0)
    assert KEYS.read_untrusted(parsed(KEYS.forward_packet(forged))) is None


def test_a_request_of_another_cluster_is_not_passed_on() -> None:
    key = KEYS.issue(PLACE, long_keys=False, tag=TAG)
    packet = STRANGERS.forward_packet(OwnCancel(PLACE, key, 0))
    assert KEYS.read_untrusted(parsed(packet)) is None


@pytest.mark.parametrize(
    ("node", "worker", "session"),
    [(0, 0, 0), (NODE_MAX + 1, 0, 0), (1, -1, 0), (1, WORKER_MAX + 1, 0), (1, 0, SESSION_MAX + 1)],
)
def test_a_place_that_does_not_fit_is_a_mistake_of_the_caller(
    node: int, worker: int, session: int
) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        CancelPlace(node, worker, session)


def test_the_secret_is_long_and_not_shown() -> None:
    with pytest.raises(ValueError, match="secret"):
        CancelKeys(b"short")
    with pytest.raises(ValueError, match="tag"):
        KEYS.issue(PLACE, long_keys=True, tag=b"short")
    assert "secret" not in repr(KEYS)
