"""The PostgreSQL wire protocol without I/O: bytes in, values out, and the other way round.

Nothing here knows of sockets, clocks or tasks. Parsers take bytes of strangers and raise
`PgWireError` and nothing else.
"""
