"""Every key has its place in the documentation."""

from pathlib import Path

from metako.config import profiles
from metako.config.known import known_keys
from metako.config.legacy_schema import LegacySchema
from metako.config.schema import FileSchema
from metako.config.translation import PG_METAKO_SECTIONS
from metako.config.units import format_duration_ms

DOCUMENT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()


def section_of(name):
    return DOCUMENT.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]


def test_every_own_key_is_described_in_its_section():
    missing = []
    for path, keys in known_keys(FileSchema).items():
        if not path:
            continue
        text = section_of(path[0])
        missing += [(*path, key) for key in keys if f"{key}`" not in text and f"`{key}" not in text]
    nested = {("postgresql", "bootstrap"), ("postgresql", "health")}  # described key by key
    assert set(missing) - nested == set()


def test_every_pg_metako_key_is_described():
    text = section_of("Files of pg-metako")
    missing = [
        (*path, key)
        for path, keys in known_keys(LegacySchema).items()
        for key in keys
        if path and key not in text
    ]
    assert missing == []


def test_the_sections_of_a_pg_metako_file_are_those_of_its_schema():
    assert set(LegacySchema.model_fields) == PG_METAKO_SECTIONS


def test_the_table_of_profiles_says_what_is_in_force():
    rows = {
        cells[1].strip(" `"): [cell.strip() for cell in cells[2:5]]
        for line in section_of("timing").splitlines()
        if len(cells := line.split("|")) == 7
    }
    for key, default_ms in profiles.TIMING_MS["default"].items():
        values = [profiles.TIMING_MS[profile][key] for profile in ("default", "fast", "wan")]
        assert values[0] == default_ms
        assert rows[key] == [format_duration_ms(value) for value in values], key
