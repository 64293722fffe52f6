"""The HTTP API of one node: what it shows, how it is served, and how a program asks for it.

`view` and `health` are pure functions of a `NodeStatus`; `app` maps paths to them; `server` puts
the app on a port; `client` is the other end, for the command line. Import the module you need:
the client must not pull in a web server.
"""
