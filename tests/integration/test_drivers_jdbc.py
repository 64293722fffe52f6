"""A Java program with PostgreSQL's JDBC driver through the proxies of a real cluster.

It needs a JDK, which compiles the program as it runs it, and Debian's libpostgresql-jdbc-java;
`scripts/test.sh` installs both where it can.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psycopg
import pytest
import trio
from drivers_kit import PROGRAMS, balanced, proxies_of, run_program
from shared_cluster import SharedCluster

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DRIVER = Path(os.environ.get("METAKO_TEST_JDBC", "/usr/share/java/postgresql.jar"))
SCHEMA = "jdbc_shop"


def what_is_missing() -> str:
    """Return why there is no Java to test with; "" if there is."""
    if shutil.which("javac") is None or shutil.which("java") is None:
        return "no JDK (apt-get install default-jdk-headless)"
    if not DRIVER.exists():
        return (
            f"no {DRIVER} (apt-get install libpostgresql-jdbc-java; METAKO_TEST_JDBC names another)"
        )
    return ""


MISSING = what_is_missing()


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_jdbc(shared_cluster: SharedCluster) -> None:
    proxies = proxies_of(trio.run(shared_cluster.healthy))
    with psycopg.connect(proxies.dsn(), autocommit=True) as connection:
        connection.execute(
            f"drop schema if exists {SCHEMA} cascade; create schema {SCHEMA}".encode()
        )
    with balanced(proxies) as balancer:
        environment = {**proxies.environment(balancer.port), "SCHEMA": SCHEMA}
        java = ("java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", DRIVER)
        result = run_program(*java, PROGRAMS / "Shop.java", environment=environment)
    assert result.stdout == "all done\n"
    with psycopg.connect(proxies.dsn(), autocommit=True) as connection:
        connection.execute(f"drop schema {SCHEMA} cascade".encode())
