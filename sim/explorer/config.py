"""The named bounds within which everything is explored.

Each is small enough to be explored to the end in less than a minute, and varies something else;
`FULL` are wider ones for a machine that has the time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from metako.model.document import PairMode
from sim.explorer.state import Step


@dataclass(frozen=True, slots=True)
class Config:
    """Where an exploration begins, and how far it goes."""

    name: str
    about: str
    nodes: int = 3  # all of them vote, but for those below; the first is the primary
    witnesses: int = 0  # the last nodes, which hold no data
    terms: int = 3  # the first primary's is 1
    commits: tuple[int, ...] = (1, 0)  # that a primary writes, by its term; the last one repeats
    listed: int = 2  # standbys in S at the beginning
    acks: int = 1  # k at the beginning
    acks_wanted: int = 1  # k that changes of the sync set go to
    changes: int = 0  # of the sync set, in the document
    copies: bool = False  # documents also go to nodes that do not stand, as pre-votes hand them on
    opening: tuple[Step, ...] = ()  # steps that every path begins with
    catches_up: bool = False  # a candidate may get WAL before it wins, from whatever server has it
    stands_again: bool = False  # a leader may stand at a higher term without stopping its server
    outsiders: int = 0  # the last of those with data, which are no members yet, and have none
    learners: int = 0  # those before them, which have no vote
    orders: tuple[str, ...] = ()  # about members; `changes` are then those of members and of S
    grows: bool = False  # S: by whom it does not list yet, where members change
    losses: int = 0  # of durable records
    losers: tuple[int, ...] = ()  # whose, by the numbers of the names
    loses: tuple[str, ...] = ("record",)  # "record": alone, "host": with its host, which goes on
    pair: PairMode | None = None  # the rule of two voters


SLOW_TO_WIN: tuple[Step, ...] = (
    ("stand", 1, 2),
    ("vote", 2, 1, 2),
    ("vote", 3, 1, 2),
    ("detach", 1),
    ("detach", 2),
)

PROMISED: tuple[Step, ...] = (
    ("stand", 1, 2),
    ("vote", 2, 1, 2),
    ("detach", 2),
    ("vote", 3, 1, 2),
    ("detach", 1),
)

BRANCHES: tuple[Step, ...] = (
    ("stand", 1, 2),
    ("stand", 0, 3),
    ("vote", 2, 1, 2),
    ("detach", 1),
    ("win", 1, 2, 2),
    ("accept", 2, 1, 2),
    ("stand", 1, 3),
    ("vote", 2, 0, 3),
    ("lose record", 2, 3),
)
REPLACED_AND_LISTED: tuple[Step, ...] = (
    ("replace", 2, 3),
    ("member", 0, 3),
    ("accept", 1, 0, 3),
    ("accept", 3, 0, 3),
    ("clone", 3, 0),
    ("advance", 0, 5),
    ("accept", 1, 0, 5),
    ("accept", 3, 0, 5),
    ("list", 0, 6),
    ("accept", 1, 0, 6),
    ("set", 0, 6, 1),
)

PAIR = Config(
    "pair-manual",
    "two voters of which the primary decides, changes of S, and elections by both or alone",
    nodes=2,
    commits=(1, 1, 0),
    listed=1,
    changes=2,
    pair=PairMode.MANUAL,
)

CONFIGS = {
    each.name: each
    for each in (
        Config("elections", "two elections, after each other or against each other", copies=True),
        Config("commits", "two elections, and commits of all three primaries", commits=(2, 1, 0)),
        Config(
            "catch-up",
            "two elections, whose candidates get WAL from anybody before they win",
            catches_up=True,
        ),
        Config("incumbent", "a leader stands again, and two others stand", stands_again=True),
        Config(
            "incumbent-sync-set",
            "a leader stands again at any step of a change of S or of k",
            terms=2,
            acks_wanted=2,
            changes=1,
            stands_again=True,
        ),
        Config(
            "five",
            "five voters, two of them witnesses: a candidate that is slow to see that it has won, "
            "and a leader that stands again",
            nodes=5,
            witnesses=2,
            opening=(*SLOW_TO_WIN, ("stand", 0, 3), ("vote", 4, 0, 3)),
            stands_again=True,
        ),
        Config("sync-set", "two changes of S, and an election at any step", terms=2, changes=2),
        Config(
            "from-empty",
            "S grows from nothing, and an election at any step",
            terms=2,
            listed=0,
            acks=0,
            changes=2,
        ),
        Config(
            "k-raised",
            "one change of S or of k, which was 1, and an election at any step",
            terms=2,
            acks_wanted=2,
            changes=1,
        ),
        Config(
            "k-lowered",
            "one change of S or of k, which was 2, and an election at any step",
            terms=2,
            acks=2,
            acks_wanted=2,
            changes=1,
        ),
        Config(
            "k2",
            "four nodes, two acknowledgements, one election, and commits of both primaries",
            nodes=4,
            terms=2,
            listed=3,
            acks=2,
            acks_wanted=2,
            commits=(2, 1),
            copies=True,
        ),
        Config(
            "witness",
            "two servers and a witness, a change of S, and two elections at any step",
            witnesses=1,
            listed=1,
            changes=1,
            copies=True,
        ),
        Config(
            "member-added",
            "a blank node gets a vote and comes into S, and an election at any step",
            outsiders=1,
            listed=1,
            orders=("voter",),
            grows=True,
            terms=2,
            changes=3,
        ),
        Config(
            "member-removed",
            "one of two listed standbys leaves S and the cluster, and an election at any step",
            orders=("remove",),
            terms=2,
            changes=3,
        ),
        Config(
            "to-one-voter",
            "the votes of both standbys are taken, and an election at any step",
            listed=0,
            acks=0,
            orders=("remove",),
            terms=2,
            changes=4,
        ),
        Config(
            "record-lost",
            "a voter loses its record at any step and is admitted again, and an election",
            listed=1,
            orders=("voter",),
            losses=1,
            losers=(2,),
            terms=2,
            changes=2,
        ),
        Config(
            "two-records",
            "a voter's record is lost once it has voted, and the new one gets a vote too",
            nodes=5,
            witnesses=3,
            listed=1,
            commits=(0,),
            orders=("voter",),
            losses=1,
            losers=(2,),
            opening=(("stand", 1, 2), ("vote", 2, 1, 2), ("lose record", 2, 5)),
            terms=2,
            changes=2,
        ),
        Config(
            "two-voters",
            "the same, and it is the host that was replaced: it goes on, and hears what is new",
            nodes=5,
            witnesses=3,
            listed=1,
            commits=(0,),
            orders=("voter",),
            losses=1,
            losers=(2,),
            loses=("host",),
            opening=(("stand", 1, 2), ("vote", 2, 1, 2), ("replace", 2, 5)),
            terms=2,
            changes=2,
        ),
        Config(
            "two-candidates",
            "the host of a candidate is replaced, goes on, and the new one comes to stand as well",
            listed=1,
            orders=("voter",),
            losses=1,
            losers=(2,),
            loses=("host",),
            opening=(("stand", 2, 2), ("replace", 2, 3)),
            terms=2,
            changes=2,
        ),
        Config(
            "two-branches",
            "a record is lost once it has voted; a deposed leader admits the new one meanwhile",
            listed=1,
            commits=(0,),
            orders=("voter",),
            losses=1,
            losers=(2,),
            opening=BRANCHES,
            changes=2,
            stands_again=True,
        ),
        Config(
            "replaced-listed",
            "a replaced host's successor votes and is listed in S, and an election at any step",
            listed=1,
            orders=("voter",),
            grows=True,
            losses=1,
            losers=(2,),
            loses=("host",),
            opening=REPLACED_AND_LISTED,
            terms=2,
            changes=3,
        ),
        PAIR,
        replace(
            PAIR,
            name="pair-takeover",
            about="two voters of which the standby in S decides, and elections by both or alone",
            pair=PairMode.TAKEOVER,
        ),
        Config(
            "learner",
            "a listed learner has promised, loses its record and is admitted again",
            nodes=4,
            witnesses=1,
            learners=1,
            commits=(0,),
            orders=("learner",),
            losses=1,
            losers=(2,),
            opening=(*PROMISED, ("lose record", 2, 4)),
            terms=2,
            changes=2,
        ),
    )
}

FULL = {
    each.name: each
    for each in (
        replace(CONFIGS["elections"], commits=(2, 1, 1)),
        replace(CONFIGS["commits"], terms=4, commits=(1, 0), about="three elections"),
        replace(CONFIGS["catch-up"], commits=(2, 1, 0)),
        replace(CONFIGS["incumbent"], commits=(2, 1, 0), copies=True),
        replace(CONFIGS["incumbent-sync-set"], changes=2),
        replace(CONFIGS["five"], opening=SLOW_TO_WIN),
        replace(CONFIGS["sync-set"], about="a change of S, and two elections", terms=3, changes=1),
        replace(CONFIGS["from-empty"], commits=(2, 1), changes=3),
        replace(CONFIGS["k-raised"], changes=2),
        replace(CONFIGS["k-lowered"], changes=2),
        replace(CONFIGS["witness"], commits=(1, 1), changes=2),
        replace(CONFIGS["k2"], about="four nodes, one change", commits=(1, 0), changes=1),
        replace(CONFIGS["member-added"], terms=3),
        replace(CONFIGS["member-removed"], commits=(1, 1), changes=4),
        replace(CONFIGS["to-one-voter"], listed=2, acks=1, changes=6),
        replace(CONFIGS["record-lost"], listed=2, changes=3),
        replace(CONFIGS["two-records"], opening=(), commits=(1, 0)),
        replace(CONFIGS["two-voters"], opening=(), commits=(1, 0)),
        replace(CONFIGS["two-candidates"], opening=()),
        replace(CONFIGS["two-branches"], opening=BRANCHES[:4]),
        replace(CONFIGS["replaced-listed"], opening=REPLACED_AND_LISTED[:5]),
        replace(CONFIGS["pair-manual"], terms=4, copies=True),
        replace(CONFIGS["pair-takeover"], terms=4, copies=True),
        replace(CONFIGS["learner"], opening=PROMISED[:3], commits=(1, 0)),
    )
}
"""Wider bounds, by the name of the configuration: minutes to hours."""
