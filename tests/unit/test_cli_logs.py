"""`metako logs`: the last lines, the ones that come, rotation, and lines that are not ours."""

import json

import pytest
from typer.testing import CliRunner

from metako.cli.app import build_app


def entry(message, **fields):
    line = {"time": "2024-05-01T12:00:00.123Z", "level": "INFO", "msg": message, "node": "n1"}
    return json.dumps(line | fields) + "\n"


@pytest.fixture
def node(tmp_path):
    """Return the node's file and its log, which does not exist yet."""
    log = tmp_path / "node.log"
    file = tmp_path / "node.yaml"
    file.write_text(
        "node: {name: n1}\ncluster: {bootstrap_node: n1}\ngossip: {host: 127.0.0.1}\n"
        f"logging: {{file: {log}}}\n"
    )
    return file, log


def logs(file, *args):
    return CliRunner().invoke(build_app(), ["logs", "-c", str(file), *args])


def messages(result):
    return [json.loads(line)["msg"] for line in result.stdout.splitlines()]


def test_the_last_lines_are_shown_readably(node):
    file, log = node
    log.write_text("".join(entry(f"line {number}", term=number) for number in range(30)))
    shown = logs(file, "-n", "2")
    assert shown.exit_code == 0
    assert [line.split("n1 ")[1] for line in shown.stdout.splitlines()] == [
        "line 28  term=28",
        "line 29  term=29",
    ]
    assert len(logs(file).stdout.splitlines()) == 20


def test_json_passes_lines_through_and_wraps_what_is_not_ours(node):
    file, log = node
    log.write_text(entry("ours", term=4) + "Traceback: not ours\n")
    result = logs(file, "--json")
    assert messages(result) == ["ours", "Traceback: not ours"]
    assert json.loads(result.stdout.splitlines()[0])["term"] == 4


def test_lines_cannot_steer_the_terminal(node):
    file, log = node
    log.write_text(entry("\x1b[2Jcleared") + "\x1b]0;title\x07\n")
    assert "\x1b" not in logs(file).stdout


def test_following_shows_what_comes_and_survives_a_rotation(node, monkeypatch):
    file, log = node
    log.write_text(entry("old") + entry("last"))

    def rotate():
        with log.open("a") as handle:
            handle.write(entry("late in the old file"))
        log.rename(log.with_suffix(".1"))
        log.write_text(entry("first of the new file"))

    def append():
        with log.open("a") as handle:
            handle.write(entry("second of the new file"))

    def interrupt():
        raise KeyboardInterrupt

    steps = iter([rotate, append, interrupt])
    monkeypatch.setattr("metako.cli.logs.time.sleep", lambda _seconds: next(steps)())
    result = logs(file, "-f", "-n", "1", "--json")
    assert result.exit_code == 130
    assert messages(result) == [
        "last",
        "late in the old file",
        "first of the new file",
        "second of the new file",
    ]


def test_following_waits_for_a_file_that_does_not_exist_yet(node, monkeypatch):
    file, log = node

    def interrupt():
        raise KeyboardInterrupt

    steps = iter([lambda: log.write_text(entry("born") + entry("grown")), interrupt])
    monkeypatch.setattr("metako.cli.logs.time.sleep", lambda _seconds: next(steps)())
    assert messages(logs(file, "-f", "-n", "1", "--json")) == ["born", "grown"]


def test_a_missing_log_and_a_node_without_one_say_what_to_do(node):
    file, _log = node
    missing = logs(file)
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "-f waits for it" in missing.stderr
    file.write_text(file.read_text().replace("logging:", "# logging:"))
    without = logs(file)
    assert (without.exit_code, without.stdout) == (3, "")
    assert "journalctl" in without.stderr
