"""Whom a standby follows, as its PostgreSQL needs to know it."""

from __future__ import annotations

from metako.election.core import Core
from metako.model.document import ClusterDocument
from metako.model.postgres import Upstream


def upstream_of(core: Core, document: ClusterDocument) -> Upstream | None:
    """Return the document's primary as an upstream; None while its address is unknown."""
    member = core.members.get(document.primary)
    if member is None or member.meta is None or member.meta.postgres_address is None:
        return None
    if not document.timelines:
        return None
    return Upstream(
        node=document.primary,
        address=member.meta.postgres_address,
        term=document.term,
        timelines=document.timelines,
        tip=document.timelines[-1].tli,
        system_id=document.system_id,
    )
