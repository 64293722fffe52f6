"""Reading a configuration: the only part of it that touches files and the environment.

Input: a path. Output: a `NodeConfig`, or a ConfigError whose text has one line for each thing that
is wrong, in the order of the file. Invariant: nothing is created, changed or listened on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import ValidationError

from metako.config.keys import parse_key, parse_ring
from metako.config.known import known_keys
from metako.config.node_config import NodeConfig
from metako.config.normalize import Keys, Machine, normalize
from metako.config.problems import Problem, from_pydantic
from metako.config.remarks import not_in_force
from metako.config.schema import FileSchema, GossipSection, Section
from metako.config.source import Source, parse
from metako.config.translation import PG_METAKO_SECTIONS, Translation
from metako.model.errors import ConfigError

KEY_VARIABLE = "METAKO_GOSSIP_KEY"
FILE_BYTES_MAX = 1 << 20
KEY_FILE_BYTES_MAX = 64 << 10
PROBLEMS_SHOWN_MAX = 50


def load(path: str | os.PathLike[str], *, environ: Mapping[str, str] | None = None) -> NodeConfig:
    """Read and check a node's configuration file.

    What only matters once the node runs (a gossip key, certificate files) is checked by
    `check_runnable`, so that commands which only look something up work without it.

    Args:
        path: the YAML file.
        environ: environment variables; the process's own if None.

    Raises:
        ConfigError: the file cannot be read or something in it is wrong; all of it is told.
    """
    variables = os.environ if environ is None else environ
    file = FilePath(path)
    source = parse(_read_text(file))
    machine = Machine(
        config_path=file.absolute(),
        home=FilePath(variables.get("HOME") or "/"),
        is_root=os.geteuid() == 0,
        processors=len(os.sched_getaffinity(0)),
    )
    return _Loader(str(path), source, machine, variables).config()


_Schema = TypeVar("_Schema", bound=Section)


class _Loader:
    """One reading of one file; collects problems and fails with all of them."""

    def __init__(
        self, name: str, source: Source, machine: Machine, variables: Mapping[str, str]
    ) -> None:
        self._name = name
        self._source = source
        self._machine = machine
        self._variables = variables
        self._problems: list[Problem] = list(source.problems)

    def config(self) -> NodeConfig:
        if not self._source.values:
            # Nothing could be read. An empty document without problems is an empty mapping.
            self._problems = self._problems or [Problem((), "the file is empty", line=1)]
            raise self._error()
        own, legacy = self._sections()
        translation = self._translated(legacy, own) if legacy else Translation(own)
        self._problems += translation.problems
        schema = self._validate(FileSchema, translation.values, translation=translation)
        if schema is None:
            raise self._error()
        keys = self._keys(schema.gossip, translation)
        config, problems, notes = normalize(
            schema,
            self._machine,
            keys,
            legacy_server="local_db" in legacy or "local_db_port" in legacy.get("identity", {}),
            legacy_ports="identity" in legacy,
        )
        self._problems += [
            replace(problem, path=translation.origin_of(problem.path)) for problem in problems
        ]
        if self._problems:
            raise self._error()
        notes = [*translation.notes, *not_in_force(schema, translation.origin_of), *notes]
        return replace(config, notes=tuple(dict.fromkeys(notes)))

    def _translated(self, legacy: dict[str, Any], own: dict[str, Any]) -> Translation:
        """Return the own sections with those of a pg-metako file added to them."""
        # Here, because an agent that is replaced on a primary has to read its file in a hurry.
        from metako.config.legacy import translate
        from metako.config.legacy_schema import LegacySchema

        model = self._validate(LegacySchema, legacy)
        if model is None:
            # Without the translation, keys of the own sections only seem to be missing.
            self._validate(FileSchema, own, tell_missing=False)
            raise self._error()
        return translate(model, own)

    def _sections(self) -> tuple[dict[str, Any], dict[str, Any]]:
        # A section whose keys are all commented out is an empty section, not a null.
        values = {key: {} if value is None else value for key, value in self._source.values.items()}
        if values.get("cluster_members") == {}:
            values["cluster_members"] = []
        own = {key: value for key, value in values.items() if key not in PG_METAKO_SECTIONS}
        return own, {key: value for key, value in values.items() if key in PG_METAKO_SECTIONS}

    def _validate(
        self,
        model: type[_Schema],
        values: Mapping[str, object],
        *,
        translation: Translation | None = None,
        tell_missing: bool = True,
    ) -> _Schema | None:
        """Return the model, or None after the problems have been added."""
        try:
            # Through JSON, because pydantic's strict mode takes a list for a tuple only there.
            return model.model_validate_json(json.dumps(values))
        except ValidationError as error:
            errors = error.errors(include_url=False)
        from metako.config.legacy_schema import LegacySchema  # only a wrong file needs it

        known = known_keys(FileSchema, LegacySchema)
        problems = from_pydantic(
            [e for e in errors if tell_missing or e["type"] != "missing"], known
        )
        if translation is not None:
            problems = [replace(p, path=translation.origin_of(p.path)) for p in problems]
        self._problems += problems
        return None

    def _keys(self, section: GossipSection, translation: Translation) -> Keys:
        """Return the gossip keys. An unreadable key file is a matter for `check_runnable`."""
        if section.key is not None and section.key_file is not None:
            self._problems.append(
                Problem(
                    ("gossip", "key"), "gossip.key_file is set as well", "remove one of the two"
                )
            )
        variable = self._variables.get(KEY_VARIABLE)
        if variable:
            if section.key is not None or section.key_file is not None:
                translation.notes.append(f"{KEY_VARIABLE} is set and wins over the file's key")
            try:
                return Keys((parse_key(variable),))
            except ValueError as error:
                return Keys(problem=f"{KEY_VARIABLE} {error}")
        if section.key is not None:
            try:
                return Keys((parse_key(section.key),))
            except ValueError as error:
                message, _, hint = str(error).partition("; ")
                self._problems.append(Problem(("gossip", "key"), message, hint))
                return Keys()
        if section.key_file is not None:
            return _read_ring(self._machine.path(section.key_file))
        return Keys()

    def _error(self) -> ConfigError:
        """Return all problems as one error, in the order of the file."""
        located = {
            (problem.line or self._source.line_of(problem.path), problem): None
            for problem in self._problems
        }
        ordered = sorted(located, key=lambda item: item[0])
        lines = [problem.text(self._name, line) for line, problem in ordered]
        if len(lines) > PROBLEMS_SHOWN_MAX:
            more = len(lines) - PROBLEMS_SHOWN_MAX
            lines = [*lines[:PROBLEMS_SHOWN_MAX], f"{self._name}: and {more} more"]
        return ConfigError("\n".join(lines))


def _read_text(file: FilePath) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"{file}: there is no such file; name one with --config, or start from configs/"
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{file}: is a directory, not a file") from None
    except PermissionError:
        raise ConfigError(f"{file}: may not be read by this user; check its mode") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{file}: is larger than {FILE_BYTES_MAX >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}: is not UTF-8 text; save it as UTF-8") from None


def _read_ring(file: FilePath) -> Keys:
    try:
        with file.open("rb") as stream:
            data = stream.read(KEY_FILE_BYTES_MAX + 1)
    except OSError as error:
        return Keys(file=file, problem=f"{file} cannot be read: {error.strerror}")
    if len(data) > KEY_FILE_BYTES_MAX:
        return Keys(file=file, problem=f"{file} is too large for a key file")
    try:
        return Keys(parse_ring(data.decode("ascii")), file)
    except UnicodeDecodeError:
        return Keys(
            file=file, problem=f"{file} is not a text file; make a key with 'metako keygen'"
        )
    except ValueError as error:
        return Keys(file=file, problem=f"{file}: {error}")
