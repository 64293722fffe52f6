"""A whole node whose proxy does TLS, as psql sees it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import trio
from own_cluster import own_cluster

from certificates import Authority
from metako.demo.cluster import LocalCluster
from metako.demo.layout import APP_USER, DATABASE
from metako.postgres.install import find_installation
from metako.postgres.osuser import resolve_os_user

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ANSWER_TIMEOUT_S = 60.0


class TlsCluster(LocalCluster):
    """Its nodes have a certificate and want their clients to see it."""

    @property
    def authority(self) -> Path:
        return self.layout.directory / "authority.crt"

    def write_files(self) -> None:
        super().write_files()
        authority = Authority(self.layout.directory)
        certificate = authority.sign("proxy")
        for node in self.layout.nodes:
            shutil.copy(certificate, node.directory / "proxy.crt")
            shutil.copy(certificate.with_suffix(".key"), node.directory / "proxy.key")
            with node.config_path.open("a") as file:
                file.write(
                    "tls:\n  enabled: true\n  required: true\n"
                    "  cert_file: proxy.crt\n  key_file: proxy.key\n"
                )


async def test_psql_verifies_a_node_and_binds_its_login(
    test_bindir: str | None, keep_directories: bool
) -> None:
    running = own_cluster(test_bindir, nodes=1, keep=keep_directories, make=TlsCluster)
    async with running as cluster:
        assert isinstance(cluster, TlsCluster)
        layout = cluster.layout
        user = resolve_os_user(layout.os_user)
        installation = find_installation(test_bindir, user, layout.directory / "cache")
        words = {
            "host": layout.nodes[0].host,
            "port": layout.nodes[0].proxy_port,
            "user": APP_USER,
            "dbname": DATABASE,
        }

        async def psql(**how: str) -> str:
            where = " ".join(f"{key}={value}" for key, value in {**words, **how}.items())
            with trio.fail_after(ANSWER_TIMEOUT_S):
                done = await trio.run_process(
                    [installation.program("psql"), "-X", "-At", "-c", "select 41 + 1", where],
                    env={"PATH": os.environ["PATH"], "PGPASSWORD": layout.app_password},
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                )
            return (done.stdout + done.stderr).decode().strip()

        verified = {"sslmode": "verify-full", "sslrootcert": str(cluster.authority)}
        assert await psql(**verified, channel_binding="require") == "42"
        assert "serves clients with TLS only" in await psql(sslmode="disable")
