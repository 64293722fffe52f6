"""Whom a standby follows, as its PostgreSQL needs to know it."""

from __future__ import annotations

from metako.election.core import Core
from metako.model.document import ClusterDocument
from metako.model.postgres import Following, Upstream


def following(core: Core, document: ClusterDocument) -> Following | None:
    """Return the wish to follow the document's primary; None while its address is unknown.

    The same object while document and member are the same: a target is compared with the one
    before it at every step.
    """
    member = core.members.get(document.primary)
    if member is None or member.meta is None or member.meta.postgres_address is None:
        return None
    if not document.timelines:
        return None
    address = member.meta.postgres_address
    known = core.following
    if known is not None and known[0] is document and known[1].upstream.address == address:
        return known[1]
    due = document.restarts[0] if document.restarts else None
    upstream = Upstream(
        node=document.primary,
        address=address,
        term=document.term,
        timelines=document.timelines,
        tip=document.timelines[-1].tli,
        system_id=document.system_id,
    )
    restart = due.order_id if due is not None and due.node == core.node else ""
    wish = Following(upstream, restart)
    core.following = (document, wish)
    return wish
