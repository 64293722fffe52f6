"""Errors of the wire: what came in was wrong, or what should go out cannot.

The two are told apart because they mean opposite things. A `WireError` is somebody else's mistake
or attack: it is counted and the bytes are dropped. An `EncodingError` is our own.
"""

from __future__ import annotations

import enum


class WireError(Exception):
    """The bytes are not a valid message or record. They were dropped; no state changed."""


class WireVersionError(WireError):
    """The bytes are of another version of the format. They were dropped; no state changed."""


class EncodingError(ValueError):
    """The value breaks a limit of the format. Nothing was sent or written."""


class SealReason(enum.StrEnum):
    """Why an envelope was refused, in the order in which the checks are made."""

    FORMAT = "format"
    VERSION = "version"
    CLUSTER = "cluster"
    RECIPIENT = "recipient"
    KEY = "key"
    EPOCH = "epoch"
    REPLAY = "replay"


class SealError(WireError):
    """An envelope was not opened. It was dropped; no state changed."""

    def __init__(self, reason: SealReason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
