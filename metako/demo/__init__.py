"""A whole cluster on one machine, to look at, to break and to test with.

`cluster.LocalCluster` starts, kills and inspects the nodes; `metako demo` and the integration
tests both use it. Everything here is a client of metako: it knows processes, files, ports and
the HTTP API, and nothing of the protocol between the nodes.
"""
