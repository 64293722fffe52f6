"""What the agent tells its proxy workers of roles: the welcome, and answers from the local server.

In: the configuration, and names that clients gave. Out: what `proxy.loginframes` carries. A node
without PostgreSQL has nothing to judge a client by and says so.

Nothing of it is logged or kept here.
"""

from __future__ import annotations

import trio

from metako.config import NodeConfig
from metako.model.rolelogin import RoleLogin
from metako.pgwire.verifier import ITERATIONS_DEFAULT, parse_count
from metako.postgres import sql
from metako.postgres.settings import MAINTENANCE_DATABASE, hba_lines
from metako.postgres.verifiers import READ_TIMEOUT_S, VerifierReader
from metako.proxy.loginframes import Welcome, fitting_hba
from metako.runtime.paths import socket_dir
from metako.runtime.settings import cancel_secret, mock_secret


class RoleSecrets:
    """See the module's docstring."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._reader = None if config.node.witness else VerifierReader(self._connect)

    @property
    def welcome(self) -> Welcome:
        """Return what all answers have in common, and what they are judged by."""
        postgresql = self._config.postgresql
        parameters = dict(postgresql.parameters)
        iterations = parse_count(parameters.get("scram_iterations", "").encode())
        lines = hba_lines(postgresql.superuser, postgresql.hba, admit=True)
        return Welcome(
            mock_secret=mock_secret(self._config),
            cancel_secret=cancel_secret(self._config),
            hba=None if self._reader is None else fitting_hba(lines),
            iterations=iterations or ITERATIONS_DEFAULT,
            md5=parameters.get("password_encryption") == "md5",
        )

    async def answer(self, user: str) -> RoleLogin | None:
        """Return what is stored for a role, or None if it cannot be told now. Never raises."""
        if self._reader is None:
            await trio.lowlevel.checkpoint()
            return None
        return await self._reader.read(user)

    async def run(self) -> None:
        """Read for those who ask until cancelled; then the connection to the server is closed."""
        if self._reader is not None:
            await self._reader.run()

    async def _connect(self) -> sql.Session:
        postgresql = self._config.postgresql
        return await sql.connect(
            socket_dir=socket_dir(self._config),
            port=postgresql.port,
            user=postgresql.superuser,
            database=MAINTENANCE_DATABASE,
            timeout_s=READ_TIMEOUT_S,
        )
