"""What a node tells about itself: log lines, metrics, and the periodic status line.

Events come in, and nothing here ever steers anything. Only `metako.observability.logs` knows the
logging library.
"""
