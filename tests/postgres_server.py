"""A real PostgreSQL for tests: of this machine's package, in a folder and on a port of its own, ended by its process."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: int(place.parent.name), reverse=True)
PASSWORD = "s3cret-of-tests"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": ".",  # its data folder
    "fsync": "off",  # processes are killed here, machines are not
    "max_connections": "60",
    "shared_buffers": "16MB",
    "log_min_messages": "fatal",
}
# initdb and postgres refuse root.
AS_USER: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


def missing() -> str:
    """Why there can be no server here; empty where there can."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return 'no driver here: pip install "distilsearch[postgres]"'
    if not PLACES:
        return "no PostgreSQL here: /usr/lib/postgresql/*/bin/postgres (apt-get install postgresql)"
    if AS_USER and "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        return "no user postgres here, and PostgreSQL refuses to run as root"
    return ""


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Skips the tests where there can be none, unless DISTILSEARCH_POSTGRES=required says that there has to be."""
    if reason := missing():
        pytest.fail(reason) if os.environ.get("DISTILSEARCH_POSTGRES") == "required" else pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if AS_USER:
        shutil.chown(folder, "postgres", "postgres")
    server = PostgresServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)


class PostgresServer:
    """`database` makes a user with a database of his own and returns its URL. `stop` and `start` keep what it holds."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._data, self._process = folder, folder / "data", None
        self._num_databases = 0
        (folder / "password").write_text(PASSWORD)
        os.chmod(folder / "password", 0o644)
        self._call(
            "initdb", "--pgdata", str(self._data), "--auth=scram-sha-256", "--username=postgres", "--encoding=UTF8",
            "--locale=C", "--no-sync", f"--pwfile={folder / 'password'}",
        )  # fmt: skip
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(PLACES[0] / program), *arguments], cwd=self._folder, capture_output=True, text=True, **AS_USER
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        command = [str(PLACES[0] / "postgres"), "-D", str(self._data), "-p", str(self.port), *settings]
        with open(self._folder / "log.txt", "a") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=log, stderr=log, start_new_session=True, **AS_USER
            )
        end = time.monotonic() + 120
        while True:
            with suppress(Exception):
                return self.sql("SELECT 1")
            assert self._process.poll() is None, (self._folder / "log.txt").read_text()
            assert time.monotonic() < end, (self._folder / "log.txt").read_text()
            time.sleep(0.05)

    @property
    def socket_folder(self) -> Path:
        return self._data

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends its sessions and then itself, SIGQUIT leaves at once, as in a crash."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(60)

    def url(self, user: str = "postgres", database: str = "postgres", password: str = PASSWORD, port: int = 0) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{port or self.port}/{database}"

    def database(self) -> str:
        self._num_databases += 1
        name = f"someone{self._num_databases}"
        self.sql(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
        self.sql(f"CREATE DATABASE {name} OWNER {name}")
        return self.url(name, name)

    def sql(self, statement: str, url: str = "") -> list[Any]:
        import psycopg

        with psycopg.connect(url or self.url(), autocommit=True) as connection:
            found = connection.execute(statement)
            return found.fetchall() if found.description else []


class Line:
    """A line to a server that can be cut where it hurts most: at the commit with a number, before it got there or before its answer
    did. `slow` is waited before anything is passed on."""

    def __init__(self, port: int) -> None:
        self._to, self.slow, self.commits = port, 0.0, 0
        self.cut_at, self.cut_after = 0, False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def cut(self, at: int, after: bool) -> None:
        """The `at`-th commit from now."""
        self.commits, self.cut_at, self.cut_after = 0, at, after

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                lost = threading.Event()
                for ends in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._pass, args=(*ends, lost), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, asks: bool, lost: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(self.slow)
                if not asks and lost.is_set():
                    break  # the server has done it, and nobody hears
                if asks and re.search(rb"\bCOMMIT\b", data):
                    self.commits += 1
                    if self.commits == self.cut_at:
                        if not self.cut_after:
                            break
                        lost.set()
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
