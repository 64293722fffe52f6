"""Whatever a file says, the answer is a configuration or a ConfigError that names a line."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metako.config import NodeConfig, load
from metako.config.known import known_keys
from metako.config.legacy_schema import LegacySchema
from metako.config.schema import FileSchema
from metako.model.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
BASES = [
    yaml.safe_load((CONFIGS / name).read_text())
    for name in ("pg-metako-example.yaml", "three-nodes/node2.yaml", "config.yaml")
]
KEYS = sorted({key for keys in known_keys(FileSchema, LegacySchema).values() for key in keys})
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.sampled_from(
        ["", "0s", "5s", "1ms", "n1", "0.0.0.0", "::1", "embedded:", "~", "1MB", "\0"]
    )
    | st.text(max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=6,
)
SETTINGS = settings(
    deadline=None,  # other tests share the processor
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the file is overwritten
)


def places(value, path=()):
    """Yield the path of every value inside `value`."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield (*path, key)
            yield from places(inner, (*path, key))


def changed(value, path, new):
    """Return a copy of `value` with `new` at `path`."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


@st.composite
def files(draw):
    values = draw(st.sampled_from(BASES))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from([*places(values)] or [()]))
        values = changed(values, path, draw(VALUES)) if path else values
    extra = draw(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=2))
    return {**values, **extra} if isinstance(values, dict) else values


def outcome(path):
    try:
        return load(path, environ={})
    except ConfigError as error:
        return str(error)


@pytest.mark.slow
@SETTINGS
@given(values=files())
def test_any_change_of_a_good_file_loads_or_is_refused_with_lines(tmp_path, values):
    path = tmp_path / "node.yaml"
    path.write_text(json.dumps(values))
    result = outcome(path)
    if not isinstance(result, NodeConfig):
        assert result
        assert all(line.startswith(f"{path}:") for line in result.splitlines()), result


@SETTINGS
@given(
    data=st.binary(max_size=60) | st.text(max_size=60).map(lambda t: t.encode("utf-8", "replace"))
)
def test_any_bytes_are_refused_with_lines(tmp_path, data):
    path = tmp_path / "node.yaml"
    path.write_bytes(data)
    result = outcome(path)
    assert isinstance(result, str)
    assert all(line.startswith(f"{path}:") for line in result.splitlines()), result
