"""The proxy benchmark: what it reads of pgbench and /proc, and its command line."""

import os
import time
from pathlib import Path

import pytest

import bench_proxy
from benchmarks.proxy import contestants, procfs
from benchmarks.proxy.field import left_out
from benchmarks.proxy.pgbench import (
    WORKLOADS,
    PgbenchError,
    Target,
    arguments,
    count_aborted,
    latencies,
    parse_summary,
    read_latencies,
    sampling_rate,
)
from benchmarks.proxy.procfs import Memory, Stat

TARGET = Target(6432, "app", "app")


# What pgbench writes

SUMMARY = """\
pgbench (15.18 (Debian 15.18-0+deb12u1))
transaction type: <builtin: select only>
number of transactions actually processed: 20230
number of failed transactions: 3 (0.015%)
latency average = 0.395 ms
initial connection time = 20.145 ms
tps = 20218.105893 (without initial connection time)
"""


def test_summary_of_a_run_is_read():
    summary = parse_summary(SUMMARY)
    assert (summary.tps, summary.transactions, summary.failed) == (20218.105893, 20230, 3)
    assert summary.login_s == pytest.approx(0.020145)


def test_summary_with_reconnections_is_read():
    text = SUMMARY.replace("(without initial connection time)", "(including reconnection times)")
    assert parse_summary(text).tps == 20218.105893


def test_run_without_a_rate_is_an_error():
    with pytest.raises(PgbenchError, match="not understood"):
        parse_summary("pgbench (15.18)\nnumber of transactions actually processed: 7\n")
    with pytest.raises(PgbenchError, match="no transaction"):
        parse_summary("pgbench (15.18)\nnumber of transactions actually processed: 0\n")


def test_clients_given_up_are_counted_once_each():
    stderr = (
        "pgbench: error: client 3 script 0 aborted in command 1 query 0: FATAL\n"
        "pgbench: error: client 7 aborted in command 1 (SQL) of script 0; gone\n"
        "pgbench: error: client 3 aborted in state 4\n"
    )
    assert count_aborted(stderr) == 2


def test_latency_is_the_third_word_in_microseconds():
    lines = ["0 1 1500 0 1700000000 10\n", "1 1 250 0 1700000000 20\n"]
    assert list(read_latencies(lines)) == [1.5, 0.25]


def test_failed_skipped_and_torn_lines_have_no_latency():
    lines = [
        "0 1 failed 0 1700000000 10\n",
        "0 2 skipped 0 1700000000 20 5\n",
        "0 3 700 0 1700000000 30\n",
        "0 4 900 0 17000",
        "0 4 900 0 1700000000 3",
    ]
    assert list(read_latencies(lines)) == [0.7]


def test_with_a_connection_each_the_time_between_a_clients_commits_counts():
    lines = [
        "0 1 200 0 1700000000 999000\n",
        "1 1 200 0 1700000001 0\n",
        "0 2 200 0 1700000001 4000\n",
        "1 2 200 0 1700000001 2500\n",
    ]
    assert list(read_latencies(lines, reconnects=True)) == [5.0, 2.5]


def test_percentiles_are_values_that_were_measured():
    found = latencies(float(n) for n in range(200, 0, -1))
    assert found is not None
    assert (found.p50, found.p95, found.p99, found.max) == (100.0, 190.0, 198.0, 200.0)
    one = latencies([7.0])
    assert one is not None
    assert (one.p50, one.p99, one.max) == (7.0, 7.0, 7.0)
    assert latencies([]) is None


# How pgbench is called


def called(name: str, **changes: object) -> list[str]:
    options = {"clients": 32, "cores": 2, "seconds": 5, "script": None, "log_prefix": Path("/l")}
    return arguments(WORKLOADS[name], TARGET, **{**options, **changes})


def test_clients_share_a_thread_a_processor():
    argv = called("prepared")
    assert argv[argv.index("-j") + 1] == "2"
    assert argv[argv.index("-M") + 1] == "prepared"
    assert argv[-1] == "app"


def test_clients_that_reconnect_have_a_thread_each():
    argv = called("connect")
    assert argv[argv.index("-j") + 1] == "32"
    assert "-C" in argv


def test_long_cells_are_sampled_but_not_where_every_line_is_needed():
    assert sampling_rate(WORKLOADS["simple"], 5) == 1
    assert sampling_rate(WORKLOADS["simple"], 100) == pytest.approx(0.125)
    assert "--sampling-rate=0.125000" in called("simple", seconds=100)
    assert sampling_rate(WORKLOADS["connect"], 100) == 1


def test_warm_up_logs_nothing():
    argv = called("simple", seconds=None)
    assert "-t" in argv
    assert "-l" not in argv


# /proc


def test_stat_of_a_program_with_parentheses_in_its_name():
    numbers = "S 7 10 10 0 -1 4194560 1 2 3 4 11 22 33 44 20 0 1 0 500 1 2"
    stat = procfs.parse_stat(f"42 (odd) name (x)) {numbers}")
    assert (stat.pid, stat.parent, stat.own_ticks, stat.waited_ticks) == (42, 7, 33, 77)
    with pytest.raises(ValueError, match="no line"):
        procfs.parse_stat("42 (x) S 7 10")


def test_memory_is_in_kilobytes():
    text = "00400000-7ff [rollup]\nRss:    2048 kB\nPss:     512 kB\nPss_Anon:   100 kB\n"
    assert procfs.parse_rollup(text) == Memory(2048 * 1024, 512 * 1024)


def test_memory_of_a_process_of_its_own_has_no_shared_pages_but_its_page_tables():
    own = procfs.own_bytes([os.getpid(), 0])
    assert 1 << 20 < own < procfs.memory([os.getpid()]).rss + (16 << 20)
    assert procfs.own_bytes([]) == 0
    assert procfs.available_bytes() > own


def nothing_scheduled(_: int) -> int:
    return 0


def test_tree_has_all_descendants_of_live_roots_and_nobody_else():
    stats = {pid: Stat(pid, parent, 100, 0) for pid, parent in ((2, 1), (3, 2), (4, 3), (5, 1))}
    assert procfs.tree([2, 99], stats) == {2, 3, 4}
    assert procfs.cpu_s([2], stats, nothing_scheduled) == 300 / procfs.TICKS_PER_S


def test_cpu_of_a_child_that_ended_is_charged_to_its_parent():
    before = {2: Stat(2, 1, 10, 0), 3: Stat(3, 2, 40, 0)}
    after = {2: Stat(2, 1, 11, 45)}
    spent = procfs.cpu_s([2], after, nothing_scheduled)
    spent -= procfs.cpu_s([2], before, nothing_scheduled)
    assert spent * procfs.TICKS_PER_S == pytest.approx(6)


def test_cpu_below_a_tick_counts_and_threads_that_ended_do_as_well():
    assert procfs.parse_schedstat("9500000 1200 33\n") == 9_500_000
    stat = Stat(2, 1, 0, 0)
    assert procfs.own_cpu_s(stat, lambda _: 9_500_000) == pytest.approx(0.0095)
    ended_threads = Stat(2, 1, 5 * procfs.TICKS_PER_S, 0)
    assert procfs.own_cpu_s(ended_threads, lambda _: 10**9) == 5


def test_own_cpu_time_grows_with_what_is_done():
    (before,) = (s for s in procfs.process_stats().values() if s.pid == os.getpid())
    begun = procfs.own_cpu_s(before)
    busy_until = time.process_time() + 0.05  # where threads have ended, ticks of 10 ms are counted
    while time.process_time() < busy_until:
        sum(n * n for n in range(20_000))
    after = procfs.process_stats()[os.getpid()]
    assert 0 < procfs.own_cpu_s(after) - begun < 5


def test_own_memory_is_seen():
    seen = procfs.memory([os.getpid()])
    assert 1 << 20 < seen.pss <= seen.rss


# The command line


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--contestant", "odyssey"], "invalid choice"),
        (["--workload", "olap"], "invalid choice"),
        (["--clients", "0"], "--clients is between"),
        (["--clients", "many"], "invalid int"),
        (["--seconds", "0"], "at least 1"),
        (["--rounds", "0"], "nothing to measure"),
        (["--rounds", "-1"], "not negative"),
        (["--idle", "1000000"], "--idle is at most"),
        (["--json", "/no/such/place/r.json"], "there is no directory"),
    ],
)
def test_wrong_arguments_end_with_2_and_say_why(argv, message, capsys):
    with pytest.raises(SystemExit) as ended:
        bench_proxy.arguments_of(argv)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_arguments_count_once_and_in_their_order():
    options = bench_proxy.arguments_of(
        ["--only", "metako", "--contestant", "direct", "--only", "metako", "--clients", "32"]
    )
    assert options.contestant == ["metako", "direct"]
    assert options.clients == [32]
    assert options.workload == list(WORKLOADS)


def test_help_names_every_contestant_and_workload(capsys):
    with pytest.raises(SystemExit) as ended:
        bench_proxy.arguments_of(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name in (*bench_proxy.CONTESTANTS, *WORKLOADS):
        assert f"  {name} " in text


def test_peers_that_are_not_installed_are_left_out_with_a_remedy(monkeypatch, capsys):
    monkeypatch.setattr(contestants.shutil, "which", lambda *_, **__: None)
    assert left_out(["direct", "pgpool"]) == {
        "pgpool": "pgpool is not installed; apt-get install pgpool2"
    }
    # Where nobody else is wanted there is nothing to measure.
    with pytest.raises(SystemExit) as ended:
        bench_proxy.arguments_of(["--only", "haproxy"])
    assert ended.value.code == 2
    assert "haproxy is not installed" in capsys.readouterr().err
