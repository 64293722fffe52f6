"""The failover benchmark as a user runs it: two rounds, and nothing is left of them."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import trio

from metako.demo.processes import process_table

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_failover.py"
RUN_TIMEOUT_S = 180.0


def is_there(path: Path) -> bool:
    return path.exists()


async def test_two_crashes_are_measured_and_no_row_is_lost(tmp_path, test_bindir):
    result_path, picture = tmp_path / "result.json", tmp_path / "plot.svg"
    argv = [sys.executable, str(SCRIPT), "--rounds", "2", "--fault", "kill-primary"]
    argv += ["--timing", "fast", "--json", str(result_path), "--plot", str(picture)]
    argv += ["--markdown", str(tmp_path / "section.md")]
    argv += ["--bindir", test_bindir] if test_bindir else []
    with trio.fail_after(RUN_TIMEOUT_S):
        result = await trio.run_process(
            argv, capture_stdout=True, capture_stderr=True, check=False, stdin=subprocess.DEVNULL
        )
    assert result.returncode == 0, (result.stdout.decode(), result.stderr.decode()[-4000:])
    raw = json.loads(result_path.read_text())
    (series,) = raw["series"]
    assert len(series["rounds"]) == 2
    for one in series["rounds"]:
        for seen in one["connections"].values():
            assert 0 < seen["outage_ms"] < 15_000
            phases = seen["phases_ms"]
            assert None not in phases.values()
            assert sum(phases.values()) == pytest.approx(seen["outage_ms"], abs=1)
            assert phases["remainder"] == pytest.approx(0, abs=1)
    for rows in series["rows"].values():
        assert rows["acknowledged"] > 20
        assert (rows["lost"], rows["duplicated"], rows["surplus"]) == (0, 0, 0)
    ElementTree.parse(picture)
    assert "(plot.svg)" in (tmp_path / "section.md").read_text()
    assert b"kill-primary" in result.stdout
    directory = Path(result.stderr.decode().split("a cluster in ", 1)[1].splitlines()[0])
    assert not is_there(directory)
    inside = f"{directory}/"
    assert [p.argv for p in process_table().values() if any(inside in a for a in p.argv)] == []
