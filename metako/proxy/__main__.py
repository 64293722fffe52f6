"""The command line of one proxy worker. Started by the agent; see `launcher`."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from pathlib import Path

import trio

from metako.model.ids import NodeId
from metako.proxy.filelimit import descriptors_needed, raise_descriptor_limit
from metako.proxy.limits import NO_LIMITS, NO_TIMEOUTS, Limits, Timeouts
from metako.proxy.tlsoptions import NO_TLS, TlsOptions
from metako.proxy.worker import WorkerConfig, run_worker

GARBAGE_THRESHOLD = 20_000  # objects made and not yet freed, instead of 700


def parse_arguments(arguments: list[str]) -> WorkerConfig:
    """Return the configuration; exit with 2 and a usage line if the arguments are wrong."""
    parser = argparse.ArgumentParser(prog="metako.proxy", allow_abbrev=False)
    parser.add_argument("--control", type=Path, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--guard-pid", type=int, required=True)
    parser.add_argument("--queue-timeout-s", type=float, required=True)
    parser.add_argument("--max-connections", type=int, required=True)
    parser.add_argument("--limits", type=_limits, default=NO_LIMITS)
    parser.add_argument("--tls", type=TlsOptions.from_text, default=NO_TLS)
    parser.add_argument("--timeouts", type=_timeouts, default=NO_TIMEOUTS)
    parser.add_argument("--admins", type=_names, default=())
    parser.add_argument("--index", type=int, default=1)
    parser.add_argument("--fingerprint", default="")
    parser.add_argument("--ready-fd", type=int, default=None)
    parser.add_argument("--inherits", type=int, choices=(0, 1), default=0)
    found = parser.parse_args(arguments)
    return WorkerConfig(
        control=found.control,
        host=found.host,
        port=found.port,
        node=NodeId(found.node),
        guard_pid=found.guard_pid,
        queue_timeout_s=found.queue_timeout_s,
        sessions_max=found.max_connections,
        limits=found.limits,
        tls=found.tls,
        timeouts=found.timeouts,
        admins=found.admins,
        index=found.index,
        fingerprint=found.fingerprint,
        ready_fd=found.ready_fd,
        inherits=bool(found.inherits),
    )


def _limits(text: str) -> Limits:
    """Return what `launcher` has written."""
    return Limits(*map(int, text.split(",")))


def _timeouts(text: str) -> Timeouts:
    """Return what `launcher` has written."""
    return Timeouts(*map(float, text.split(",")))


def _names(text: str) -> tuple[str, ...]:
    """Return what `launcher` has written."""
    return tuple(map(str, json.loads(text)))


def main(arguments: list[str]) -> int:
    config = parse_arguments(arguments)
    raise_descriptor_limit(descriptors_needed(config.sessions_max))
    # What was imported stays for good, and the relay makes no cycles: looking for garbage after
    # every few hundred objects would cost more than serving some of the queries in between.
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    return trio.run(run_worker, config)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
