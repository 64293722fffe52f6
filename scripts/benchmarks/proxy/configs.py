"""The configuration of every peer, generated. Pure.

Alike for all: TCP on loopback, in clear but for clients that are to speak TLS; SCRAM for the
application's role and no password for the role without one, towards the client and towards
PostgreSQL. What has no equal in the others, such as health checks and caches of results, is off.
Everything else is the peer's default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
PREPARES_BY_TRANSACTION = (1, 21)  # the first PgBouncer that does
TRANSACTION_POOL = 20  # PgBouncer's own default
CLIENTS_EXTRA = 8  # pgbench looks at the tables before its clients connect


def room(clients: int) -> int:
    """Return how many connections to allow: those that clients have just closed count, too."""
    return 2 * clients + CLIENTS_EXTRA


@dataclass(frozen=True, slots=True)
class Setting:
    """What a configuration is made from."""

    directory: Path  # of this peer alone; its files are here
    port: int
    second_port: int  # of a console that cannot be turned off
    server_port: int
    database: str
    user: str  # logs in by SCRAM
    password: str
    verifier: str  # of `user`, as in pg_authid
    trusted_user: str  # needs no password
    clients_max: int  # that are served at a time
    connections_max: int  # with those that clients have just closed
    version: str = ""  # of the program
    certificate: str = ""  # PEM, shown to clients; "": they are not offered TLS
    key: str = ""  # PEM, of the certificate

    def roles_hba(self) -> str:
        return (
            f"host {self.database} {self.trusted_user} {HOST}/32 trust\n"
            f"host {self.database} {self.user} {HOST}/32 scram-sha-256\n"
        )


@dataclass(frozen=True, slots=True)
class Launch:
    """How a peer is started: its files by name, and arguments after the program."""

    files: Mapping[str, str]
    arguments: Sequence[str]


def prepares_by_transaction(version: str) -> bool:
    """Return whether a PgBouncer of this version has prepared statements without sessions."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= PREPARES_BY_TRANSACTION


def pgbouncer(setting: Setting, *, transaction: bool, tls: bool = False) -> Launch:
    """Return PgBouncer with a pool that is never short of servers, unless by transaction.

    Args:
        tls: whether clients have to speak TLS.
    """
    servers = TRANSACTION_POOL if transaction else setting.clients_max + CLIENTS_EXTRA
    ini = f"""\
[databases]
{setting.database} = host={HOST} port={setting.server_port} dbname={setting.database}
[pgbouncer]
listen_addr = {HOST}
listen_port = {setting.port}
unix_socket_dir =
auth_type = hba
auth_hba_file = {setting.directory}/hba.conf
auth_file = {setting.directory}/users.txt
pool_mode = {"transaction" if transaction else "session"}
default_pool_size = {servers}
max_client_conn = {setting.connections_max}
server_tls_sslmode = disable
ignore_startup_parameters = client_min_messages
logfile = {setting.directory}/pgbouncer.log
log_connections = 0
log_disconnections = 0
"""
    if transaction and prepares_by_transaction(setting.version):
        ini += "max_prepared_statements = 200\n"  # the default from 1.24 on
    if tls:
        ini += "client_tls_sslmode = require\n"
        ini += f"client_tls_cert_file = {setting.directory}/client.crt\n"
        ini += f"client_tls_key_file = {setting.directory}/client.key\n"
    users = f'"{setting.user}" "{setting.verifier}"\n"{setting.trusted_user}" ""\n'
    files = {"pgbouncer.ini": ini, "hba.conf": setting.roles_hba(), "users.txt": users}
    if tls:
        files |= {"client.crt": setting.certificate, "client.key": setting.key}
    return Launch(files, (f"{setting.directory}/pgbouncer.ini",))


def haproxy(setting: Setting) -> Launch:
    """Return HAProxy as a plain relay of bytes."""
    cfg = f"""\
global
    maxconn {setting.connections_max}
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen postgresql
    bind {HOST}:{setting.port}
    server s1 {HOST}:{setting.server_port}
"""
    # -db: stay in the foreground, so that it is this process and no other.
    return Launch({"haproxy.cfg": cfg}, ("-db", "-f", f"{setting.directory}/haproxy.cfg"))


def pgpool(setting: Setting) -> Launch:
    """Return Pgpool-II with a process for each client, without load balancing."""
    conf = f"""\
backend_clustering_mode = 'raw'
listen_addresses = '{HOST}'
port = {setting.port}
socket_dir = '{setting.directory}'
pcp_listen_addresses = '{HOST}'
pcp_port = {setting.second_port}
pcp_socket_dir = '{setting.directory}'
backend_hostname0 = '{HOST}'
backend_port0 = {setting.server_port}
backend_flag0 = 'DISALLOW_TO_FAILOVER'
enable_pool_hba = on
pool_passwd = '{setting.directory}/pool_passwd'
num_init_children = {setting.clients_max + CLIENTS_EXTRA}
max_pool = 1
load_balance_mode = off
memory_cache_enabled = off
health_check_period = 0
sr_check_period = 0
use_watchdog = off
pid_file_name = '{setting.directory}/pgpool.pid'
logdir = '{setting.directory}'
"""
    files = {
        "pgpool.conf": conf,
        "pool_hba.conf": setting.roles_hba(),
        # It cannot pass SCRAM on and must know the password itself.
        "pool_passwd": f"{setting.user}:TEXT{setting.password}\n",
        "pcp.conf": "",
    }
    at = setting.directory
    arguments = ("-n", "-f", f"{at}/pgpool.conf", "-a", f"{at}/pool_hba.conf")
    return Launch(files, (*arguments, "-F", f"{at}/pcp.conf"))
