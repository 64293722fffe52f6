"""Names under which standbys are known to a primary, and the setting that lists them.

PostgreSQL matches synchronous standbys by `application_name`, which any client may choose. The
names are therefore derived with a secret: whoever can open a replication connection still cannot
pose as a member and acknowledge commits in its place.

Pure: the secret comes from the runtime.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from metako.model.ids import NodeId
from metako.model.postgres import SyncSetting

PREFIX = "metako_"
_DIGITS = 20


def application_name(secret: bytes, node: NodeId) -> str:
    """Return the name under which `node` replicates: `metako_` and 20 hexadecimal digits."""
    digest = hmac.new(secret, b"application_name\0" + node.encode(), hashlib.sha256)
    return PREFIX + digest.hexdigest()[:_DIGITS]


def catching_up_name(secret: bytes, node: NodeId) -> str:
    """Return the name under which `node` gets WAL that it acknowledges to nobody.

    No setting ever lists it, and no server has a slot of that name.
    """
    digest = hmac.new(secret, b"catching_up\0" + node.encode(), hashlib.sha256)
    return f"{PREFIX}catching_up_{digest.hexdigest()[:_DIGITS]}"


def replication_password(secret: bytes) -> str:
    """Return the password of the replication role, the same on every node of the cluster."""
    return hmac.new(secret, b"replication_password", hashlib.sha256).hexdigest()


def names_of(secret: bytes, nodes: Iterable[NodeId]) -> Mapping[str, NodeId]:
    """Return the map from application name to node."""
    return {application_name(secret, node): node for node in nodes}


def render_sync(secret: bytes, setting: SyncSetting) -> str:
    """Return the value of `synchronous_standby_names`.

    When fewer nodes are listed than must acknowledge, placeholders that no server will ever use
    fill the list up, so that commits wait instead of returning unprotected. They are never
    members of S.
    """
    if setting.k <= 0:
        return ""
    names = [application_name(secret, node) for node in setting.nodes]
    names += [f"{PREFIX}nobody_{i}" for i in range(1, setting.k - len(names) + 1)]
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"ANY {setting.k} ({quoted})"
