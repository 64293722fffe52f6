"""The section `guard.watchdog`: what fits into which lease, and what is said where nothing does."""

from pathlib import Path

import pytest

from fake_watchdog import Driver, FakeKernel, make_watchdog
from metako.config import load, profiles
from metako.config import watchdog as rules
from metako.config.node_config import WatchdogMode
from metako.guard import watchdog as guard_rules
from metako.model.errors import ConfigError
from metako.runtime.settings import node_settings, watchdog_wish
from metako.runtime.watchdog import check_watchdog_device

NODE = "node: {name: n1}\ncluster: {bootstrap_node: n1}\n"


@pytest.fixture
def read(tmp_path):
    def _read(text):
        path = tmp_path / "node.yaml"
        path.write_text(NODE + text)
        return load(path, environ={})

    return _read


def test_off_is_the_default_and_may_be_written_with_and_without_quotes(read):
    for text in (
        "",
        "guard: {}",
        "guard: {watchdog: {mode: off}}",
        "guard: {watchdog: {mode: 'off'}}",
    ):
        config = read(text)
        assert config.watchdog.mode is WatchdogMode.OFF
        assert config.notes == ()
        assert watchdog_wish(config) is None
        assert not node_settings(config).cluster.watchdog_required
        assert check_watchdog_device(config) == ""


@pytest.mark.parametrize(("profile", "timeout_s"), [("default", 1), ("fast", 0), ("wan", 5)])
def test_each_profile_has_its_timeout(read, profile, timeout_s):
    config = read(f"timing: {{profile: {profile}}}\nguard: {{watchdog: {{mode: automatic}}}}")
    assert config.watchdog.timeout_s == timeout_s
    (note,) = config.notes
    assert ("will not be armed" in note) == (not timeout_s)


def test_required_is_refused_where_no_timeout_fits_and_says_what_would(read):
    text = "timing: {profile: fast}\nguard: {watchdog: {mode: required}}"
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value).endswith(
        "node.yaml:4: guard.watchdog.mode: a watchdog counts whole seconds, and none fits into the "
        "lease of 784ms; set timing.hold to 1.245s or more, or the mode to automatic or off"
    )
    config = read(text.replace("fast}", "fast, hold: 1.245s}"))
    assert watchdog_wish(config) == guard_rules.Wish("/dev/watchdog", 1, required=True)
    assert node_settings(config).cluster.watchdog_required


def test_margin_without_time_to_die_is_refused_and_says_what_would_do(read):
    text = "timing: {fence_margin: 70ms}\nguard: {watchdog: {mode: required}}"
    with pytest.raises(ConfigError, match=r"no time to die.*fence_margin to 75ms or more"):
        read(text)
    assert read(text.replace("70ms", "75ms")).watchdog.timeout_s == 1


@pytest.mark.parametrize("heartbeat_ms", range(20, 600, 7))
def test_shortest_hold_is_the_shortest(heartbeat_ms):
    hold_ms = rules.shortest_hold_ms(heartbeat_ms)
    needed_ms = guard_rules.reset_after_ns(1) // 1_000_000 + 2 * heartbeat_ms
    assert profiles.lease_ms(hold_ms) >= needed_ms > profiles.lease_ms(hold_ms - 1)


def test_config_and_guard_count_alike():
    assert guard_rules.reset_after_ns(3) == 1_000_000 * (
        3 * (1000 + rules.SLOWNESS_MS) + rules.DELAY_MS
    )
    assert guard_rules.EARLY_NS == rules.EARLY_MS * 1_000_000


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{mode: requierd}", "did you mean 'required'?"),
        ("{mode: on}", "is not one of off, automatic, required"),
        ("{mdoe: off}", "guard.watchdog.mdoe: unknown key; did you mean 'mode'?"),
        ("{device: ''}", "guard.watchdog.device: is empty"),
        ("{device: 7}", "guard.watchdog.device: is not a text"),
    ],
)
def test_bad_values_are_named_with_what_would_do(read, section, said):
    with pytest.raises(ConfigError) as caught:
        read(f"guard: {{watchdog: {section}}}")
    assert said in str(caught.value)
    assert "node.yaml:3: " in str(caught.value)


def test_witness_is_told_that_it_has_none(read):
    text = "guard: {watchdog: {mode: required}}\ntiming: {profile: fast}\napi: {port: 8009}\n"
    path = Path(read("").path)
    path.write_text(
        NODE.replace("n1}", "n1, witness: true}", 1).replace(
            "bootstrap_node: n1",
            (
                "bootstrap_node: n2, members: [{name: n1, host: 127.0.0.1, witness: true},"
                " {name: n2, host: 127.0.0.2}]"
            ),
        )
        + text
    )
    config = load(path, environ={})
    assert any("has no effect on a witness" in note for note in config.notes)
    assert check_watchdog_device(config) == ""


# ---------------------------------------------------------------- the device


def with_device(read, tmp_path, mode, **changes):
    path = make_watchdog(tmp_path / "watchdog", Driver(**changes))
    return read(f"guard: {{watchdog: {{mode: {mode}, device: {path}}}}}"), FakeKernel()


def test_check_says_nothing_of_a_device_that_will_do(read, tmp_path):
    config, kernel = with_device(read, tmp_path, "required")
    assert check_watchdog_device(config, kernel) == ""


def test_check_refuses_what_is_required_and_remarks_on_what_is_not(read, tmp_path):
    config, kernel = with_device(read, tmp_path, "required", nowayout=True)
    with pytest.raises(ConfigError, match=r"node\.yaml: guard\.watchdog\.device: .*nowayout=0"):
        check_watchdog_device(config, kernel)
    config, kernel = with_device(read, tmp_path, "automatic", nowayout=True)
    assert "will not be armed" in check_watchdog_device(config, kernel)


def test_check_of_a_missing_device_says_what_to_do(read, tmp_path):
    config = read(f"guard: {{watchdog: {{mode: required, device: {tmp_path}/none}}}}")
    with pytest.raises(ConfigError, match="none does not exist; load the driver"):
        check_watchdog_device(config)


def test_check_tells_that_it_counts_already(read, tmp_path):
    config, kernel = with_device(read, tmp_path, "automatic")
    kernel.open(str(config.watchdog.device))
    assert "counts now" in check_watchdog_device(config, FakeKernel())
