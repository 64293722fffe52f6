"""The fault rig as a whole: real faults under independent clients, and nothing left of it.

What a run has to show is the rig's own verdict; this only asks for it, and looks for leftovers.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = (
    "isolated-primary",
    "host-lost",
    "wall-clocks-jump",
    "postgres-crash",
    "failed-rewind",
    "agent-frozen-postgres-serves",
    "guard-killed",
    "primary-frozen-longer-than-lease",
    "replication-cut-gossip-fine",
    "primary-cannot-hear",
    "wal-disk-full",
    "clone-interrupted",
    "gray-link",
    "switchover",
    "switchover-primary-lost",
)
_OURS = re.compile(r"/tmp/mk[0-9a-f]{4}-|-m chaos |--host 10\.77\.")
RUN_TIMEOUT_S = 600
START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 60

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


def command(*arguments):
    return [sys.executable, "-m", "chaos", *arguments]


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "tests"), str(ROOT)))}


def ended(*arguments, timeout_s):
    """Run the rig to its end, and return that."""
    return subprocess.run(
        command(*arguments),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def leftovers():
    """Return what any run of the rig has left on this machine."""
    names = Path("/run/netns")
    found = [path.name for path in names.glob("mk????-*")] if names.is_dir() else []
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if _OURS.search(line)]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            argv = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if _OURS.search(argv):
            found.append(argv)
    return found


@pytest.fixture(scope="module")
def verdict(tmp_path_factory, test_bindir):
    directory = tmp_path_factory.mktemp("chaos")
    arguments = [word for name in SCENARIOS for word in ("--scenario", name)]
    if test_bindir is not None:
        arguments += ["--bindir", test_bindir]
    done = ended(*arguments, "--json", "--dir", str(directory), timeout_s=RUN_TIMEOUT_S)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def test_every_round_was_played_and_ended_well(verdict):
    assert [each["scenario"] for each in verdict["rounds"]] == list(SCENARIOS)
    assert all(each["recovered_s"] is not None for each in verdict["rounds"])
    assert sum(len(each["faults"]) for each in verdict["rounds"]) >= 15


def test_nothing_that_clients_were_promised_is_broken(verdict):
    assert verdict["checker"]["violations"] == []
    assert verdict["ok"] is True


def test_clients_wrote_and_read_all_the_time(verdict):
    outcomes = verdict["checker"]["statistics"]["outcomes"]
    assert len(outcomes) == 9
    assert all(each.get("ok", 0) > 50 for each in outcomes.values())


def test_nothing_is_left(verdict):
    assert leftovers() == []


def test_there_is_a_page_to_look_at(verdict):
    page = Path(verdict["directory"]) / "report.html"
    assert page.stat().st_size > 50_000


def test_a_scenario_gets_the_cluster_that_it_is_for(tmp_path):
    arguments = ("--scenario", "witness-lost", "--dir", str(tmp_path), "--json")
    done = ended(*arguments, timeout_s=RUN_TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["checker"]["run"]["nodes"] == ["n1", "n2", "w"]
    assert verdict["checker"]["run"]["witnesses"] == ["w"]
    assert [each["scenario"] for each in verdict["rounds"]] == ["witness-lost"]
    outcomes = verdict["checker"]["statistics"]["outcomes"]
    assert len(outcomes) == 8  # nobody can go past the proxy of a witness
    assert all(each.get("ok", 0) > 20 for each in outcomes.values())


CELLS = (
    "primary.postgres.kill",
    "standby1.startup.stop",
    "primary.sender.stop+standby2.receiver.kill",
)


def test_cells_of_the_matrix_are_played_on_one_cluster_and_judged(tmp_path):
    arguments = [word for cell in CELLS for word in ("--only", cell)]
    done = ended(
        *("--matrix", *arguments, "--dir", str(tmp_path), "--json"), timeout_s=RUN_TIMEOUT_S
    )
    # How long an outage may be is a matter of the machine that it is measured on: 1 is fine here.
    assert done.returncode in (0, 1), done.stderr
    outcome = json.loads(done.stdout)
    assert [each["cell"] for each in outcome["cells"]] == list(CELLS)
    assert [each["violations"] for each in outcome["cells"]] == [[], [], []]
    assert [len(each["faults"]) for each in outcome["cells"]] == [1, 1, 2]
    assert all(each["whole_s"] is not None for each in outcome["cells"])
    assert [each["ok"] for each in outcome["clusters"]] == [True]
    crashed, stopped, _ = outcome["cells"]
    assert crashed["promoted"] is True
    assert crashed["outage_ms"] > 100
    assert stopped["primary_before"] == stopped["primary_after"] == crashed["primary_after"]
    assert len((tmp_path / "matrix.md").read_text().splitlines()) >= 2 + len(CELLS)
    assert leftovers() == []


@pytest.mark.skipif("METAKO_TEST_FULL" not in os.environ, reason="METAKO_TEST_FULL is not set")
def test_busy_cores_leave_the_primary_where_it_is(tmp_path):
    arguments = ("--burn", "--minutes", "0.1", "--dir", str(tmp_path), "--json")
    done = ended(*arguments, timeout_s=RUN_TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["stayed"] is True
    assert outcome["burnt_s"] >= 6
    assert outcome["processes"] == 2 * os.cpu_count()
    assert outcome["views"] > 0
    assert 0 < outcome["lease_left_ms"] <= outcome["hold_ms"]
    assert leftovers() == []


def started(directory):
    """Return a rig in the middle of its first round."""
    process = subprocess.Popen(
        command("--scenario", "isolated-primary", "--dir", str(directory)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    while "round 1" not in process.stderr.readline():
        assert process.poll() is None
        assert time.monotonic() < deadline
    return process


def test_an_interrupt_ends_everything_and_still_gives_a_verdict(tmp_path):
    process = started(tmp_path)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=STOP_TIMEOUT_S)
    assert process.returncode == 130, errors
    assert "nothing is violated" in output
    assert leftovers() == []


def test_what_a_killed_run_leaves_is_swept_by_the_next_one(tmp_path):
    first = started(tmp_path / "first")
    first.kill()
    first.communicate(timeout=STOP_TIMEOUT_S)
    assert leftovers()
    second = started(tmp_path / "second")
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=STOP_TIMEOUT_S)
    assert second.returncode == 130
    assert leftovers() == []


def refused(*arguments):
    """Return what the rig says when it cannot do what it is asked for: it ends with 3."""
    done = ended(*arguments, timeout_s=STOP_TIMEOUT_S)
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    assert leftovers() == []
    return done.stderr


def test_what_makes_a_run_impossible_is_told_in_a_line_and_not_as_a_traceback(tmp_path):
    nowhere = tmp_path / "nowhere"
    errors = refused("--scenario", "isolated-primary", "--bindir", str(nowhere))
    assert "Traceback" not in errors
    assert [line for line in errors.splitlines() if str(nowhere) in line] == errors.splitlines()


def test_scenario_that_is_not_there_is_named():
    errors = refused("--scenario", "no-such-thing")
    assert "Traceback" not in errors
    assert "no-such-thing" in errors
