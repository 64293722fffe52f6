"""metako: gossip-based, peer-to-peer high availability for PostgreSQL."""

__version__ = "0.1.0"
