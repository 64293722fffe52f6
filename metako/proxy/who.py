"""Who a session's client is, as its first packet and its connection say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Who:
    """Nothing of it is proved before the login is over."""

    number: int  # of the session, in its worker
    user: str
    database: str
    application: str
    address: str
    port: int
    tls: bool
    since: float  # seconds by trio's clock
