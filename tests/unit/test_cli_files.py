"""Commands that read a configuration file: which node they ask, and what they print of it."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from certificates import write_certificate
from metako.cli.app import build_app
from metako.cli.target import DEFAULT_API, api_url, connectable, load_config, psql_url
from metako.model.errors import PortInUseError, UsageError
from metako.model.ids import Address

ROOT = Path(__file__).resolve().parents[2]

FILE = """
node: {name: n1, state_dir: STATE}
cluster: {name: main, bootstrap_node: n1}
gossip: {host: 127.0.0.1}
postgresql:
  host: 127.0.0.1
  bootstrap: {database: "shop/eu", username: "app@x", password: "p:w/d"}
proxy: {host: 0.0.0.0, port: 7432}
api: {host: 0.0.0.0, port: 9008}
"""


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """Work in an empty directory, so that configs/config.yaml is found only where a test says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METAKO_GOSSIP_KEY", raising=False)
    return tmp_path


@pytest.fixture
def file(directory):
    return write(directory / "node.yaml", FILE)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("STATE", str(path.parent / "state")))
    return path


def invoke(*args):
    return CliRunner().invoke(build_app(), [str(arg) for arg in args])


def test_the_api_of_the_file_is_asked_at_an_address_that_can_be_reached(file):
    assert api_url(file, None) == "http://127.0.0.1:9008"
    assert connectable(Address("::", 1)) == Address("::1", 1)
    assert connectable(Address("db1", 1)) == Address("db1", 1)


def test_the_list_of_members_is_asked_of_the_node_of_the_file(file, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "metako.cli.status.fetch_status", lambda *of: asked.append(of) or {"members": [{"node": 1}]}
    )
    words = (
        ["members", "-c", file],
        ["-c", file, "members", "--json"],
        ["members", "--json", "--timeout", "9", "--config", file],
    )
    results = [invoke(*args) for args in words]
    assert [result.exit_code for result in results] == [0, 0, 0]
    assert asked == [("http://127.0.0.1:9008", timeout_s) for timeout_s in (3.0, 3.0, 9.0)]
    assert [json.loads(result.output) for result in results[1:]] == [[{"node": 1}]] * 2


def test_without_options_the_default_file_is_used_if_it_exists(directory):
    assert api_url(None, None) == DEFAULT_API
    write(directory / "configs/config.yaml", FILE)
    assert api_url(None, None) == "http://127.0.0.1:9008"
    assert api_url(None, "http://db1:1") == "http://db1:1"


def test_dsn_escapes_names_and_hides_the_password_unless_asked(file):
    shown = "postgresql://app%40x@127.0.0.1:7432/shop%2Feu\n"
    assert invoke("dsn", "-c", file).output == shown
    with_password = shown.replace("@127", ":p%3Aw%2Fd@127")
    assert invoke("dsn", "-c", file, "--password").output == with_password


def test_dsn_without_a_proxy_or_password_is_a_usage_error(directory):
    bare = "node: {name: n1}\ncluster: {bootstrap_node: n1}\ngossip: {host: 127.0.0.1}\n"
    config = load_config(write(directory / "bare.yaml", bare))
    assert psql_url(config, with_password=False) == "postgresql://postgres@127.0.0.1:6432/postgres"
    with pytest.raises(UsageError, match="password is not set"):
        psql_url(config, with_password=True)
    off = load_config(write(directory / "off.yaml", bare + "proxy: {enabled: false}\n"))
    with pytest.raises(UsageError, match=r"proxy\.enabled"):
        psql_url(off, with_password=False)


def test_check_accepts_a_correct_file(file):
    result = invoke("check", "-c", file)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.output.splitlines()[-1] == f"{file}: correct; node n1 of cluster main"
    body = json.loads(invoke("check", "-c", file, "--json").output)
    assert (body["ok"], body["file"]) == (True, str(file))


def test_check_names_every_mistake_on_a_line_of_its_own(directory):
    wrong = write(directory / "wrong.yaml", "node: {nam: n1}\nproxy: {port: 99999}\n")
    result = invoke("check", "-c", wrong)
    assert (result.exit_code, result.stdout) == (3, "")
    told = result.stderr.splitlines()
    assert len(told) >= 2
    assert all(line.startswith(f"metako: {wrong}:") for line in told)


def test_check_refuses_what_cannot_run(directory):
    no_bootstrap = write(directory / "n.yaml", FILE.replace(", bootstrap_node: n1", ""))
    text = no_bootstrap.read_text() + (
        "tls: {enabled: true, cert_file: /nonexistent.crt, key_file: /nonexistent.key}\n"
    )
    result = invoke("check", "-c", write(no_bootstrap, text))
    assert result.exit_code == 3
    assert "nonexistent.crt" in result.stderr


def test_check_reads_certificates(directory):
    certificate = directory / "a.crt"
    key = write_certificate(certificate)
    other = write_certificate(directory / "b.crt")
    for used, exit_code in ((other, 3), (key, 0)):
        tls = f"tls: {{enabled: true, cert_file: {certificate}, key_file: {used}}}\n"
        result = invoke("check", "-c", write(directory / "tls.yaml", f"{FILE}{tls}"))
        assert result.exit_code == exit_code
        told = f"cannot use its TLS files: {certificate} with {used}: key values mismatch"
        assert (told in result.stderr) == (exit_code != 0)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: p.name)
def test_shipped_files_give_an_api_and_a_dsn(path):
    assert api_url(path, None).startswith("http://")
    assert invoke("dsn", "-c", path).output.startswith("postgresql://")


@pytest.fixture
def runtime(monkeypatch):
    """Put a runtime in place of the real one, and return what it was called with."""
    called = []
    module = types.ModuleType("metako.runtime.node")
    module.run_node = lambda config: called.append(config) or 0
    monkeypatch.setitem(sys.modules, "metako.runtime.node", module)
    return types.SimpleNamespace(module=module, called=called)


@pytest.mark.parametrize(
    "args", [["run", "-c"], ["run", "--config"], ["--config"], ["-c"]], ids=" ".join
)
def test_every_spelling_of_run_runs_the_file(args, file, runtime):
    assert invoke(*args, file).exit_code == 0
    assert [config.path for config in runtime.called] == [file]


def test_a_file_given_before_the_command_is_the_commands(file, runtime):
    assert invoke("-c", file, "run").exit_code == 0
    assert [config.path for config in runtime.called] == [file]


def test_run_uses_the_default_file(directory, runtime):
    default = write(directory / "configs/config.yaml", FILE)
    assert invoke("run").exit_code == 0
    assert [config.path for config in runtime.called] == [default]


def test_run_exits_with_the_code_of_the_agent(file, runtime):
    runtime.module.run_node = lambda _config: 20
    assert invoke("run", "-c", file).exit_code == 20


def test_run_reports_what_stopped_the_agent(file, runtime):
    def run_node(_config):
        raise ExceptionGroup("tasks", [PortInUseError("port 7946 is in use")])

    runtime.module.run_node = run_node
    result = invoke("run", "-c", file)
    assert (result.exit_code, result.stderr) == (4, "metako: port 7946 is in use\n")


def test_run_does_not_start_what_cannot_run(file, runtime):
    write(file, file.read_text().replace("{host: 127.0.0.1}", "{host: 0.0.0.0, advertise_host: h}"))
    result = invoke("run", "-c", file)
    assert (result.exit_code, runtime.called) == (3, [])
    assert "metako keygen" in result.stderr


@pytest.mark.slow
def test_mistakes_in_the_file_exit_3_from_the_real_program(directory):
    wrong = write(directory / "wrong.yaml", "node: [\n")
    result = subprocess.run(
        [sys.executable, "-m", "metako", "--config", str(wrong)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.startswith(f"metako: {wrong}:")


def test_check_looks_at_the_watchdog_too(directory):
    text = FILE + "guard: {watchdog: {mode: automatic, device: /nonexistent/watchdog}}\n"
    watched = write(directory / "watched.yaml", text)
    result = invoke("check", "-c", watched)
    assert result.exit_code == 0
    assert "will not be armed: /nonexistent/watchdog does not exist" in result.output
    notes = json.loads(invoke("check", "-c", watched, "--json").output)["notes"]
    assert any("/nonexistent/watchdog" in note for note in notes)
    result = invoke("check", "-c", write(watched, text.replace("automatic", "required")))
    assert result.exit_code == 3
    assert "guard.watchdog.device: /nonexistent/watchdog does not exist" in result.stderr
