"""The command line: what commands print, and the exit code of every way to fail."""

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import typer
from program_kit import ROOT, run_python
from typer.testing import CliRunner

from metako import __version__
from metako.cli import failure
from metako.cli.app import build_app
from metako.cli.failure import reported
from metako.cli.status_text import STATUS_COLUMNS, format_bytes, lines, picture
from metako.model.errors import FencedError, UnreachableError


def status(**changes):
    """Return the body of GET /status of a healthy cluster of three, as JSON decodes it."""
    body = {
        "node": "n2",
        "cluster": "main",
        "term": 4,
        "promised_term": 4,
        "role": "follower",
        "leader": "n1",
        "primary": "n1",
        "hold_remaining_ms": 1900,
        "lease_remaining_ms": 0,
        "blocked": None,
        "document": {
            "ref": "4.2",
            "phase": "active",
            "durability": "quorum",
            "sync": {"k": 1, "nodes": ["n2"], "members": []},
            "paused": False,
        },
        "members": [
            row("n1", "primary", "running", lsn="0/3000060"),
            row("n2", "standby", "streaming", lsn="0/3000060", lag_ms=12, lag_bytes=96)
            | {"self": True, "sync": True},
            row("n3", "witness", "absent", timeline=None),
        ],
    }
    return body | changes


def row(node, role, state, **changes):
    return {
        "node": node,
        "self": False,
        "state": "alive",
        "role": role,
        "voter": True,
        "sync": False,
        "address": f"10.0.0.{node[1:]}:7946",
        "server_state": state,
        "timeline": 2,
        "lsn": None,
        "lag_ms": None,
        "lag_bytes": None,
        "postgres_address": f"10.0.0.{node[1:]}:5432",
        "server_version": 150018,
        "proxy_sessions": 3,
    } | changes


@contextmanager
def agent(body):
    """Answer every GET with `body`; yield the URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def invoke(*args):
    return CliRunner().invoke(build_app(), [str(arg) for arg in args])


def program(*args, **options):
    """Run the real program in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, "-m", "metako", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment,
        **options,
    )


# ---------------------------------------------------------------- status


def test_status_shows_facts_and_one_row_a_member():
    with agent(status()) as url:
        result = invoke("status", "--api", url)
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "cluster     main",
        "primary     n1, 10.0.0.1:5432, timeline 2",
        "term        4",
        "document    version 4.2, active",
        "durability  quorum: a commit waits for 1 of {n2}",
        "asked       n2, follower, hold 1.9 s",
        "",
        "node  role          state      timeline  LSN        lag          gossip  "
        "election              sessions",
        "n1    primary       running    2         0/3000060  -            alive   "
        "leader                3",
        "n2 *  sync standby  streaming  2         0/3000060  96 B, 12 ms  alive   "
        "follower, hold 1.9 s  3",
        "n3    witness       absent     -         -          -            alive   "
        "voter                 3",
    ]


def test_status_without_a_primary_says_why_and_exits_1():
    with agent(status(primary=None, blocked="no majority: n1 and n3 are silent")) as url:
        result = invoke("status", "--api", url)
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == "no primary: no majority: n1 and n3 are silent"
    assert "primary     none" in result.output


def test_who_is_no_member_does_not_say_that_there_is_no_primary():
    stranger = {"node": "n9", "self": True, "membership": None}
    body = status(primary=None, blocked="this node is no member", members=[stranger])
    with agent(body) as url:
        result = invoke("status", "--api", url)
    assert result.exit_code == 1
    assert "primary     not known to who is no member" in result.output


def test_status_with_blocked_commits_says_so_and_exits_0():
    with agent(status(blocked="no standby acknowledges")) as url:
        result = invoke("status", "--api", url)
    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == "commits are blocked: no standby acknowledges"


def test_status_json_is_what_the_agent_said():
    with agent(status()) as url:
        result = invoke("status", "--api", url, "--json")
    assert (result.exit_code, json.loads(result.output)) == (0, status())


@pytest.mark.parametrize("body", [{"node": "n1", "members": []}, {"node": 7, "members": "many"}])
def test_status_of_an_agent_of_another_version_is_shown_as_far_as_it_goes(body):
    with agent(body) as url:
        result = invoke("status", "--api", url)
    assert result.exit_code == 1
    assert "primary     none" in result.output


def test_text_from_other_nodes_cannot_reach_the_terminal_raw():
    hostile = "\x1b[2J\x1b]0;owned\x07[bold]n1\n"
    shown = lines(picture(status(cluster=hostile, blocked=hostile, members=[{"node": hostile}])))
    assert all(line.isprintable() for line in shown)


def test_every_row_has_a_cell_for_every_column():
    assert {len(cells) for cells in picture(status()).rows} == {len(STATUS_COLUMNS)}
    assert picture(status(members=[{}])).rows == (("-",) * 7 + ("learner", "-"),)


def test_lease_promise_and_pause_are_told():
    document = status()["document"] | {"paused": True}
    body = status(
        role="leader", lease_remaining_ms=1240, promised_term=5, document=document, hold=0
    )
    facts = dict(picture(body).facts)
    assert facts["term"] == "4, promised 5"
    assert facts["document"] == "version 4.2, active, paused"
    assert facts["asked"] == "n2, leader, lease 1.2 s"


def test_an_empty_sync_set_and_a_missing_document_are_told():
    document = status()["document"] | {"sync": {"k": 0, "nodes": []}}
    facts = dict(picture(status(document=document)).facts)
    assert facts["durability"] == "quorum: no standby is listed, a commit waits for none"
    facts = dict(picture(status(document=None)).facts)
    assert (facts["document"], facts["durability"]) == ("none yet", "-")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 kB"), (5 << 20, "5.0 MB"), (1 << 50, "1024.0 TB")],
)
def test_sizes_use_the_largest_fitting_unit(size, text):
    assert format_bytes(size) == text


def test_status_on_a_terminal_treats_names_as_text_not_markup(monkeypatch):
    monkeypatch.setattr("metako.cli.status.is_terminal", lambda: True)
    with agent(status(cluster="[red]main[/nope]")) as url:
        result = invoke("status", "--api", url)
    assert result.exit_code == 0
    assert "[red]main[/nope]" in result.output


def test_watch_repeats_until_interrupted_and_survives_an_absent_agent(monkeypatch):
    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    answers = iter([status(), UnreachableError("no answer"), status(primary=None)])

    def fetch(_url, _timeout_s):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("metako.cli.status.fetch_status", fetch)
    monkeypatch.setattr("metako.cli.status.time.sleep", nap)
    result = invoke("status", "--api", "http://x", "--watch", "--json", "--interval", "2")
    assert result.exit_code == 130
    assert [json.loads(line)["primary"] for line in result.stdout.splitlines()] == ["n1", None]
    assert (result.stderr, naps) == ("metako: no answer\n", [2.0, 2.0, 2.0])


def test_members_lists_addresses_membership_and_versions():
    with agent(status()) as url:
        result = invoke("members", "--api", url)
    assert result.exit_code == 0
    assert result.output.splitlines()[1].split() == [
        *("n1", "alive", "10.0.0.1:7946", "voter,", "leads", "10.0.0.1:5432"),
        *("-", "-", "15.18", "-"),
    ]
    with agent(status()) as url:
        assert json.loads(invoke("members", "--api", url, "--json").output)[2]["node"] == "n3"


# ---------------------------------------------------------------- failure


def failing(error):
    def command() -> int:
        raise error

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(reported(command))
    return CliRunner().invoke(app, [])


@pytest.mark.parametrize(
    ("error", "code", "stderr"),
    [
        (FencedError("fenced"), 20, "metako: fenced\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
        (SystemExit(7), 7, ""),
        (SystemExit(), 0, ""),
        (SystemExit("words"), 1, "metako: words\n"),
        (FileNotFoundError(2, "No such file", "x.yaml"), 1, "metako: x.yaml: No such file\n"),
        (BaseExceptionGroup("g", [KeyboardInterrupt(), ValueError("x")]), 130, ""),
        (
            ExceptionGroup("g", [ValueError("v"), ExceptionGroup("h", [FencedError("inner")])]),
            20,
            "metako: inner\n",
        ),
        (UnreachableError("one\ntwo"), 11, "metako: one\nmetako: two\n"),
    ],
)
def test_an_error_becomes_a_line_and_a_code(error, code, stderr):
    result = failing(error)
    assert (result.exit_code, result.stderr, result.stdout) == (code, stderr, "")


def test_an_internal_error_shows_no_traceback_unless_asked(monkeypatch):
    monkeypatch.delenv(failure.TRACEBACK_VARIABLE, raising=False)
    result = failing(KeyError("k"))
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "Traceback" not in result.stderr
    monkeypatch.setenv(failure.TRACEBACK_VARIABLE, "1")
    assert "Traceback" in failing(KeyError("k")).stderr


# ---------------------------------------------------------------- the real program


@pytest.mark.slow
def test_version_prints_one_line_and_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['metako', '--version']\n"
        "from metako.cli.main import main; main()\n"
        "heavy = {'typer', 'rich', 'trio', 'asyncpg', 'cryptography', 'pydantic', 'loguru'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    result = run_python(code)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"metako {__version__}\n", "")


@pytest.mark.slow
def test_status_of_an_absent_agent_loads_no_driver_and_no_cryptography():
    code = (
        "import sys; sys.argv = ['metako', 'status', '--api', '127.0.0.1:1']\n"
        "from metako.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as e: assert e.code == 11, e.code\n"
        "heavy = {'trio', 'asyncpg', 'cryptography', 'loguru', 'starlette'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    result = run_python(code)
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.startswith("metako: no answer from http://127.0.0.1:1: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--version"], 0),
        (["--help"], 0),
        (["demo", "--help"], 0),
        ([], 2),
        (["no-such-command"], 2),
        (["status", "--no-such-option"], 2),
        (["status", "--timeout", "0"], 2),
        (["status", "--api", "ftp://x"], 2),
        (["status", "--api", "x", "--config", "y"], 2),
        (["--config", "/nonexistent/metako.yaml"], 3),
        (["run", "-c", "/nonexistent/metako.yaml"], 3),
        (["-c", "/nonexistent/metako.yaml", "status"], 3),
        (["status", "--api", "http://127.0.0.1:1"], 11),
    ],
)
def test_exit_codes_of_the_program(args, code, tmp_path):
    result = program(*args, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert bool(result.stderr) == (code != 0 and bool(args))
    if code >= 3:
        assert result.stderr.startswith("metako: ")
        assert result.stdout == ""


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error_message(tmp_path):
    with agent(status(filler=["x" * 1000] * 1000)) as url:
        result = subprocess.run(
            ["bash", "-o", "pipefail", "-c", '"$0" -m metako status --json --api "$1" | head -1',
             sys.executable, url],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            cwd=tmp_path,
            # Unbuffered, CPython does not notice that only a part of a text was written.
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
        )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (141, "{\n", "")


@pytest.mark.slow
def test_closed_standard_streams_are_no_traceback(tmp_path):
    result = subprocess.run(
        ["bash", "-c", '"$0" -m metako version >&- 2>&-; exit $?', sys.executable],
        timeout=30,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0


def test_keygen_prints_32_random_bytes():
    first, second = (invoke("keygen").output.strip() for _ in range(2))
    assert len(base64.b64decode(first, validate=True)) == 32
    assert first != second


def test_version_command_has_json():
    assert json.loads(invoke("version", "--json").output)["metako"] == __version__
