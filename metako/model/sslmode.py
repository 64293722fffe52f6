"""How much TLS a connection to a server has to have. The words and what they mean are libpq's."""

from __future__ import annotations

import enum


class SslMode(enum.StrEnum):
    """From none to all; each one asks for what those before it ask for, but for the first."""

    DISABLE = "disable"
    PREFER = "prefer"  # asked for, and done without where it is not to be had
    REQUIRE = "require"  # with any certificate
    VERIFY_CA = "verify-ca"  # with one that is vouched for
    VERIFY_FULL = "verify-full"  # with one that is the host's own, too

    @property
    def insists(self) -> bool:
        """Whether nothing may be said in clear."""
        return self not in (SslMode.DISABLE, SslMode.PREFER)

    @property
    def verifies(self) -> bool:
        """Whether somebody has to vouch for the certificate."""
        return self in (SslMode.VERIFY_CA, SslMode.VERIFY_FULL)
