"""What a console's RELOAD takes from the configuration file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from metako.config import NodeConfig
from metako.config.advertise import with_advertised_host
from metako.config.load import load
from metako.model.ids import Address
from metako.proxy.limits import Timeouts
from metako.runtime.proxytuning import changed_sections, proxy_config, reload

BASE = """\
node: {name: n1}
cluster: {name: main, bootstrap_node: n1}
"""
Write = Callable[[str], NodeConfig]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(section: str) -> NodeConfig:
        path = tmp_path / "node.yaml"
        path.write_text(BASE + section)
        return load(path, environ={})

    return write


async def test_each_worker_is_given_its_share_of_what_the_file_says(write: Write) -> None:
    running = write("proxy: {workers: 2}\n")
    # The file may ask for another number of workers, but there are two.
    write(
        "proxy: {workers: 3, max_connections: 11, pool: {per_user: 5}, read_timeout: 1500ms,"
        " idle_timeout: 1h, admin_users: [anna]}\n"
    )
    found = await reload(running)
    assert found.notices == ("changes of proxy take a restart",)
    assert found.tuning is not None
    assert (found.tuning.sessions_max, found.tuning.limits.user) == (6, 3)
    assert found.tuning.timeouts == Timeouts(read_s=1.5, idle_s=3600.0)
    assert found.tuning.admins == ("anna",)


async def test_a_file_with_an_error_changes_nothing_and_is_explained(write: Write) -> None:
    running = write("")
    running.path.write_text(BASE + "proxy: {queue_timeout: 5}\n")
    found = await reload(running)
    assert found.tuning is None
    assert "proxy.queue_timeout" in found.error
    running.path.unlink()
    assert "node.yaml" in (await reload(running)).error


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("", []),
        ("proxy: {login_timeout: 5s, write_timeout: 1s, pool: {size: 4}}\n", []),
        ("proxy: {port: 7000}\napi: {port: 9000}\n", ["proxy", "api"]),
        ("logging: {level: DEBUG}\n", ["logging"]),
    ],
)
def test_what_takes_a_restart_is_named(write: Write, section: str, names: list[str]) -> None:
    assert changed_sections(write(""), write(section)) == names


def test_an_address_that_was_found_out_at_start_is_no_change(write: Write) -> None:
    found = write("")
    unknown = Address("0.0.0.0", found.gossip.advertise.port)
    found = replace(found, gossip=replace(found.gossip, advertise=unknown))
    running = with_advertised_host(found, "192.0.2.7")
    assert running != found
    assert changed_sections(running, found) == []


def test_timeouts_are_none_unless_asked_for(write: Write) -> None:
    assert proxy_config(write(""), guard_pid=1).timeouts == Timeouts(login_s=60.0)
