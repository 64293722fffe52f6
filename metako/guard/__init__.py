"""The fence: a tiny process that is the parent of PostgreSQL and ends it when the lease ends.

It runs on its own (`python -I -S <this directory> …`), imports the standard library and this
package only, and knows nothing of gossip, elections or SQL. `metako.postgres.process` is its
client. See `program` for the theory of operation.
"""
