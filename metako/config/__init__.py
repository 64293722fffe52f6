"""One YAML file a node: read, checked as a whole, and turned into one immutable value.

`load` reads it, `check_runnable` adds what must be true before the node starts,
`resolve_advertised` finds the node's own address where the file does not tell it.
"""

from metako.config.advertise import resolve_advertised
from metako.config.check import check_runnable
from metako.config.keys import generate_key
from metako.config.load import load
from metako.config.node_config import NodeConfig

DEFAULT_CONFIG_PATH = "configs/config.yaml"

__all__ = [
    "DEFAULT_CONFIG_PATH",
    "NodeConfig",
    "check_runnable",
    "generate_key",
    "load",
    "resolve_advertised",
]
