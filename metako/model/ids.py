"""Names of things, as distinct types so that one cannot be passed for another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

NodeId = NewType("NodeId", str)
"""The configured name of a node; unique in the cluster and never reused for another host."""

DataId = NewType("DataId", str)
"""Identity of one data directory. A fresh clone or a rewind gets a new one, so that a node whose
data was lost is not mistaken for the one that acknowledged commits."""

RecordId = NewType("RecordId", str)
"""Identity of one durable record, random. A node whose record was lost makes a new one, so that it
is not mistaken for the one that voted and promised."""

Term = NewType("Term", int)
"""Election number. At most one leader per term. 0 means: before any election."""

TimelineId = NewType("TimelineId", int)
"""PostgreSQL timeline number, 1 after initdb."""


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where something listens. The host is a name or a literal; it is resolved by the runtime."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
