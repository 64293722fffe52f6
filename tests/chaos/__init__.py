"""Faults on real nodes: real servers in namespaces of their own, and what their network does."""
