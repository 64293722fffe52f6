"""Lines of pg_hba.conf that ask for a certificate, where clients are asked for one or not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_credentials import ANNA, SCRAM, FakeAgent, welcome

from metako.pgwire.login_server import RejectLogin, ScramLogin, TrustLogin
from metako.pgwire.startup import SqlState
from metako.pgwire.verifier import parse_verifier
from metako.proxy.credentials import Asking, Credentials

BARE = replace(ANNA, tls=True, certifies=True)
CERTIFIED = replace(BARE, certified=True, common_name="anna")
OTHER = replace(CERTIFIED, common_name="bert")
NAMELESS = replace(CERTIFIED, common_name=None)

NO_CERTIFICATE = RejectLogin("connection requires a valid client certificate")
BY_CERT = RejectLogin('certificate authentication failed for user "anna"')
BY_TRUST = RejectLogin('"trust" authentication failed for user "anna"')
BY_PASSWORD = RejectLogin(
    'password authentication failed for user "anna"', SqlState.INVALID_PASSWORD
)
_VERIFIER = parse_verifier(SCRAM)
assert _VERIFIER is not None
SCRAM_LOGIN = ScramLogin(_VERIFIER)
CA, FULL = "clientcert=verify-ca", "clientcert=verify-full"


@pytest.mark.parametrize(
    ("asking", "method", "expected"),
    [
        (BARE, "cert", NO_CERTIFICATE),
        (CERTIFIED, "cert", TrustLogin()),
        (CERTIFIED, f"cert {FULL}", TrustLogin()),
        (OTHER, "cert", BY_CERT),
        (NAMELESS, "cert", BY_CERT),
        (replace(CERTIFIED, common_name="anna\0bert"), "cert", BY_CERT),
        (replace(CERTIFIED, common_name="ANNA"), "cert", BY_CERT),
        (BARE, f"scram-sha-256 {CA}", NO_CERTIFICATE),
        (OTHER, f"scram-sha-256 {CA}", SCRAM_LOGIN),
        (CERTIFIED, f"scram-sha-256 {FULL}", SCRAM_LOGIN),
        (OTHER, f"scram-sha-256 {FULL}", BY_PASSWORD),
        (OTHER, f"md5 {FULL}", BY_PASSWORD),
        (CERTIFIED, f"trust {FULL}", TrustLogin()),
        (OTHER, f"trust {FULL}", BY_TRUST),
        (OTHER, f"trust {CA}", TrustLogin()),
        (BARE, f"trust {CA}", NO_CERTIFICATE),
        (BARE, f"reject {FULL}", NO_CERTIFICATE),
        (BARE, "trust", TrustLogin()),
    ],
)
async def test_a_certificate_is_judged_as_by_the_server(
    asking: Asking, method: str, expected: object
) -> None:
    agent = FakeAgent(welcome(f"hostssl all all all {method}", "host all all all reject"))
    assert await Credentials(agent).credential(asking) == expected


async def test_a_line_that_rejects_rejects_whatever_the_certificate_says() -> None:
    for asking in (CERTIFIED, OTHER):
        agent = FakeAgent(welcome(f"hostssl all all all reject {FULL}"))
        found = await Credentials(agent).credential(asking)
        assert isinstance(found, RejectLogin)
        assert found.message.startswith("pg_hba.conf rejects connection for host")
        assert found.message.endswith("SSL encryption")


@pytest.mark.parametrize(
    ("asking", "line"),
    [
        # Clients are not asked for certificates: only the server can tell.
        (replace(CERTIFIED, certifies=False), "hostssl all all all cert"),
        (replace(CERTIFIED, certifies=False), f"hostssl all all all trust {CA}"),
        # PostgreSQL takes no such line, or it asks for more than is known here.
        (CERTIFIED, f"hostssl all all all cert {CA}"),
        (CERTIFIED, f"host all all all trust {CA}"),
        (CERTIFIED, "hostssl all all all cert map=people"),
        (CERTIFIED, f"hostssl all all all trust {FULL} clientname=DN"),
        (CERTIFIED, "hostssl all all all trust clientcert=1"),
        (BARE, f"hostssl all all all ldap {FULL}"),
    ],
)
async def test_what_cannot_be_judged_is_left_to_the_server(asking: Asking, line: str) -> None:
    agent = FakeAgent(welcome(line, "host all all all reject"))
    assert await Credentials(agent).credential(asking) is None


async def test_a_client_in_clear_does_not_get_to_a_line_for_tls() -> None:
    agent = FakeAgent(welcome(f"hostssl all all all trust {CA}", "host all all all trust"))
    assert await Credentials(agent).credential(replace(ANNA, certifies=True)) == TrustLogin()
