"""What the guard and the agent say to each other."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metako.guard import packets
from metako.guard.packets import GuardStatus, PacketError

STATUS = GuardStatus(pid=7, data_dir="/data/\udcff", postmaster_pid=8, armed_term=3)


def test_status_survives_the_way_even_with_undecodable_names():
    packet = packets.decode_untrusted(packets.encode({"status": packets.status_to_json(STATUS)}))
    assert packets.status_from_json(packet["status"], adopted=False) == STATUS
    assert packets.status_from_json(packet["status"], adopted=True).adopted


def test_fields_of_a_newer_guard_are_ignored_and_missing_ones_reported():
    value = {**dataclasses.asdict(STATUS), "colour": "red"}
    assert packets.status_from_json(value, adopted=False) == STATUS
    with pytest.raises(PacketError):
        packets.status_from_json({"pid": 1}, adopted=False)
    with pytest.raises(PacketError):
        packets.status_from_json([], adopted=False)


def test_oversize_packets_are_neither_sent_nor_read():
    with pytest.raises(PacketError):
        packets.encode({"x": "y" * packets.PACKET_MAX})
    with pytest.raises(PacketError):
        packets.decode_untrusted(b'{"x":"' + b"y" * packets.PACKET_MAX + b'"}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_packet_or_a_packet_error(data):
    try:
        packet = packets.decode_untrusted(data)
    except PacketError:
        return
    assert isinstance(packet, dict)


@pytest.mark.parametrize("read", [packets.integer, packets.text, packets.texts, packets.mapping])
@given(value=JSON)
def test_typed_fields_are_of_their_type_or_a_packet_error(read, value):
    types = {packets.integer: int, packets.text: str, packets.texts: list, packets.mapping: dict}
    try:
        result = read({"key": value}, "key")
    except PacketError:
        return
    assert isinstance(result, types[read])
    assert result == value


def test_text_with_nul_is_refused():
    with pytest.raises(PacketError):
        packets.texts({"argv": ["a\0b"]}, "argv")
