"""Running programs, with the shell as the program."""

# Programs are watched from outside, by /proc and the files that they write.
# ruff: noqa: ASYNC110, ASYNC240

import os
import sys
import time
from pathlib import Path

import pytest
import trio

from metako.postgres.osuser import OsUser, resolve_os_user
from metako.postgres.tools import ToolTimeoutError, run_tool, tool_environment

SELF = OsUser("self", os.getuid(), os.getgid(), tuple(os.getgroups()), switch=False)


async def shell(script, *, user=SELF, timeout_s=10.0, **options):
    return await run_tool(["/bin/sh", "-c", script], user=user, timeout_s=timeout_s, **options)


def is_alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


async def read_pid(path):
    with trio.fail_after(5):
        while not (path.exists() and path.read_text().endswith("\n")):
            await trio.sleep(0.005)
    return int(path.read_text())


async def test_output_input_and_exit_code_come_back():
    result = await shell("cat; echo oops >&2; exit 3", stdin=b"hello")
    assert (result.returncode, result.stdout, result.stderr) == (3, "hello", "oops\n")


async def test_lines_are_handed_out_as_they_come():
    lines = []
    result = await shell("echo one; echo two; printf three", on_line=lines.append)
    assert lines == ["one", "two", "three"]
    assert result.stdout == "one\ntwo\nthree"


async def test_large_output_does_not_block_and_keeps_the_end():
    result = await shell("head -c 3000000 /dev/zero | tr '\\0' x; echo end", timeout_s=30)
    assert len(result.stdout) == 3_000_004
    assert result.stdout.endswith("xend\n")


async def test_environment_is_plain_and_free_of_the_agents_own_settings(monkeypatch):
    monkeypatch.setenv("PGHOST", "elsewhere")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert "PGHOST" not in tool_environment()
    result = await shell('echo "$LC_ALL ${PGHOST-none} $PGPASSFILE"; pwd', env={"PGPASSFILE": "/p"})
    assert result.stdout == "C none /p\n/\n"


async def test_program_that_cannot_be_run_says_so():
    result = await run_tool(["/no/such/program"], user=SELF, timeout_s=10)
    assert result.returncode == 127
    assert "cannot run /no/such/program" in result.stderr


async def test_timeout_ends_the_whole_group(tmp_path):
    pid_file = tmp_path / "pid"
    script = f"trap '' TERM; sleep 60 & echo $! > {pid_file}; echo busy >&2; wait; sleep 60"
    begin = time.monotonic()
    with pytest.raises(ToolTimeoutError, match=r"sh did not end within 0.3 s .*busy"):
        await shell(script, timeout_s=0.3)
    assert time.monotonic() - begin < 5
    assert not is_alive(await read_pid(pid_file))


async def test_cancelling_ends_the_program_before_it_returns(tmp_path):
    pid_file = tmp_path / "pid"
    pid = None
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell, f"echo $$ > {pid_file}; exec sleep 60")
            pid = await read_pid(pid_file)
            assert is_alive(pid)
            scope.cancel()
    assert scope.cancelled_caught
    assert not is_alive(pid)


async def test_child_left_behind_is_ended_with_its_group(tmp_path):
    pid_file = tmp_path / "pid"
    begin = time.monotonic()
    result = await shell(f"sleep 60 & echo $! > {pid_file}; echo done")
    assert result.stdout == "done\n"
    assert time.monotonic() - begin < 5
    assert not is_alive(await read_pid(pid_file))


@pytest.mark.slow
async def test_program_dies_with_the_process_that_started_it(tmp_path):
    pid_file = tmp_path / "pid"
    program = f"""
import os, sys, trio
sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
from metako.postgres.osuser import OsUser
from metako.postgres.tools import run_tool
user = OsUser("self", os.getuid(), os.getgid(), tuple(os.getgroups()), switch=False)
argv = ["/bin/sh", "-c", "echo $$ > {pid_file}; exec sleep 60"]
trio.run(lambda: run_tool(argv, user=user, timeout_s=60))
"""
    async with trio.open_nursery() as nursery:
        run = nursery.start_soon
        process = await trio.lowlevel.open_process([sys.executable, "-c", program])
        run(process.wait)
        pid = await read_pid(pid_file)
        assert is_alive(pid)
        process.kill()
        with trio.fail_after(5):
            while is_alive(pid):
                await trio.sleep(0.005)
    assert not is_alive(pid)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
async def test_root_becomes_the_user_with_all_its_groups():
    user = resolve_os_user(None)
    result = await shell("id -u; id -g; id -G", user=user)
    uid, gid, groups = result.stdout.splitlines()
    assert (int(uid), int(gid)) == (user.uid, user.gid)
    assert set(map(int, groups.split())) == set(user.groups)
