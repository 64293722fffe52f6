"""The proxy benchmark as a user runs it, without peers; nothing is left of it afterwards."""

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import trio

from metako.demo.processes import process_table

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_proxy.py"
RUN_TIMEOUT_S = 120.0
SHORT = ("--contestant", "direct", "--contestant", "metako", "--scale", "1", "--clients", "4")


def is_there(path: Path) -> bool:
    return path.exists()


def directories(stderr: str) -> list[Path]:
    """Return where the clusters of the run were."""
    starts = [line for line in stderr.splitlines() if line.startswith("starting PostgreSQL")]
    return [Path(line.split(" in ", 1)[1]) for line in starts]


def assert_nothing_is_left(stderr: str) -> None:
    found = directories(stderr)
    assert found
    for directory in found:
        assert not is_there(directory)
        inside = f"{directory}/"
        left = [p.argv for p in process_table().values() if any(inside in a for a in p.argv)]
        assert left == []


async def test_direct_and_metako_are_measured_in_turns(tmp_path, test_bindir):
    result_path, picture = tmp_path / "result.json", tmp_path / "plot.svg"
    argv = [sys.executable, str(SCRIPT), *SHORT, "--seconds", "1", "--rounds", "1"]
    argv += ["--contestant", "metako-tls"]
    argv += ["--workload", "prepared", "--workload", "connect-trust"]
    argv += ["--json", str(result_path), "--plot", str(picture)]
    argv += ["--markdown", str(tmp_path / "section.md")]
    argv += ["--bindir", test_bindir] if test_bindir else []
    with trio.fail_after(RUN_TIMEOUT_S):
        result = await trio.run_process(
            argv, capture_stdout=True, capture_stderr=True, check=False, stdin=subprocess.DEVNULL
        )
    stderr = result.stderr.decode()
    assert result.returncode == 0, (result.stdout.decode(), stderr[-4000:])
    raw = json.loads(result_path.read_text())
    assert raw["good"]
    # PostgreSQL of the embedded installations has no TLS, and so its pgbench has none.
    names = {"direct", "metako", "metako-tls"} - set(raw["left_out"])
    assert {"direct", "metako"} <= names
    assert Counter(cell["contestant"] for cell in raw["cells"]) == dict.fromkeys(names, 2)
    assert {name for name, e in raw["encryption"].items() if e["clients"]} == names & {"metako-tls"}
    for cell in raw["cells"]:
        assert cell["failed"] == 0
        assert cell["tps"] > 0
        figures = cell["latency_ms"]
        assert 0 < figures["p50"] <= figures["p95"] <= figures["p99"] <= figures["max"]
        assert cell["server_cpu_s"] > 0
        if cell["contestant"] == "direct":
            assert cell["cpu_s"] is None
            assert cell["peak_bytes"] is None
        else:
            assert 0 < cell["cpu_s"] < 2 * cell["wall_s"]
            assert cell["agent_cpu_s"] >= 0
            assert cell["peak_bytes"]["pss"] > 1 << 20
    ElementTree.parse(picture)
    assert "(plot.svg)" in (tmp_path / "section.md").read_text()
    assert "| prepared | metako | 4 |" in result.stdout.decode()
    assert_nothing_is_left(stderr)


async def test_memory_of_idle_clients_is_measured(tmp_path, test_bindir):
    result_path = tmp_path / "result.json"
    argv = [sys.executable, str(SCRIPT), *SHORT, "--rounds", "0", "--idle", "30"]
    argv += ["--json", str(result_path), *(["--bindir", test_bindir] if test_bindir else [])]
    with trio.fail_after(RUN_TIMEOUT_S):
        result = await trio.run_process(
            argv, capture_stdout=True, capture_stderr=True, check=False, stdin=subprocess.DEVNULL
        )
    assert result.returncode == 0, (result.stdout.decode(), result.stderr.decode()[-4000:])
    (idle,) = json.loads(result_path.read_text())["idle"]
    assert (idle["contestant"], idle["clients"], idle["asked"]) == ("metako", 30, 30)
    assert idle["servers"] == 30
    assert idle["server_bytes_per_client"] > 1 << 19
    assert idle["fewer_because"] == ""
    assert idle["after_bytes"]["pss"] > idle["before_bytes"]["pss"] > 1 << 20
    assert_nothing_is_left(result.stderr.decode())


async def test_interrupted_run_reports_what_it_has_and_leaves_nothing(tmp_path, test_bindir):
    result_path = tmp_path / "result.json"
    argv = [sys.executable, str(SCRIPT), *SHORT, "--workload", "prepared", "--seconds", "1"]
    argv += ["--rounds", "1000", "--json", str(result_path)]
    argv += ["--bindir", test_bindir] if test_bindir else []
    with trio.fail_after(RUN_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                partial(
                    trio.run_process,
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    check=False,
                    start_new_session=True,
                )
            )
            stderr = b""
            async for chunk in process.stderr:
                stderr += chunk
                if b"round 1/" in stderr and process.returncode is None:
                    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
                    break
            stdout = b"".join([chunk async for chunk in process.stdout])
            stderr += b"".join([chunk async for chunk in process.stderr])
    assert process.returncode == 128 + signal.SIGINT, stderr.decode()[-4000:]
    raw = json.loads(result_path.read_text())
    assert raw["error"] == "interrupted"
    assert len(raw["cells"]) >= 1
    assert all(cell["failed"] == 0 for cell in raw["cells"])
    assert b"BROKE OFF: interrupted" in stdout
    assert_nothing_is_left(stderr.decode())
