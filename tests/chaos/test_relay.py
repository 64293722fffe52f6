"""The relay's queue: which frame goes when, and that it never holds more than it may."""

from __future__ import annotations

import random
import struct

import pytest

from chaos import relay
from chaos.relay import NS_PER_MS, Counters, Queue, Shape, decode_shapes, encode_shapes, key_of

N1, N2 = "10.77.0.11", "10.77.0.12"
UDP, TCP = 17, 6


def frame(payload: bytes, *, src: str = N1, dst: str = N2, protocol: int = UDP) -> bytes:
    """Return a frame as the TAP shows it; with a partial checksum, as hosts on one machine send."""
    offload = struct.pack("<BBHHHH", 1, 0, 0, 0, 34, 6)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, protocol, 0)
    udp = struct.pack(">HHHH", 7400, 7400, 8 + len(payload), 0xBEEF)
    return offload + bytes(12) + b"\x08\x00" + ip + key_of(src, dst) + udp + payload


def queue(shape: Shape, seed: int = 1) -> Queue:
    made = Queue(random.Random(seed).random)
    made.set({key_of(N1, N2): shape}, 0)
    return made


def drained(made: Queue, now_ns: int) -> list[bytes]:
    found = []
    while (next_frame := made.pop(now_ns)) is not None:
        found.append(next_frame)
    return found


def test_a_frame_goes_when_its_delay_is_over_and_not_before() -> None:
    made = queue(Shape(low_ms=20, high_ms=20))
    made.put(frame(b"x"), 5 * NS_PER_MS)
    assert made.pop(25 * NS_PER_MS - 1) is None
    assert made.wait_s(20 * NS_PER_MS) == pytest.approx(0.005)
    assert made.pop(25 * NS_PER_MS) == frame(b"x")
    assert made.pop(25 * NS_PER_MS) is None


def test_frames_of_one_delay_keep_their_order() -> None:
    made = queue(Shape(low_ms=20, high_ms=20))
    frames = [frame(b"%d" % number) for number in range(50)]
    for each in frames:
        made.put(each, 0)
    assert drained(made, 20 * NS_PER_MS) == frames


def test_jitter_stays_within_its_range_and_lets_frames_overtake() -> None:
    made = queue(Shape(low_ms=5, high_ms=15))
    frames = [frame(b"%d" % number) for number in range(100)]
    for each in frames:
        made.put(each, 0)
    assert drained(made, 5 * NS_PER_MS - 1) == []
    late = drained(made, 15 * NS_PER_MS)
    assert sorted(late) == sorted(frames)
    assert late != frames


def test_a_direction_without_a_shape_passes_at_once() -> None:
    made = queue(Shape(low_ms=20, high_ms=20))
    back = frame(b"x", src=N2, dst=N1)
    made.put(back, 7)
    assert made.pop(7) == back


def test_what_was_held_goes_in_order_and_before_what_comes_after() -> None:
    made = queue(Shape(held=True))
    frames = [frame(b"%d" % number) for number in range(5)]
    for each in frames[:4]:
        made.put(each, 0)
    assert drained(made, 10**12) == []
    assert made.counters.waiting == 4
    made.set({}, 10**12)
    made.put(frames[4], 10**12)
    assert drained(made, 10**12) == frames
    assert made.counters == Counters(passed=5)


def test_a_clog_that_is_full_loses_what_comes_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "HELD_MAX", 3)
    made = queue(Shape(held=True))
    for number in range(5):
        made.put(frame(b"%d" % number), 0)
    assert made.counters == Counters(lost=2, waiting=3)


def test_no_more_bytes_wait_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    one = frame(b"x" * 100)
    monkeypatch.setattr(relay, "WAITING_BYTES_MAX", 2 * len(one))
    made = queue(Shape(low_ms=20, high_ms=20))
    for _ in range(3):
        made.put(one, 0)
    assert made.counters == Counters(lost=1, waiting=2)
    assert len(drained(made, 20 * NS_PER_MS)) == 2
    made.put(one, 0)
    assert made.counters == Counters(passed=2, lost=1, waiting=1)


def test_a_duplicate_is_the_same_frame_again() -> None:
    made = queue(Shape(duplicate=1.0))
    made.put(frame(b"x"), 0)
    assert drained(made, 0) == [frame(b"x")] * 2


def test_damage_changes_one_bit_of_a_datagram_and_takes_its_checksum_out() -> None:
    made = queue(Shape(corrupt=1.0))
    payload = bytes(100)
    made.put(frame(payload), 0)
    (damaged,) = drained(made, 0)
    head = len(damaged) - len(payload)
    assert sum(byte.bit_count() for byte in damaged[head:]) == 1
    assert damaged[head - 2 : head] == b"\0\0"
    assert damaged[0] == 0
    assert damaged[1 : head - 2] == frame(payload)[1 : head - 2]


def test_damage_to_a_connection_or_to_nothing_is_loss() -> None:
    made = queue(Shape(corrupt=1.0))
    made.put(frame(b"x" * 100, protocol=TCP), 0)
    made.put(frame(b""), 0)
    assert drained(made, 0) == []
    assert made.counters == Counters(corrupted=2)


def test_tail_and_reordering_add_to_the_delay_of_some_frames() -> None:
    made = queue(Shape(tail=0.5, tail_ms=50, reorder=0.5, reorder_ms=20))
    for _ in range(200):
        made.put(frame(b"x"), 0)
    at_once = len(drained(made, 0))
    assert 20 < at_once < 80
    assert len(drained(made, 70 * NS_PER_MS)) == 200 - at_once


def test_shapes_survive_the_way_to_the_relay() -> None:
    shape = Shape(low_ms=1.5, high_ms=3, tail=0.1, tail_ms=50, duplicate=0.2, held=True)
    line = encode_shapes([(N1, N2, shape), (N2, N1, Shape(corrupt=1.0))])
    assert line.count(b"\n") == 1
    assert decode_shapes(line) == {key_of(N1, N2): shape, key_of(N2, N1): Shape(corrupt=1.0)}
