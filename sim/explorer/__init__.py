"""Every interleaving of the agreement protocol, within small bounds: what a model checker does.

A breadth-first search over the states of an abstract model. A state is what disks and servers hold;
a step is one action of one node. Whatever message order, loss, delay and repetition can bring about
is a path through the states, and each state is checked against the promises (`invariants`).

Production code decides: who has won (`election.quorum.judge`), the next sync set
(`successor_sync_set`), what a change of the sync set is and in which order it is made
(`syncset.next_change`), majorities (`ClusterDocument.has_majority`), timeline numbers and histories
(`election.reserve`, `model.timeline`), what a durable record may not do (`assert_not_older`), whose
answers count (`ClusterDocument.counts`, `.admits`), and which version of the members comes next: a
leader of production is asked (`election.members`, by way of `office`).

Abstracted, and why nothing is lost by it:

* *Messages.* None exist: a step reads the sender's present durable state. A message that arrives
  late is the same as the later steps of its sender made later, because nothing of a lower term
  depends on anything of a higher one. The exception are copies of documents, which promise
  nothing; they are taken from whoever holds them now. A lost message is a step that is not taken, a
  repeated one a step that changes nothing. A voter's answer counts also where its document was
  older than the candidate's; production is stricter.
* *Acknowledgements* happen at once when they become possible. What has been acknowledged only ever
  adds to what is checked, so a run with later ones breaks no promise that this one keeps.
* *Time.* There is none: a hold or a lease may end at any moment, and a deposed primary goes on for
  ever. So the promises that need no clock are checked, and none that needs one.
* *Crashes.* All that an agent has in memory is either in its record too, or gathered anew from
  answers that can be given again: an agent that is down is one that takes no step. The same is true
  of a standby's server, whose WAL is flushed as soon as it is there. The end of a primary's server
  is a step, and it comes back as a detached standby.
* *Lost records.* A name whose record is lost gets a second agent, with a blank record, beside the
  same server or as a blank host. The first stays: with its answers under way, which may still make
  a late acknowledgement, or, if it was its host that was replaced, as an agent that goes on. Its
  server alone stays away from the primaries, because two servers of one name are against A3.
* *Orders.* An operator may ask for any change at any time, and everybody is alive by gossip, which
  tells of each name the record that it has now. Whether the voters have renewed the lease since
  they changed is a matter of time, and hinders nobody.
* *PostgreSQL.* The WAL is a list of records with the branch that wrote them, which no server sees.
  Promoting writes one record, that of the leader's marker. A change of the setting leaves the
  setting before usable, as some WAL sender's own copy, until a barrier has passed.
  Where members change, data that were rewound or cloned are other data; elsewhere a rewind throws
  nothing away that counts, and they stay what they were.
  A candidate that catches up has received, and left its source, in one step for each record. It
  gets it from any server that goes on where its own WAL ends: a mistaken address is among them.
* Not modelled: `strict` and `async`, other cascades, cancelled waits, elections by an operator's
  order. The simulator plays those.
"""
