"""The frames by which workers learn how clients may log in. See `frames` for all others.

Agent → worker: `{"welcome": {...}}` before the first table, and again when it changes: what all
answers have in common. Worker → agent: `{"verifier_wanted": {"user":…, "id":…}}`. Agent → worker,
in any order: `{"verifier": {"id":…, "found":…, "stored":…}}`; `found` is null if it cannot be told.

A worker that asks says so in its hello; only such a one is sent any of these, because versions
before this end a connection on which they hear a word that they do not know. An agent that does
not answer sends a table and no welcome.

Invariant: what stands for a password, and the secrets of the cluster, are in no `repr` and in no
error.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from metako.model.rolelogin import STORED_CHARS_MAX, RoleLogin
from metako.pgwire.verifier import ITERATIONS_DEFAULT, ITERATIONS_MAX
from metako.proxy.hba import NAME_BYTES_MAX
from metako.proxy.jsonline import FrameError, integer, string

HBA_LINES_MAX = 2000
HBA_CHARS_MAX = 40_000  # in JSON; a welcome has to fit into a frame
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Welcome:
    """What an agent tells a worker that asks about roles."""

    mock_secret: bytes = field(repr=False)  # `pgwire.verifier.mock_verifier`; SECRET_BYTES
    cancel_secret: bytes = field(repr=False)  # `pgwire.cancel.CancelKeys`; SECRET_BYTES
    hba: tuple[str, ...] | None  # the lines of pg_hba.conf; None: nobody can be judged by this node
    iterations: int = ITERATIONS_DEFAULT  # of new verifiers in this cluster
    md5: bool = False  # new passwords are stored as md5 hashes


@dataclass(frozen=True, slots=True)
class VerifierWanted:
    """A worker wants to know how a role may log in."""

    user: str
    id: int


@dataclass(frozen=True, slots=True)
class Verifier:
    """The answer."""

    id: int
    role: RoleLogin | None  # None: it cannot be told now


def fitting_hba(lines: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return lines that fit into a welcome, None if there are too many to judge anybody by."""
    spent = sum(len(json.dumps(line)) + 1 for line in lines)
    return lines if len(lines) <= HBA_LINES_MAX and spent <= HBA_CHARS_MAX else None


def welcome_to_json(welcome: Welcome) -> dict[str, object]:
    return {
        "mock_secret": base64.b64encode(welcome.mock_secret).decode(),
        "cancel_secret": base64.b64encode(welcome.cancel_secret).decode(),
        "iterations": welcome.iterations,
        "md5": welcome.md5,
        "hba": None if welcome.hba is None else list(welcome.hba),
    }


def welcome_from_json(body: Mapping[str, object]) -> Welcome:
    hba = body.get("hba")
    if hba is not None and (not isinstance(hba, list) or len(hba) > HBA_LINES_MAX):
        raise FrameError("hba is not a short list")
    iterations = integer(body.get("iterations"))
    if not 1 <= iterations <= ITERATIONS_MAX:
        raise FrameError("no number of iterations")
    return Welcome(
        mock_secret=_secret_from_json(body.get("mock_secret")),
        cancel_secret=_secret_from_json(body.get("cancel_secret")),
        hba=None if hba is None else tuple(string(line) for line in hba),
        iterations=iterations,
        md5=body.get("md5") is True,
    )


def _secret_from_json(value: object) -> bytes:
    try:
        secret = base64.b64decode(string(value), validate=True)
    except (binascii.Error, ValueError):
        raise FrameError("no secret") from None
    if len(secret) != SECRET_BYTES:
        raise FrameError("no secret")
    return secret


def wanted_to_json(wanted: VerifierWanted) -> dict[str, object]:
    return {"user": wanted.user, "id": wanted.id}


def wanted_from_json(body: Mapping[str, object]) -> VerifierWanted:
    user = string(body.get("user"))
    if not 1 <= len(user.encode(errors="surrogatepass")) <= NAME_BYTES_MAX:
        raise FrameError("no name of a role")
    return VerifierWanted(user, integer(body.get("id")))


def verifier_to_json(verifier: Verifier) -> dict[str, object]:
    role = verifier.role
    if role is None:
        return {"id": verifier.id, "found": None, "stored": None}
    return {"id": verifier.id, "found": role.found, "stored": role.stored}


def verifier_from_json(body: Mapping[str, object]) -> Verifier:
    found, stored = body.get("found"), body.get("stored")
    if found is not None and not isinstance(found, bool):
        raise FrameError("found is neither true nor false")
    if stored is not None and len(string(stored)) > STORED_CHARS_MAX:
        raise FrameError("stored is too long")
    role = None if found is None else RoleLogin(found, None if stored is None else string(stored))
    return Verifier(integer(body.get("id")), role)
