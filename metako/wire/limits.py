"""The limits of everything that travels or is stored, in one place.

Encoder and decoder enforce the same ones: whatever can be encoded can be decoded, and a value that
a peer could not read is refused before it is sent.
"""

from __future__ import annotations

PROTOCOL_VERSION = 1
"""Version of the messages and of the durable record (`v` in every map)."""

DATAGRAM_MAX_BYTES = 1400
"""A whole datagram: fits an Ethernet frame with room for tunnels, so it is never fragmented."""

STREAM_MAX_BYTES = 1 << 20
"""A whole envelope on a stream."""

NAME_MAX_BYTES = 63
"""Name of a node or of a cluster in UTF-8; the envelope carries three of them."""

SEAL_FIXED_BYTES = 7 + 8 + 16 + 8
"""Envelope without names and tag: magic, version, mode, three lengths; epoch; salt; sequence."""

TAG_BYTES = 16
"""Authentication tag of the AEAD. Without a key a shorter checksum takes its place."""

SEAL_OVERHEAD_MAX_BYTES = SEAL_FIXED_BYTES + 3 * NAME_MAX_BYTES + TAG_BYTES

PAYLOAD_MAX = DATAGRAM_MAX_BYTES - SEAL_OVERHEAD_MAX_BYTES
"""Bytes of an encoded message that fit a datagram whatever the names are."""

STREAM_PAYLOAD_MAX = STREAM_MAX_BYTES - SEAL_OVERHEAD_MAX_BYTES
"""Bytes of an encoded message that fit an envelope on a stream whatever the names are."""

DOCUMENT_MAX_BYTES = 16 << 10
"""An encoded cluster document. Small enough to be sent and made durable as a whole."""

RECORD_MAX_BYTES = DOCUMENT_MAX_BYTES + 1024
"""An encoded durable record: a document and a few numbers."""

ITEMS_MAX = 4096
"""Elements of one list. Also bounds what a lying length can make msgpack reserve."""

MAP_ITEMS_MAX = 256
"""Entries of one map; ours have at most 20, a later version's may have more."""

HOST_MAX_CHARS = 255
TEXT_MAX_CHARS = 255
DATA_ID_MAX_CHARS = 64
RECORD_ID_MAX_CHARS = 32

DIGEST_CHARS = 32
"""Hexadecimal digits of the digest of what a short document leaves out: 128 bits."""

TEXT_WIRE_MAX_BYTES = 4096
"""Any string, also under a key that we do not know."""

U16_MAX = (1 << 16) - 1
U32_MAX = (1 << 32) - 1
I63_MAX = (1 << 63) - 1
U64_MAX = (1 << 64) - 1

HOLD_MAX_MS = 3_600_000
"""A hold that a message may ask for: a broken leader must not silence a voter for good."""
