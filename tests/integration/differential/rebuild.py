"""pg_rewind and pg_basebackup on real servers, used as metako does; each tells its verdict."""

from __future__ import annotations

from differential.programs import DATABASE, SUPERUSER, Programs
from differential.server import RealServer

_NOT_NEEDED = "no rewind required"


def rewind(programs: Programs, server: RealServer, source: RealServer) -> tuple[str, str]:
    """Rewind a stopped server, after a recovery of its own if it was not shut down cleanly.

    Return the verdict (done, not required, failed, recovery failed) and what the program printed.
    """
    if not _is_clean(programs, server):
        server.standby_signal(False)  # single-user mode refuses it
        server.upstream = None
        server.write_conf()
        options = ("-D", str(server.data), "-c", f"config_file={server.conf}")
        status, out = programs.run("postgres", "--single", *options, DATABASE)
        if status != 0:
            server.standby_signal()
            return "recovery failed", out
    dsn = f"{source.conninfo_to(source)} dbname={DATABASE}"
    options = ("--source-server", dsn, "--no-ensure-shutdown", "--no-sync")
    status, out = programs.run("pg_rewind", f"--target-pgdata={server.data}", *options)
    server.standby_signal()
    if status != 0:
        return "failed", out
    return "not required" if _NOT_NEEDED in out else "done", out


def _is_clean(programs: Programs, server: RealServer) -> bool:
    _, text = programs.run("pg_controldata", str(server.data))
    state = text.split("cluster state:")[1].splitlines()[0].strip()
    return state in ("shut down", "shut down in recovery")


def clone(programs: Programs, server: RealServer, source: RealServer) -> tuple[str, str]:
    """Replace the data of a stopped server; return ok or failed, and what the program printed."""
    server.remove_data()
    dsn = f"host={source.sockets} port={source.port} user={SUPERUSER}"
    options = ("-D", str(server.data), "-d", dsn, "--checkpoint=fast", "--no-sync")
    status, out = programs.run("pg_basebackup", *options)
    # It leaves the source at the begin of a segment, where nobody can tell whether a standby has
    # received anything.
    source.query("checkpoint")
    return "ok" if status == 0 else "failed", out
