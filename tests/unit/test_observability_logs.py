"""The log never holds up or ends the agent, whatever becomes of the place it is written to."""

import io
import json
import logging
import os
import subprocess
import sys
import threading

import pytest

from metako.config.node_config import LoggingConfig
from metako.model.events import EventName, Severity, event
from metako.observability import sinks
from metako.observability.logs import log, log_event, setup_logging
from metako.observability.sinks import QueuedSink, RotatingFile, StreamWriter


@pytest.fixture
def start(tmp_path):
    handles = []

    def _start(stream=None, *, level="INFO", form="auto", file=None):
        config = LoggingConfig(level, form, file, 1_000_000, 2, 0)
        handles.append(setup_logging(config, "n1", stream or io.StringIO()))
        return handles[-1]

    yield _start
    for handle in handles:
        handle.close()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_becomes_a_json_line_with_its_name_and_fields(start):
    stream = io.StringIO()
    handle = start(stream)
    log_event(event(EventName.PROMOTED, "promoted on {tli} <b>", tli=3, node="n2", time="t"))
    assert handle.flush()
    (line,) = lines(stream)
    del line["time"]
    assert line == {
        "level": "INFO",
        "msg": "promoted on {tli} <b>",
        "node": "n1",
        "event": "promoted",
        "tli": 3,
        "member": "n2",  # `node` is the node that writes the line
        "time_": "t",
    }


def test_lines_below_the_level_are_left_out(start):
    stream = io.StringIO()
    handle = start(stream, level="WARNING")
    log(Severity.INFO, "quiet")
    log_event(event(EventName.FENCED, "loud", severity=Severity.ERROR))
    assert handle.flush()
    assert [line["msg"] for line in lines(stream)] == ["loud"]


def test_a_terminal_gets_readable_lines_and_the_file_gets_json(start, tmp_path):
    stream = Terminal()
    handle = start(stream, file=tmp_path / "deep" / "n1.log")
    log(Severity.WARNING, "slow", lag_ms=7)
    assert handle.flush()
    assert "slow" in stream.getvalue()
    assert "\x1b[33mWARNING" in stream.getvalue()
    assert json.loads((tmp_path / "deep" / "n1.log").read_text())["lag_ms"] == 7


def test_format_json_holds_on_a_terminal_and_text_without_one(start):
    terminal, plain = Terminal(), io.StringIO()
    handle = start(terminal, form="json")
    log(Severity.INFO, "one")
    handle.close()
    handle = start(plain, form="text")
    log(Severity.INFO, "two")
    handle.close()
    assert json.loads(terminal.getvalue())["msg"] == "one"
    assert plain.getvalue().endswith("INFO    two\n")
    assert "\x1b" not in plain.getvalue()


def test_an_exception_is_one_line_with_its_traceback(start):
    stream = io.StringIO()
    handle = start(stream)
    try:
        raise OSError("no space")
    except OSError as error:
        log(Severity.ERROR, "write failed", error=error)
    assert handle.flush()
    (line,) = lines(stream)
    assert line["error"] == "OSError: no space"
    assert "Traceback" in line["traceback"]


def test_warnings_of_libraries_are_logged_and_their_chatter_is_not(start):
    stream = io.StringIO()
    handle = start(stream)
    logging.getLogger("hypercorn").info("chatter")
    logging.getLogger("hypercorn").warning("odd %s", "thing")
    assert handle.flush()
    assert [(line["msg"], line["logger"]) for line in lines(stream)] == [("odd thing", "hypercorn")]


def test_a_field_that_cannot_be_formatted_is_counted_and_nothing_is_raised(start):
    class Bad:
        def __str__(self):
            raise RuntimeError("no text")

    stream = io.StringIO()
    handle = start(stream)
    log(Severity.INFO, "bad", value=Bad())
    log(Severity.INFO, "good")
    assert handle.flush()
    assert [line["msg"] for line in lines(stream)] == ["good"]
    assert handle.dropped == 1


def test_a_closed_stream_and_a_broken_pipe_are_counted(start):
    closed = io.StringIO()
    closed.close()
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        for stream in (closed, pipe):
            handle = start(stream)
            log(Severity.INFO, "lost")
            assert handle.flush()
            assert handle.dropped == 1
            handle.close()


def test_a_full_disk_is_counted_and_logging_goes_on(start, tmp_path):
    stream = io.StringIO()
    full = tmp_path / "full.log"
    full.symlink_to("/dev/full")
    handle = start(stream, file=full)
    log(Severity.INFO, "one")
    log(Severity.INFO, "two")
    assert handle.flush()
    assert [line["msg"] for line in lines(stream)] == ["one", "two"]
    assert handle.dropped == 2


def test_a_file_that_cannot_be_opened_is_tried_again_with_each_line(start, tmp_path):
    blocker = tmp_path / "dir"
    blocker.write_text("in the way")
    handle = start(file=blocker / "n1.log")
    log(Severity.INFO, "lost")
    assert handle.flush()
    blocker.unlink()
    log(Severity.INFO, "kept")
    assert handle.flush()
    assert handle.dropped == 1
    assert json.loads((blocker / "n1.log").read_text())["msg"] == "kept"


class Stalled:
    """A writer whose first write returns only when the test lets it."""

    def __init__(self):
        self.release = threading.Event()
        self.entered = threading.Event()
        self.written = []

    def write_line(self, line):
        self.entered.set()
        self.release.wait(5)
        self.written.append(line)

    def close(self):
        self.written.append("closed")


def test_a_sink_that_hangs_takes_a_bounded_number_of_lines_and_never_blocks(monkeypatch):
    monkeypatch.setattr(sinks, "QUEUE_LINES_MAX", 3)
    writer = Stalled()
    sink = QueuedSink(writer, name="test")
    sink.put("0")
    assert writer.entered.wait(5)
    for number in range(1, 6):
        sink.put(str(number))  # would hang here if it waited for the writer
    assert sink.dropped == 2
    assert not sink.flush(timeout_s=0.01)
    writer.release.set()
    sink.close()
    assert writer.written == ["0", "1", "2", "3", "closed"]


def test_close_gives_up_on_a_sink_that_hangs():
    writer = Stalled()
    sink = QueuedSink(writer, name="test")
    sink.put("0")
    sink.close(timeout_s=0.01)
    assert writer.written == []
    writer.release.set()


@pytest.mark.slow
def test_a_pipe_that_nobody_reads_does_not_keep_the_process_from_ending():
    program = (
        "import sys\n"
        "from metako.config.node_config import LoggingConfig\n"
        "from metako.model.events import Severity\n"
        "from metako.observability.logs import log, setup_logging\n"
        "setup_logging(LoggingConfig('INFO', 'json', None, 10**6, 1, 0), 'n1')\n"
        "for number in range(2000):\n"
        "    log(Severity.INFO, 'x' * 500)\n"
        "print('through')\n"
    )
    reader, writer = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=writer,
            timeout=20,
            check=False,
        )
    finally:
        os.close(reader)
        os.close(writer)
    assert (done.returncode, done.stdout) == (0, b"through\n")


@pytest.mark.slow
def test_lines_written_just_before_the_end_of_the_process_are_not_lost():
    program = (
        "from metako.config.node_config import LoggingConfig\n"
        "from metako.model.events import Severity\n"
        "from metako.observability.logs import log, setup_logging\n"
        "setup_logging(LoggingConfig('INFO', 'json', None, 10**6, 1, 0), 'n1')\n"
        "for number in range(100):\n"
        "    log(Severity.INFO, 'last words')\n"
        "raise SystemExit(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=20, check=False
    )
    assert done.returncode == 3
    assert done.stderr.count(b"last words") == 100


def test_a_stream_is_written_in_whole_even_if_it_takes_a_part_at_a_time(monkeypatch):
    reader, writer = os.pipe()
    real = os.write
    monkeypatch.setattr("os.write", lambda fd, data: real(fd, data[:3]))
    with os.fdopen(writer, "w") as pipe:
        StreamWriter(pipe).write_line("0123456789")
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "0123456789\n"


def names(directory):
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_a_full_file_is_set_aside_and_the_oldest_is_forgotten(tmp_path):
    file = RotatingFile(tmp_path / "n1.log", rotation_bytes=10, retention=2)
    for number in range(5):
        file.write_line(f"line {number}")
    file.close()
    assert names(tmp_path) == {"n1.log": "line 4\n", "n1.log.1": "line 3\n", "n1.log.2": "line 2\n"}


def test_retention_zero_keeps_the_current_file_only(tmp_path):
    file = RotatingFile(tmp_path / "n1.log", rotation_bytes=10, retention=0)
    file.write_line("line 0")
    file.write_line("line 1")
    file.close()
    assert names(tmp_path) == {"n1.log": "line 1\n"}


def test_a_line_larger_than_the_limit_gets_a_file_of_its_own(tmp_path):
    file = RotatingFile(tmp_path / "n1.log", rotation_bytes=10, retention=1)
    file.write_line("x" * 50)
    file.write_line("next")
    file.close()
    assert names(tmp_path) == {"n1.log": "next\n", "n1.log.1": "x" * 50 + "\n"}


def test_where_renaming_fails_the_file_grows_and_no_line_is_lost(tmp_path, monkeypatch):
    file = RotatingFile(tmp_path / "n1.log", rotation_bytes=10, retention=1)
    file.write_line("line 0")

    def refuse(*_):
        raise PermissionError("read-only directory")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    file.write_line("line 1")
    file.close()
    assert names(tmp_path) == {"n1.log": "line 0\nline 1\n"}


def test_a_file_moved_away_by_someone_else_is_opened_anew(tmp_path):
    now_s = [0.0]
    file = RotatingFile(
        tmp_path / "n1.log", rotation_bytes=1000, retention=1, clock=lambda: now_s[0]
    )
    file.write_line("old")
    (tmp_path / "n1.log").rename(tmp_path / "moved")
    now_s[0] += sinks.REOPEN_INTERVAL_S
    file.write_line("new")
    file.close()
    assert names(tmp_path) == {"moved": "old\n", "n1.log": "new\n"}


def test_a_line_torn_by_a_crash_is_ended_before_the_next_one(tmp_path):
    (tmp_path / "n1.log").write_text('{"time": "torn')
    file = RotatingFile(tmp_path / "n1.log", rotation_bytes=1000, retention=1)
    file.write_line("whole")
    file.close()
    assert (tmp_path / "n1.log").read_text() == '{"time": "torn\nwhole\n'
