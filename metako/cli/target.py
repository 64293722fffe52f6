"""Which node a command talks to, and where its files and ports are, from options or a file.

In: the options `--config` and `--api`, or neither. Out: the base URL of an API, the path of the
agent's socket, the URL for psql, the loaded configuration.

Invariant: a wildcard address, which can be listened on but not connected to, never leaves here.
Deliberately unaware of what the commands do with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from metako.model.errors import UsageError
from metako.model.ids import Address

if TYPE_CHECKING:
    from metako.config.node_config import NodeConfig  # loads what `--api` has no use for

DEFAULT_CONFIG = Path("configs/config.yaml")
DEFAULT_API = "http://127.0.0.1:8008"
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # replaced here


def load_config(path: Path | None) -> NodeConfig:
    """Return the configuration in `path`, or in `configs/config.yaml`.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    from metako.config import load

    return load(path or DEFAULT_CONFIG)


def api_url(config: Path | None, api: str | None) -> str:
    """Return the URL of the API to ask: `--api`, else the file's, else the default port.

    Raises:
        UsageError: both options were given.
        ConfigError: the file is missing or wrong.
    """
    if api is not None:
        if config is not None:
            raise UsageError("--api and --config both name a node: give one of them")
        return api
    # Without any option, a file that is not there is no mistake: the agent may be installed with
    # its file elsewhere, on the default port.
    if config is None and not DEFAULT_CONFIG.exists():
        return DEFAULT_API
    return f"http://{connectable(load_config(config).api.listen)}"


def agent_socket(config: Path | None) -> Path:
    """Return where the agent of the node in `config` takes orders.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    from metako.runtime import paths

    return paths.agent_socket(load_config(config))


def psql_url(config: NodeConfig, *, with_password: bool) -> str:
    """Return the URL under which applications reach the cluster through this node's proxy.

    Raises:
        UsageError: the node has no proxy, or no password is configured and one was asked for.
    """
    if not config.proxy.enabled:
        raise UsageError(f"{config.path}: the proxy of this node is off (proxy.enabled: false)")
    address = connectable(config.proxy.advertise or config.proxy.listen)
    bootstrap = config.postgresql.bootstrap
    user = bootstrap.username or config.postgresql.superuser
    secret = ""
    if with_password:
        if bootstrap.password is None:
            raise UsageError(f"{config.path}: postgresql.bootstrap.password is not set")
        secret = f":{quote(bootstrap.password, safe='')}"
    database = bootstrap.database or "postgres"
    return f"postgresql://{quote(user, safe='')}{secret}@{address}/{quote(database, safe='')}"


def connectable(address: Address) -> Address:
    """Return an address to connect to for one that is listened on."""
    return Address(_WILDCARDS.get(address.host, address.host), address.port)
