"""The pure half around PostgreSQL's files: WAL ends, histories, settings, names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from metako.model.errors import ConfigError
from metako.model.ids import Address, NodeId, TimelineId
from metako.model.lsn import Lsn, parse_lsn
from metako.model.postgres import SyncSetting
from metako.model.timeline import HistoryStep
from metako.postgres import history, wal
from metako.postgres.settings import (
    Bootstrap,
    ServerSettings,
    bootstrap_sql,
    config_of,
    conninfo,
    quote,
    render,
    strip_managed,
)
from metako.postgres.steps import ServerConfig, UpstreamAddress
from metako.postgres.syncnames import application_name, catching_up_name, render_sync

SEGMENT = 16 << 20
SECRET = b"s"


def record(lsn, total, *, switch=False):
    return wal.WalRecord(parse_lsn(lsn), Lsn(0), total, switch)


@pytest.mark.parametrize(
    ("given", "end"),
    [
        (record("0/1000028", 114), "0/10000A0"),  # padded to eight bytes
        (record("0/1001F00", 256), "0/1002000"),  # ends on a page boundary
        (record("0/1001F00", 257), "0/1002020"),  # 8 bytes behind the next page's short header
        (record("0/1001F00", 256 + 8168 + 8), "0/1004020"),  # two headers on its way
        (record("0/1FFFF00", 264), "0/2000030"),  # a segment begins with a long header
        (record("0/1000100", 24, switch=True), "0/2000000"),
        (record("0/1FFFFE8", 24, switch=True), "0/2000000"),
    ],
)
def test_a_record_ends_where_its_bytes_laid_over_pages_end(given, end):
    assert wal.record_end(given, SEGMENT) == parse_lsn(end)


def test_a_record_begins_behind_the_header_of_its_page():
    assert wal.skip_header(parse_lsn("0/1000010"), SEGMENT) == parse_lsn("0/1000010")
    assert wal.skip_header(parse_lsn("0/1002000"), SEGMENT) == parse_lsn("0/1002018")
    assert wal.skip_header(parse_lsn("0/2000000"), SEGMENT) == parse_lsn("0/2000028")


def test_lines_of_pg_waldump_are_read():
    line = (
        "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/01000028, "
        "prev 0/01000020, desc: CHECKPOINT_SHUTDOWN redo 0/1000028; tli 1; prev tli 1"
    )
    assert wal.parse_record(line) == wal.WalRecord(
        parse_lsn("0/1000028"), parse_lsn("0/1000020"), 114, is_switch=False
    )
    switch = line.replace("CHECKPOINT_SHUTDOWN", "SWITCH")
    assert wal.parse_record(switch).is_switch
    assert wal.parse_record("first record is after 0/1, at 0/2, skipping over 1 byte") is None


def shown(*lsns):
    """Return what `pg_waldump` says of records that begin there, with what it says besides."""
    record = (
        "rmgr: Heap        len (rec/tot):     54/    54, tx:        731, lsn: {}, "
        "prev 0/01000020, desc: INSERT off 2 flags 0x00"
    )
    return [
        "first record is after 0/1000000, at 0/1000028, skipping over 40 bytes",
        *(record.format(lsn) for lsn in lsns),
        "pg_waldump: error: error in WAL record at 0/2000000: invalid record length",
    ]


@pytest.mark.parametrize(
    ("lsns", "ends"),
    [
        ((), []),
        (("0/01000028",), ["0/1000028"]),
        (("0/01000028", "0/01000060"), ["0/1000028", "0/1000060"]),
        (("0/01000028", "0/01000060", "0/01000098"), ["0/1000028", "0/1000098"]),
    ],
)
def test_of_what_pg_waldump_shows_the_first_and_the_last_record_are_read(lsns, ends):
    assert [record.lsn for record in wal.ends_of(shown(*lsns))] == [parse_lsn(x) for x in ends]


def test_the_quiet_run_names_the_last_record():
    text = "pg_waldump: error: error in WAL record at 0/1B64260: invalid record length at 0/1B642"
    assert wal.parse_error_lsn(text) == parse_lsn("0/1B64260")
    assert wal.parse_error_lsn("could not find a valid record after 0/1") is None


CONTROL = """
Database system identifier:           7520000000000000001
Database cluster state:               {state}
Latest checkpoint's REDO location:    0/50000A0
Latest checkpoint's TimeLineID:       3
Minimum recovery ending location:     {least}
Min recovery ending loc's timeline:   {tli}
Bytes per WAL segment:                16777216
Data page checksum version:           1
wal_log_hints setting:                off
max_connections setting:              40
max_worker_processes setting:         8
max_wal_senders setting:              10
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
"""


@pytest.mark.parametrize(
    ("state", "least", "clean"),
    [
        ("shut down", "0/0", True),
        ("shut down in recovery", "0/5001D68", True),
        # A crash recovery that was told to stop: its WAL is there, and replayed to nowhere.
        ("shut down in recovery", "0/0", False),
        ("in crash recovery", "0/0", False),
        ("in archive recovery", "0/5001D68", False),
        ("in production", "0/0", False),
    ],
)
def test_a_shutdown_is_clean_only_after_a_recovery_that_has_come_somewhere(state, least, clean):
    tli = 0 if least == "0/0" else 3
    found = wal.parse_control(CONTROL.format(state=state, least=least, tli=tli))
    assert found.clean is clean
    assert found.min_recovery_lsn == parse_lsn(least)


def test_a_backup_label_names_where_recovery_begins():
    label = (
        "START WAL LOCATION: 0/2000028 (file 000000030000000000000002)\n"
        "CHECKPOINT LOCATION: 0/2000060\n"
    )
    assert wal.parse_backup_label(label) == (3, parse_lsn("0/2000028"))
    assert wal.parse_backup_label(label + "START TIMELINE: 4\n")[0] == 4


FILES = {
    2: "1\t0/3000000\tno recovery target specified\n",
    3: history.PLACEHOLDER,
    4: "1\t0/3000000\tx\n2\t0/5000000\ty\n",
    5: "1\t0/4000000\tz\n",
}


def test_a_chain_is_read_from_the_history_file():
    assert history.own_chain(TimelineId(4), FILES) == (
        HistoryStep(TimelineId(1), Lsn(0)),
        HistoryStep(TimelineId(2), parse_lsn("0/3000000")),
        HistoryStep(TimelineId(4), parse_lsn("0/5000000")),
    )
    assert history.own_chain(TimelineId(1), FILES) == (HistoryStep(TimelineId(1), Lsn(0)),)
    assert history.own_chain(TimelineId(0), FILES) == ()


def test_a_placeholder_descends_from_nothing():
    assert [c.tli for c in history.children_of(TimelineId(1), FILES)] == [5, 2]
    assert [c.tli for c in history.children_of(TimelineId(2), FILES)] == [4]
    assert history.is_placeholder(FILES[3])


@pytest.mark.parametrize(
    ("name", "tli"),
    [
        ("00000003.history", 3),
        ("0000000A000000010000002B", 10),
        ("000000040000000100000001.partial", 4),
        ("archive_status", None),
        ("00000002.history.new", None),
    ],
)
def test_the_timeline_of_a_file_is_in_its_name(name, tli):
    assert history.timeline_of_file(name) == tli


def test_segment_numbers_count_over_the_low_half():
    assert history.segment_number("000000010000000100000002", SEGMENT) == 258


SETTINGS = ServerSettings(
    node=NodeId("a"),
    data_dir=PurePosixPath("/d"),
    state_dir=PurePosixPath("/s"),
    socket_dir=PurePosixPath("/r"),
    listen="*",
    port=5432,
    secret=SECRET,
    hba=("host all all all md5",),
    parameters=(("max_connections", "40"),),
)
UP = UpstreamAddress(NodeId("b"), Address("h", 1))


@pytest.mark.parametrize(
    "config",
    [
        ServerConfig(),
        ServerConfig(UP),
        ServerConfig(replace(UP, counts=False)),
        ServerConfig(None, SyncSetting((NodeId("b"), NodeId("c'\"")), 2), admit=False),
    ],
)
def test_what_was_rendered_is_found_in_the_file_again(config):
    rendered = render(SETTINGS, config)
    assert config_of(rendered.conf) == (config, rendered.digest)


def test_who_catches_up_has_a_name_that_is_in_no_setting_and_no_slot():
    nodes = (NodeId("a"), NodeId("b"), SETTINGS.node)
    listed = render(SETTINGS, ServerConfig(None, SyncSetting(nodes, 4))).conf
    name = catching_up_name(SECRET, SETTINGS.node)
    conf = render(SETTINGS, ServerConfig(replace(UP, counts=False))).conf
    assert name in conf
    assert name not in listed
    assert application_name(SECRET, SETTINGS.node) not in conf
    assert "primary_slot_name = ''" in conf


def test_the_digest_covers_pg_hba():
    closed = ServerConfig(admit=False)
    assert render(SETTINGS, ServerConfig()).digest != render(SETTINGS, closed).digest
    assert "md5" in render(SETTINGS, ServerConfig()).hba
    assert "md5" not in render(SETTINGS, closed).hba


def test_values_below_those_of_the_wal_are_raised():
    conf = render(SETTINGS, ServerConfig(), (("max_connections", 100),)).conf
    assert "max_connections = '100'" in conf
    assert "max_connections = '40'" in render(SETTINGS, ServerConfig()).conf


@pytest.mark.parametrize(
    "parameter", [("fsync", "off"), ("full_page_writes", "No"), ("primary_conninfo", "x")]
)
def test_parameters_that_break_a_promise_are_refused(parameter):
    with pytest.raises(ConfigError, match=parameter[0]):
        render(replace(SETTINGS, parameters=(parameter,)), ServerConfig())


def test_quoting_survives_both_parsers():
    assert quote("a'b\\c") == "'a''b\\\\c'"
    assert conninfo({"host": "a'b\\c"}) == "host='a\\'b\\\\c'"
    with pytest.raises(ConfigError):
        quote("a\nport = 1")


def test_alter_system_does_not_override_what_is_managed():
    text = "# Do not edit\nwork_mem = '8MB'\nsynchronous_standby_names = ''\nPort=1\n"
    assert strip_managed(text) == "# Do not edit\nwork_mem = '8MB'\n"


def test_names_differ_by_node_and_secret_and_are_stable():
    name = application_name(SECRET, NodeId("a"))
    assert name == application_name(SECRET, NodeId("a"))
    assert len(name) == len("metako_") + 20
    assert name != application_name(b"t", NodeId("a"))
    assert name != application_name(SECRET, NodeId("b"))


def test_missing_standbys_are_made_up_by_placeholders():
    name = application_name(SECRET, NodeId("b"))
    assert render_sync(SECRET, SyncSetting()) == ""
    assert render_sync(SECRET, SyncSetting((NodeId("b"),), 1)) == f'ANY 1 ("{name}")'
    assert render_sync(SECRET, SyncSetting((NodeId("b"),), 2)) == (
        f'ANY 2 ("{name}", "metako_nobody_1")'
    )


def test_bootstrap_statements_quote_names_and_passwords():
    bootstrap = Bootstrap("p'w", user='u"x', password="a'b", database="db")
    statements = bootstrap_sql(replace(SETTINGS, bootstrap=bootstrap))
    assert "CREATE ROLE \"u\"\"x\" LOGIN PASSWORD 'a''b'" in statements
    assert 'CREATE DATABASE "db" OWNER "u""x"' in statements
    assert "ALTER ROLE \"postgres\" PASSWORD 'p''w'" in statements
    with pytest.raises(ConfigError):
        bootstrap_sql(replace(SETTINGS, bootstrap=Bootstrap("a\nb")))


def test_files_of_skipped_numbers_and_of_ancestors_are_missing_before_a_promotion():
    files = {5: "1\t0/3000000\tx\n2\t0/5000000\ty\n"}
    missing = history.missing_histories(TimelineId(5), TimelineId(8), files)
    assert list(missing) == [2, 3, 4, 6, 7]
    assert history.parse_history(missing[2]) == history.parse_history(files[5])[:1]
    assert [n for n, text in missing.items() if history.is_placeholder(text)] == [3, 4, 6, 7]


def test_only_a_descendant_may_have_been_gone_over_to():
    child = {3: "1\t0/3000000\tx\n2\t0/5000000\ty\n"}
    assert history.may_have_gone_over(TimelineId(2), child) == 3
    assert history.may_have_gone_over(TimelineId(1), child) == 3  # a grandchild
    assert history.may_have_gone_over(TimelineId(3), child) is None
    cousin = {4: "1\t0/3000000\tx\n3\t0/5000000\ty\n", 5: history.PLACEHOLDER}
    assert history.may_have_gone_over(TimelineId(2), cousin) is None


def test_no_history_file_is_written_twice():
    missing = history.missing_histories(TimelineId(4), TimelineId(6), FILES)
    assert missing == {}
    assert history.missing_histories(TimelineId(1), TimelineId(2), {}) == {}
