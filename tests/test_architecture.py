"""The layering of the design, read from the code's own imports and never from what it says.

Four rules, each a table below: which package may import which; which packages are pure; which
third-party libraries belong to whom; how long files and functions may be. Every rule is also run
on a planted violation, so that a rule that has stopped looking is noticed.
"""

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHECKED = ("metako", "sim")
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70

# What each part of metako may import of the others, besides itself. A part is a package or module
# directly below metako; `metako` stands for metako/__init__.py, which holds the version only.
ALLOWED = {
    "metako": set(),
    "model": set(),
    "wire": {"model"},
    "membership": {"model", "wire"},
    "election": {"model", "wire"},
    "cluster": {"model", "wire", "membership", "election", "postgres"},
    "pgwire": {"model"},
    "sqlroute": {"model", "pgwire"},
    "guard": set(),
    "unixsocket": set(),
    "ports": {"model", "wire", "postgres"},
    "config": {"metako", "model"},
    "observability": {"metako", "model", "config"},
    "postgres": {"metako", "model", "ports", "guard", "config"},
    "proxy": {
        *("metako", "model", "ports", "pgwire", "sqlroute", "config", "observability"),
        "unixsocket",
    },
    "api": {"metako", "model", "ports", "config", "observability", "unixsocket"},
    "runtime": {
        *("metako", "model", "wire", "membership", "election", "cluster", "ports", "postgres"),
        *("guard", "config", "observability", "proxy", "pgwire", "sqlroute", "api", "unixsocket"),
    },
    "demo": {"metako", "model", "config", "api", "observability", "postgres"},
    "cli": {"metako", "model", "config", "api", "observability", "runtime", "demo", "postgres"},
    "__main__": {"cli"},
}

# Modules that only compute. Of a package that also drives something, the pure modules are named.
PURE_PACKAGES = ("model", "wire", "membership", "election", "cluster", "pgwire", "sqlroute")
PURE_MODULES = (
    "metako.ports",
    "metako.guard.fence",
    "metako.guard.orphan",
    "metako.guard.watchdog",
    "metako.proxy.hba",
    "metako.proxy.routes",
    "metako.config.schema",
    "metako.config.units",
    "metako.postgres.plan",
    "metako.postgres.settings",
    "metako.postgres.wal",
    "metako.postgres.history",
    "metako.postgres.syncnames",
    "metako.postgres.steps",
    "metako.proxy.balancer",
    "metako.proxy.causality",
    "metako.proxy.sqltext",
    "metako.proxy.concern",
    "metako.proxy.changes",
    "metako.proxy.settings",
    "metako.proxy.meaning",
    "metako.proxy.layers",
    "metako.proxy.prepared",
    "metako.proxy.reported",
    "metako.proxy.steps",
    "metako.proxy.snapshot",
    "metako.proxy.tracked",
    "metako.proxy.rebuild",
    "metako.proxy.inflight",
    "metako.proxy.loss",
    "metako.proxy.limits",
    "metako.proxy.overdue",
    "metako.proxy.who",
    "metako.proxy.console",
    "metako.api.view",
    "metako.api.health",
)
# `ports` describes drivers: it may name trio's types in its signatures.
PORTS_MAY_IMPORT = {"trio"}
EFFECTS = {
    *("trio", "trio_asyncio", "asyncio", "asyncpg", "anyio", "loguru", "logging", "hypercorn"),
    *("os", "io", "pathlib", "shutil", "tempfile", "glob", "fcntl", "mmap", "pwd", "grp"),
    *("socket", "ssl", "select", "selectors", "signal", "subprocess", "multiprocessing"),
    *("threading", "queue", "concurrent", "contextvars", "time", "sched", "secrets", "uuid"),
    *("urllib", "http", "ctypes", "resource", "platform", "atexit", "gc"),
}
EFFECTFUL_BUILTINS = {"open", "print", "input", "breakpoint", "exec", "eval", "__import__"}
# Of `random` the class may be named, because a generator is passed in; of `datetime` all but the
# functions that read a clock.
CLOCK_READERS = {"now", "utcnow", "today"}

# Third-party libraries of the pure packages; the others may use what pyproject.toml lists.
LIBRARIES = {
    "model": set(),
    "wire": {"msgpack", "cryptography"},
    "membership": set(),
    "election": set(),
    "cluster": set(),
    "pgwire": {"cryptography"},
    "guard": set(),
}

# Libraries that exactly one place may import.
OWNERS = {
    "loguru": ("metako.observability",),
    "asyncio": ("metako.postgres.sql",),
    "asyncpg": ("metako.postgres.sql",),
    "trio_asyncio": ("metako.postgres.sql",),
    "hypercorn": ("metako.api",),
    "starlette": ("metako.api",),
    "typer": ("metako.cli", "metako.demo", "sim.cli"),
    "rich": ("metako.cli", "metako.demo", "sim.cli"),
}

# The second tier of the simulator runs the real program; the rest of it knows the pure half only.
SIM_PURE_ALLOWED = {
    *("metako", "model", "wire", "membership", "election", "cluster", "ports", "postgres"),
    *("pgwire", "sqlroute", "proxy", "config"),
}
# Its commands fail and print as the program's own do.
SIM_CLI_ALLOWED = {*SIM_PURE_ALLOWED, "cli"}

# Of the simulator these read files, start processes or look at a clock; a run itself does not.
SIM_OUTSIDE = ("sim.cli", "sim.swarm", "sim.timeline", "sim.scenario.files", "sim.program")


@dataclass(frozen=True)
class Import:
    """One import: the dotted name, the name taken from it if any, and the line."""

    module: str
    name: str
    line: int

    @property
    def top(self):
        return self.module.split(".")[0]


@dataclass(frozen=True)
class Module:
    """One file of the code."""

    name: str  # dotted; a package has the name of its directory
    tree: ast.Module
    lines: int

    @property
    def part(self):
        """The part of metako that the module belongs to; "" outside of metako."""
        parts = self.name.split(".")
        if parts[0] != "metako":
            return ""
        return parts[1] if len(parts) > 1 else "metako"

    @property
    def pure(self):
        return self.part in PURE_PACKAGES or self.name in PURE_MODULES


def read_modules(root, packages=CHECKED):
    modules = []
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            text = path.read_text(encoding="utf-8")
            modules.append(Module(name, ast.parse(text, str(path)), len(text.splitlines())))
    return modules


def imports_of(module, known):
    """Return every import of the module, those inside functions and TYPE_CHECKING included."""
    found = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, "", node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name}:{node.lineno}: relative import"
            for alias in node.names:
                # `from metako.postgres import sql` imports the module metako.postgres.sql.
                inner = f"{node.module}.{alias.name}"
                target = inner if inner in known else node.module
                found.append(Import(target, alias.name, node.lineno))
    return found


def layer_violations(modules):
    known = {module.name for module in modules}
    for module in modules:
        for used in imports_of(module, known):
            if used.top == "sim" and module.part:
                yield f"{module.name}:{used.line}: metako imports {used.module}"
            if used.top != "metako":
                continue
            parts = used.module.split(".")
            part = parts[1] if len(parts) > 1 else "metako"
            if module.part:
                allowed = ALLOWED.get(module.part)
                if allowed is None:
                    yield f"{module.name}: the part {module.part!r} is not in the table"
                    break
                if part not in allowed and part != module.part:
                    yield f"{module.name}:{used.line}: {module.part} imports {used.module}"
            elif used.module in PURE_MODULES or module.name.startswith("sim.program"):
                continue
            elif part not in sim_allowed(module):
                yield f"{module.name}:{used.line}: sim imports {used.module}"


def sim_allowed(module):
    return SIM_CLI_ALLOWED if within(module.name, ("sim.cli",)) else SIM_PURE_ALLOWED


def purity_violations(modules):
    known = {module.name for module in modules}
    pure = {module.name for module in modules if module.pure}
    for module in modules:
        if not module.pure:
            continue
        excused = PORTS_MAY_IMPORT if module.name == "metako.ports" else set()
        for used in imports_of(module, known):
            where = f"{module.name}:{used.line}"
            # A PurePath is text that knows its separators; a Path reads the disk.
            harmless = used.module == "pathlib" and used.name.startswith("Pure")
            if used.top in EFFECTS - excused and not harmless:
                yield f"{where}: imports {used.module}"
            if used.module == "random" and used.name not in ("", "Random"):
                yield f"{where}: takes {used.name} from random"
            # What a pure module imports of metako must be pure too, or the effect is only hidden.
            # A package's own __init__ is run with any of its modules and has no say here.
            own = used.module in known and used.top == "metako" and used.module.count(".") > 1
            if own and used.module not in pure and used.module not in packages_of(modules):
                yield f"{where}: imports {used.module}, which is not pure"
        yield from impure_uses(module)


def simulated_violations(modules):
    """What a run is made of has no effect and reads no clock but its own."""
    known = {module.name for module in modules}
    for module in modules:
        if not within(module.name, ("sim",)) or within(module.name, SIM_OUTSIDE):
            continue
        for used in imports_of(module, known):
            if used.top in EFFECTS:
                yield f"{module.name}:{used.line}: imports {used.module}"
            if used.module == "random" and used.name not in ("", "Random"):
                yield f"{module.name}:{used.line}: takes {used.name} from random"
        yield from impure_uses(module)


def packages_of(modules):
    names = {module.name for module in modules}
    return {name for name in names if any(other.startswith(name + ".") for other in names)}


def impure_uses(module):
    for node in ast.walk(module.tree):
        where = f"{module.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in EFFECTFUL_BUILTINS:
                yield f"{where}: calls {node.func.id}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "random" and node.attr != "Random":
                yield f"{where}: uses random.{node.attr}"
            if node.value.id in ("datetime", "date") and node.attr in CLOCK_READERS:
                yield f"{where}: uses {node.value.id}.{node.attr}"


def library_violations(modules):
    known = {module.name for module in modules}
    for module in modules:
        for used in imports_of(module, known):
            foreign = used.top not in sys.stdlib_module_names and used.top not in CHECKED
            libraries = LIBRARIES.get(module.part)
            if foreign and libraries is not None and used.top not in libraries:
                yield f"{module.name}:{used.line}: {module.part} imports {used.module}"
            owners = OWNERS.get(used.top)
            if owners and not within(module.name, owners):
                yield f"{module.name}:{used.line}: only {', '.join(owners)} may use {used.top}"


def within(name, owners):
    return any(name == owner or name.startswith(owner + ".") for owner in owners)


def size_violations(modules):
    for module in modules:
        if module.lines > FILE_LINES_MAX:
            yield f"{module.name}: {module.lines} lines"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                length = node.end_lineno - first + 1
                if length > FUNCTION_LINES_MAX:
                    yield f"{module.name}:{node.lineno}: {node.name} has {length} lines"


def docstring_violations(modules):
    for module in modules:
        if not ast.get_docstring(module.tree):
            yield f"{module.name}: no docstring"


RULES = (
    layer_violations,
    purity_violations,
    simulated_violations,
    library_violations,
    size_violations,
    docstring_violations,
)


@pytest.fixture(scope="module")
def modules():
    found = read_modules(ROOT)
    assert len(found) > 10, "the code was not found: the rules would hold of nothing"
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__.removesuffix("_violations"))
def test_the_code_keeps_the_rule(rule, modules):
    assert "\n".join(rule(modules)) == ""


def test_the_table_of_layers_has_no_cycle():
    # postgres and ports name each other: the port is written in terms of the planner's steps, and
    # the driver half of postgres implements it. Below that everything points one way.
    graph = {part: allowed - {"ports"} for part, allowed in ALLOWED.items()}
    done = set()
    while len(done) < len(graph):
        free = {part for part in graph if part not in done and graph[part] <= done}
        assert free, f"a cycle among {sorted(set(graph) - done)}"
        done |= free


PLANTED = [
    ("metako.model.bad", "import os", purity_violations),
    ("metako.model.bad", "from metako.wire import messages", layer_violations),
    ("metako.model.bad", "import msgpack", library_violations),
    ("metako.wire.bad", "import metako.membership.roster", layer_violations),
    ("metako.wire.bad", "from os import urandom", purity_violations),
    ("metako.membership.bad", "from metako.election.core import Election", layer_violations),
    ("metako.election.bad", "from metako import membership", layer_violations),
    ("metako.election.bad", "import time", purity_violations),
    ("metako.election.bad", "import random\nx = random.random()", purity_violations),
    ("metako.election.bad", "from random import choice", purity_violations),
    ("metako.election.bad", "def f():\n    import socket", purity_violations),
    ("metako.cluster.bad", "from metako.runtime import node", layer_violations),
    ("metako.cluster.bad", "import metako.postgres.sql", purity_violations),
    ("metako.cluster.bad", "from metako.postgres import sql", purity_violations),
    ("metako.cluster.bad", "import trio", purity_violations),
    ("metako.cluster.bad", "from datetime import datetime\nx = datetime.now()", purity_violations),
    ("metako.cluster.bad", "print(1)", purity_violations),
    ("metako.postgres.plan", "import asyncio", purity_violations),
    ("metako.config.schema", "from pathlib import Path", purity_violations),
    ("metako.postgres.settings", "import pathlib", purity_violations),
    ("metako.guard.bad", "from metako.model import lsn", layer_violations),
    ("metako.guard.bad", "import trio", library_violations),
    ("metako.runtime.bad", "from loguru import logger", library_violations),
    ("metako.postgres.bad", "import trio_asyncio", library_violations),
    ("metako.runtime.bad", "import asyncpg", library_violations),
    ("metako.runtime.bad", "from metako.cli import main", layer_violations),
    ("metako.api.bad", "from metako.runtime import node", layer_violations),
    ("metako.runtime.bad", "import sim.world", layer_violations),
    ("metako.novel.bad", "from metako.model import lsn", layer_violations),
    ("metako.config.bad", "x = 1\n" * (FILE_LINES_MAX + 1), size_violations),
    ("metako.cli.bad", "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX, size_violations),
    ("metako.cli.bad", "x = 1", docstring_violations),
    ("sim.world", "from metako.runtime import node", layer_violations),
    ("sim.swarm.bad", "from metako.cli import output", layer_violations),
    ("sim.world", "import time", simulated_violations),
    ("sim.world", "import random\nx = random.random()", simulated_violations),
    ("sim.scenario.bad", "print(1)", simulated_violations),
    ("sim.cli.bad", "from metako.runtime import node", layer_violations),
    ("sim.swarm.bad", "import rich", library_violations),
]


@pytest.mark.parametrize(("name", "source", "rule"), PLANTED)
def test_a_planted_violation_is_found(name, source, rule, tmp_path):
    plant(tmp_path, "metako.postgres.sql", '"""The asyncio-flavoured file."""')
    plant(tmp_path, name, source)
    found = list(rule(read_modules(tmp_path)))
    assert any(violation.startswith(name) for violation in found), found


CLEAN = [
    ("metako.election.good", "import random\ndef f(rng: random.Random):\n    return rng.random()"),
    ("metako.election.good", "from random import Random"),
    ("metako.postgres.settings", "from pathlib import PurePath"),
    ("metako.wire.good", "import hashlib, msgpack\nfrom metako.model import lsn"),
    ("metako.cluster.good", "from metako.postgres.plan import StepFinished"),
    ("metako.guard.good", "import os, socket\nfrom metako.guard.wire import x"),
    ("metako.postgres.sql", "import asyncpg, asyncio, trio_asyncio"),
    ("metako.observability.good", "from loguru import logger"),
    ("sim.program.node", "from metako.runtime import node"),
    ("sim.swarm.good", "import multiprocessing, os"),
    ("sim.heap", "import random\ndef f(rng: random.Random):\n    return rng.random()"),
    ("sim.cli.good", "import typer\nfrom metako.cli.output import write_line"),
]


@pytest.mark.parametrize(("name", "source"), CLEAN)
def test_what_the_design_allows_is_not_reported(name, source, tmp_path):
    plant(tmp_path, "metako.postgres.plan", '"""The planner."""')
    plant(tmp_path, name, f'"""Planted."""\n{source}\n')
    assert [v for rule in RULES for v in rule(read_modules(tmp_path))] == []


def plant(root, name, source):
    path = root.joinpath(*name.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source + "\n", encoding="utf-8")
