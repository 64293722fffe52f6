"""Run the test suites of PostgreSQL drivers directly and through the proxy, and compare.

    scripts/driver-suites --psycopg CHECKOUT --asyncpg CHECKOUT [-k EXPRESSION] [--tls]

A checkout is a clone of the driver's repository at a released tag. Each suite runs twice against
the same server, once by its own port and once by the port of metako's proxy, as a superuser with a
password. What passes directly and does not by the proxy is listed, with the reason where it is
known (`KNOWN`); the exit status is 1 if there is any without a reason.

It tells nothing about the driver itself: what fails both times is not looked at.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import venv
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import trio

from benchmarks.proxy.server import BenchCluster, Size
from metako.demo.cluster import LocalCluster
from metako.demo.command import EXIT_SIGNAL_BASE, Interrupted, with_cluster
from metako.model.errors import MetakoError

ROLE, PASSWORD, DATABASE = "suite", "only for the suites", "suite"
SUITE_TIMEOUT_S = 1800

# Tests that cannot pass by a proxy that owns its connections to servers, by a pattern of their
# names, and why.
_ENDED = (
    "it ends its own session by pg_terminate_backend(), and looks for a lost connection: the "
    "client's goes on, with another session"
)
_OWN_PID = (
    "it takes the process id of its cancel key for that of its session at the server: keys are "
    "the proxy's own"
)
_IN_USE = "it drops a database in which the proxy keeps a connection for the next client"
KNOWN: dict[str, str] = {
    "tests.pool.test_*check*": _ENDED,
    "tests.pool.test_pool*::test_intrans_rollback*": _ENDED,
    "tests.pq.test_pgconn::test_notify": _OWN_PID,
    "tests.test_notify*::test_notify_handlers*": _OWN_PID,
    "tests.test_listeners.*": _OWN_PID,
    "tests.test_connection*::test_broken*": _OWN_PID,
    "tests.test_*::test_context_inerror_rollback_no_clobber*": _OWN_PID,
    "tests.test_connection*::test_right_exception_on_server_disconnect*": _OWN_PID,
    "tests.test_introspection.*::test_introspection_sticks_for_ps": _IN_USE,
}


@dataclass(frozen=True, slots=True)
class Suite:
    """How the tests of one driver are run."""

    name: str
    checkout: Path
    packages: tuple[str, ...]  # what pip installs for it
    arguments: tuple[str, ...]  # of pytest
    environment: Mapping[str, str]  # {port} stands for the port


@dataclass(slots=True)
class Outcome:
    """Of one suite on one way: the names of tests by what became of them."""

    passed: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)  # and its first words
    skipped: int = 0


def psycopg(checkout: Path) -> Suite:
    dsn = f"host=127.0.0.1 port={{port}} dbname={DATABASE} user={ROLE} password={PASSWORD!r}"
    return Suite(
        "psycopg",
        checkout,
        (f"{checkout / 'psycopg'}[test]", str(checkout / "psycopg_pool")),
        ("-m", "not slow and not refcount and not mypy and not timing", "--ignore=tests/types"),
        {"PSYCOPG_TEST_DSN": dsn, "PSYCOPG_IMPL": "python"},
    )


def asyncpg(checkout: Path) -> Suite:
    text = (checkout / "asyncpg" / "_version.py").read_text(encoding="utf-8")
    found = re.search(r"__version__(?:: [\w.]+)? = ['\"]([\d.]+)", text)
    if found is None:
        raise MetakoError(f"{checkout} is not at a release: check a tag out")
    return Suite(
        "asyncpg",
        checkout,
        (f"asyncpg=={found[1]}", "pytest", "distro"),
        (),
        {
            "PGHOST": "127.0.0.1",
            "PGPORT": "{port}",
            "PGUSER": ROLE,
            "PGPASSWORD": PASSWORD,
            "PGDATABASE": DATABASE,
        },
    )


class SuiteCluster(BenchCluster):
    """One node as the demo has it: whoever has a password may connect to any database."""

    def __init__(self, bindir: str | None) -> None:
        no_change = Size(0, 0, 0, processes_max=0, workers=1)
        super().__init__(no_change, bindir=bindir)

    def write_files(self) -> None:
        LocalCluster.write_files(self)


SUITES = {"psycopg": psycopg, "asyncpg": asyncpg}


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def prepare(suite: Suite, directory: Path) -> Path:
    """Return an interpreter that has the driver and all that its tests need."""
    where = directory / suite.name
    venv.create(where, with_pip=True)
    python = where / "bin" / "python"
    say(f"{suite.name}: installing")
    argv = [
        str(python),
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        *suite.packages,
    ]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    # Not from the checkout itself, where the driver's own package is not built.
    tests = where / "suite"
    shutil.copytree(suite.checkout / "tests", tests / "tests")
    shutil.copy(suite.checkout / "pyproject.toml", tests)
    return python


def run(suite: Suite, python: Path, port: int, way: str, only: str | None) -> Outcome:
    """Run the whole suite by a port; return what became of each test."""
    tests = python.parent.parent / "suite"
    report = tests / f"{way}.xml"
    argv = [str(python), "-m", "pytest", "-q", "--no-header", f"--junitxml={report}"]
    argv += ["-o", "addopts=", *suite.arguments, "tests"]
    if only is not None:
        argv += ["-k", only]
    say(f"{suite.name}: {way}, port {port}")
    environment = {key: value.format(port=port) for key, value in suite.environment.items()}
    with (tests / f"{way}.log").open("wb") as log:
        subprocess.run(
            argv,
            cwd=tests,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tests), **environment},
            stdout=log,
            stderr=log,
            timeout=SUITE_TIMEOUT_S,
            check=False,
        )
    if not report.exists():
        raise MetakoError(f"{suite.name} did not run; see {tests / way}.log")
    return read_report(report)


def read_report(path: Path) -> Outcome:
    outcome = Outcome()
    for case in ET.parse(path).getroot().iter("testcase"):  # noqa: S314 - written by pytest just now
        name = f"{case.get('classname')}::{case.get('name')}"
        failure = case.find("failure")
        failure = failure if failure is not None else case.find("error")
        if failure is not None:
            outcome.failed[name] = (failure.get("message") or "").split("\n")[0][:150]
        elif case.find("skipped") is not None:
            outcome.skipped += 1
        else:
            outcome.passed.add(name)
    outcome.passed -= outcome.failed.keys()  # an error while it was put away
    return outcome


def compare(suite: Suite, direct: Outcome, proxied: Outcome) -> int:
    """Say what differs; return how many tests differ without a known reason."""
    say(
        f"{suite.name}: {len(direct.passed)} pass directly, {len(direct.failed)} fail, "
        f"{direct.skipped} are skipped"
    )
    worse = sorted(direct.passed - proxied.passed)
    unknown = 0
    for name in worse:
        reason = next((why for pattern, why in KNOWN.items() if fnmatchcase(name, pattern)), None)
        unknown += reason is None
        words = reason or f"NOT EXPLAINED: {proxied.failed.get(name, 'it was not run')}"
        sys.stdout.write(f"{suite.name} {name}: {words}\n")
    say(f"{suite.name}: {len(worse)} of these do not pass by the proxy, {unknown} unexplained")
    return unknown


async def body(cluster: SuiteCluster, suites: list[Suite], only: str | None) -> int:
    """Start the cluster and run all suites; return how many tests differ without a reason."""
    await cluster.start()
    await cluster.as_superuser(f"create role {ROLE} login superuser password '{PASSWORD}'")
    await cluster.as_superuser(f"create database {DATABASE} owner {ROLE}")
    unknown = 0
    for suite in suites:
        python = await trio.to_thread.run_sync(prepare, suite, cluster.layout.directory)
        ways = {"direct": cluster.one.postgres_port, "proxied": cluster.one.proxy_port}
        outcomes = {
            way: await trio.to_thread.run_sync(run, suite, python, port, way, only)
            for way, port in ways.items()
        }
        unknown += compare(suite, outcomes["direct"], outcomes["proxied"])
    return unknown


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/driver-suites", description=__doc__)
    for name in SUITES:
        parser.add_argument(f"--{name}", type=Path, metavar="CHECKOUT")
    parser.add_argument("-k", dest="only", metavar="EXPRESSION", help="only these tests")
    parser.add_argument("--bindir", help="of another PostgreSQL than the newest that is found")
    parser.add_argument("--keep", action="store_true", help="keep logs and reports")
    options = parser.parse_args()
    given = {name: getattr(options, name) for name in SUITES}
    suites = [SUITES[name](path.absolute()) for name, path in given.items() if path]
    if not suites:
        parser.error("name at least one checkout")
    cluster = SuiteCluster(options.bindir)
    try:
        unknown = trio.run(with_cluster, cluster, partial(body, cluster, suites, options.only))
    except Interrupted as interrupted:
        return EXIT_SIGNAL_BASE + interrupted.signal_number
    except MetakoError as error:
        say(f"driver-suites: {error}")
        return 2
    finally:
        if options.keep:
            say(f"kept {cluster.layout.directory}")
        else:
            shutil.rmtree(cluster.layout.directory, ignore_errors=True)
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
