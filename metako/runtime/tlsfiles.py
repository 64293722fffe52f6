"""What the proxy's workers of a node are told of TLS, and whether its files can be used.

In: the configuration. Out: the workers' options, or an error that says what to do.
"""

from __future__ import annotations

from metako.config import NodeConfig
from metako.model.errors import ConfigError
from metako.proxy.tlsoptions import TlsOptions


def tls_options(config: NodeConfig) -> TlsOptions:
    """Return what the proxy of this node does of TLS."""
    tls, proxy = config.tls, config.proxy
    return TlsOptions(
        cert_file=tls.cert_file if tls.enabled else None,
        key_file=tls.key_file if tls.enabled else None,
        client_ca_file=tls.client_ca_file if tls.enabled else None,
        required=tls.required,
        server_mode=proxy.server_tls,
        server_ca_file=proxy.server_ca_file,
    )


def check_tls_files(config: NodeConfig) -> None:
    """Load the files as a worker does, if there are any.

    Raises:
        ConfigError: they cannot be used; the text says what to do.
    """
    options = tls_options(config)
    if not config.proxy.enabled or not options.files:
        return
    # Here, because an agent without TLS has no use for what a worker is made of.
    from metako.proxy.encryption import Encryption
    from metako.proxy.tls import TlsError

    try:
        Encryption(options)
    except TlsError as error:
        raise ConfigError(
            f"{config.path}: the proxy cannot use its TLS files: {error}; see `tls` and "
            "`proxy.server_ca_file`. Files are PEM, the key is the certificate's and has no "
            "password, and the user that runs metako may read them"
        ) from error
