"""The proxy benchmark: what it reads of pgbench and /proc, and what it configures."""

import os
import time
from pathlib import Path

import pytest

import bench_proxy
from benchmarks.proxy import configs, contestants, procfs
from benchmarks.proxy.contestants import parse_version
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
from benchmarks.proxy.server import Size, config_text
from metako.config.load import load
from metako.demo.layout import node_config_text, plan_layout

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


# Configurations


def setting_of(**changes: object) -> configs.Setting:
    values: dict[str, object] = {
        "directory": Path("/tmp/peer"),
        "port": 7001,
        "second_port": 7002,
        "server_port": 5433,
        "database": "app",
        "user": "app",
        "password": "secret",
        "verifier": "SCRAM-SHA-256$4096:salt$stored:server",
        "trusted_user": "app_trust",
        "clients_max": 200,
        "version": "1.18.0",
    }
    return configs.Setting(**{**values, **changes})  # type: ignore[arg-type]


def launches() -> dict[str, configs.Launch]:
    return {
        "session": configs.pgbouncer(setting_of(), transaction=False),
        "transaction": configs.pgbouncer(setting_of(), transaction=True),
        "haproxy": configs.haproxy(setting_of()),
        "pgpool": configs.pgpool(setting_of()),
    }


@pytest.mark.parametrize("name", ["session", "transaction", "haproxy", "pgpool"])
def test_peer_listens_on_loopback_and_leads_to_the_server(name):
    launch = launches()[name]
    text = "".join(launch.files.values())
    assert "7001" in text
    assert "5433" in text
    assert "0.0.0.0" not in text
    assert any("/tmp/peer/" in argument for argument in launch.arguments)


@pytest.mark.parametrize("name", ["session", "transaction", "pgpool"])
def test_peers_that_log_clients_in_ask_both_roles_for_the_same_as_postgresql(name):
    (hba,) = (text for file, text in launches()[name].files.items() if "hba" in file)
    assert hba == (
        "host app app_trust 127.0.0.1/32 trust\nhost app app 127.0.0.1/32 scram-sha-256\n"
    )


def test_pool_by_session_has_a_server_for_every_client():
    ini = launches()["session"].files["pgbouncer.ini"]
    assert "pool_mode = session" in ini
    assert "default_pool_size = 208" in ini


def test_pool_by_transaction_is_of_default_size_and_prepares_if_it_can():
    old = launches()["transaction"].files["pgbouncer.ini"]
    assert "pool_mode = transaction" in old
    assert "default_pool_size = 20\n" in old
    assert "max_prepared_statements" not in old
    new = configs.pgbouncer(setting_of(version="1.24.1"), transaction=True)
    assert "max_prepared_statements = 200" in new.files["pgbouncer.ini"]
    assert not configs.prepares_by_transaction("1.20.9")
    assert configs.prepares_by_transaction("1.21.0")
    assert not configs.prepares_by_transaction("unknown")


def test_secrets_are_only_where_they_are_needed():
    assert "secret" not in "".join(launches()["session"].files.values())
    assert launches()["pgpool"].files["pool_passwd"] == "app:TEXTsecret\n"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("PgBouncer 1.18.0\nlibevent 2.1.12-stable\n", "1.18.0"),
        ("HAProxy version 2.6.12-1+deb12u4 2026/10/17", "2.6.12-1+deb12u4"),
        ("pgpool-II version 4.3.5 (tamahomeboshi)", "4.3.5"),
        ("no such option", "unknown"),
    ],
)
def test_version_is_found_in_what_a_program_prints(text, version):
    assert parse_version(text) == version


def test_node_has_room_for_all_clients_and_lets_both_roles_in(short_directory):
    layout = plan_layout(short_directory, nodes=1)
    text = config_text(node_config_text(layout, layout.nodes[0]), Size(900, 300, 300, 2))
    path = short_directory / "node.yaml"
    path.write_text(text)
    path.chmod(0o600)
    config = load(path, environ={})
    assert config.proxy.workers == 2
    assert config.proxy.max_connections >= 300
    assert int(dict(config.postgresql.parameters)["max_connections"]) > 900
    assert config.postgresql.hba[0].endswith("trust")


def test_servers_are_for_all_clients_but_not_for_thousands_of_idle_ones():
    argv = ["--only", "direct", "--only", "metako", "--clients", "500", "--idle", "5000"]
    plan = bench_proxy.plan_of(bench_proxy.arguments_of(argv))
    size, idle = plan.size(), plan.idle_size()
    assert (size.clients_max, size.held_max) == (500, 500)
    assert size.sessions_max > 2 * 500
    assert (idle.clients_max, idle.held_max) == (5000, 200)
    assert 2 * 200 < idle.sessions_max < 1000


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
