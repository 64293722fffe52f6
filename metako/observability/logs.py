"""The log of a node: what the rest of metako calls, and the only place that knows loguru.

Input: events and messages with fields. Output: JSON lines in the configured file; on the stream
JSON lines or, on a terminal, readable ones. Invariant: no call here blocks or raises because of
where the lines go. What cannot be written is counted in `LogHandle.dropped`.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from loguru import logger

from metako.config.node_config import LoggingConfig
from metako.model.events import Event, Severity
from metako.observability.record import LogRecord, field_name, json_line, text_line
from metako.observability.sinks import QueuedSink, RotatingFile, StreamWriter

if TYPE_CHECKING:
    from loguru import Message  # exists for type checkers only

_FIELDS = "metako_fields"


class LogHandle:
    """What `setup_logging` set up."""

    def __init__(self, sinks: tuple[QueuedSink, ...], bridge: logging.Handler) -> None:
        self._sinks = sinks
        self._bridge = bridge
        self._handler_id = -1  # of loguru, set by `attach`
        self._closed = False
        self.format_failures = 0  # lines that could not even be formatted

    def attach(self, handler_id: int) -> None:
        """Remember what to remove, and see to it that the last lines survive any exit."""
        self._handler_id = handler_id
        atexit.register(self.close)

    @property
    def dropped(self) -> int:
        """Return the lines that were lost, over all sinks."""
        return self.format_failures + sum(sink.dropped for sink in self._sinks)

    def flush(self, timeout_s: float = 1.0) -> bool:
        """Wait until all lines are written; False if a sink takes longer."""
        in_time = [sink.flush(timeout_s) for sink in self._sinks]  # every one gets its turn
        return all(in_time)

    def close(self) -> None:
        """Write what is left, within bounded time, and stop logging. May be called again."""
        atexit.unregister(self.close)
        if self._closed:
            return
        self._closed = True
        logger.remove(self._handler_id)
        logging.getLogger().removeHandler(self._bridge)
        for sink in self._sinks:
            sink.close()


def setup_logging(config: LoggingConfig, node: str, stream: TextIO | None = None) -> LogHandle:
    """Send the process's log lines to the configured file and to `stream`.

    Close the handle of an earlier call first, or lines are written twice. A file that cannot be
    opened is no error: its lines are counted as dropped, and it is tried again with each line.

    Args:
        config: level, format and file.
        node: the node's name, written into every line.
        stream: standard error unless given.
    """
    out = sys.stderr if stream is None else stream
    terminal = _is_terminal(out)
    sinks = [QueuedSink(StreamWriter(out), name="stream")]
    readable = config.format == "text" or (config.format == "auto" and terminal)
    forms: list[Callable[[LogRecord], str]] = [
        (lambda record: text_line(record, colour=terminal)) if readable else json_line
    ]
    if config.file is not None:
        file = RotatingFile(
            config.file, rotation_bytes=config.rotation_bytes, retention=config.retention
        )
        sinks.append(QueuedSink(file, name="file"))
        forms.append(json_line)
    bridge = _Bridge(level=logging.WARNING)
    handle = LogHandle(tuple(sinks), bridge)

    def write(message: Message) -> None:
        try:
            record = _record(message, node)
            for sink, form in zip(sinks, forms, strict=True):
                sink.put(form(record))
        except Exception:  # noqa: BLE001  # a line that cannot be formatted must not stop an agent
            handle.format_failures += 1

    with contextlib.suppress(ValueError):
        logger.remove(0)  # loguru's own handler on standard error; gone after the first time
    # enqueue would pass every line through a process-wide pipe, which blocks when it is full.
    handler_id = logger.add(
        write, level=config.level, format=_message_only, enqueue=False, catch=False
    )
    handle.attach(handler_id)
    root = logging.getLogger()
    root.addHandler(bridge)
    return handle


def log(
    severity: Severity, message: str, *, error: BaseException | None = None, **fields: object
) -> None:
    """Write one line. `error` adds the exception's text and traceback."""
    named = {field_name(name): value for name, value in fields.items()}
    if error is not None:
        named["error"] = f"{type(error).__name__}: {error}"
        named["traceback"] = "".join(traceback.format_exception(error))
    logger.bind(**{_FIELDS: named}).log(severity.value, message)


def log_event(event: Event) -> None:
    """Write an event as one line, its name in the field `event`."""
    named: dict[str, object] = {"event": event.name.value}
    named.update((field_name(name), value) for name, value in event.fields)
    logger.bind(**{_FIELDS: named}).log(event.severity.value, event.message)


def _message_only(_: object) -> str:
    # loguru would append a traceback and evaluate braces in its own format.
    return "{message}"


def _record(message: Message, node: str) -> LogRecord:
    record = message.record
    fields = record["extra"].get(_FIELDS, {})
    return LogRecord(
        time=record["time"],
        level=record["level"].name,
        message=record["message"],
        node=node,
        fields=fields,
    )


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (ValueError, AttributeError):
        return False  # closed, or not a real stream


class _Bridge(logging.Handler):
    """Takes the warnings of libraries, which use the standard library's logging."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = "ERROR" if record.levelno >= logging.ERROR else "WARNING"
            fields: dict[str, object] = {"logger": record.name}
            if record.exc_info and record.exc_info[1] is not None:
                fields["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
            logger.bind(**{_FIELDS: fields}).log(level, record.getMessage())
        except Exception:  # noqa: BLE001  # as in every handler: logging must not raise
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the record: there is no better place to complain."""
