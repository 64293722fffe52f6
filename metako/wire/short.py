"""A document as it usually travels: without the oldest timelines, which its receiver has already.

The list of timelines grows with each failover, up to kilobytes, and all of it but the end is the
same in everybody's document. So what is sent is the document with the newest few, the number of
those left out, and a digest of them. The receiver takes what is older than the newest few from its
own document, forgets and shortens of it what a leader would have by now, and compares the digest.

Invariant: `rebuild` returns the very document that `shorten` was given, or None. The digest covers
every field of every timeline that was left out, all else is in the message, and a document is
encoded in one way only: so both have the same bytes.

It deliberately does not know what is done without the whole: that is `metako.election`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields, replace
from operator import attrgetter

from metako.model.document import ClusterDocument
from metako.model.timeline import TimelineEntry, trimmed
from metako.wire.codec import encode_document
from metako.wire.errors import EncodingError
from metako.wire.limits import DIGEST_CHARS
from metako.wire.messages import ShortDocument
from metako.wire.packing import pack


def shorten(document: ClusterDocument, timelines_kept: int) -> ShortDocument | None:
    """Return the document, as a copy, with its newest timelines only; None if it has no more.

    Args:
        document: of any size.
        timelines_kept: at least 1. Who has missed fewer failovers than that can rebuild it.
    """
    assert timelines_kept > 0
    left_out = len(document.timelines) - timelines_kept
    if left_out <= 0:
        return None
    told = replace(document, timelines=document.timelines[left_out:])
    return ShortDocument(told, left_out, _digest(document.timelines[:left_out]))


def rebuild(short: ShortDocument, own: ClusterDocument | None) -> ClusterDocument | None:
    """Return the document that was shortened; None if what was left out is not known here.

    Args:
        short: as it was received.
        own: the document held here, older or newer.
    """
    told = short.document.timelines
    if own is None or not told or own.cluster_id != short.document.cluster_id:
        return None
    older = [entry for entry in own.timelines if entry.tli < told[0].tli]
    timelines = trimmed((*older, *told), short.left_out + len(told))
    if timelines[short.left_out :] != told:
        return None
    if _digest(timelines[: short.left_out]) != short.digest:
        return None
    whole = replace(short.document, timelines=timelines)
    try:
        # What arrives whole is measured when it is decoded: one that could not be made durable
        # must never get further than this.
        encode_document(whole)
    except EncodingError:
        return None
    return whole


_every_field = attrgetter(*(field.name for field in fields(TimelineEntry)))


def _digest(entries: Sequence[TimelineEntry]) -> str:
    packed = pack([_every_field(entry) for entry in entries])
    return hashlib.blake2b(packed, digest_size=DIGEST_CHARS // 2).hexdigest()
