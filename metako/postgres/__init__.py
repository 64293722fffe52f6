"""PostgreSQL: what is seen of it, what is to be done, and how that is carried out.

The pure half (planning, settings, WAL positions) imports the model only. The driver half finds the
programs, runs them, and talks to the guard that is the server's parent.
"""
