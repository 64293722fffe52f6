"""An agent's socket with a script, for commands that give an order and follow it."""

import http.server
import json
import socketserver
import threading
from contextlib import contextmanager
from types import SimpleNamespace

from program_kit import run_python

from metako.cli import follow


class UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@contextmanager
def scripted_agent(path, statuses, answer):
    """Answer orders with `answer` and the n-th GET with the n-th status, then with the last one.

    A status that is None is no answer at all. Yields the orders.
    """
    orders, shown = [], iter(statuses)
    latest = [None]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            latest[0] = next(shown, latest[0])
            if latest[0] is not None:
                self.reply(200, latest[0])

        def do_POST(self):
            length = int(self.headers.get("Content-Length", 0))
            orders.append((self.command, self.path, self.rfile.read(length).decode()))
            self.reply(*answer)

        do_DELETE = do_POST

        def reply(self, code, body):
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    with UnixServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield orders
        finally:
            server.shutdown()
            thread.join()
            path.unlink()


def node_with_agent(short_directory, monkeypatch):
    """Return a node's file and where its agent's socket would be; time passes only in sleep."""
    (short_directory / "state/run").mkdir(parents=True)
    file = short_directory / "node.yaml"
    file.write_text(
        f"node: {{name: n3, state_dir: {short_directory}/state}}\n"
        "cluster: {bootstrap_node: n3}\ngossip: {host: 127.0.0.1}\n"
    )
    clock = SimpleNamespace(now=100.0)

    def sleep(seconds):
        clock.now += seconds

    fake = SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep)
    monkeypatch.setattr(follow, "time", fake)
    return SimpleNamespace(
        file=file, socket=short_directory / "state/run/agent.sock", time=fake, clock=clock
    )


def assert_asks_without_heavy_modules(node, *command):
    """Run a command where no agent answers, as a program: it has to fail fast, and fail well."""
    argv = ["metako", *command, "-c", str(node.file)]
    code = (
        f"import sys; sys.argv = {argv!r}\n"
        "from metako.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as e: assert e.code == 11, e.code\n"
        "heavy = {'trio', 'asyncpg', 'cryptography', 'loguru', 'starlette', 'msgpack'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    result = run_python(code)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert result.stderr.startswith("metako: no answer from ")
