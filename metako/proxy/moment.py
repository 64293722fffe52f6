"""What is known of a session in the moment when its server is lost.

In: a link and what its session consists of. Out: the `Moment` by which `loss` judges.
"""

from __future__ import annotations

from metako.pgwire.messages import TransactionStatus
from metako.proxy.link import Link
from metako.proxy.loss import Moment
from metako.proxy.tracked import Tracked

_STATUSES = {status.value[0]: status for status in TransactionStatus}


def moment_of(link: Link, tracked: Tracked) -> Moment:
    """Return what is known of a session in the moment of a loss."""
    standing = link.standing
    return Moment(
        # A status that does not exist is no reason to believe that nothing is lost.
        status=_STATUSES.get(standing.status, TransactionStatus.IN_TRANSACTION),
        owed=standing.owed,
        unfinished=standing.half or standing.open or standing.copying_in,
        requests=link.sent or b"",
        whole=link.sent_whole,
        delivered=standing.delivered,
        copying_in=standing.copying_in,
        obstacle=tracked.obstacle,
        statements=tracked.statements,
    )
