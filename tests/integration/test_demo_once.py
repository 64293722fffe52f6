"""`metako demo` as a user runs it: in a process of its own, to the end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from harness import run_metako

from metako.demo.processes import process_table

pytestmark = [pytest.mark.integration, pytest.mark.slow]

RUN_TIMEOUT_S = 120.0
FAULTS = ["kill-primary", "kill-host", "pause-host"]


def options(test_bindir: str | None) -> list[str]:
    return ["--bindir", test_bindir] if test_bindir else []


def is_there(path: Path) -> bool:
    return path.exists()


def left_below(directory: Path) -> list[str]:
    inside = f"{directory}/"
    return [
        " ".join(process.argv)
        for process in process_table().values()
        if process.cwd.startswith(inside) or any(inside in arg for arg in process.argv)
    ]


@pytest.mark.parametrize("fault", FAULTS if os.environ.get("METAKO_TEST_FULL") else FAULTS[1:2])
async def test_once_prints_one_line_of_json_and_leaves_nothing(fault, tmp_path, test_bindir):
    result = await run_metako(
        "demo",
        "--once",
        fault,
        "--json",
        *options(test_bindir),
        cwd=tmp_path,
        timeout_s=RUN_TIMEOUT_S,
    )
    assert result.returncode == 0, (result.stdout, result.stderr[-4000:])
    (line,) = result.stdout.decode().splitlines()
    report = json.loads(line)
    assert report["ok"] is True
    assert report["fault"] == fault
    assert report["acknowledged"] > 100
    assert (report["lost"], report["duplicated"], report["surplus"]) == (0, 0, 0)
    assert 0 < report["outage_s"] < 15
    # The first line on stderr says where the cluster lived.
    directory = Path(result.stderr.decode().split(" nodes in ", 1)[1].splitlines()[0])
    assert not is_there(directory)
    assert left_below(directory) == []


@pytest.mark.parametrize("way", ["quit", "SIGTERM"])
async def test_interactive_demo_obeys_words_and_ends_clean(way, short_directory, test_bindir):
    directory = short_directory / "d"
    argv = [sys.executable, "-m", "metako", "demo", "--dir", str(directory)]
    process = await trio.lowlevel.open_process(
        [*argv, *options(test_bindir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=short_directory,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    output = b""
    try:
        with trio.fail_after(RUN_TIMEOUT_S):
            while b"primary:" not in output:
                data = await process.stdout.receive_some(65536)
                assert data, output.decode()
                output += data
            if way == "quit":
                await process.stdin.send_all(b"nonsense\nkill-primary\nquit\n")
            else:
                process.send_signal(signal.SIGTERM)
            async for data in process.stdout:
                output += data
            assert await process.wait() == 0, output.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await process.stdin.aclose()
        await process.stdout.aclose()
    if way == "quit":
        assert b"unknown command 'nonsense'" in output
        assert b"kill-primary: n" in output
    assert left_below(directory) == []
    assert is_there(directory)  # it was named, so it is kept
