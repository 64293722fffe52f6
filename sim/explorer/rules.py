"""The rules that an exploration can do without, to see that it notices.

Each name stands for one rule of the protocol that is not kept any more. Every one of them must lead
to a counterexample in some configuration: an explorer that finds nothing proves something only if
it can find.
"""

from __future__ import annotations

RULES = {
    "detach": "a voter answers with its position while its WAL receiver goes on (§4.3)",
    "catch-up-uncounted": "a candidate gets WAL under the name by which it acknowledges (§4.2)",
    "primary-gone": "an old primary promises while its server is still there (§4.3)",
    "data-quorum": "a majority of votes suffices, whoever has the commits (§4.2)",
    "full-data-quorum": "|S| − k promises of the sync set suffice, one too few (§4.2)",
    "newest-document": "a candidate judges by its own document despite a newer one (§4.2)",
    "durable-vote": "a vote and its promise are forgotten by a restart (§4.1)",
    "reject-lower-terms": "a document of a lower term than was promised is accepted (§4.3)",
    "committed-first": "a leader promotes before its document is on a majority (§4.1)",
    "old-primary-in-sync-set": "the old primary is left out of the next sync set (§4.3)",
    "new-timeline": "a winner takes the number after its own timeline, used or not (§4.3)",
    "follow-in-office": "a standby follows a leader whose term is on a minority so far (§4.3)",
    "keep-change": "standing again, a leader goes back to the sync set that was committed (§4.5)",
    "rewind": "a standby follows although it holds WAL off the new history (§5.4)",
    "remove-postgres-first": "a standby leaves the document before PostgreSQL's setting (§4.5)",
    "add-document-first": "a standby comes into PostgreSQL's setting before the document (§4.5)",
    "raise-postgres-first": "k is raised in the document before PostgreSQL's setting (§4.5)",
    "lower-document-first": "k is lowered in PostgreSQL's setting before the document (§4.5)",
    "barrier": "the document follows PostgreSQL's setting without a barrier (§4.5)",
    "barrier-position-last": "the barrier's position is read while WAL senders may still release "
    "commits by the setting before (§4.5)",
    "fresh-answers": "a vote counts that is older than the record by which its sender does (§4.1)",
    "votes-of-this-term": "a vote counts that was judged by a document of an older term (§4.1)",
    "lost-record-silent": "a node votes and answers whose durable record was lost (§4.1)",
    "lost-vote-untold": "a vote is told once more by a record that counts no more (§4.1)",
    "stranger-stands-down": "a candidate goes on that learns that its record counts no more (§4.1)",
    "one-version-at-a-time": "members change while the version before is not on a majority (§4.1)",
    "one-vote-at-a-time": "one version gives or takes several votes (§4.1)",
    "new-voters-too": "a version is committed by the voters before it alone (§4.1)",
    "unlisted-first": "a member leaves, and the sync set with it, without a barrier (§4.1)",
    "one-server-a-name": "the server of a replaced host streams beside that of the new one (A3)",
    "decider-grants": "the primary of a pair goes on without the one that decides (§4.6)",
    "vote-ends-right": "who decides is elected alone after it has voted for the other one (§4.6)",
    "resumed-asks-both": "a restarted leader of a pair goes on by its newest version alone (§4.6)",
    "right-by-committed": "who decides by a version that is not committed is elected alone (§4.6)",
    "readmit-unlisted": "a record is exchanged while commits wait for its node (§4.1)",
}
"""Name of a rule → what happens without it."""
