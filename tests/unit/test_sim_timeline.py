"""The page of a run stands alone, says what the trace says, and survives what should not come."""

import json
import re
import time
from html.parser import HTMLParser
from importlib import resources
from itertools import accumulate

import pytest
import sim_trace_kit as kit

from sim.checkers import CHECKS
from sim.timeline import columns, render, write_html
from sim.timeline.page import SCRIPTS

HOSTILE = (
    "</script><script>alert(1)</script><!-- \u2028 \u2029 ünï ☃ \U0001f4a5 \\u003c ]]> &amp;\0"
)
ASSETS = resources.files("sim.timeline") / "assets"
OUTSIDE = r"https?://|//[a-z0-9.-]+/|@import|\bfetch\(|XMLHttpRequest|WebSocket"


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text of every script."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.scripts = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


def data_of(page):
    """The data of a page as a browser gets it: the text of the element, parsed as JSON."""
    elements = Elements(page)
    assert [tag for tag, _ in elements.tags].count("script") == 2, "the data has ended its element"
    return json.loads(elements.scripts[0])


def rows_of(data):
    """Undo the columns as the page's script does; return the rows by kind."""
    found = {}
    for kind, table in data["tables"].items():
        times = list(accumulate(table["columns"]["t"]))
        decoded = {
            name: [
                decode(code, cell, t, data["strings"]) for cell, t in zip(cells, times, strict=True)
            ]
            if code != "d"
            else list(accumulate(cells))
            for (name, code), cells in zip(
                table["codes"].items(), table["columns"].values(), strict=True
            )
        }
        rows = zip(*decoded.values(), strict=True)
        found[kind] = [dict(zip(decoded, row, strict=True)) for row in rows]
    return found


def decode(code, cell, t, strings):
    if cell is None:
        return None
    match code:
        case "s":
            return strings[cell]
        case "j":
            return json.loads(strings[cell])
        case "a":
            return cell + t
        case "b":
            return bool(cell)
        case _:
            return cell


def line(e, **fields):
    return json.dumps({"i": 0, "t": 0, "e": e, **fields})


# ---------------------------------------------------------------- what is in the page


@pytest.mark.parametrize("trace", [kit.failing, kit.passing], ids=["failing", "passing"])
def test_everything_that_the_trace_says_is_in_the_page(trace):
    lines = trace()
    data = data_of(render(lines))
    events = [json.loads(each) for each in lines]
    rows = rows_of(data)
    for kind, names in columns.KINDS.items():
        said = [event for event in events if event["e"] == kind]
        expected = [{name: event.get(name) for name in ("i", "t", *names)} for event in said]
        assert rows.get(kind, []) == expected, kind
    assert data["run"] == events[0]
    assert data["end"] == events[-1]
    assert (data["lines"], data["unread"], data["unknown"]) == (len(lines), 0, {})


def test_the_page_refers_to_nothing_outside_of_itself():
    page = render(kit.failing())
    assert not re.search(OUTSIDE, page)
    for tag, attributes in Elements(page).tags:
        assert "src" not in attributes, tag
        assert attributes.get("href", "data:") in ("data:", "data:,"), tag
        assert tag not in ("iframe", "object", "embed", "base"), tag
    # Said to the browser, too: whatever a trace might smuggle in, nothing is loaded.
    assert "default-src 'none'" in page


def test_the_same_trace_gives_the_same_page():
    assert render(kit.failing()) == render(iter(kit.failing()))


def test_every_script_is_in_the_page_and_none_can_end_its_element():
    page = render([])
    assert sorted(SCRIPTS) == sorted(e.name for e in ASSETS.iterdir() if e.name.endswith(".js"))
    assert page.count("</script") == 2
    assert "<!--" not in page.split("<script>")[1]


def test_every_check_has_its_meaning_in_plain_words():
    words = (ASSETS / "words.js").read_text(encoding="utf-8")
    known = words[words.index("const CHECKS") : words.index("const LEVELS")]
    missing = [name for name in CHECKS if f"  {name}: " not in known]
    assert missing == []


def test_every_word_of_the_design_that_the_page_uses_is_explained():
    told = (ASSETS / "help.js").read_text(encoding="utf-8")
    told = told[told.index("const HELP_WORDS") : told.index("const HELP_KEYS")]
    words = re.findall(r'^  \["([^"]+)", "(.+)"\],$', told, re.MULTILINE)
    wanted = ["k", "hold", "lease", "guard", "promise", "document 2.7", "detach", "barrier"]
    assert [name for name in wanted if name not in dict(words)] == []


def test_what_a_message_says_and_the_notes_of_causes_are_in_the_page():
    rows = rows_of(data_of(render(kit.failing())))
    assert any(row["says"].startswith("granted") for row in rows["msg"] if row["says"])
    (violation,) = rows["violation"]
    assert len(violation["notes"]) == len(violation["causes"])
    assert "nobody ends n1 from here on" in violation["notes"]


def test_holds_are_in_the_page_and_a_trace_without_them_is_one_too():
    held = line("hold", n="n2", until=2_000_000_000, **{"for": "n1"})
    released = line("hold", n="n2", until=0, **{"for": None})
    rows = rows_of(data_of(render([held, released])))["hold"]
    assert [(row["until"], row["for"]) for row in rows] == [(2_000_000_000, "n1"), (0, None)]
    old = [each for each in kit.failing() if json.loads(each)["e"] != "hold"]
    assert "hold" not in rows_of(data_of(render(old)))


def test_a_file_is_written(tmp_path):
    path = tmp_path / "run.html"
    write_html(kit.passing(), path)
    assert path.read_text(encoding="utf-8") == render(kit.passing())


# ---------------------------------------------------------------- what should not come, and does


def test_hostile_text_stays_text():
    lines = [
        line("run", scenario=HOSTILE, seed=HOSTILE, nodes=[HOSTILE], command=HOSTILE),
        line("log", n=HOSTILE, name=HOSTILE, level=HOSTILE, text=HOSTILE, fields={HOSTILE: 1}),
        line("violation", check=HOSTILE, text=HOSTILE, nodes=[HOSTILE], causes=[HOSTILE]),
        line(HOSTILE),
    ]
    page = render(lines)
    data = data_of(page)
    assert data["run"]["scenario"] == HOSTILE
    (log,) = rows_of(data)["log"]
    assert (log["text"], log["fields"]) == (HOSTILE, {HOSTILE: 1})
    assert data["unknown"] == {HOSTILE: 1}
    assert "<script>alert" not in page


def test_a_lone_surrogate_can_be_written(tmp_path):
    path = tmp_path / "run.html"
    write_html([line("mark", n="n1", name="\ud800", text="")], path)
    assert rows_of(data_of(path.read_text(encoding="utf-8")))["mark"][0]["name"] == "\ud800"


def test_kinds_of_a_later_version_are_counted_and_left_out():
    lines = kit.passing()
    added = [line("comet", tail=[1, 2]), line("comet"), line("moon")]
    data = data_of(render([lines[0], *added, *lines[1:]]))
    assert data["unknown"] == {"comet": 2, "moon": 1}
    assert rows_of(data) == rows_of(data_of(render(lines)))


@pytest.mark.parametrize(
    "torn",
    ["{", "[]", "7", "null", '{"e":"msg"}', '{"t":1}', '{"e":"log","t":"1"}', '{"e":[],"t":1}',
     '{"e":"log","t":true}', '{"e":"log","t":1e999}', '{"e":"log","t":NaN}', "[" * 100_000, "\0"],
    ids=range(13),
)  # fmt: skip
def test_a_line_that_is_no_event_is_counted_and_left_out(torn):
    lines = kit.passing()
    data = data_of(render([*lines, torn]))
    assert data["unread"] == 1
    assert rows_of(data) == rows_of(data_of(render(lines)))


@pytest.mark.parametrize("kept", [0, 1, 2, 700])
def test_a_trace_that_ends_early_gives_a_page_without_verdict(kept):
    lines = kit.passing()[:kept]
    data = data_of(render(lines))
    assert data["end"] is None
    assert data["lines"] == kept


def test_blank_lines_and_line_ends_do_not_matter():
    lines = kit.passing()
    spread = [each for text in lines for each in ("\n", text + "\r\n")]
    assert render(spread) == render(lines)


def test_values_of_another_type_become_null():
    odd = line("pg", process=5, recovery="yes", tli="two", lsn=2**70, k=True, sync={"a": [1]})
    (row,) = rows_of(data_of(render([odd])))["pg"]
    assert row["process"] == "5"
    assert [row[name] for name in ("recovery", "tli", "lsn", "k")] == [None] * 4
    assert row["sync"] == {"a": [1]}


def test_numbers_that_json_cannot_say_do_not_break_the_page():
    odd = '{"t":1,"e":"log","n":"n1","fields":{"a":NaN,"b":[1e999,-Infinity]}}'
    run = '{"t":0,"e":"run","seed":NaN,"nodes":[1e999]}'
    data = data_of(render([run, odd]))
    assert len(rows_of(data)["log"]) == 1
    assert data["run"]["seed"] == "nan"


def test_a_state_that_leaves_a_key_out_keeps_its_value():
    lines = [
        line("node", n="n1", agent="up", role="leader", term=3),
        line("node", n="n2", agent="up", role="follower", term=3, leader="n1"),
        line("node", n="n1", role="follower"),
        line("node", n="n2", leader=None),
    ]
    rows = rows_of(data_of(render(lines)))["node"]
    assert [rows[2][name] for name in ("agent", "role", "term")] == ["up", "follower", 3]
    assert [rows[3][name] for name in ("role", "leader")] == ["follower", None]


def test_an_event_without_a_number_gets_that_of_its_line():
    rows = rows_of(data_of(render([line("phase", name="a"), '{"t":5,"e":"mark","n":"n1"}'])))
    assert rows["mark"][0]["i"] == 1


# ---------------------------------------------------------------- size and time


def test_the_columns_are_smaller_than_the_lines():
    lines = kit.passing() * 20
    data = json.dumps(columns.read(lines).document(), separators=(",", ":"))
    assert len(data) < 0.45 * sum(len(each) for each in lines)


@pytest.mark.slow
def test_time_grows_with_the_lines_and_not_faster():
    lines = kit.long(40_000)
    assert len(lines) >= 40_000

    def took(part):
        began = time.process_time()
        render(part)
        return time.process_time() - began

    short = min(took(lines[:4_000]) for _ in range(3))
    assert took(lines[:40_000]) < 3 * 10 * short
