"""Who is in the cluster and where: the members with this node among them, and its addresses.

Input: a validated `FileSchema`. Output: `Members`, and contradictions between `cluster.members` and
this node's own sections. Invariant: names are unique, no two members share an address, this node is
one of them. Resolves no names and looks at no interface: a wildcard address stays a wildcard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from metako.config.hosts import WILDCARDS, is_loopback, same_host
from metako.config.node_config import MemberConfig
from metako.config.problems import Path, Problem, nearest
from metako.config.schema import FileSchema, MemberSection
from metako.model.ids import Address, NodeId

GOSSIP_PORT = 7946
POSTGRES_PORT = 5432


@dataclass(frozen=True, slots=True)
class Members:
    """The cluster as seen from this node."""

    members: tuple[MemberConfig, ...]
    bootstrap_node: NodeId | None
    witness: bool  # this node
    gossip: Address  # of this node, for the others
    gossip_listen: Address
    postgres: Address  # of this node, for the others
    off_loopback: bool

    @property
    def voters(self) -> tuple[MemberConfig, ...]:
        return tuple(member for member in self.members if not member.learner)

    @property
    def data_nodes(self) -> tuple[MemberConfig, ...]:
        return tuple(member for member in self.members if not member.witness)

    @property
    def default_listen(self) -> str:
        return "*" if self.off_loopback else "127.0.0.1"

    def reachable(self, host: str, port: int, advertise_host: str | None) -> Address | None:
        """Return where other nodes reach something that listens on `host`; None if nowhere."""
        if advertise_host is not None:
            return Address(advertise_host, port)
        if host in WILDCARDS:
            return Address(self.gossip.host, port)
        if is_loopback(host) and self.off_loopback:
            return None
        return Address(host, port)


def resolve_members(schema: FileSchema) -> tuple[Members, list[Problem]]:
    """Return the members and this node's addresses, and every contradiction among them."""
    problems = list(_duplicates(schema))
    listed = next((m for m in schema.cluster.members if m.name == schema.node.name), None)
    own_path = _own_path(schema)
    gossip, server = schema.gossip, schema.postgresql
    if listed is not None:
        for path, value, other in (
            (("gossip", "advertise_host"), gossip.advertise_host, listed.host),
            (("gossip", "port"), gossip.port, listed.gossip_port),
            (("postgresql", "port"), server.port, listed.postgres_port),
            (("node", "witness"), schema.node.witness, listed.witness),
        ):
            if value is not None and other is not None and not same_host(value, other):
                text = f"contradicts {value!r} in {path[0]}.{path[1]}"
                problems.append(Problem(own_path, text, "one of the two is wrong"))
    others = [m for m in schema.cluster.members if m.name != schema.node.name]
    host = _advertised_host(schema, listed, others)
    off_loopback = _is_off_loopback(schema, host, others)
    gossip_port = gossip.port or (listed and listed.gossip_port) or GOSSIP_PORT
    postgres_port = server.port or (listed and listed.postgres_port) or POSTGRES_PORT
    wildcard = "::" if ":" in host else "0.0.0.0"  # noqa: S104  # gossip is authenticated
    witness = bool(schema.node.witness or (listed is not None and listed.witness))
    own_gossip = Address(host, gossip_port)
    own_postgres = Address(server.host or host, postgres_port)
    own = MemberConfig(
        name=NodeId(schema.node.name),
        gossip=own_gossip,
        postgres=None if witness else own_postgres,
        witness=witness,
        learner=listed.learner if listed is not None else False,
    )
    by_name = {m.name: _member(m) for m in others}
    order = [m.name for m in schema.cluster.members]
    members = tuple(
        by_name.get(name, own)
        for name in dict.fromkeys(order if listed is not None else [schema.node.name, *order])
    )
    bootstrap, wrong = _bootstrap_node(schema, members)
    problems += wrong
    result = Members(
        members=members,
        bootstrap_node=bootstrap,
        witness=witness,
        gossip=own_gossip,
        gossip_listen=Address(gossip.host or (wildcard if off_loopback else host), gossip_port),
        postgres=own_postgres,
        off_loopback=off_loopback,
    )
    problems += _check_votes(schema, result)
    return result, problems


def _member(section: MemberSection) -> MemberConfig:
    port = section.postgres_port or POSTGRES_PORT
    return MemberConfig(
        name=NodeId(section.name),
        gossip=Address(section.host, section.gossip_port or GOSSIP_PORT),
        postgres=None if section.witness else Address(section.host, port),
        witness=bool(section.witness),
        learner=section.learner,
    )


def _own_path(schema: FileSchema) -> Path:
    for index, member in enumerate(schema.cluster.members):
        if member.name == schema.node.name:
            return ("cluster", "members", index)
    return ("cluster", "members")


def _advertised_host(
    schema: FileSchema, listed: MemberSection | None, others: list[MemberSection]
) -> str:
    """Return this node's host as the others know it; a wildcard if the file does not tell."""
    if schema.gossip.advertise_host is not None:
        return schema.gossip.advertise_host
    if listed is not None:
        return listed.host
    host = schema.gossip.host
    if host is not None and host not in WILDCARDS:
        return host
    if all(is_loopback(member.host) for member in others):
        return "127.0.0.1"
    return "0.0.0.0"  # noqa: S104  # stands for "not known yet"


def _is_off_loopback(schema: FileSchema, host: str, others: list[MemberSection]) -> bool:
    """Return whether anything of the gossip can be reached from another machine."""
    said = schema.gossip.host
    return (
        not is_loopback(host)
        or (said is not None and not is_loopback(said))
        or any(not is_loopback(member.host) for member in others)
    )


def _duplicates(schema: FileSchema) -> Iterator[Problem]:
    names: set[str] = set()
    addresses: dict[tuple[str, int], str] = {}
    for index, member in enumerate(schema.cluster.members):
        path: Path = ("cluster", "members", index)
        if member.name in names:
            yield Problem((*path, "name"), f"{member.name!r} is listed twice")
            continue
        names.add(member.name)
        if member.host in WILDCARDS:
            yield Problem(
                (*path, "host"),
                f"{member.host!r} is no address that others can reach",
                "write the host's own name or address",
            )
        port = member.gossip_port or GOSSIP_PORT
        owner = addresses.setdefault((member.host, port), member.name)
        if owner != member.name:
            text = f"{Address(member.host, port)} is the gossip address of {owner!r} already"
            yield Problem((*path, "host"), text, "give each member a host or port of its own")
        if member.witness and member.learner:
            yield Problem((*path, "learner"), "a witness has nothing but its vote")


def _bootstrap_node(
    schema: FileSchema, members: tuple[MemberConfig, ...]
) -> tuple[NodeId | None, list[Problem]]:
    said = schema.cluster.bootstrap_node
    if said is None:
        only = members[0] if len(members) == 1 and not members[0].witness else None
        return (None if only is None else only.name), []
    path: Path = ("cluster", "bootstrap_node")
    named = next((member for member in members if member.name == said), None)
    if named is None:
        guess = nearest(said, [member.name for member in members])
        hint = f"did you mean {guess!r}?" if guess else "use the name of one"
        return None, [Problem(path, f"{said!r} is not a member", hint)]
    if named.witness or named.learner:
        kind = "a witness" if named.witness else "a learner"
        return None, [Problem(path, f"{said!r} is {kind} and cannot be the first primary")]
    return named.name, []


def _check_votes(schema: FileSchema, members: Members) -> list[Problem]:
    problems = []
    voters = len(members.voters)
    if schema.cluster.min_votes > voters:
        text = f"{schema.cluster.min_votes} votes can never be had from {voters} voters"
        problems.append(Problem(("cluster", "min_votes"), text))
    if not any(not member.witness and not member.learner for member in members.members):
        problems.append(Problem(("cluster", "members"), "no member can be the primary"))
    return problems
