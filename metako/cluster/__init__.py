"""The engine: membership and election composed, and what follows from them. Pure."""
