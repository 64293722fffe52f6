"""Programs that fail on demand, with programs of this test in the place of PostgreSQL's."""

import subprocess

import pytest

from chaos.wrappers import Wrappers


@pytest.fixture
def wrappers(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    for name in ("pg_rewind", "pg_basebackup", "postgres"):
        (real / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/done\nsleep "$1"\n')
        (real / name).chmod(0o755)
    made = Wrappers(tmp_path / "bin", real)
    made.make()
    return made


def call(wrappers, name, *arguments):
    program = wrappers.directory / name
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def done(wrappers):
    path = wrappers.directory.parent / "done"
    return path.read_text().splitlines() if path.exists() else []


def test_a_program_runs_as_ever_when_nothing_is_to_fail(wrappers):
    assert call(wrappers, "pg_rewind", "0", "a b").returncode == 0
    assert call(wrappers, "postgres", "0").returncode == 0
    assert done(wrappers) == ["pg_rewind 0 a b", "postgres 0"]


def test_a_rewind_does_its_work_and_fails_as_often_as_it_was_told_to(wrappers):
    wrappers.fail("pg_rewind", 2)
    codes = [call(wrappers, "pg_rewind", "0").returncode for _ in range(3)]
    assert codes == [1, 1, 0]
    assert len(done(wrappers)) == 3
    assert wrappers.failures("pg_rewind") == 0


def test_a_base_backup_is_cut_off_in_the_middle(wrappers):
    wrappers.fail("pg_basebackup", 1)
    result = call(wrappers, "pg_basebackup", "30")
    assert result.returncode == 1
    assert "told to fail" in result.stderr
    assert done(wrappers) == ["pg_basebackup 30"]


def test_a_question_for_the_version_is_always_answered(wrappers):
    wrappers.fail("pg_rewind", 1)
    call(wrappers, "pg_rewind", "--version")
    assert wrappers.failures("pg_rewind") == 1


def test_the_server_becomes_another_program_with_more_environment_under_the_same_pid(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    (real / "postgres").write_text('#!/bin/sh\necho "$$ $MORE $0 $*"\n')
    (real / "postgres").chmod(0o755)
    wrappers = Wrappers(tmp_path / "bin", real, {"MORE": "two words"})
    wrappers.make()
    with subprocess.Popen(
        [wrappers.directory / "postgres", "-D", "x"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.communicate(timeout=30)[0] == f"{server.pid} two words {real}/postgres -D x\n"
