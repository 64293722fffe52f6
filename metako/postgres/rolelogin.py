"""The SQL that says what a role may log in with, and the function that holds it.

In: a session of the superuser. Out: `metako.role_login(text)` in the database that the agent's
sessions use, made once by a primary's agent and copied to every standby like all else; and the
statement by which a server is asked.

The function is SECURITY DEFINER, for a superuser only: nobody is granted EXECUTE, not even a role
of metako's own. Before PostgreSQL 16 whoever may create roles may also join them, so such a role
would hand every stored password to people who cannot read `pg_authid`; and the agent's sessions
are a superuser's in any case. An operator may grant EXECUTE to whom he likes.

Invariants: no name in it is looked up along a search path. The agent never calls a function that
somebody else could have written: the schema and the function must belong to superusers. Where that
is not so, or there is no function yet, the same question is asked of `pg_authid` itself.

Source: PostgreSQL's get_role_password (src/backend/libpq/crypt.c) for what has expired.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from metako.model.errors import MetakoError
from metako.postgres import sql
from metako.postgres.settings import sql_identifier, sql_literal

SCHEMA = "metako"
FUNCTION = "metako.role_login(pg_catalog.text)"
LOCK_TIMEOUT_MS = 1000

_ANSWER = """
select pg_catalog.count(*) operator(pg_catalog.>) 0,
       pg_catalog.min(case when a.rolcanlogin and (
           a.rolvaliduntil is null or a.rolvaliduntil operator(pg_catalog.>=) pg_catalog.now()
       ) then a.rolpassword end)
from pg_catalog.pg_authid a where a.rolname operator(pg_catalog.=) {name}::pg_catalog.name
"""
_NAMES = "select n, r.found, r.stored from pg_catalog.unnest($1::pg_catalog.text[]) n"
BY_FUNCTION = f"{_NAMES}, metako.role_login(n) r"
BY_CATALOG = f"{_NAMES}, lateral ({_ANSWER.format(name='n')}) r(found, stored)"
"""Either takes an array of names, and returns for each: it, whether found, what is stored."""

_MAKE = f"""
create or replace function metako.role_login(
    pg_catalog.text, out found pg_catalog.bool, out stored pg_catalog.text
) language sql stable strict security definer set search_path = pg_catalog, pg_temp
as {sql_literal(_ANSWER.format(name="$1"))}
"""
MARK = f"metako {hashlib.sha256(_MAKE.encode()).hexdigest()[:16]}"
"""The comment on the function; another one is on a function of another version."""

_LOOK = """
select coalesce(s.rolsuper, true) and coalesce(o.rolsuper, true), obj_description(f.oid, 'pg_proc')
from (values (0)) one
left join pg_namespace n on n.nspname = 'metako'
left join pg_roles s on s.oid = n.nspowner
left join pg_proc f
       on f.pronamespace = n.oid and f.proname = 'role_login' and f.proargtypes = '25'::oidvector
left join pg_roles o on o.oid = f.proowner
"""


class ForeignSchemaError(MetakoError):
    """The schema or the function belongs to somebody who is no superuser. Nothing was changed."""


class FunctionState(enum.Enum):
    """What a server has in the place of the function."""

    OURS = enum.auto()
    MISSING = enum.auto()  # or of another version
    FOREIGN = enum.auto()  # not to be called, nor replaced


async def look_function(session: sql.Session) -> FunctionState:
    """Return what there is. Raises `SqlError`."""
    trusted, comment = await session.row(_LOOK)
    if not trusted:
        return FunctionState.FOREIGN
    return FunctionState.OURS if comment == MARK else FunctionState.MISSING


async def ensure_function(
    open_session: Callable[[], AbstractAsyncContextManager[sql.Session]], superuser: str
) -> bool:
    """Make the function on a primary unless it is there; return whether it was made.

    Waits for no standby: where its commit is lost, the next primary's agent makes it again.

    Raises:
        SqlError: the server refused or did not answer; nothing was made, or all of it.
        ForeignSchemaError: somebody else has the name.
    """
    async with open_session() as session:
        state = await look_function(session)
        if state is FunctionState.FOREIGN:
            raise ForeignSchemaError(
                f"the schema {SCHEMA} or {FUNCTION} does not belong to a superuser: drop it, "
                "or change its owner"
            )
        if state is FunctionState.MISSING:
            await session.run("; ".join(["begin", *_statements(superuser), "commit"]))
        return state is FunctionState.MISSING


def _statements(superuser: str) -> tuple[str, ...]:
    return (
        "set local synchronous_commit = local",
        f"set local lock_timeout = {LOCK_TIMEOUT_MS}",
        f"create schema if not exists {SCHEMA} authorization {sql_identifier(superuser)}",
        _MAKE,
        f"revoke all on function {FUNCTION} from public",
        f"comment on function {FUNCTION} is {sql_literal(MARK)}",
    )
