"""A YAML text as plain values that remember their lines.

Input: the text of a file. Output: a `Source`: nested dicts, lists and scalars, and the line of
every key and list element. Invariant: every problem that the text has on this level is collected,
none is raised one at a time. Deliberately knows no key by name.

YAML's timestamps are read as text, because nothing in a configuration is a date; aliases and merge
keys work, but may not blow the document up beyond `VALUES_MAX` values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import yaml

from metako.config.problems import Path, Problem

VALUES_MAX = 20_000
DEPTH_MAX = 20
_YAML_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"
# Tags and anchors are the parser's business; what it says about them names no file position twice.
_SPACES = re.compile(r"\s+")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _YAML_TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(slots=True)
class Source:
    """The values of one file and where they stand."""

    values: dict[str, object] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)  # 1-based; () is the document itself
    problems: list[Problem] = field(default_factory=list)  # of the YAML itself

    def line_of(self, path: Path) -> int:
        """Return the line of `path`, or that of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def parse(text: str) -> Source:
    """Return the values of a YAML text; what is wrong with it is in `problems`."""
    source = Source()
    loader = _Loader(text) if _is_printable(text, source) else None
    if loader is None:
        return source
    try:
        node = loader.get_single_node()
        if node is None:
            source.problems.append(Problem((), "the file is empty", line=1))
        elif not isinstance(node, yaml.MappingNode):
            source.problems.append(
                Problem(
                    (),
                    "the file is not a mapping of sections",
                    hint="it must look like 'node:' and, indented below it, 'name: n1'",
                    line=node.start_mark.line + 1,
                )
            )
        else:
            values = _Builder(loader, source).mapping(node, ())
            source.values = values
    except yaml.MarkedYAMLError as error:
        source.problems.append(_yaml_problem(error, text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: PyYAML's own constructors, for scalars such as 0b_ or 1:99:z.
        source.problems.append(Problem((), f"not valid YAML: {_one_line(error)}", line=1))
    finally:
        loader.dispose()
    return source


def _is_printable(text: str, source: Source) -> bool:
    match = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if match is None:
        return True
    line = text.count("\n", 0, match.start()) + 1
    source.problems.append(
        Problem((), f"the character U+{ord(match[0]):04X} is not allowed in YAML", line=line)
    )
    return False


def _one_line(error: object) -> str:
    return _SPACES.sub(" ", str(error)).strip()


def _yaml_problem(error: yaml.MarkedYAMLError, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    lines = text.splitlines()
    shown = lines[line - 1] if line <= len(lines) else ""
    before = shown[: len(shown) - len(shown.lstrip())]
    if "\t" in before or "'\\t'" in (error.problem or ""):
        return Problem((), "a tab stands where YAML wants spaces", "indent with spaces", line)
    what = _one_line(error.problem or error.context or "syntax error")
    hint = ""
    if "mapping values are not allowed" in what:
        hint = "check the indentation, and quote values that contain ': '"
    elif "expected <block end>" in what or "could not find expected ':'" in what:
        hint = "check the indentation, quotes and brackets on this line and above it"
    elif "found another document" in what:
        what, hint = "a second document begins here", "remove the line '---'"
    return Problem((), f"not valid YAML: {what}", hint, line)


class _Builder:
    """Turns nodes into values; counts them, so that aliases cannot make a bomb."""

    def __init__(self, loader: _Loader, source: Source) -> None:
        self._loader = loader
        self._source = source
        self._count = 0

    def value(self, node: yaml.Node, path: Path) -> object:
        self._count += 1
        if self._count > VALUES_MAX or len(path) > DEPTH_MAX:
            raise yaml.MarkedYAMLError(
                problem=f"more than {VALUES_MAX} values or {DEPTH_MAX} levels",
                problem_mark=node.start_mark,
            )
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, child in enumerate(node.value):
                self._source.lines[(*path, index)] = child.start_mark.line + 1
                items.append(self.value(child, (*path, index)))
            return items
        return self._scalar(node)

    def _scalar(self, node: yaml.Node) -> object:
        value: object = self._loader.construct_object(node, deep=True)
        refused = None
        if not isinstance(value, str | int | float | bool | None):
            refused = "a value of this type has no use here"
        elif isinstance(value, str) and any("\ud800" <= c <= "\udfff" or c == "\0" for c in value):
            refused = "the value contains a character that is no text"
        if refused is not None:
            raise yaml.MarkedYAMLError(problem=refused, problem_mark=node.start_mark)
        return value

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        self._refuse_duplicates(node, path)
        self._loader.flatten_mapping(node)
        result: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem="a key must be a word", problem_mark=key_node.start_mark
                )
            self._source.lines[(*path, key)] = key_node.start_mark.line + 1
            result[key] = self.value(value_node, (*path, key))
        return result

    def _refuse_duplicates(self, node: yaml.MappingNode, path: Path) -> None:
        # YAML leaves it open which of two equal keys counts, and parsers differ.
        first: dict[str, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _MERGE:
                continue
            key, line = key_node.value, key_node.start_mark.line + 1
            if key in first:
                message = f"the key is already set on line {first[key]}"
                self._source.problems.append(Problem((*path, key), message, line=line))
            first.setdefault(key, line)
