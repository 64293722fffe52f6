"""Errors that reach an operator, each with an exit code of its own.

An error's text is one line: what is wrong, where, and what to do. Whoever catches one may assume
that nothing was changed on disk, unless its class says otherwise.
"""

from __future__ import annotations


class MetakoError(Exception):
    """Base of everything that metako reports to its user. Nothing was changed."""

    exit_code = 1


class UsageError(MetakoError):
    """The command line was wrong."""

    exit_code = 2


class ConfigError(MetakoError):
    """The configuration cannot be read or is wrong; the text names file and line."""

    exit_code = 3


class PortInUseError(MetakoError):
    """Something else listens where this node must."""

    exit_code = 4


class BinaryMissingError(MetakoError):
    """PostgreSQL's programs were not found, or cannot be executed."""

    exit_code = 5


class DataDirectoryError(MetakoError):
    """The data directory is foreign, half-written, in use or not ours to touch."""

    exit_code = 6


class KeyMismatchError(MetakoError):
    """Another node of the cluster uses another gossip key."""

    exit_code = 7


class ClusterMismatchError(MetakoError):
    """Another node belongs to a cluster of another name or identity."""

    exit_code = 8


class ClockMismatchError(MetakoError):
    """The wall clocks of two nodes are too far apart to make sense of their logs."""

    exit_code = 9


class StateError(MetakoError):
    """The durable record is unreadable, belongs to another node, or is in use by another agent."""

    exit_code = 10


class UnreachableError(MetakoError):
    """The agent that a command asked does not answer."""

    exit_code = 11


class OrderNotGivenError(UnreachableError):
    """The node takes no order now; nothing of it has been given to the cluster."""


class OrderUnansweredError(UnreachableError):
    """The cluster did not say in time whether it takes an order: it may have taken it."""


class PrivilegeError(MetakoError):
    """The operating system user may not do what is needed."""

    exit_code = 12


class FencedError(MetakoError):
    """The node failed while it ran; PostgreSQL was fenced before this was raised."""

    exit_code = 20
