"""The command line: arguments in, text and exit codes out, nothing else.

Every command imports what it needs when it runs, so that `metako --version` and `metako status`
do not load database drivers, cryptography or a web server.
"""
