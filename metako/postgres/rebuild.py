"""Making and replacing a data directory: initdb, base backup, rewind.

Invariants: nothing runs on the directory meanwhile; the directory that a clone replaces is only
renamed; WAL that a rewind discards is copied first; a rewind that was begun and not finished leaves
the mark that makes the data *tainted*; whatever is put in place has a new `data_id`.

Each is long and can be cancelled; the program that works for it is gone before the call returns,
and what it left is either removed by the next try or tainted.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import trio

from metako.model.errors import MetakoError
from metako.model.lsn import Lsn
from metako.model.postgres import Upstream
from metako.model.timeline import chain, on_record
from metako.postgres.execute import Executor, StepError
from metako.postgres.facts import Facts
from metako.postgres.files import ServerFiles
from metako.postgres.history import own_chain
from metako.postgres.install import Installation
from metako.postgres.osuser import OsUser
from metako.postgres.position import WalReader
from metako.postgres.process import server_processes
from metako.postgres.settings import (
    MAINTENANCE_DATABASE,
    ServerSettings,
    bootstrap_sql,
    render,
    upstream_conninfo,
)
from metako.postgres.steps import ServerConfig, UpstreamAddress
from metako.postgres.tools import ToolResult, run_tool

INITDB_TIMEOUT_S = 300.0
SINGLE_USER_TIMEOUT_S = 3600.0  # crash recovery of a large server
CLONE_TIMEOUT_S = 24 * 3600.0
REWIND_TIMEOUT_S = 4 * 3600.0
REACH_TIMEOUT_S = 3.0
ERROR_TEXT_MAX = 300
_NOT_NEEDED = "no rewind required"


class Rebuilder:
    """See the module's docstring. Not for use by two tasks at a time."""

    def __init__(
        self,
        *,
        settings: ServerSettings,
        files: ServerFiles,
        installation: Installation,
        user: OsUser,
        reader: WalReader,
        facts: Facts,
        executor: Executor,
    ) -> None:
        self.settings = settings
        self._files = files
        self._installation = installation
        self._user = user
        self._reader = reader
        self._facts = facts
        self._executor = executor

    async def _run(
        self, program: str, *arguments: str, timeout_s: float, stdin: bytes = b""
    ) -> ToolResult:
        path = str(self._installation.program(program))
        result = await run_tool(
            [path, *arguments], user=self._user, timeout_s=timeout_s, stdin=stdin
        )
        if result.returncode != 0:
            raise StepError(f"{program} failed ({result.returncode}): {_last_words(result)}")
        return result

    def _check_nothing_runs(self) -> None:
        if pids := server_processes(self._files.data):
            raise StepError(f"processes still use {self._files.data}: {pids[:5]}")

    # ---------------------------------------------------------------- initdb

    async def initdb(self) -> None:
        """Create the database cluster beside its place and rename it when it is complete."""
        directory = await trio.to_thread.run_sync(self._files.prepare_clone)
        try:
            await self._run(
                "initdb",
                f"--pgdata={directory}",
                f"--username={self.settings.superuser}",
                "--encoding=UTF8",
                f"--locale={self.settings.bootstrap.locale}",
                "--data-checksums",
                "--auth-local=peer",
                "--auth-host=scram-sha-256",
                timeout_s=INITDB_TIMEOUT_S,
            )
            # Roles now, in single-user mode: every later start is one as a standby, and a
            # standby can only attach to a primary that has the replication role.
            script = "\n".join(bootstrap_sql(self.settings)) + "\n"
            result = await self._run(
                "postgres",
                "--single",
                "-D",
                str(directory),
                "-c",
                "exit_on_error=true",
                "-c",
                "log_statement=none",
                "-c",
                "log_min_error_statement=panic",  # a password is no matter for a log
                MAINTENANCE_DATABASE,
                timeout_s=INITDB_TIMEOUT_S,
                stdin=script.encode(),
            )
            if "ERROR:" in result.stderr or "FATAL:" in result.stderr:
                raise StepError(f"the first roles could not be made: {_last_words(result)}")
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_remove_tree, directory)
            raise
        await self._put_in_place(directory)

    async def _put_in_place(self, directory: Path) -> None:
        def exchange() -> None:
            self._files.write(directory / "standby.signal", "")
            self._files.complete_clone()
            self._files.swap_clone()

        # Before as well: no observation may show the old position with the new identity.
        self._facts.data_replaced()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(exchange)
        self._facts.data_replaced()

    # ---------------------------------------------------------------- clone

    async def clone(self, upstream: UpstreamAddress) -> None:
        """Replace the data directory by a base backup; the old one is kept until it streams."""
        self._check_nothing_runs()
        directory = await trio.to_thread.run_sync(self._files.prepare_clone)
        await self._run(
            "pg_basebackup",
            f"--pgdata={directory}",
            "--dbname",
            upstream_conninfo(
                self.settings, upstream.address, name=f"metako clone {self.settings.node}"
            ),
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-slot",
            "--no-password",
            timeout_s=CLONE_TIMEOUT_S,
        )
        self._check_nothing_runs()
        await self._put_in_place(directory)
        self._facts.rewind_failed = False
        self._facts.delete_superseded = True

    # ---------------------------------------------------------------- rewind

    async def rewind(self, upstream: Upstream) -> None:
        """Take the data back to the fork and on to the history of `upstream`.

        Raises:
            StepError: it failed. If the upstream cannot be reached nothing was changed; else
                `rewind_failed` is set, and the data tainted if it was touched.
        """
        self._check_nothing_runs()
        await self._check_reachable(upstream)
        self._facts.forget_position()  # recovery to a clean shutdown appends a record
        try:
            await self._rewind(upstream)
        except (MetakoError, OSError) as error:
            self._facts.rewind_failed = True
            self._facts.control = None
            raise StepError(str(error)) from error

    async def _check_reachable(self, upstream: Upstream) -> None:
        """Make sure of the source before the data are given up for the time of a rewind.

        Directories that are being rewound vouch for nothing. Those of the last node that has some
        commit would be lost to an election because a host was asked that is gone.
        """
        address = upstream.address
        try:
            with trio.fail_after(REACH_TIMEOUT_S):
                stream = await trio.open_tcp_stream(address.host, address.port)
                await stream.aclose()
        except (OSError, trio.TooSlowError) as error:
            why = str(error) or f"no answer within {REACH_TIMEOUT_S:g} s"
            raise StepError(f"{upstream.node} at {address} cannot be reached: {why}") from error

    async def _rewind(self, upstream: Upstream) -> None:
        control = await self._reader.control()
        if not (control.checksums or control.wal_log_hints):
            raise StepError("pg_rewind needs data checksums or wal_log_hints")
        fork = self._fork_of(upstream)
        await trio.to_thread.run_sync(
            self._files.save_diverged, int(fork), control.segment_size, abandon_on_cancel=False
        )
        if not control.clean:
            await self._recover_alone()
        await trio.to_thread.run_sync(self._files.taint)
        result = await self._run(
            "pg_rewind",
            f"--target-pgdata={self._files.data}",
            "--source-server",
            upstream_conninfo(
                self.settings,
                upstream.address,
                name=f"metako rewind {self.settings.node}",
                database=MAINTENANCE_DATABASE,
            ),
            "--no-ensure-shutdown",
            timeout_s=REWIND_TIMEOUT_S,
        )
        if _NOT_NEEDED in result.stdout + result.stderr:
            # It compares timeline numbers; we know that rows differ behind them.
            raise StepError("pg_rewind saw no difference where the histories differ")
        await trio.to_thread.run_sync(self._finish_rewind)
        self._facts.data_replaced()
        self._facts.rewind_failed = False

    def _finish_rewind(self) -> None:
        self._files.ensure_standby_signal()
        self._files.new_data_id()
        self._files.clear_taint()

    def _fork_of(self, upstream: Upstream) -> Lsn:
        """Return the LSN from which on our WAL is not, or may not be, the upstream's."""
        shared = Lsn(0)
        entries = chain(upstream.timelines, upstream.tip)
        lineage = {entry.tli: i for i, entry in enumerate(entries)}
        own = own_chain(self._facts.timeline, self._files.histories())
        for step in on_record(own, entries):
            index = lineage.get(step.tli)
            if index is None:
                break
            after = entries[index + 1 :]
            shared = after[0].begin_lsn if after else step.begin_lsn
        return shared

    async def _recover_alone(self) -> None:
        """Run crash recovery to a clean shutdown, which pg_rewind demands.

        Without standby.signal, because single-user mode refuses it. It is back before this
        returns, and a start by somebody else meanwhile would meet the lock file.
        """
        if not self._files.read_conf():
            self._files.write_settings(render(self.settings, ServerConfig()))
        self._files.remove_standby_signal()
        try:
            await self._run(
                "postgres",
                "--single",
                *self._executor.server_options(),
                "-c",
                "archive_mode=off",
                MAINTENANCE_DATABASE,
                timeout_s=SINGLE_USER_TIMEOUT_S,
            )
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._files.ensure_standby_signal)


def _remove_tree(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)


def _last_words(result: ToolResult) -> str:
    lines = [line for line in (result.stderr or result.stdout).splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower() or "fatal" in line.lower()]
    return " ".join((telling or lines or ["no output"])[-1].split())[:ERROR_TEXT_MAX]
