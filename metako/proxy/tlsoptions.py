"""What the configuration says of TLS, as a worker gets it on its command line.

Apart from what is done with it: the agent, which only hands it on, need not load that.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from metako.model.sslmode import SslMode


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """Paths are absolute: a worker has a working directory of its own."""

    cert_file: Path | None = None  # shown to clients; None: they are not offered TLS
    key_file: Path | None = None
    client_ca_file: Path | None = None  # None: clients are not asked for certificates
    required: bool = False  # clients without TLS are refused
    server_mode: SslMode = SslMode.DISABLE
    server_ca_file: Path | None = None  # of those who vouch for servers

    @property
    def files(self) -> tuple[Path, ...]:
        found = (self.cert_file, self.key_file, self.client_ca_file, self.server_ca_file)
        return tuple(path for path in found if path is not None)

    def to_text(self) -> str:
        """Return what `from_text` reads."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_text(cls, text: str) -> TlsOptions:
        """Raises `ValueError` or `TypeError` if it is not what `to_text` has written."""
        values = json.loads(text)
        for key, value in values.items():
            if key.endswith("_file") and value is not None:
                values[key] = Path(value)
        values["server_mode"] = SslMode(values["server_mode"])
        return cls(**values)


NO_TLS = TlsOptions()
