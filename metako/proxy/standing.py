"""Where a conversation between a client and its server stands."""

from __future__ import annotations

from typing import NamedTuple


class Standing(NamedTuple):
    """What of a conversation is under way; of those that are at rest, nothing is."""

    status: int  # the byte of the last ReadyForQuery, 0 before the first
    owed: int  # requests that were read in full, and not answered to their end
    delivered: bool  # the client may have been given a part of the next answer
    half: bool  # a request was read in part, or has not been taken by the server
    open: bool  # messages of the extended protocol lack their Sync
    copying_in: bool  # the server waits for data
